"""Permutation importance finds what was planted, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from tests.training.explain.planted import (
    BANDS,
    DATES,
    NORMAL,
    Linear,
    examples,
    one_place,
    season,
    two_classes,
)
from training.explain.lens import Lens
from training.explain.permutation import permute


@pytest.mark.parametrize(("date", "band"), [(0, 2), (4, 0)])
def test_only_the_planted_band_and_date_count(date: int, band: int) -> None:
    made = two_classes(date, band, n=100)
    found = permute(one_place(date, band), made, season(made), repeats=4)
    for losses, place, n in ((found.bands, band, BANDS), (found.dates, date, DATES)):
        others = np.arange(n) != place
        assert losses[place].mean() == pytest.approx(0.5, abs=0.12), (
            "half of the others are of the other class"
        )
        np.testing.assert_array_equal(losses[others], 0)
    assert found.bands_f1[band].mean() > 0.3


def test_it_agrees_with_scikit_learn_on_its_own_model() -> None:
    rng = np.random.default_rng(2)
    of = np.arange(200) % 2
    values = rng.normal(0, 1, (200, 1, BANDS)).clip(-3, 3)
    values[:, 0] += np.outer(np.where(of == 1, 1, -1), [0.2, 0.6, 1.2])
    values = values.clip(-4, 4)
    model = LogisticRegression().fit(values[:, 0], of)
    model.intercept_[:] = 0
    theirs = permutation_importance(model, values[:, 0], of, n_repeats=40, random_state=0)
    weight = np.zeros((2, 1, BANDS))
    weight[1, 0] = model.coef_[0]
    made = examples(values, of)
    ours = permute(Lens(Linear(weight), NORMAL), made, season(made), repeats=40)
    np.testing.assert_allclose(ours.bands.mean(axis=1), theirs.importances_mean, atol=0.03)


def test_the_same_seed_shuffles_alike() -> None:
    made = two_classes(1, 1)
    lens = one_place(1, 1, strength=0.5)
    first, again, other = (permute(lens, made, season(made), 2, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.bands, again.bands)
    assert (first.bands != other.bands).any()


def test_dates_of_their_own_are_not_shuffled() -> None:
    days = np.array([[40, 70], [41, 90], [42, 71]])
    made = examples(np.zeros((3, 2, BANDS)), np.array([0, 1, 1]), days)
    found = permute(Lens(Linear(np.zeros((2, 2, BANDS))), NORMAL), made, season(made), 1)
    assert found.dates.shape == (0, 1)
    assert found.bands.shape == (BANDS, 1)


def test_no_data_stays_no_data() -> None:
    """A shuffled band reaches no date that has no data, and a hole of the other example is an average pixel."""
    values = np.full((2, DATES, BANDS), 1.0)
    values[0, 3] = np.nan
    made = examples(values, np.array([0, 1]))
    seen = []

    class Watching(Linear):
        def forward(self, x_BTCHW, valid_BTHW):  # type: ignore[no-untyped-def]
            seen.append((x_BTCHW.clone(), valid_BTHW.clone()))
            return super().forward(x_BTCHW, valid_BTHW)

    permute(Lens(Watching(np.zeros((2, DATES, BANDS))), NORMAL), made, season(made), 2)
    for x, valid in seen[1 : 1 + 2 * BANDS]:
        assert valid[0, 3].item() == 0
        assert not x[0, 3].any()
        assert x[1, 3].abs().max() <= 1.001
