"""Dates in order of time, whatever order they come in, and what a network is told of a day."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.models.temporal.dates import as_given, in_order, seasons, wave
from engine.models.temporal.recurrent import turned, valid_first
from engine.values.errors import InputError

DAYS = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=st.integers(0, 900))


@given(DAYS, st.booleans())
def test_each_sample_is_sorted_with_its_pixels_and_absent_dates_come_last(
    days: np.ndarray, alike: bool
) -> None:
    batch, dates = days.shape
    x = np.arange(batch * dates * 2, dtype=np.float32).reshape(batch, dates, 2, 1, 1) + 1
    given_days = days[0] if alike else days
    found = in_order(torch.tensor(x), torch.ones(batch, dates, 1, 1), torch.tensor(given_days))
    for b in range(batch):
        own = given_days if alike else given_days[b]
        order = sorted(range(dates), key=lambda t: (own[t] == 0, own[t], t))
        np.testing.assert_array_equal(found.days[0 if alike else b].numpy(), own[order])
        np.testing.assert_array_equal(found.valid[b, :, 0, 0].numpy(), own[order] > 0)
        np.testing.assert_array_equal(found.x[b].numpy(), x[b][order] * (own[order] > 0)[:, None, None, None])
    marked = torch.arange(dates)[None, None].expand(batch, 2, -1).float()
    if found.order is not None:
        marked = marked.gather(2, found.order[:, None].expand(batch, 2, -1))
    np.testing.assert_array_equal(as_given(marked, found.order)[0, 0].numpy(), np.arange(dates))


def test_days_that_do_not_fit_the_dates_are_refused() -> None:
    x_BTCHW, valid_BTHW = torch.zeros(3, 4, 1, 1, 1), torch.zeros(3, 4, 1, 1)
    for days in (torch.ones(5), torch.ones(2, 4)):
        with pytest.raises(InputError, match="one day for each date"):
            in_order(x_BTCHW, valid_BTHW, days)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 7))))
def test_valid_dates_move_together_and_turn_round(valid: np.ndarray) -> None:
    order, count = valid_first(torch.tensor(valid))
    back = turned(count, valid.shape[1])
    for n, row in enumerate(valid):
        places = np.flatnonzero(row)
        assert order[n, : int(count[n])].tolist() == places.tolist()
        assert sorted(order[n].tolist()) == list(range(valid.shape[1]))
        assert order[n, back[n, : int(count[n])]].tolist() == places[::-1].tolist()
        assert back[n, back[n]].tolist() == list(range(valid.shape[1]))


def test_the_season_comes_round_each_year_and_the_wave_does_not() -> None:
    days = torch.tensor([0.0, 1.0, 100.0, 466.0])
    found = seasons(days, 2).numpy()
    angle = 2 * np.pi * 100 / 366
    np.testing.assert_allclose(
        found[2], [np.sin(angle), np.sin(2 * angle), np.cos(angle), np.cos(2 * angle)], atol=1e-6
    )
    np.testing.assert_allclose(found[3], found[2], atol=1e-5)
    assert not found[0].any()
    far = wave(days, 6).numpy()
    expected = [f(466 / 1000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(far[3], expected, atol=1e-4)
    assert abs(far[3] - far[2]).max() > 0.1
