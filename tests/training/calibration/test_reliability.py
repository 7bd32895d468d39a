"""Reliability against sums by hand, and against what must hold for any probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.errors import InputError
from training.calibration.reliability import equal_masses, equal_widths, reliability


def _drawn(seed: int, n: int = 400, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), n), rng.integers(k, size=n)


def test_error_and_greatest_gap_are_those_by_hand() -> None:
    p, truth = _drawn(1)
    found = reliability(p, truth, edges=equal_widths(10))
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    total, worst = 0.0, 0.0
    for low in range(10):
        here = (confidence > low / 10) & (confidence <= (low + 1) / 10)
        if here.any():
            gap = abs(confidence[here].mean() - right[here].mean())
            total, worst = total + gap * here.mean(), max(worst, gap)
    assert found.error == pytest.approx(total, abs=1e-9)
    assert found.greatest == pytest.approx(worst, abs=1e-9)
    assert found.accuracy == pytest.approx(right.mean())


def test_perfect_probabilities_have_no_error_and_sure_wrong_ones_all() -> None:
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert reliability(sure, np.array([0, 1, 2, 0])).error == 0
    assert reliability(sure, np.array([1, 2, 0, 1])).error == 1


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), 40_000)
    truth = (p.cumsum(axis=1) < rng.uniform(size=(len(p), 1))).sum(axis=1)
    assert reliability(p, truth).error < 0.015
    assert reliability(p, truth, edges=equal_masses(p)).error < 0.015


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 399))
def test_parts_add_up_to_the_whole(seed: int, cut: int) -> None:
    p, truth = _drawn(seed)
    whole = reliability(p, truth)
    joined = reliability(p[:cut], truth[:cut]) + reliability(p[cut:], truth[cut:])
    np.testing.assert_allclose(joined.right, whole.right)
    assert joined.error == pytest.approx(whole.error)


def test_weights_count_like_repeats() -> None:
    p, truth = _drawn(5, n=60)
    times = np.arange(60) % 3
    repeated = reliability(np.repeat(p, times, axis=0), np.repeat(truth, times))
    assert reliability(p, truth, times.astype(float)).error == pytest.approx(repeated.error)


def test_equal_masses_hold_as_many_items_each() -> None:
    p, truth = _drawn(7)
    found = reliability(p, truth, edges=equal_masses(p, 8))
    assert found.count.min() >= 49
    assert found.count.sum() == 400
    assert len(equal_masses(np.full((50, 2), 0.5), 8)) == 3, "equal confidences share one bin"


def test_empty_and_unlike_parts() -> None:
    nothing = reliability(np.zeros((0, 3)), np.zeros(0, int))
    assert np.isnan(nothing.error)
    assert nothing.as_json() == {"ece": None, "greatest_gap": None, "bins": []}
    with pytest.raises(InputError, match="other bins"):
        nothing + reliability(*_drawn(0), edges=equal_widths(3))
