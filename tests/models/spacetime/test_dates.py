"""Dates on a calendar, and dates that are not there."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.models.spacetime.dates import Present, on_calendar, step_shares

DAYS = st.lists(st.integers(1, 3 * 366), min_size=1, max_size=9)


@given(days=DAYS, steps=st.integers(2, 40), years=st.integers(1, 3))
def test_a_date_is_shared_by_its_two_nearest_steps(days: list[int], steps: int, years: int) -> None:
    shares_TS = step_shares(torch.tensor([days], dtype=torch.float32), steps, years)[0].numpy()
    width = 366 * years / steps
    for day, shares_S in zip(days, shares_TS, strict=True):
        place = ((day - 0.5) % (366 * years)) / width - 0.5  # in steps, counted from the first one's centre
        first = int(np.floor(place))
        expected = np.zeros(steps)
        expected[first % steps] += 1 - (place - first)
        expected[(first + 1) % steps] += place - first
        np.testing.assert_allclose(shares_S, expected, atol=1e-3)


def test_no_date_has_no_share() -> None:
    assert step_shares(torch.tensor([[0.0, 12.0]]), 12, 1)[0].sum(1).tolist() == [0.0, 1.0]


@given(seed=st.integers(0, 999), offset=st.integers(0, 365))
def test_the_same_day_of_another_year_is_the_same_place(seed: int, offset: int) -> None:
    days = torch.randint(1, 367, (1, 5), generator=torch.Generator().manual_seed(seed)).float()
    torch.testing.assert_close(step_shares(days, 12, 1), step_shares(days + 366, 12, 1), atol=1e-4, rtol=0)
    assert not torch.allclose(step_shares(days, 24, 2), step_shares(days + 366, 24, 2))


def test_a_step_holds_the_weighted_mean_of_the_valid_dates_of_each_pixel() -> None:
    rng = np.random.default_rng(0)
    x_TCHW, valid_THW = rng.normal(size=(6, 2, 3, 4)), rng.random((6, 3, 4)) < 0.6
    days = np.array([10, 20, 100, 110, 130, 0])
    x_TCHW[~valid_THW[:, None].repeat(2, 1)] = 99.0  # not looked at
    shares_1TS = step_shares(torch.tensor(days[None], dtype=torch.float32), 8, 1)
    found_PSHW = on_calendar(
        torch.tensor(x_TCHW[None], dtype=torch.float32),
        torch.tensor(valid_THW[None], dtype=torch.float32),
        shares_1TS,
    )[0].numpy()
    shares_TS = shares_1TS[0].numpy()
    for s, y, x in np.ndindex(8, 3, 4):
        weights_T = shares_TS[:, s] * valid_THW[:, y, x]
        amount = weights_T.sum()
        expected = weights_T @ x_TCHW[:, :, y, x] / amount if amount > 1e-5 else np.zeros(2)
        np.testing.assert_allclose(found_PSHW[:2, s, y, x], expected, atol=1e-4)
        np.testing.assert_allclose(found_PSHW[2, s, y, x], min(amount, 1), atol=1e-6)


def test_absent_dates_are_left_out_in_training_alone_and_come_back_as_zeros() -> None:
    valid_BTHW = torch.ones(2, 3, 4, 4)
    valid_BTHW[0, 1] = 0
    valid_BTHW[1, 2, :3] = 0  # some of it is there
    x_BTFHW = torch.randn(2, 3, 5, 4, 4)
    learning = Present.of(valid_BTHW, training=True)
    taken = learning.take(x_BTFHW)
    assert torch.equal(taken, x_BTFHW.flatten(0, 1)[[0, 2, 3, 4, 5]])
    expected = x_BTFHW.clone()
    expected[0, 1] = 0
    assert torch.equal(learning.put(taken), expected)
    answering = Present.of(valid_BTHW, training=False)
    assert torch.equal(answering.put(answering.take(x_BTFHW)), x_BTFHW)


def test_where_nothing_is_there_all_is_taken() -> None:
    nothing = Present.of(torch.zeros(1, 2, 4, 4), training=True)
    assert nothing.take(torch.ones(1, 2, 3, 4, 4)).shape == (2, 3, 4, 4)
