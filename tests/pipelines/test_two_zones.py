"""A cube over the boundary of two UTM zones: one ground under one sky, without a seam; radar beside it."""

from __future__ import annotations

import dataclasses
import datetime as dt

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from engine.archive.items import ItemTable
from engine.archive.search import search
from engine.cube.cube import open_cube
from engine.values.area import Area
from engine.values.grid import Box, Grid
from engine.values.recipe import Sentinel1
from engine.values.spec import CubeSpec
from pipelines.sample.archive import SampleArchive
from pipelines.sample.radar import LOOKS, RADAR_ORBITS, Pass, ground_power, radar_schedule
from pipelines.sample.sky import schedule, seen
from pipelines.sample.spectra import Traits, field_traits
from pipelines.sample.stac import RADAR_COLLECTION
from pipelines.sample.truth import FOREST, Landscape
from pipelines.sample.zones import make_sheets, place_of
from tests.pipelines.conftest import DATES

BANDS = ("red", "nir", "swir16")
TIME = "2023-03/2023-10"


def _frame(archive: SampleArchive) -> tuple[Grid, Box]:
    with rasterio.open(archive.truth) as file:
        return Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)


def _open(
    archive: SampleArchive, spec: CubeSpec, chunk: int = 1024, radar: ItemTable | None = None
) -> xr.Dataset:
    grid, box = _frame(archive)
    items = search(Area.from_file(archive.territory), TIME, archive.catalog)
    return open_cube(items, spec, grid=grid, box=box, chunks_yx=(chunk, chunk), sentinel1=radar)


def _radar(archive: SampleArchive) -> ItemTable:
    return search(Area.from_file(archive.territory), TIME, archive.catalog, collection=RADAR_COLLECTION)


# --- Sentinel-2 ---------------------------------------------------------------------------------------

DAYS = CubeSpec(bands=BANDS, period=None, mask=())
"""Every acquisition, clouds included: both archives have the same sky."""


@pytest.fixture(scope="module")
def both(two_zones: SampleArchive) -> NDArray[np.float64]:
    return _values(_open(two_zones, DAYS))


@pytest.fixture(scope="module")
def home(sample: SampleArchive) -> NDArray[np.float64]:
    """The same land and sky, all of it in the tiles of one zone."""
    return _values(_open(sample, DAYS))


def _values(cube: xr.Dataset) -> NDArray[np.float64]:
    values = cube.reflectance.data.compute(scheduler="threads").astype(float)
    return np.where(values == 0, np.nan, values)


@pytest.fixture(scope="module")
def seam(small_land: Landscape) -> NDArray[np.int64]:
    """First column of each row that the eastern zone gives: there the western tiles end."""
    west = make_sheets(small_land)[0].land
    _, _, right, _ = west.bounds
    edge = Grid(west.grid.crs, (10.0, 1e-3), (right, 0.0))
    place = place_of(small_land, edge, Box(west.box.y0, 0, west.box.y1, 1))
    rows = np.arange(small_land.truth.shape[0]) + 0.5
    return np.ceil(np.interp(rows, place.rows[:, 0], place.cols[:, 0]) - 0.5).astype(np.int64)


def test_the_search_takes_both_zones_and_leaves_the_radar(two_zones: SampleArchive) -> None:
    items = search(Area.from_file(two_zones.territory), TIME, two_zones.catalog)
    assert {i.crs for i in items} == {"EPSG:32632", "EPSG:32633"}
    assert {i.collection for i in items} == {"sentinel-2-l2a-simulated"}
    assert {i.tile for i in items} == {"32XAA", "32XAB", "33XAA", "33XAB"}
    assert len({i.datatake for i in items}) == DATES


def test_each_zone_reaches_over_the_boundary(small_land: Landscape) -> None:
    west, east = make_sheets(small_land)
    assert west.place is not None
    assert west.place.inside(small_land.truth.shape).mean() > 0.8
    for sheet in (west, east):
        lon = _lonlat(sheet.land.grid, sheet.land.box)[0]
        assert lon.min() < 12 < lon.max()
    column = small_land.box.x1 - small_land.box.x0
    both = west.land.box.area_px + east.land.box.area_px
    assert 1.02 < both / column**2 < 1.4


def _lonlat(grid: Grid, box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pyproj import Transformer

    y, x = grid.centres(box)
    return Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(*np.meshgrid(x, y))


def test_the_same_pixels_are_seen_in_both_archives(
    both: NDArray[np.float64], home: NDArray[np.float64], small_land: Landscape
) -> None:
    # Pixels of 20 m turned by 4.5 degrees end elsewhere at the rim: a pixel to each side may differ.
    for day, scene in enumerate(schedule(DATES)):
        whole = seen(small_land, scene)
        inner = minimum_filter(whole, 7)
        inner[:3], inner[-3:], inner[:, :3], inner[:, -3:] = False, False, False, False
        assert np.isfinite(both[day])[:, inner].all()
        assert np.isnan(both[day])[:, ~maximum_filter(whole, 7)].all()
        assert np.isfinite(home[day])[:, inner].all()


def test_both_zones_show_the_ground_of_one(
    both: NDArray[np.float64], home: NDArray[np.float64], seam: NDArray[np.int64], small_land: Landscape
) -> None:
    unit = small_land.unit
    inner = minimum_filter(unit, 7) == maximum_filter(unit, 7)
    x = np.arange(unit.shape[1])[None, :]
    for part in (inner & (x >= seam[:, None]), inner & (x < seam[:, None])):
        change = (both - home)[:, :, part]
        level = np.nanmean(home[:, :, part], axis=2)
        assert (np.abs(np.nanmean(change, axis=2)) < 0.01 * level + 2).all(), (
            "no bias, less than one step of DN"
        )
        assert np.nanmedian(np.abs(change)) <= 24, "sensor noise of two pixels, and texture a pixel apart"


def _step(values: NDArray[np.float64], seam: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """Mean step of each day and band across a line, from the three pixels on either side of it."""
    rows = np.arange(seam.size)[:, None]
    at = seam[:, None] + shift + np.arange(-3, 3)[None, :]
    strip = values[:, :, rows, at]
    return np.nanmedian(np.nanmean(strip[..., 3:], axis=-1) - np.nanmean(strip[..., :3], axis=-1), axis=-1)


def _excess(values: NDArray[np.float64], seam: NDArray[np.int64]) -> NDArray[np.float64]:
    """The step on the line, in standard deviations of the steps on lines beside it."""
    beside = np.stack([_step(values, seam, k) for k in range(-60, 61) if abs(k) > 6])
    return np.abs(_step(values, seam, 0) - beside.mean(axis=0)) / beside.std(axis=0)


@pytest.mark.filterwarnings(
    "ignore:Mean of empty slice:RuntimeWarning", "ignore:All-NaN slice:RuntimeWarning"
)
def test_there_is_no_step_where_the_zones_meet(
    both: NDArray[np.float64], home: NDArray[np.float64], seam: NDArray[np.int64]
) -> None:
    """Twelve steps (four days, three bands): below 3.5 deviations all of them, and as a whole like chance."""
    for values in (both, both - home):
        found = _excess(values, seam)
        assert found.max() < 3.5
        assert np.sqrt(np.mean(found**2)) < 1.6


@pytest.mark.filterwarnings(
    "ignore:Mean of empty slice:RuntimeWarning", "ignore:All-NaN slice:RuntimeWarning"
)
def test_a_step_of_half_a_percent_would_be_found(
    both: NDArray[np.float64], home: NDArray[np.float64], seam: NDArray[np.int64]
) -> None:
    west = np.arange(both.shape[-1])[None, :] < seam[:, None]
    found = _excess(both - home + 50.0 * west, seam)
    assert found.min() > 5


@pytest.mark.parametrize("chunk", [90, 200])
def test_any_chunking_over_the_boundary_gives_the_same_bits(chunk: int, two_zones: SampleArchive) -> None:
    spec = CubeSpec(bands=["nir"], sentinel1=True)
    whole, cut = (_open(two_zones, spec, c, _radar(two_zones)).isel(time=[0, 2]) for c in (1024, chunk))
    for name in ("reflectance", "observations", "backscatter", "radar_observations"):
        a, b = dask.compute(whole[name].data, cut[name].data, scheduler="threads")
        np.testing.assert_array_equal(a, b)


# --- Sentinel-1 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traits(small_land: Landscape) -> Traits:
    return field_traits(small_land)


@pytest.fixture(scope="module")
def inner(small_land: Landscape) -> NDArray[np.bool_]:
    """10 m pixels all around which one unit lies, so that neither 20 m nor interpolation mixes."""
    whole = minimum_filter(small_land.unit, 9) == maximum_filter(small_land.unit, 9)
    whole[:5], whole[-5:], whole[:, :5], whole[:, -5:] = False, False, False, False
    return np.asarray(whole)


def _clean(land: Landscape, traits: Traits, one: Pass) -> NDArray[np.float64]:
    """What a pass would see without speckle, (2, y, x) at 10 m."""
    power = ground_power(land, traits, one.day).astype(float) * 10 ** (one.orbit.bias_db / 10)
    return power.repeat(2, axis=1).repeat(2, axis=2)


def _radar_cube(archive: SampleArchive, spec: Sentinel1, items: ItemTable | None = None, period: str = "1MS"):
    cube = _open(
        archive, CubeSpec(bands=BANDS, period=period, sentinel1=spec), 1024, items or _radar(archive)
    )
    return dask.compute(cube.backscatter.data, cube.radar_observations.data, scheduler="threads")


@pytest.mark.parametrize("direction", ["ascending", "descending", "both"])
def test_composites_are_the_known_means_of_the_classes(
    direction: str, two_zones: SampleArchive, small_land: Landscape, traits: Traits, inner: NDArray[np.bool_]
) -> None:
    """Both zones: one orbit's scenes lie in 32, the other's in 33."""
    db, count = _radar_cube(two_zones, Sentinel1(direction=direction))
    wanted = [o for o in RADAR_ORBITS if direction in ("both", o.state)]
    for month in (3, 5, 8, 10):
        passes = [p for p in radar_schedule(DATES) if p.time.month == month and p.orbit in wanted]
        assert len(passes) == len(wanted)
        clean = np.mean([_clean(small_land, traits, p) for p in passes], axis=0)
        everywhere = inner & (count[month - 3] == len(passes))
        for value in range(1, 14):
            of_class = everywhere & (small_land.truth == value)
            looks = LOOKS * len(passes) * of_class.sum() / 4  # four pixels of the cube share a 20 m pixel
            if looks < 500:
                continue
            ratio = (10 ** (db[month - 3].astype(float) / 10) / clean)[:, of_class].mean(axis=1)
            assert ratio == pytest.approx(1, abs=4 / np.sqrt(looks) + 0.004), (direction, month, value)
    assert (everywhere & (small_land.truth == FOREST)).sum() > 500


def test_an_orbit_that_passes_more_often_weighs_no_more(
    two_zones: SampleArchive, small_land: Landscape, traits: Traits, inner: NDArray[np.bool_]
) -> None:
    """One ascending pass and four descending ones, which are 0.7 dB brighter: each orbit counts half."""
    table = _radar(two_zones)
    march = dt.date(2023, 4, 1)
    kept = [i for i in table if i.orbit_state == "descending" or i.datetime.date() < march]
    db, count = _radar_cube(two_zones, Sentinel1(), dataclasses.replace(table, items=tuple(kept)), "1YS")
    up, down = RADAR_ORBITS
    passes = {o.number: [p for p in radar_schedule(DATES) if p.orbit == o] for o in (up, down)}
    first = _clean(small_land, traits, passes[up.number][0])
    others = np.mean([_clean(small_land, traits, p) for p in passes[down.number]], axis=0)
    here = inner & (count[0] == 5)
    found = 10 ** (db[0].astype(float) / 10)[:, here]
    looks = LOOKS * here.sum() / 4
    assert (found / ((first + others) / 2)[:, here]).mean() == pytest.approx(
        1, abs=4 / np.sqrt(looks) + 0.004
    )
    forest = small_land.truth[here] == FOREST  # the same the whole season, so that only the orbits differ
    of_dates = ((first + 4 * others) / 5)[:, here]
    assert (found / of_dates)[:, forest].mean() < 0.97, "the mean over all dates is another number"


def test_overlapping_slices_are_one_pass(two_zones: SampleArchive) -> None:
    _, count = _radar_cube(two_zones, Sentinel1())
    assert len(_radar(two_zones)) == 4 * DATES, "two orbits of two slices each"
    assert count[[0, 2, 5, 7]].max() == 2
    assert not count[[1, 3, 4, 6]].any()
    assert (count[0, 2:-2, 2:-2] > 0).all()
