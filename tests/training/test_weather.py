"""Dropped dates, clouds, shifted seasons, missing bands."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.paste import field_of
from training.tones import Tone, toned
from training.weather import Clouds, drop_bands, drop_dates, shift_dates, with_clouds


@given(share=st.floats(0, 0.99), dates=st.integers(1, 6), seed=st.integers(0, 99))
def test_dropped_dates_are_whole_and_one_stays(share: float, dates: int, seed: int) -> None:
    x_TCHW = np.full((dates, 2, 3, 3), 5, np.uint16)
    found = drop_dates(x_TCHW, share, np.random.default_rng(seed))
    assert found.dtype == np.uint16
    by_date = found.reshape(dates, -1)
    assert all(set(row.tolist()) in ({0}, {5}) for row in by_date)
    assert by_date.any()
    assert (x_TCHW == 5).all()


def test_clouds_cover_as_much_as_asked_for() -> None:
    x = np.full((200, 1, 48, 48), 900, np.uint16)
    found = with_clouds(x, Clouds(dates=0.5, cover=0.4, missed=0.0), np.random.default_rng(0))
    cover = (found == 0).mean(axis=(1, 2, 3))
    clouded = cover > 0
    assert 0.35 < clouded.mean() < 0.65
    assert cover.max() <= 0.4 + 1e-3
    assert abs(cover[clouded].mean() - 0.2) < 0.05, "drawn evenly up to the largest cover"
    assert (x == 900).all()


def test_missed_clouds_brighten_and_hide_nothing() -> None:
    x = np.full((60, 2, 32, 32), 900, np.uint16)
    x[:, :, :4] = 0
    found = with_clouds(x, Clouds(dates=0.9, cover=0.9, missed=1.0), np.random.default_rng(3))
    np.testing.assert_array_equal(found == 0, x == 0)
    assert (found[x != 0] >= 900).all()
    assert found.max() > 3000


@given(days=st.integers(-183, 183))
def test_a_shifted_season_can_be_shifted_back(days: int) -> None:
    dates = np.array([0, 1, 59, 200, 366], np.int16)
    np.testing.assert_array_equal(shift_dates(shift_dates(dates, days), -days), dates)


def test_a_band_loses_its_information_in_all_dates() -> None:
    x = np.random.default_rng(0).integers(1, 999, (3, 4, 8, 8)).astype(np.uint16)
    x[1, :, 2:4] = 0
    found = drop_bands(x, 0.6, np.random.default_rng(1))
    np.testing.assert_array_equal(found == 0, x == 0)
    spread = [len(np.unique(found[:, c][found[:, c] != 0])) for c in range(4)]
    assert 1 in spread
    assert max(spread) > 1
    for c in range(4):
        if spread[c] == 1:
            assert abs(float(found[:, c].max()) - x[:, c][x[:, c] != 0].mean()) <= 0.5


def test_tones_are_what_they_say() -> None:
    x = np.array([[[[0, 1000, 3000]]]], np.uint16)
    rng = np.random.default_rng(0)
    assert toned(x, Tone(brightness=-0.05), rng).tolist() == [[[[0, 500, 2500]]]]
    assert toned(x, Tone(contrast=2.0), rng).tolist() == [[[[0, 1, 4000]]]], "2000 +- 2000, held at 1"
    assert toned(x, Tone(gamma=2.0), rng).tolist() == [[[[0, 100, 900]]]]
    wide = np.full((4, 2, 64, 64), 4000, np.uint16)
    noisy = toned(wide, Tone(noise=0.02), rng).astype(np.float64)
    assert abs(noisy.std() - 200) < 5
    assert abs(noisy.mean() - 4000) < 5


def test_a_field_is_connected_pixels_of_one_class() -> None:
    target = np.full((20, 20), 255, np.uint8)
    target[2:8, 2:8], target[12:18, 2:8], target[2:5, 15:17] = 1, 1, 3
    found = [field_of(target, np.random.default_rng(seed)) for seed in range(40)]
    sizes = {0 if f is None else (int(f.sum()), int(np.argwhere(f)[0][0])) for f in found}
    assert sizes == {(36, 2), (36, 12), 0}, "two fields of one class are two; the sliver is none"
    assert field_of(np.full((8, 8), 255, np.uint8), np.random.default_rng(0)) is None
    assert field_of(np.zeros((8, 8), np.uint8), np.random.default_rng(0)) is None
