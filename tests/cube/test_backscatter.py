"""Backscatter lies on the cube's pixels and steps, is the same for any chunking, and counts a pass once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

import dask
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from numpy.typing import NDArray

from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.cube.backscatter import with_backscatter
from engine.cube.cube import open_cube
from engine.cube.plan import touches
from engine.cube.sentinel1 import composite_backscatter
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from engine.values.recipe import Sentinel1
from engine.values.spec import Calendar, CubeSpec, Windows
from tests.cube.fakes import BANDS, GRID, FakeReader, scene, season

BOX = Box(-529_700, 50_100, -528_900, 50_903)
RANGE = (dt.date(2023, 3, 1), dt.date(2023, 5, 31))


@dataclass(frozen=True)
class FakeRadar(FakeReader):
    """Linear power from a hash of id and global pixel; a slanted strip of each scene is no data."""

    scale: float = 0.1

    def read_float(
        self, item: ItemRecord, bands: tuple[str, ...], grid: Grid, box: Box, resampling: str
    ) -> NDArray[np.float32]:
        dn = super().read(item, tuple(bands), grid, box, resampling).astype(np.float32)
        return np.where(dn == 0, np.nan, dn / 10_000 * np.float32(self.scale))


def radar_scene(name: str, day: dt.date, orbit: int, **changes: object) -> ItemRecord:
    return dataclasses.replace(
        scene(name, day, f"radar-{day}-{orbit}"),
        platform="sentinel-1a",
        relative_orbit=orbit,
        orbit_state="ascending" if orbit == 117 else "descending",
        assets=tuple(AssetRecord(b, f"fake://{name}/{b}", None) for b in ("vh", "vv")),
        **changes,
    )


def radar(*extra: ItemRecord, time_range: tuple[dt.date, dt.date] = RANGE) -> ItemTable:
    """March: two passes of 117 (one of two slices), one of 168. April: none. May: one of 168."""
    scenes = (
        radar_scene("r0", dt.date(2023, 3, 8), 117),
        radar_scene("r1-north", dt.date(2023, 3, 20), 117),
        radar_scene("r1-south", dt.date(2023, 3, 20), 117),
        radar_scene("r2", dt.date(2023, 3, 31), 168),
        radar_scene("r3", dt.date(2023, 5, 31), 168),
        *extra,
    )
    return ItemTable(scenes, time_range)


def _open(
    spec: Sentinel1 = Sentinel1(),
    *,
    table: ItemTable | None = None,
    period: object = "1MS",
    chunk: int = 1024,
    box: Box = BOX,
) -> xr.Dataset:
    cube_spec = CubeSpec(bands=BANDS, mask=(), period=period, sentinel1=spec)
    return open_cube(
        season(),
        cube_spec,
        grid=GRID,
        box=box,
        chunks_yx=(chunk, chunk),
        reader=FakeRadar(),
        sentinel1=radar() if table is None else table,
    )


def _computed(cube: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dask.compute(cube.backscatter.data, cube.radar_observations.data, scheduler="threads")


def _power(item: str, box: Box = BOX) -> np.ndarray:
    """One scene over a box, computed whole and in the plainest way."""
    record = next(i for i in radar() if i.id == item)
    power = FakeRadar().read_float(record, ("vv", "vh"), GRID, box, "bilinear")
    reached = touches(record, GRID, box)
    gone = np.isnan(power).any(axis=0) | ~np.broadcast_to(reached, box.shape_yx)
    return np.where(gone, np.nan, power)


def test_it_equals_the_kernel_over_whole_scenes() -> None:
    cube = _open()
    db, count = _computed(cube)
    slices = np.where(np.isnan(_power("r1-north")), _power("r1-south"), _power("r1-north"))
    march = np.stack([_power("r0"), slices, _power("r2")])
    expected, expected_count = composite_backscatter(march, [117, 117, 168], Sentinel1())
    np.testing.assert_array_equal(db[0], expected)
    np.testing.assert_array_equal(count[0], expected_count)
    assert np.isnan(db[1]).all()
    assert not count[1].any()
    np.testing.assert_array_equal(count[2], np.isfinite(_power("r3")[0]))
    assert set(np.unique(count[0])) == {2, 3}, "four files of three passes"


def test_it_lies_beside_the_reflectance() -> None:
    cube = _open(chunk=256)
    assert cube.backscatter.dims == ("time", "polarisation", "y", "x")
    assert (cube.backscatter.dtype, cube.radar_observations.dtype) == (np.float32, np.uint8)
    assert cube.polarisation.values.tolist() == ["vv", "vh"]
    assert cube.backscatter.attrs["units"] == "dB"
    for dim in ("time", "y", "x"):
        assert cube.backscatter.chunksizes[dim] == cube.reflectance.chunksizes[dim]
    assert json.loads(cube.attrs["landweave_radar"])["count"] == 5
    both = dask.compute(cube.reflectance.data, _plain().reflectance.data, scheduler="threads")
    np.testing.assert_array_equal(*both)


def _plain() -> xr.Dataset:
    return open_cube(season(), CubeSpec(bands=BANDS, mask=()), grid=GRID, box=BOX, reader=FakeRadar())


@pytest.mark.parametrize("chunk", [97, 256, 400, 5000])
def test_any_chunking_gives_the_same_bits(chunk: int) -> None:
    for a, b in zip(_computed(_open()), _computed(_open(chunk=chunk)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_part_of_a_cube_gets_the_same_bits() -> None:
    whole, whole_count = _computed(_open())
    part = _plain().isel(time=[0, 2], y=slice(100, 700), x=slice(33, 400))
    db, count = _computed(with_backscatter(part, radar(), Sentinel1(), FakeRadar()))
    np.testing.assert_array_equal(db, whole[[0, 2], :, 100:700, 33:400])
    np.testing.assert_array_equal(count, whole_count[[0, 2], 100:700, 33:400])
    loaded = part.compute(scheduler="sync")
    again, _ = _computed(with_backscatter(loaded, radar(), Sentinel1(), FakeRadar()))
    np.testing.assert_array_equal(again, db)


def test_the_graph_has_one_task_a_block_however_many_scenes() -> None:
    many = [radar_scene(f"more{i}", dt.date(2023, 3, 2 + i), 117) for i in range(20)]
    few, lots = (_open(table=t, chunk=256).backscatter.data for t in (radar(), radar(*many)))
    assert len(few.__dask_graph__()) == len(lots.__dask_graph__()) <= 3 * 3 * 4 * 4


def test_direction_and_polarisations_choose_the_scenes() -> None:
    _, both = _computed(_open())
    db, up = _computed(_open(Sentinel1(direction="ascending", polarisations=("vv",))))
    _, down = _computed(_open(Sentinel1(direction="descending")))
    assert db.shape[1] == 1
    np.testing.assert_array_equal(both, up + down)
    polar = radar_scene("hh", dt.date(2023, 3, 9), 117)
    polar = dataclasses.replace(polar, assets=(AssetRecord("hh", "fake://hh", None),))
    np.testing.assert_array_equal(_computed(_open(table=radar(polar)))[1], both)


def test_both_branches_of_one_relative_orbit_are_two_orbits() -> None:
    """Near the poles an ascending and a descending pass of one relative orbit see one place."""
    days = [dt.date(2023, 3, 8), dt.date(2023, 3, 20), dt.date(2023, 3, 27)]
    up = [radar_scene(f"u{i}", day, 117) for i, day in enumerate(days)]
    down = dataclasses.replace(radar_scene("d", dt.date(2023, 3, 9), 117), orbit_state="descending")
    box = Box(-529_700, 50_100, -529_650, 50_150)
    db, _ = _computed(_open(table=ItemTable((*up, down), RANGE), box=box))
    power = [FakeRadar().read_float(i, ("vv", "vh"), GRID, box, "") for i in (*up, down)]
    expected, _ = composite_backscatter(np.stack(power), [1, 1, 1, 2], Sentinel1())
    np.testing.assert_array_equal(db[0], expected)


def test_regions_of_a_calendar_take_their_own_days(tmp_path: Path) -> None:
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    middle = (left + right) / 2
    halves = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    file = tmp_path / "regions.geojson"
    geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs=GRID.crs).to_file(file)
    calendar = Calendar(
        file=str(file),
        regions={
            "west": Windows(windows=[("03-01", "03-31")]),
            "east": Windows(windows=[("05-01", "05-31")]),
        },
    )
    _, count = _computed(_open(period=calendar))
    _, months = _computed(_open())
    x = GRID.centres(BOX)[1]
    np.testing.assert_array_equal(count[0][:, x < middle], months[0][:, x < middle])
    np.testing.assert_array_equal(count[0][:, x > middle], months[2][:, x > middle])


def test_clouds_hide_nothing_of_it() -> None:
    spec = CubeSpec(bands=BANDS, mask="scl", sentinel1=True)
    masked = open_cube(season(), spec, grid=GRID, box=BOX, reader=FakeRadar(), sentinel1=radar())
    for a, b in zip(_computed(masked), _computed(_open()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wider_search_is_cut_to_the_cubes_time() -> None:
    early = radar_scene("early", dt.date(2023, 2, 27), 117)
    wide = radar(early, time_range=(dt.date(2023, 2, 1), dt.date(2023, 6, 30)))
    for a, b in zip(_computed(_open(table=wide)), _computed(_open()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"single acquisition days.*period such as"):
        _open(period=None)
    with pytest.raises(InputError, match=r"do not cover the cube's time.*2023-03-01/2023-04-30"):
        _open(table=radar(time_range=(RANGE[0], dt.date(2023, 4, 30))))
    down = ItemTable(tuple(i for i in radar() if i.orbit_state == "descending"), RANGE)
    with pytest.raises(InputError, match=r"no radar scene of this direction.*descending vh\+vv"):
        _open(Sentinel1(direction="ascending"), table=down)
    with pytest.raises(InputError, match=r"no radar scene of this direction.*unknown red\+nir\+scl"):
        _open(table=season())
    with pytest.raises(InputError, match=r"relative orbit \[item lost\]"):
        _open(table=radar(dataclasses.replace(radar_scene("lost", RANGE[0], 117), relative_orbit=None)))
    with pytest.raises(InputError, match="wants backscatter, and there are no radar scenes"):
        open_cube(season(), CubeSpec(bands=BANDS, sentinel1=True), grid=GRID, box=BOX, reader=FakeRadar())
    with pytest.raises(InputError, match="5 scenes"):
        open_cube(season(), CubeSpec(bands=BANDS), grid=GRID, box=BOX, reader=FakeRadar(), sentinel1=radar())
    with pytest.raises(InputError, match="does not tell its time steps"):
        with_backscatter(_plain().drop_attrs(), radar(), Sentinel1(), FakeRadar())


def test_decibels_are_not_taken_for_power() -> None:
    cube = with_backscatter(_plain(), radar(), Sentinel1(), FakeRadar(scale=-20.0))
    with pytest.raises(DataError, match=r"these are decibels.*sentinel-1-rtc"):
        cube.backscatter.isel(time=0).compute(scheduler="sync")


def test_grd_says_that_it_is_not_terrain_corrected_and_mixes_with_nothing() -> None:
    grd = ItemTable(tuple(dataclasses.replace(i, collection="sentinel-1-grd") for i in radar()), RANGE)
    assert "NOT terrain corrected" in _open(table=grd).backscatter.attrs["long_name"]
    assert "NOT" not in _open().backscatter.attrs["long_name"]
    with pytest.raises(InputError, match="do not mix"):
        _open(table=ItemTable((*grd.items[:2], *radar().items[2:]), RANGE))


def test_another_reader_or_scene_makes_another_graph() -> None:
    names = {_open(table=t).backscatter.data.name for t in (radar(), radar(radar_scene("x", RANGE[0], 117)))}
    names.add(_open(Sentinel1(combine="most")).backscatter.data.name)
    assert len(names) == 3
