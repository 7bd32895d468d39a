"""Scaling against scikit-learn, torch's optimum, and logits whose distortion is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from engine.values.errors import InputError
from training.calibration.reliability import reliability
from training.calibration.scaling import (
    cross_entropy,
    fit_temperature,
    fit_vector,
    softmax,
    vector_scaled,
)


def _items(n: int = 6000, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right as they are: labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    truth = (softmax(logits).cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return logits, truth


def test_cross_entropy_is_that_of_scikit_learn() -> None:
    logits, truth = _items(300)
    assert cross_entropy(softmax(logits), truth) == pytest.approx(log_loss(truth, softmax(logits)))


@pytest.mark.parametrize("distortion", [0.4, 1.0, 3.0])
def test_the_temperature_that_distorts_is_found(distortion: float) -> None:
    logits, truth = _items()
    found = fit_temperature(logits * distortion, truth)
    assert found == pytest.approx(distortion, rel=0.06)
    assert reliability(softmax(logits * distortion, found), truth).error < 0.03


def test_the_temperature_is_the_minimum() -> None:
    logits, truth = _items(800)
    found = fit_temperature(logits * 2, truth)
    losses = [cross_entropy(softmax(logits * 2, found * f), truth) for f in (0.99, 1.0, 1.01)]
    assert losses[1] < min(losses[0], losses[2])


def test_with_two_classes_it_is_a_logistic_regression_through_zero() -> None:
    logits, truth = _items(2000, 2)
    margin = (logits[:, 1] - logits[:, 0])[:, None] * 2.5
    model = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-8).fit(margin, truth)
    assert fit_temperature(logits * 2.5, truth) == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)


def test_vector_scaling_mends_what_a_temperature_cannot() -> None:
    logits, truth = _items()
    wrong = logits * np.array([2.0, 0.5, 1.0, 1.5]) + np.array([1.0, -1.0, 0.5, 0.0])
    vector = fit_vector(wrong, truth, ridge=0.0)
    by_temperature = softmax(wrong, fit_temperature(wrong, truth))
    by_vector = softmax(vector_scaled(wrong, vector))
    best = cross_entropy(softmax(logits), truth)
    assert cross_entropy(by_vector, truth) < best + 1e-3
    assert cross_entropy(by_temperature, truth) > best + 0.05
    np.testing.assert_allclose(vector.scale, 1 / np.array([2.0, 0.5, 1.0, 1.5]), rtol=0.12)
    assert sum(vector.shift) == pytest.approx(0, abs=1e-9)


def test_the_ridge_holds_a_class_without_items() -> None:
    logits, truth = _items(1000)
    few = truth != 3
    free = fit_vector(logits[few], truth[few], ridge=0.0)
    held = fit_vector(logits[few], truth[few], ridge=0.1)
    assert abs(held.shift[3]) < abs(free.shift[3])


def test_weights_count_like_repeats() -> None:
    logits, truth = _items(400)
    times = np.arange(400) % 3
    repeated = np.repeat(logits, times, axis=0), np.repeat(truth, times)
    assert fit_temperature(logits, truth, times) == pytest.approx(fit_temperature(*repeated), rel=1e-4)
    np.testing.assert_allclose(fit_vector(logits, truth, times).scale, fit_vector(*repeated).scale, rtol=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="did not learn from"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    sure = np.eye(3)[[0, 1, 2]] * 10
    assert fit_temperature(sure, np.array([0, 1, 2])) >= 0.05
    assert fit_temperature(sure, np.array([1, 2, 0])) <= 20.0
