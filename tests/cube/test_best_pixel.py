"""Cloud distances against all pairs of pixels, and what a score is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from engine.cube.best_pixel import cap_px, cloud_distance, score_tables
from engine.values.recipe import BestPixel


def _by_hand(hidden: np.ndarray, cap: int) -> np.ndarray:
    clouds = np.argwhere(hidden)
    if not len(clouds):
        return np.full(hidden.shape, cap)
    away = cdist(np.argwhere(np.ones_like(hidden)), clouds).min(axis=1).reshape(hidden.shape)
    return np.minimum(np.floor(away), cap)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 0.005, 0.1, 1.0]))
def test_distances_are_those_to_the_nearest_of_all_hidden_pixels(seed: int, cap: int, share: float) -> None:
    hidden = np.random.default_rng(seed).random((21, 17)) < share
    found = cloud_distance(hidden, cap, 0)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, _by_hand(hidden, cap))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 3))
def test_with_a_margin_of_the_cap_no_cut_moves_a_distance(seed: int, cap: int, more: int) -> None:
    hidden = np.random.default_rng(seed).random((60, 60)) < 0.01
    margin = cap + more
    whole = _by_hand(hidden, cap)
    for y0, y1, x0, x1 in ((20, 21, 20, 40), (12, 48, 12, 13), (15, 40, 18, 30)):
        padded = hidden[y0 - margin : y1 + margin, x0 - margin : x1 + margin]
        np.testing.assert_array_equal(cloud_distance(padded, cap, margin), whole[y0:y1, x0:x1])


def test_the_cap_is_in_whole_pixels_of_any_size() -> None:
    best = BestPixel(cloud_distance_m=500)
    assert [cap_px(best, r) for r in (10, 20, 60, 2000)] == [50, 25, 8, 1]


def test_scores_are_the_formulas() -> None:
    best = BestPixel(cloud_weight=0.25, date_sigma_days=12)
    date, distance = score_tables(best, np.array([-12.0, 0.0, 24.0]), 50)
    np.testing.assert_allclose(date / 1e8, 0.75 * np.exp([-0.5, 0, -2]), atol=1e-8)
    logistic = 1 / (1 + np.exp(-0.2 * (np.arange(51) - 25)))  # 0.2 per pixel for 50 pixels
    np.testing.assert_allclose(distance / 1e8, 0.25 * logistic, atol=1e-8)
    assert (np.diff(distance) > 0).all()
    assert date.max() + distance.max() == pytest.approx(1e8, rel=0.01)
