"""The geometric median against a general optimiser, and its published properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from engine.cube.composites import composite
from engine.cube.geomedian import geometric_median

SEEDS = st.integers(0, 2**32 - 1)


def _pixel(points: np.ndarray) -> np.ndarray:
    """Return the geometric median of (time, band) points."""
    return geometric_median(points.astype(np.uint16)[:, :, None, None])[0][:, 0, 0].astype(float)


def _sum_of_distances(at: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(points - at, axis=1).sum())


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 15), st.integers(1, 10), st.sampled_from([10, 4000, 65535]))
def test_no_optimiser_finds_a_better_point(seed: int, dates: int, bands: int, top: int) -> None:
    points = np.random.default_rng(seed).integers(1, top + 1, (dates, bands)).astype(float)
    found = _pixel(points)
    starts = [points.mean(0), np.median(points, 0), found, points[0]]
    best = min(minimize(_sum_of_distances, s, (points,), "Nelder-Mead").fun for s in starts)
    best = min([best, *(_sum_of_distances(p, points) for p in points)])
    assert _sum_of_distances(found, points) <= best + 2e-3 * dates


def test_values_are_the_optimum_itself_where_it_is_unique() -> None:
    """A thousand pixels against Newton's method on the convex sum."""
    rng = np.random.default_rng(1)
    base = rng.integers(300, 5000, (1, 6, 25, 40))
    values = (
        base * (1 + 0.2 * rng.standard_normal((15, 1, 25, 40))) + rng.normal(0, 80, (15, 6, 25, 40))
    ).clip(1)
    values = values.astype(np.uint16)
    found = geometric_median(values)[0]
    for y, x in ((0, 0), (3, 39), (24, 17), (11, 31)):
        points = values[:, :, y, x].astype(float)
        exact = minimize(_sum_of_distances, points.mean(0), (points,), "BFGS", options={"gtol": 1e-9}).x
        np.testing.assert_allclose(found[:, y, x], exact, atol=0.02)
    whole = composite(values, "geomedian")[0]
    np.testing.assert_array_equal(whole, np.floor(found + 0.5))


@given(SEEDS, st.integers(1, 200), st.integers(1, 200))
def test_of_points_on_a_line_it_is_their_median(seed: int, dx: int, dy: int) -> None:
    along = np.random.default_rng(seed).choice(200, 7, replace=False)
    points = np.stack([1 + along * dx, 1 + along * dy], axis=1)
    np.testing.assert_allclose(_pixel(points), np.median(points, axis=0), atol=0.05)


@given(SEEDS)
def test_two_dates_give_their_mean_and_one_gives_itself(seed: int) -> None:
    two = np.random.default_rng(seed).integers(1, 65536, (2, 4))
    np.testing.assert_array_equal(_pixel(two).astype(np.float32), two.mean(0).astype(np.float32))
    np.testing.assert_array_equal(_pixel(two[:1]), two[0])
    rounded = composite(two.astype(np.uint16)[:, :, None, None], "geomedian")[0].ravel()
    np.testing.assert_array_equal(rounded, two.sum(0) + 1 >> 1)


def test_it_leaves_an_observation_that_is_not_the_optimum() -> None:
    """Weiszfeld's weights are infinite where the mean, its start, meets an observation."""
    points = np.array([[100, 100], [10, 100], [20, 100], [15, 110], [355, 90]])
    assert (points.mean(0) == points[0]).all()
    sums = [_sum_of_distances(p, points) for p in (points[0], _pixel(points))]
    optimum = minimize(_sum_of_distances, [30, 100], (points,), "Nelder-Mead", options={"xatol": 1e-8}).fun
    assert sums[1] < sums[0] - 10
    assert sums[1] == pytest.approx(optimum, abs=0.01)


def test_half_the_dates_less_one_cannot_drag_it_away() -> None:
    """Its breakdown point is one half (Lopuhaa and Rousseeuw 1991, Ann. Stat. 19:229)."""
    rng = np.random.default_rng(0)
    good = rng.normal(1000, 20, (11, 5))
    clouds = rng.normal(30_000, 4000, (10, 5))
    drift = np.linalg.norm(_pixel(np.vstack([good, clouds])) - 1000)
    assert drift < 300
    assert np.linalg.norm(np.vstack([good, clouds]).mean(0) - 1000) > 20_000


def test_a_turn_or_shift_of_all_bands_turns_and_shifts_it() -> None:
    """It is orthogonally equivariant, which the median of each band is not."""
    points = np.random.default_rng(2).integers(1000, 5000, (9, 3))
    swapped = points[:, [2, 0, 1]]
    np.testing.assert_allclose(_pixel(swapped), _pixel(points)[[2, 0, 1]], atol=0.01)
    mirrored = np.array([9000, 0, 0]) + points * [-1, 1, 1]
    np.testing.assert_allclose(_pixel(mirrored), [9000, 0, 0] + _pixel(points) * [-1, 1, 1], atol=0.01)
    np.testing.assert_allclose(_pixel(points + 700), _pixel(points) + 700, atol=0.01)


def test_no_data_is_nan_and_neighbours_change_nothing() -> None:
    values = np.random.default_rng(3).integers(1, 9000, (6, 3, 4, 70)).astype(np.uint16)
    values[:, :, 1, 5] = 0
    whole, counts = geometric_median(values)
    assert np.isnan(whole[:, 1, 5]).all()
    assert counts[1, 5] == 0
    for x in (4, 6, 31, 32, 69):
        alone = geometric_median(np.ascontiguousarray(values[:, :, :, x : x + 1]))[0]
        np.testing.assert_array_equal(whole[:, :, x : x + 1], alone)
