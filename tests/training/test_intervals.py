"""Intervals by the bootstrap over blocks: wide where blocks differ, narrow where they are alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from engine.values.errors import InputError
from training.intervals import bootstrap, confusions, score_intervals
from training.metrics import Scores, confusion


def test_confusions_are_those_of_each_group() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(3, size=(2, 500))
    group = rng.choice(["b", "a", "c"], 500)
    found = confusions(truth, predicted, group, 3)
    for matrix, name in zip(found, ("a", "b", "c"), strict=True):
        np.testing.assert_array_equal(matrix, confusion(truth[group == name], predicted[group == name], 3))
    np.testing.assert_array_equal(found.sum(axis=0), confusion(truth, predicted, 3))


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).normal(3, 1, 40)
    sums = np.stack([values, np.ones(40)], axis=1)
    (found,) = bootstrap(sums, lambda s: (s[0] / s[1],), replicates=4000, seed=2)
    expected = scipy_bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert found.groups == 40


def test_blocks_that_differ_make_a_wide_interval() -> None:
    alike = np.tile(np.array([[80, 20], [20, 80]]), (12, 1, 1))
    unlike = alike.copy()
    unlike[::2] = [[100, 0], [0, 100]]
    unlike[1::2] = [[60, 40], [40, 60]]
    narrow, wide = score_intervals(alike)["accuracy"], score_intervals(unlike)["accuracy"]
    assert (narrow.low, narrow.high) == (0.8, 0.8)
    assert wide.value == pytest.approx(0.8)
    assert wide.low < 0.73
    assert wide.high > 0.87
    assert wide.line().startswith("0.800 (0.")


def test_figures_are_those_of_the_pooled_matrix() -> None:
    matrices = np.random.default_rng(4).integers(1, 50, (6, 3, 3))
    scores, found = Scores.of(matrices.sum(axis=0)), score_intervals(matrices, replicates=20)
    for name in ("accuracy", "mean_f1", "mean_iou"):
        assert found[name].value == pytest.approx(getattr(scores, name))
        assert found[name].as_json()["groups"] == 6
    assert score_intervals(matrices, seed=5) == score_intervals(matrices, seed=5)


def test_no_group_is_refused() -> None:
    with pytest.raises(InputError, match="no group"):
        score_intervals(np.zeros((0, 2, 2), np.int64))
