"""Steps of a season: dates where all have the same, months where they have their own."""

from __future__ import annotations

import datetime as dt

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.values.days import running_days
from training.explain.season import running_month, season_of


@given(st.dates(dt.date(2001, 1, 1), dt.date(2001, 12, 31)), st.integers(0, 2))
def test_the_month_of_a_running_day_is_that_of_the_calendar(date: dt.date, year: int) -> None:
    running = date.timetuple().tm_yday + 366 * year
    assert running_month(np.array([running])).tolist() == [date.month - 1 + 12 * year]


def test_columns_in_any_order_are_named_in_the_order_of_time() -> None:
    found = season_of(np.array([[182, 60, 0], [182, 60, 121], [0, 60, 121]]))
    assert found.aligned
    assert found.names == ("1 Mar", "1 May", "1 Jul")
    assert found.step.tolist() == [[2, 0, -1], [2, 0, 1], [-1, 0, 1]]
    assert season_of(np.array([[182, 60, 121]]), ("c", "a", "b")).names == ("a", "b", "c")


def test_series_with_dates_of_their_own_share_months_over_new_year() -> None:
    dates = np.array([["2022-12-03", "2023-01-20"], ["2022-12-30", "2023-03-01"]], "datetime64[D]")
    found = season_of(running_days(dates))
    assert not found.aligned
    assert found.names == ("Dec y1", "Jan y2", "Mar y2")
    assert found.step.tolist() == [[0, 1], [0, 2]]


def test_without_dates_the_positions_are_the_steps() -> None:
    found = season_of(np.zeros((3, 4)))
    assert found.names == ("date 1", "date 2", "date 3", "date 4")
    assert found.step.tolist() == [[0, 1, 2, 3]] * 3
    assert found.cutoffs(2) == (0, 3)


def test_sums_over_steps_leave_nothing_out_but_what_has_no_date() -> None:
    rng = np.random.default_rng(0)
    days = np.array([[10, 50, 20, 0], [12, 0, 48, 49]])
    values = rng.normal(size=(2, 4, 3))
    found = season_of(days).summed(values)
    np.testing.assert_allclose(found[0], [values[0, 0] + values[0, 2], values[0, 1]])
    np.testing.assert_allclose(found[1], [values[1, 0], values[1, 2] + values[1, 3]])


def test_cutoffs_are_ends_of_months_and_keep_the_last() -> None:
    days = np.arange(1, 366, 5)[None]
    found = season_of(days)
    cuts = found.cutoffs(5)
    assert cuts[-1] == len(found) - 1
    assert len(cuts) == 5
    assert all(found.months[c] != found.months[c + 1] for c in cuts[:-1])
