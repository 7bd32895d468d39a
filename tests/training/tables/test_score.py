"""Macro F1 against scikit-learn; the bootstrap draws units, and the same ones for each model."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.metrics import confusion
from training.tables.score import Interval, bootstrap, macro_f1, macro_f1_draws, unit_matrices


@pytest.fixture
def told() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    predicted = np.where(rng.random(300) < 0.7, truth, rng.integers(0, 4, 300))
    return np.array([f"u{i}" for i in rng.integers(0, 12, 300)], object), truth, predicted


def test_macro_f1_is_that_of_scikit_learn(told: tuple[np.ndarray, ...]) -> None:
    _, truth, predicted = told
    assert macro_f1(confusion(truth, predicted, 4)) == pytest.approx(
        f1_score(truth, predicted, average="macro")
    )


def test_matrices_of_units_add_up_and_belong_to_them(told: tuple[np.ndarray, ...]) -> None:
    units, truth, predicted = told
    matrices = unit_matrices(units, truth, predicted, 4)
    assert np.array_equal(matrices.sum(axis=0), confusion(truth, predicted, 4))
    second = sorted(set(units))[1]
    assert np.array_equal(matrices[1], confusion(truth[units == second], predicted[units == second], 4))


def test_a_draw_counts_each_unit_as_often_as_it_was_drawn(told: tuple[np.ndarray, ...]) -> None:
    units, truth, predicted = told
    counts = bootstrap(12, draws=50, seed=3)
    assert (counts.sum(axis=1) == 12).all()
    assert np.array_equal(counts, bootstrap(12, draws=50, seed=3))
    found = macro_f1_draws(unit_matrices(units, truth, predicted, 4), counts)
    names = sorted(set(units))
    rows = np.concatenate(
        [
            np.flatnonzero(units == names[u]).repeat(0 if c == 0 else 1)
            for u, c in enumerate(counts[7])
            for _ in range(c)
        ]
    )
    assert found[7] == pytest.approx(f1_score(truth[rows], predicted[rows], average="macro"))


def test_the_interval_holds_the_middle_of_the_draws() -> None:
    found = Interval.of(0.5, np.linspace(0, 1, 1001))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert str(found) == "0.500 (0.025 to 0.975)"
