"""Examples: each annotated pixel alike, patches around them, nothing outside what counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.values.errors import InputError
from training.batch import IGNORE, Batch
from training.explain.examples import DrawOptions, draw_examples

SIDE = 24
INNER = (slice(4, 20), slice(4, 20))


def _window(target: np.ndarray, place: tuple[int, int] = (100, 200)) -> Batch:
    """Each pixel's values tell where it is."""
    ys, xs = np.mgrid[:SIDE, :SIDE]
    x = np.stack([ys + place[0], xs + place[1]]).astype(np.uint16)[None]
    return Batch(
        x=torch.from_numpy(x)[None],
        dates=torch.ones(1, 1, dtype=torch.int16),
        present=torch.ones(1, 1, dtype=torch.bool),
        target=torch.from_numpy(target.astype(np.uint8))[None],
        weight=torch.from_numpy((target != IGNORE).astype(np.float32))[None],
        place=torch.tensor([place]),
    )


def _target() -> np.ndarray:
    target = np.full((SIDE, SIDE), IGNORE, np.uint8)
    target[2:10, 2:22] = 0
    target[12:14, 5:7] = 1
    return target


def test_patches_hold_the_pixel_they_were_drawn_for_and_know_their_place() -> None:
    target = _target()
    found = draw_examples([(_window(target), INNER)], 2, DrawOptions(per_class=6, patch_px=8, margin_px=2))
    assert found.counts == {0: 6, 1: 4}, "class 1 has four pixels only"
    assert found.batch.x.shape == (10, 1, 2, 8, 8)
    for n in range(len(found)):
        y, x = found.batch.place[n].tolist()
        assert found.batch.x[n, 0, :, 0, 0].tolist() == [y, x]
        there = target[y - 100 : y - 92, x - 200 : x - 192]
        counted = found.batch.target[n].numpy() != IGNORE
        np.testing.assert_array_equal(found.batch.target[n].numpy()[counted], there[counted])
        assert found.mine[n].any()


def test_nothing_outside_what_counts_is_drawn_or_scored() -> None:
    target = _target()
    found = draw_examples([(_window(target), INNER)], 2, DrawOptions(per_class=50, patch_px=8))
    for n in range(len(found)):
        ys, xs = np.nonzero(found.batch.target[n].numpy() != IGNORE)
        y0, x0 = (found.batch.place[n].numpy() - (100, 200)).tolist()
        assert (ys + y0).min() >= 4
        assert (xs + x0).min() >= 4
        assert (xs + x0).max() < 20


def test_labels_without_weight_are_not_drawn() -> None:
    batch = _window(_target())
    batch.weight[batch.target == 0] = 0
    found = draw_examples([(batch, INNER)], 2, DrawOptions(per_class=3))
    assert found.counts == {1: 3}


def test_every_pixel_is_drawn_equally_often_whatever_window_it_lies_in() -> None:
    """One window with 40 pixels of the class, one with 10: a fifth of the draws come from the second."""
    many, few = (np.full((SIDE, SIDE), IGNORE, np.uint8) for _ in range(2))
    many[8:12, 5:15], few[8:10, 5:10] = 0, 0
    parts = [(_window(many), INNER), (_window(few, (500, 500)), INNER)]
    of_second = 0
    for seed in range(300):
        found = draw_examples(parts, 1, DrawOptions(per_class=4, seed=seed))
        of_second += int((found.batch.place[:, 0] >= 500).sum())
    assert of_second / 1200 == pytest.approx(0.2, abs=0.04)


def test_the_same_seed_draws_the_same() -> None:
    parts = [(_window(_target()), INNER)]
    first, again, other = (draw_examples(parts, 2, DrawOptions(3, seed=s)) for s in (1, 1, 2))
    assert torch.equal(first.batch.place, again.batch.place)
    assert not torch.equal(first.batch.place, other.batch.place)


def test_nothing_annotated_is_an_error() -> None:
    empty = np.full((SIDE, SIDE), IGNORE, np.uint8)
    with pytest.raises(InputError, match="nothing is annotated"):
        draw_examples([(_window(empty), INNER)], 2, DrawOptions())
