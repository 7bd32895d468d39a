from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from engine.values.grid import Box
from pipelines.sample.noise import block_mean
from pipelines.sample.scenes import SCL, Pixels, cut, factor_of, render_scene
from pipelines.sample.sky import make_sky, schedule, seen
from pipelines.sample.spectra import BANDS, field_traits
from pipelines.sample.truth import WATER, Landscape

SCENES = schedule(15)


@pytest.fixture(scope="module")
def cloudy(wide_land: Landscape) -> Pixels:
    return render_scene(wide_land, field_traits(wide_land), SCENES[7])


@pytest.fixture(scope="module")
def clear(wide_land: Landscape) -> Pixels:
    return render_scene(wide_land, field_traits(wide_land), SCENES[6])


def test_bands_have_their_own_resolution(small_land: Landscape, cloudy: Pixels) -> None:
    height, width = 600, 600
    for name in (*BANDS, SCL):
        factor = {10: 1, 20: 2, 60: 6}[factor_of(name) * 10]
        assert cloudy.arrays[name].shape == (height // factor, width // factor), name
        assert cloudy.arrays[name].dtype == (np.uint8 if name == SCL else np.uint16)


def test_no_data_is_where_the_swath_does_not_reach_and_nowhere_else(
    wide_land: Landscape, cloudy: Pixels
) -> None:
    valid = seen(wide_land, SCENES[7])
    for name in (*BANDS, SCL):
        whole = block_mean(valid.astype(np.float32), factor_of(name)) == 1
        assert np.array_equal(cloudy.arrays[name] > 0, whole), name


def test_the_offset_is_exactly_what_the_baseline_adds(small_land: Landscape) -> None:
    traits = field_traits(small_land)
    old, new = (
        render_scene(small_land, traits, dataclasses.replace(SCENES[6], baseline=b)).arrays
        for b in ("03.01", "04.00")
    )
    for name in BANDS:
        usable = old[name] > 1  # 1 stands for everything at or below zero
        assert np.array_equal(new[name][usable], old[name][usable] + 1000), name
        assert usable.sum() > 0.99 * (old[name] > 0).sum()
    assert np.array_equal(old[SCL], new[SCL])


def test_a_strip_border_leaves_no_trace(clear: Pixels, wide_land: Landscape) -> None:
    red, unit = clear.arrays["B04"].astype(float), wide_land.unit
    inner = minimum_filter(unit, 5) == maximum_filter(unit, 5)
    off_edges = inner[1:] & inner[:-1] & (red[1:] > 0) & (red[:-1] > 0)
    step = np.ma.masked_array(np.abs(np.diff(red, axis=0)), ~off_edges).mean(axis=1)
    at_borders, *elsewhere = (step[row:-1:120].mean() for row in (119, *range(119)))
    assert abs(at_borders - np.mean(elsewhere)) < 3 * np.std(elsewhere)


def test_water_is_dark_and_fields_are_not(wide_land: Landscape, clear: Pixels) -> None:
    swir = np.repeat(np.repeat(clear.arrays["B11"], 2, 0), 2, 1)
    here = seen(wide_land, SCENES[6])
    assert np.median(swir[(wide_land.truth == WATER) & here]) < 300
    assert np.median(swir[(wide_land.truth == 1) & here]) > 1000


def test_the_classification_finds_thick_cloud_and_misses_some_thin(
    wide_land: Landscape, cloudy: Pixels
) -> None:
    scl, sky = cloudy.arrays[SCL], make_sky(wide_land, SCENES[7]).coarser(2)
    valid = scl > 0
    assert np.isin(scl[valid & (sky.cloud > 0.75)], [9]).all()
    rim = valid & (sky.cloud > 0.08) & (sky.cloud < 0.2) & (sky.shadow < 0.1) & (sky.cirrus < 0.02)
    assert np.isin(scl[rim], [4, 5, 6]).mean() > 0.1, "rims that the classification misses"
    shaded = valid & (sky.shadow > 0.6) & (sky.cloud < 0.02) & (sky.cirrus < 0.05)
    assert (scl[shaded] == 3).mean() > 0.95


def test_shadow_darkens_and_cloud_brightens(wide_land: Landscape, cloudy: Pixels) -> None:
    sky = make_sky(wide_land, SCENES[7])
    nir = cloudy.arrays["B08"].astype(float) - 1000
    here = seen(wide_land, SCENES[7]) & (sky.cirrus < 0.02)
    thick, shade = here & (sky.cloud > 0.9), here & (sky.shadow > 0.9) & (sky.cloud < 0.01)
    open_sky = here & (sky.shadow < 0.02) & (sky.cloud < 0.01)
    assert np.median(nir[thick]) > 1.5 * np.median(nir[open_sky])
    assert np.median(nir[shade]) < 0.5 * np.median(nir[open_sky])


def test_a_clear_scene_is_classified_by_what_is_there(wide_land: Landscape, clear: Pixels) -> None:
    scl = clear.arrays[SCL]
    lake = block_mean((wide_land.truth == WATER).astype(np.float32), 2) == 1
    assert (scl[lake & (scl > 0)] == 6).mean() > 0.9
    assert np.isin(scl, [3, 9, 10, 11]).sum() == 0


def test_snow_lies_only_in_the_first_scene(wide_land: Landscape, clear: Pixels) -> None:
    first = render_scene(wide_land, field_traits(wide_land), SCENES[0])
    assert 0.002 < (first.arrays[SCL] == 11).mean() < 0.1
    assert not (clear.arrays[SCL] == 11).any()


def test_cut_takes_the_same_ground_at_every_resolution() -> None:
    outer, tile = Box(0, 0, 24, 24), Box(0, 12, 24, 24)
    for name, factor in (("B02", 1), ("B05", 2), ("B01", 6)):
        values = np.arange((24 // factor) ** 2).reshape(24 // factor, -1)
        assert np.array_equal(cut(values, name, outer, tile), values[:, 12 // factor :])
