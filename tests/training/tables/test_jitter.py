"""Augmentation of series: what each amount does, and that gaps stay gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.normalise import Standard
from training.tables.jitter import SeriesJitter, jittered

NORMAL = Standard(mean=(1000.0, 20000.0), std=(200.0, 4000.0))


def _batch(n: int = 400, dates: int = 6, gaps: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.integers(500, 30_000, (n, dates, 2)).astype(np.uint16)
    x[rng.random((n, dates)) < gaps] = 0
    return x, (np.arange(n) % 3).astype(np.uint8)


def _drawn(x: np.ndarray, index: np.ndarray, seed: int = 0, **amounts: float) -> np.ndarray:
    return jittered(x, index, SeriesJitter(**amounts), NORMAL, np.random.default_rng(seed))


def test_the_default_changes_nothing() -> None:
    x, index = _batch(gaps=0.2)
    assert np.array_equal(_drawn(x, index), x)


def test_noise_and_offset_are_told_in_standard_deviations_of_the_plane() -> None:
    x = np.full((2000, 6, 2), (1000, 20000), np.uint16)
    index = np.zeros(2000, np.uint8)
    noise = _drawn(x, index, noise=0.5).astype(float) - x
    assert noise.std(axis=(0, 1)) == pytest.approx([100, 2000], rel=0.05)
    offset = _drawn(x, index, offset=0.5).astype(float) - x
    assert offset.std(axis=0)[0] == pytest.approx([100, 2000], rel=0.06)
    assert np.ptp(offset, axis=1).max() == 0  # the same on all dates


def test_gain_spreads_around_the_mean_of_the_plane() -> None:
    x = np.full((500, 4, 2), (1000, 20000), np.uint16)
    x[:, 1] = (1200, 24000)
    drawn = _drawn(x, np.zeros(500, np.uint8), gain=0.5).astype(float)
    assert np.array_equal(drawn[:, 0], x[:, 0])  # the mean stays
    spread = (drawn[:, 1] - x[:, 0]) / (x[:, 1].astype(float) - x[:, 0])
    assert spread.min() >= 1 / 1.5 - 0.01
    assert spread.max() <= 1.5 + 0.01
    assert np.log(spread).mean() == pytest.approx(0, abs=0.03)


def test_a_slide_reads_between_two_dates_and_never_through_a_gap() -> None:
    ramp = (1000 + 100 * np.arange(8)).astype(np.uint16)
    x = np.repeat(ramp[None, :, None], 300, axis=0)
    x[:, 4] = 0
    drawn = jittered(
        x,
        np.zeros(300, np.uint8),
        SeriesJitter(slide=1.0),
        Standard(mean=(1.0,), std=(1.0,)),
        np.random.default_rng(0),
    )
    moved = drawn[:, 1, 0].astype(float) - ramp[1]
    assert np.abs(moved).max() <= 100
    assert np.abs(moved).mean() == pytest.approx(50, rel=0.15)  # uniform up to one date
    assert ((drawn == 0).sum(axis=1) <= 2).all()
    assert (drawn[:, 4] == 0).all() or (drawn[:, 3:6] == 0).any()
    step = drawn[:, 2, 0].astype(float) - drawn[:, 1, 0]
    assert step == pytest.approx(100, abs=1)  # the series moved as one


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.95))
def test_dropped_dates_are_gone_whole_and_one_stays(seed: int, share: float) -> None:
    x, index = _batch(50, gaps=0.3)
    x[:, 2] = 7000  # each sample has a date
    drawn = _drawn(x, index, seed, drop=share)
    there = (drawn != 0).any(axis=2)
    assert there.any(axis=1).all()
    assert np.array_equal((drawn != 0).all(axis=2), there)
    assert np.array_equal(drawn[there], x[there])


def test_mixing_stays_between_two_samples_of_one_class() -> None:
    x, index = _batch()
    x[index == 0, :, 0] = 1000
    x[index == 1, :, 0] = 5000
    x[index == 2, :, 0] = 9000
    drawn = _drawn(x, index, mix=0.9)
    assert np.array_equal(drawn[:, :, 0], x[:, :, 0])  # alike within each class
    assert (drawn[:, :, 1] != x[:, :, 1]).mean() > 0.5
    assert drawn[:, :, 1].max() <= x[:, :, 1].max()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_gaps_stay_gaps_and_values_never_become_one(seed: int) -> None:
    x, index = _batch(60, gaps=0.3)
    drawn = _drawn(x, index, seed, noise=1.5, offset=1.0, gain=0.9, mix=0.5)
    assert np.array_equal(drawn == 0, x == 0)
    assert drawn.dtype == np.uint16


def test_the_same_stream_draws_the_same() -> None:
    x, index = _batch()
    amounts = {"noise": 0.1, "slide": 0.5, "drop": 0.1, "mix": 0.5}
    assert np.array_equal(_drawn(x, index, 5, **amounts), _drawn(x, index, 5, **amounts))
    assert not np.array_equal(_drawn(x, index, 5, **amounts), _drawn(x, index, 6, **amounts))
