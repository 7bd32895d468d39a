"""Scores of several classes an item: scikit-learn's own figures, weights, thresholds by trying all of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from engine.assessment.multilabel import (
    OVERALL,
    PER_CLASS,
    Answers,
    MultiLabel,
    choose_thresholds,
    percentiles,
    redraw,
)
from engine.values.errors import InputError


def f1_of(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    return float(2 * (truth & said).sum() / (truth.sum() + said.sum()))


def answers(seed: int, n: int = 90, k: int = 4, digits: int = 1) -> Answers:
    rng = np.random.default_rng(seed)
    truth = rng.random((n, k)) < np.linspace(0.1, 0.6, k)
    score = np.clip(0.4 * truth + 0.7 * rng.random((n, k)), 0, 1).round(digits)
    return Answers(truth, score)


@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_of_scikit_learn(weighted: bool) -> None:
    given = answers(1)
    weight = np.random.default_rng(2).integers(0, 4, len(given.truth)) if weighted else None
    thresholds = np.array([0.5, 0.3, 0.7, 0.6])
    truth, said = given.truth.astype(int), (given.score >= thresholds).astype(int)
    by_class, overall = MultiLabel(given, thresholds).figures(weight)
    table = dict(zip(PER_CLASS, by_class, strict=True))
    for name, score in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
        ("iou", metrics.jaccard_score),
    ):
        expected = score(truth, said, average=None, sample_weight=weight)
        np.testing.assert_allclose(table[name], expected, rtol=1e-12)
    for k in range(4):
        one = given.truth[:, k], given.score[:, k]
        ap = metrics.average_precision_score(*one, sample_weight=weight)
        auc = metrics.roc_auc_score(*one, sample_weight=weight)
        np.testing.assert_allclose(
            [table["average_precision"][k], table["roc_auc"][k]], [ap, auc], rtol=1e-12
        )
    whole = dict(zip(OVERALL, overall, strict=True))
    np.testing.assert_allclose(
        whole["micro_f1"], metrics.f1_score(truth, said, average="micro", sample_weight=weight)
    )
    np.testing.assert_allclose(
        whole["macro_f1"], metrics.f1_score(truth, said, average="macro", sample_weight=weight)
    )
    np.testing.assert_allclose(
        whole["subset_accuracy"], metrics.accuracy_score(truth, said, sample_weight=weight)
    )
    np.testing.assert_allclose(whole["hamming_loss"], metrics.hamming_loss(truth, said, sample_weight=weight))
    np.testing.assert_allclose(whole["mean_average_precision"], table["average_precision"].mean())


def test_a_class_without_truth_has_no_figures_and_is_in_no_mean() -> None:
    given = answers(3)
    truth = given.truth.copy()
    truth[:, 0] = False
    by_class, overall = MultiLabel(Answers(truth, given.score), np.full(4, 0.5)).figures()
    table, whole = dict(zip(PER_CLASS, by_class, strict=True)), dict(zip(OVERALL, overall, strict=True))
    assert np.isnan(table["recall"][0])
    assert np.isnan(table["average_precision"][0])
    assert whole["macro_recall"] == pytest.approx(table["recall"][1:].mean())


def test_no_threshold_has_a_higher_f1_than_the_chosen_one() -> None:
    given = answers(4, digits=2)
    chosen = choose_thresholds(given)
    for k in range(4):
        truth, score = given.truth[:, k], given.score[:, k]
        tried = [f1_of(truth, score >= t) for t in np.linspace(0, 1, 401)]
        assert f1_of(truth, score >= chosen[k]) == pytest.approx(max(tried))


def test_a_class_that_never_occurs_keeps_a_half() -> None:
    assert choose_thresholds(Answers(np.zeros((5, 1), bool), np.full((5, 1), 0.2))).tolist() == [0.5]


def test_clusters_are_drawn_together() -> None:
    group = np.array(["a", "b", "a", "c", "b", "a"])
    drawn = list(redraw(group, 50, seed=1))
    assert len(drawn) == 50
    for weights in drawn:
        assert weights[0] == weights[2] == weights[5]
        assert weights[1] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3
    assert [w.tolist() for w in redraw(group, 3, seed=1)] == [w.tolist() for w in drawn[:3]]


def test_percentiles_of_what_is_not_known_or_never_differs_are_none() -> None:
    low, high = percentiles([np.array([float(i), np.nan, 1.0]) for i in range(101)])
    assert (low[0], high[0]) == pytest.approx((2.5, 97.5))
    assert np.isnan(low[1])
    assert np.isnan(high[1:]).all()
    assert np.isnan(low[2])  # what never differs tells nothing of the next draw


def test_shapes_and_numbers_are_checked() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        Answers(np.zeros((2, 3), bool), np.zeros((2, 2)))
    with pytest.raises(InputError, match="not a number; found 1"):
        Answers(np.zeros((1, 2), bool), np.array([[0.1, np.nan]]))
