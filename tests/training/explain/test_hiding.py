"""Occlusion finds what was planted; the in-season curve rises at the date at which the class shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.explain.planted import BANDS, DATES, examples, one_place, season, two_classes
from training.explain.hiding import InSeason, in_season, occlude_bands, occlude_dates


@settings(max_examples=8, deadline=None)
@given(st.integers(0, DATES - 1), st.integers(0, BANDS - 1))
def test_only_what_was_planted_costs_anything(date: int, band: int) -> None:
    made, lens = two_classes(date, band), one_place(date, band)
    dates, bands = occlude_dates(lens, made, season(made)), occlude_bands(lens, made)
    assert dates.whole.scores.accuracy == 1.0
    for found, place, n in ((dates, date, DATES), (bands, band, BANDS)):
        others = np.arange(n) != place
        assert found.accuracy[place] == pytest.approx(0.5), "knowing nothing, it says one class"
        assert found.probability[place].min() > 0.3
        np.testing.assert_allclose(found.accuracy[others], 0, atol=1e-6)
        np.testing.assert_allclose(found.probability[others], 0, atol=1e-4)


@pytest.mark.parametrize("date", [0, 2, DATES - 1])
def test_the_curve_rises_where_the_class_shows(date: int) -> None:
    made = two_classes(date, 0)
    found = in_season(one_place(date, 0), made, season(made))
    np.testing.assert_allclose(found.accuracy[:date], 0.5)
    np.testing.assert_allclose(found.accuracy[date:], 1.0)
    np.testing.assert_allclose(found.f1[date:], 1.0)
    assert found.support == (30, 30)
    assert found.chance == 0.5
    assert found.reached() == date


def test_the_order_in_which_dates_are_given_changes_no_curve() -> None:
    """The network looks at the third column, which is the first date of the season."""
    rng = np.random.default_rng(0)
    of = np.arange(20) % 2
    values = rng.normal(0, 1, (20, DATES, BANDS)).clip(-3, 3)
    values[:, 2, 0] = np.where(of == 1, 1.5, -1.5)
    days = np.broadcast_to([91, 121, 32, 152, 182], (20, DATES))
    made = examples(values, of, days)
    found = in_season(one_place(2, 0), made, season(made))
    np.testing.assert_allclose(found.accuracy, 1.0)


def test_series_with_dates_of_their_own_are_hidden_month_by_month() -> None:
    """Column 1 is in March for half of the series, in April for the others."""
    rng = np.random.default_rng(0)
    of, late = np.arange(40) % 2, np.arange(40) >= 20
    values = rng.normal(0, 1, (40, DATES, BANDS)).clip(-3, 3)
    values[:, 1, 0] = np.where(of == 1, 1.5, -1.5)
    days = np.tile([40, 70, 140, 170, 200], (40, 1))
    days[late, 1] = 100
    made = examples(values, of, days)
    found = occlude_dates(one_place(1, 0), made, season(made))
    assert season(made).names == ("Feb", "Mar", "Apr", "May", "Jun", "Jul")
    np.testing.assert_allclose(found.accuracy, [0, 0.25, 0.25, 0, 0, 0], atol=1e-6)


def test_the_last_fall_decides_from_when_on_it_holds() -> None:
    accuracy = np.array([0.97, 0.5, 0.96, 1.0])
    assert InSeason(accuracy, accuracy, accuracy[:, None], (9,), 0.3).reached() == 2
    assert InSeason(accuracy, accuracy, accuracy[:, None], (9,), 0.3).reached(0.99) == 3
    assert InSeason(np.ones(3), np.ones(3), np.ones((3, 1)), (9,), 0.3).reached() == 0
