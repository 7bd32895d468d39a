from __future__ import annotations

import numpy as np
import pytest

from pipelines.sample.spectra import BANDS, HABITS, Traits, day_spectra, field_covers, field_traits
from pipelines.sample.truth import CROPS, SCHEME, Landscape

RED, GREEN, NIR = BANDS.index("B04"), BANDS.index("B03"), BANDS.index("B08")


@pytest.fixture(scope="module")
def traits(wide_land: Landscape) -> Traits:
    return field_traits(wide_land)


def _of(land: Landscape, name: str) -> np.ndarray:
    return np.flatnonzero(land.crop == SCHEME.names.index(name) + 1)


def _ndvi(land: Landscape, traits: Traits, day: float) -> np.ndarray:
    mean = day_spectra(land, traits, day).mean
    return (mean[NIR] - mean[RED]) / (mean[NIR] + mean[RED])


def test_every_crop_has_a_habit() -> None:
    assert len(HABITS) == len(CROPS)


@pytest.mark.parametrize("day", range(60, 310, 10))
def test_covers_are_shares_of_a_pixel(wide_land: Landscape, traits: Traits, day: int) -> None:
    green, straw, bloom = field_covers(wide_land.crop, traits, day)
    for share in (green, straw, bloom):
        assert share.min() >= 0
        assert share.max() <= 1
    assert (green + straw).max() <= 1 + 1e-9


@pytest.mark.parametrize("day", [72, 124, 167, 227, 288])
def test_reflectances_are_physical(wide_land: Landscape, traits: Traits, day: int) -> None:
    spectra = day_spectra(wide_land, traits, day)
    assert spectra.mean.shape == (12, 3 * len(wide_land.crop) + 4)
    assert spectra.mean.min() > 0
    assert spectra.mean.max() < 0.8


def test_winter_crops_are_green_in_may_and_summer_crops_in_august(
    wide_land: Landscape, traits: Traits
) -> None:
    may, august = _ndvi(wide_land, traits, 135), _ndvi(wide_land, traits, 222)
    wheat, maize = _of(wide_land, "winter wheat"), _of(wide_land, "maize")
    assert np.median(may[wheat]) > 0.7 > 0.35 > np.median(may[maize])
    assert np.median(august[maize]) > 0.7 > 0.35 > np.median(august[wheat])


def test_barley_ripens_before_wheat(wide_land: Landscape, traits: Traits) -> None:
    june = _ndvi(wide_land, traits, 173)
    assert np.median(june[_of(wide_land, "winter barley")]) + 0.1 < np.median(
        june[_of(wide_land, "winter wheat")]
    )


def test_rapeseed_turns_yellow_in_bloom(wide_land: Landscape, traits: Traits) -> None:
    rape = _of(wide_land, "winter rapeseed")
    before, bloom = (np.median(day_spectra(wide_land, traits, d).mean[:, rape], axis=1) for d in (100, 124))
    assert bloom[GREEN] > 1.5 * before[GREEN]
    assert bloom[RED] > 1.5 * before[RED]
    assert bloom[BANDS.index("B02")] < 0.06, "yellow has no blue"


def test_mown_fields_lose_cover_and_grow_again(wide_land: Landscape, traits: Traits) -> None:
    field = next(i for i in _of(wide_land, "alfalfa") if traits.cut[i, 0])
    series = [field_covers(wide_land.crop, traits, d)[0][field] for d in range(110, 160)]
    drop = np.diff(series)
    assert drop.min() < -0.25
    assert series[-1] > series[int(drop.argmin()) + 1] + 0.15


def test_fields_of_a_crop_differ(wide_land: Landscape, traits: Traits) -> None:
    ndvi = _ndvi(wide_land, traits, 105)[_of(wide_land, "winter wheat")]
    assert 0.02 < ndvi.std() < 0.2
