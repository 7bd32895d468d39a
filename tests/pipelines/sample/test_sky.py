from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import shapely

from engine.values.errors import InputError
from pipelines.sample.sky import make_sky, schedule, seen, swath
from pipelines.sample.truth import Landscape, burn


def test_the_season_has_two_orbits_and_an_offset_in_its_second_half() -> None:
    scenes = schedule(15)
    days = [s.day for s in scenes]
    assert days == sorted(set(days))
    assert {s.orbit for s in scenes} == {22, 122}
    assert {s.platform for s in scenes} == {"sentinel-2a", "sentinel-2b"}
    offsets = [s.offset_dn for s in scenes]
    assert offsets == sorted(offsets)
    assert set(offsets) == {0, 1000}
    assert {s.baseline for s in scenes} == {"03.01", "04.00", "05.09"}
    assert all(s.time.month in range(3, 11) for s in scenes)
    assert len({s.datatake for s in scenes}) == 15
    assert any(s.time.month == 6 and s.cloud == 0 for s in scenes), "a clear day in June"


def test_an_orbit_comes_back_after_multiples_of_five_days() -> None:
    for orbit in (22, 122):
        days = {s.day % 5 for s in schedule(15) if s.orbit == orbit}
        assert len(days) == 1


@pytest.mark.parametrize("n_dates", [0, 1, 41])
def test_an_impossible_season_is_refused(n_dates: int) -> None:
    with pytest.raises(InputError, match="season"):
        schedule(n_dates)


def test_the_sun_stands_in_the_south_east_and_highest_at_the_solstice() -> None:
    scene = schedule(15)[0]
    heights = {d: dataclasses.replace(scene, day=d).sun for d in range(60, 300)}
    assert abs(max(heights, key=lambda d: heights[d][1]) - 172) <= 2
    assert max(h[1] for h in heights.values()) < 90 - 47.9 + 23.45
    assert all(140 < h[0] < 180 for h in heights.values())


@pytest.mark.parametrize("index", range(4))
def test_the_seen_pixels_are_those_in_the_swath(wide_land: Landscape, index: int) -> None:
    scene = schedule(4)[index]
    polygon = shapely.polygons(swath(wide_land.seed, scene, wide_land.bounds))
    burnt = burn([(polygon, 1)], wide_land.grid, wide_land.box, 0) == 1
    mask = seen(wide_land, scene)
    assert (mask != burnt).mean() < 1e-5
    assert 0.6 < mask.mean() < 0.95


def test_the_orbits_together_see_everything(wide_land: Landscape) -> None:
    west, east = (seen(wide_land, s) for s in schedule(2))
    assert (west | east).all()
    assert (west & ~east).any()
    assert (east & ~west).any()


def test_shadows_fall_away_from_the_sun(wide_land: Landscape) -> None:
    scene = dataclasses.replace(schedule(15)[7], cloud=0.3)
    sky = make_sky(wide_land, scene)
    # The peak of the cross-correlation is the displacement of the shadow.
    cloud, shadow = (np.fft.fft2(m - m.mean(), s=(1300, 1300)) for m in (sky.cloud, sky.shadow))
    peak = np.fft.ifft2(shadow * np.conj(cloud)).real
    down, right = (int(i) - (1300 if i > 650 else 0) for i in np.unravel_index(peak.argmax(), (1300, 1300)))
    azimuth, elevation = scene.sun
    towards = math.degrees(math.atan2(right, -down)) % 360
    assert abs(towards - (azimuth + 180) % 360) < 6
    height_m = math.hypot(down, right) * 10 * math.tan(math.radians(elevation))
    assert 800 < height_m < 2500


def test_the_sky_has_the_wanted_cloud_and_none_when_clear(wide_land: Landscape) -> None:
    scene = schedule(15)[7]
    sky = make_sky(wide_land, scene)
    assert (sky.cloud > 0.01).mean() == pytest.approx(scene.cloud, abs=0.1)
    assert (sky.cloud > 0.6).any()
    assert ((sky.cloud > 0.05) & (sky.cloud < 0.4)).any(), "thin rims"
    clear = make_sky(wide_land, schedule(15)[6])
    assert not clear.cloud.any()
    assert not clear.shadow.any()
    assert not clear.snow.any()


def test_a_coarser_sky_is_the_mean_of_the_fine_one(wide_land: Landscape) -> None:
    sky = make_sky(wide_land, schedule(15)[3])
    coarse = sky.coarser(6)
    assert coarse.cloud.mean() == pytest.approx(sky.cloud.mean(), abs=1e-5)
    assert coarse.rows(slice(2, 5)).haze.shape == (3, sky.haze.shape[1] // 6)
