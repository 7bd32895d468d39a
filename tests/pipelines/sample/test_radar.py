from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.sample.radar import (
    LOOKS,
    RADAR_NODATA,
    RADAR_ORBITS,
    Pass,
    frame_of_orbit,
    ground_power,
    radar_schedule,
    radar_swath,
    render_pass,
)
from pipelines.sample.spectra import Traits, field_traits
from pipelines.sample.truth import BUILT_UP, FOREST, SCHEME, WATER, Landscape

UP, DOWN = RADAR_ORBITS


@pytest.fixture(scope="module")
def traits(wide_land: Landscape) -> Traits:
    return field_traits(wide_land)


@pytest.fixture(scope="module")
def truth(wide_land: Landscape) -> np.ndarray:
    """Class of each 20 m pixel, 0 where several classes share it."""
    parts = np.stack([wide_land.truth[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return np.where((parts == parts[0]).all(axis=0), parts[0], 0)


def _db(land: Landscape, traits: Traits, truth: np.ndarray, name: str, day: int) -> np.ndarray:
    """Mean backscatter of a class, VV and VH in dB."""
    power = ground_power(land, traits, day)
    return 10 * np.log10(power[:, truth == SCHEME.names.index(name) + 1].mean(axis=1))


@pytest.mark.parametrize("n_dates", [2, 4, 15, 40])
def test_orbits_come_back_after_multiples_of_twelve_days(n_dates: int) -> None:
    passes = radar_schedule(n_dates)
    assert len({p.time for p in passes}) == len(passes) == 2 * min(n_dates, 20)
    assert [p.time for p in passes] == sorted(p.time for p in passes)
    for orbit in RADAR_ORBITS:
        own = [p for p in passes if p.orbit == orbit]
        assert {p.day % 12 for p in own} == {orbit.phase}
        assert {(p.absolute_orbit - 73) % 175 + 1 for p in own} == {orbit.number}
        turns = np.diff([p.absolute_orbit for p in own]) / 175
        assert np.array_equal(turns, np.diff([p.day for p in own]) / 12)
    assert all(3 <= p.time.month <= 10 for p in passes)


def test_classes_look_as_they_should(wide_land: Landscape, traits: Traits, truth: np.ndarray) -> None:
    power = ground_power(wide_land, traits, 170)
    assert power.min() > 0
    vv, vh = (10 * np.log10([p[truth == c].mean() for c in (FOREST, WATER, BUILT_UP)]) for p in power)
    assert vv[1] < -14 < vv[0] < vv[2], "water is smooth, walls and streets are corners"
    assert vh[1] < vh[0] - 8
    assert (vv - vh > 4).all(), "co-polarised power is the larger one"


def test_wheat_dims_in_spring_and_thick_canopies_brighten(
    wide_land: Landscape, traits: Traits, truth: np.ndarray
) -> None:
    def against_forest(name: str, day: int) -> np.ndarray:
        return _db(wide_land, traits, truth, name, day) - _db(wide_land, traits, truth, "forest", day)

    assert against_forest("winter wheat", 150)[0] < against_forest("winter wheat", 75)[0] - 1.0
    assert against_forest("winter rapeseed", 150)[1] > against_forest("winter wheat", 150)[1] + 3
    assert against_forest("maize", 220)[1] > against_forest("maize", 120)[1] + 1.5


@pytest.mark.parametrize("zones", [(33,), (32, 33)])
@pytest.mark.parametrize("orbit", RADAR_ORBITS, ids=lambda o: o.state)
def test_speckle_has_the_stated_looks_and_the_orbit_its_bias(
    orbit: object, zones: tuple[int, ...], wide_land: Landscape, traits: Traits
) -> None:
    one = next(p for p in radar_schedule(4) if p.orbit == orbit)
    ground = ground_power(wide_land, traits, one.day)
    frame = frame_of_orbit(wide_land, one.orbit, zones)
    seen = render_pass(wide_land, ground, frame, one)
    valid = seen[0] != RADAR_NODATA
    assert np.array_equal(valid, seen[1] != RADAR_NODATA)
    assert 0.7 < valid.sum() / ground[0].size < 0.95
    clean = ground if frame.place is None else np.stack([frame.place.bilinear(g) for g in ground])
    ratio = (seen / clean)[:, valid].astype(float)
    error = 1 / np.sqrt(LOOKS * valid.sum())
    assert ratio.mean(axis=1) == pytest.approx(10 ** (one.orbit.bias_db / 10), rel=4 * error)
    assert ratio.mean(axis=1) ** 2 / ratio.var(axis=1) == pytest.approx(LOOKS, rel=0.03)
    assert abs(np.corrcoef(ratio)[0, 1]) < 0.02, "polarisations speckle on their own"


def test_speckle_comes_from_seed_day_and_orbit(wide_land: Landscape, traits: Traits) -> None:
    frame = frame_of_orbit(wide_land, UP, (33,))
    ground = ground_power(wide_land, traits, 91)
    first, again = (render_pass(wide_land, ground, frame, Pass(91, UP)) for _ in range(2))
    assert np.array_equal(first, again)
    other = render_pass(wide_land, ground, frame, Pass(103, UP))
    assert (first != other)[first > 0].mean() > 0.9
    seed = dataclasses.replace(wide_land, seed=8)
    assert (first != render_pass(seed, ground, frame, Pass(91, UP)))[first > 0].mean() > 0.9


def test_the_orbits_overlap_and_each_misses_a_side(wide_land: Landscape, traits: Traits) -> None:
    ground = ground_power(wide_land, traits, 91)
    east, west = (
        render_pass(wide_land, ground, frame_of_orbit(wide_land, o, (33,)), Pass(91, o))[0] > 0
        for o in RADAR_ORBITS
    )
    assert (east | west).all()
    assert not east[:, 0].all()
    assert east[:, -1].all()
    assert not west[:, -1].all()
    assert west[:, 0].all()
    left, bottom, right, top = wide_land.bounds
    for orbit in RADAR_ORBITS:
        x, y = radar_swath(wide_land, orbit).T
        assert x.min() >= left
        assert x.max() <= right
        assert (y.min(), y.max()) == (bottom, top)


def test_slices_share_some_rows(wide_land: Landscape) -> None:
    for zones in ((33,), (32, 33)):
        for orbit in RADAR_ORBITS:
            frame = frame_of_orbit(wide_land, orbit, zones)
            north, south = frame.slices
            assert (north.y0, south.y1) == (frame.box.y0, frame.box.y1)
            assert 0 < north.y1 - south.y0 < 0.1 * (frame.box.y1 - frame.box.y0)
            assert frame.grid.crs == f"EPSG:326{orbit.zone if orbit.zone in zones else 33}"
