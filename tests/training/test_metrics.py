"""Scores against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from training.metrics import Scores, confusion


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(1, 300), k=st.integers(2, 6))
def test_scores_match_scikit_learn(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, k, n), rng.integers(0, k, n)
    matrix = confusion(truth, predicted, k)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(truth, predicted, labels=range(k)))
    scores = Scores.of(matrix)
    assert scores.accuracy == pytest.approx(sk.accuracy_score(truth, predicted))
    options = {"labels": range(k), "average": None, "zero_division": np.nan}
    there = np.unique(truth)
    f1 = sk.f1_score(truth, predicted, **options)
    iou = sk.jaccard_score(truth, predicted, labels=range(k), average=None, zero_division=0)
    np.testing.assert_allclose(scores.f1, f1, rtol=1e-12)
    np.testing.assert_allclose(np.array(scores.iou)[there], iou[there], rtol=1e-12)
    np.testing.assert_allclose(scores.recall, sk.recall_score(truth, predicted, **options), rtol=1e-12)
    np.testing.assert_allclose(scores.precision, sk.precision_score(truth, predicted, **options), rtol=1e-12)
    assert scores.mean_iou == pytest.approx(iou[there].mean())
    assert scores.mean_f1 == pytest.approx(f1[there].mean())
    assert scores.support == tuple(np.bincount(truth, minlength=k))


def test_what_is_not_annotated_does_not_count() -> None:
    assert confusion(np.array([255, 0]), np.array([1, 1]), 2).tolist() == [[0, 1], [0, 0]]


def test_classes_that_do_not_occur_are_none_in_json() -> None:
    scores = Scores.of(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    fields = json.loads(json.dumps(scores.as_json(("a", "b", "c")), allow_nan=False))
    assert fields["classes"]["c"] == {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    assert fields["classes"]["a"]["iou"] == 0.75
    assert np.isnan(Scores.of(np.zeros((2, 2), np.int64)).accuracy)
