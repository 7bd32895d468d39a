"""The figure of mixing: 1 for a random order, low for a sweep, between for a small shuffle buffer."""

from __future__ import annotations

import numpy as np

from training.mixing import mixing


def _sweep() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:80, :80].reshape(2, -1)
    return np.stack([y, x], axis=1) * 256, np.arange(0, 6401, 16)


def _buffered(corners: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from a buffer that is filled in order, the usual way to shuffle a stream."""
    held, out = list(corners[:size]), []
    for corner in [*corners[size:], *[None] * size]:
        out.append(held.pop(rng.integers(len(held))))
        if corner is not None:
            held.append(corner)
    return np.array(out)


def test_it_tells_orders_apart() -> None:
    corners, bounds = _sweep()
    rng = np.random.default_rng(0)
    sweep = mixing(corners, bounds)
    small, large = (mixing(_buffered(corners, n, rng), bounds) for n in (200, 2000))
    random = mixing(rng.permutation(corners), bounds)
    assert sweep.quality < 0.2
    assert sweep.quality < small.quality < large.quality < random.quality
    assert random.quality > 0.97


def test_batches_of_one_place_are_told_even_if_places_follow_at_random() -> None:
    corners, bounds = _sweep()
    runs = corners.reshape(400, 16, 2)
    found = mixing(np.random.default_rng(0).permutation(runs).reshape(-1, 2), bounds)
    assert found.within < 0.2


def test_places_that_follow_each_other_are_told_even_if_batches_are_spread() -> None:
    """Each batch spans the whole width, but the batches of a run come from one row."""
    corners, bounds = _sweep()
    found = mixing(
        corners.reshape(80, 80, 2)[:, np.random.default_rng(0).permutation(80)].reshape(-1, 2), bounds
    )
    assert found.along < 0.75


def test_one_place_alone_is_as_good_as_random() -> None:
    assert mixing(np.zeros((10, 2), np.int64), np.array([0, 5, 10])).quality == 1.0
