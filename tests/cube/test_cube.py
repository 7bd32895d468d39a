"""Cubes are the same for any chunking, count each overpass once, and read each scene once a block."""

from __future__ import annotations

import datetime as dt
import pickle
from pathlib import Path

import dask
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from scipy.ndimage import binary_dilation

from engine.archive.items import ItemTable
from engine.cube.cube import open_cube
from engine.cube.plan import BLOCK_PX, plan_cube, touches
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.grid import Box, Grid
from engine.values.spec import Calendar, CubeSpec, SclMask, Windows
from tests.cube.fakes import BANDS, GRID, READS, FakeReader, scene, season

BOX = Box(-529_700, 50_100, -528_900, 50_903)
SPEC = CubeSpec(bands=BANDS)


def _open(
    spec: CubeSpec = SPEC, box: Box = BOX, chunk: int = 1024, items: ItemTable | None = None
) -> xr.Dataset:
    reader = FakeReader()
    items = season() if items is None else items
    return open_cube(items, spec, grid=GRID, box=box, chunks_yx=(chunk, chunk), reader=reader)


def _clear(item: str, mask: SclMask | None) -> np.ndarray:
    """One scene's clear reflectance over BOX, computed whole and in the plainest way."""
    record = next(i for i in season() if i.id == item)
    values = FakeReader().read(record, BANDS, GRID, BOX, "nearest")
    clear = (values > 0).all(axis=0)
    reached = touches(record, GRID, BOX)
    if reached is not True:
        clear &= reached
    if mask is not None:
        margin = int(mask.dilate_m // 10)
        scl = FakeReader().read(record, ("scl",), GRID, BOX.pad(margin), "nearest")[0]
        grown = binary_dilation(scl == 9, np.ones((2 * margin + 1,) * 2)) if margin else scl == 9
        clear &= ~grown[margin : grown.shape[0] - margin, margin : grown.shape[1] - margin]
    return np.where(clear, values, 0)


@pytest.mark.parametrize("mask", [None, SclMask(dilate_m=0), SclMask(dilate_m=60)])
def test_a_monthly_median_equals_numpy_over_whole_scenes(mask: SclMask | None) -> None:
    cube = _open(SPEC.model_copy(update={"mask": () if mask is None else (mask,)}))
    values, counts = dask.compute(cube.reflectance.data, cube.observations.data, scheduler="threads")
    first, second = _clear("s1", mask), _clear("s2", mask)
    both = np.where(first > 0, first, second)
    march = np.stack([_clear("s0", mask), both, _clear("s3", mask), _clear("s4", mask)]).astype(float)
    march[march == 0] = np.nan
    with np.errstate(all="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            median = np.nan_to_num(np.floor(np.nanmedian(march, axis=0) + 0.5), nan=0)
    np.testing.assert_array_equal(values[0], median.astype(np.uint16))
    np.testing.assert_array_equal(counts[0], np.isfinite(march[:, 0]).sum(axis=0))
    assert (values[1] == 0).all()
    assert (counts[1] == 0).all()
    assert counts[2].max() == 2


@pytest.mark.parametrize("chunk", [97, 256, 400, 5000])
def test_any_chunking_gives_the_same_bits(chunk: int) -> None:
    expected, found = _open(), _open(chunk=chunk)
    for name in ("reflectance", "observations"):
        a, b = dask.compute(expected[name].data, found[name].data, scheduler="threads")
        np.testing.assert_array_equal(a, b)


def test_a_part_of_the_area_has_the_same_bits() -> None:
    part = Box(-529_501, 50_333, -529_200, 50_777)
    whole, cut = _open().reflectance.values, _open(box=part, chunk=150).reflectance.values
    np.testing.assert_array_equal(cut, whole[(..., *part.slices_in(BOX))])


def test_a_footprint_that_lies_moves_nothing_between_chunkings() -> None:
    """Scene s4 claims 4 km less than its pixels cover; the cut falls on fixed blocks, never on chunks."""
    record = next(i for i in season() if i.id == "s4")
    reached = touches(record, GRID, BOX)
    assert isinstance(reached, np.ndarray)
    for y, x in ((y, x) for y in range(BOX.y0, BOX.y1, 100) for x in range(BOX.x0, BOX.x1, 100)):
        corner = Box(y, x, y + 1, x + 1)
        block = corner.snap_out(BLOCK_PX) & BOX
        assert len(np.unique(reached[block.slices_in(BOX)])) == 1


def test_each_scene_is_read_once_a_block_when_all_is_computed_together() -> None:
    READS.clear()
    cube = _open(chunk=400)
    assert not READS
    dask.compute(cube.reflectance.data, cube.observations.data, scheduler="sync")
    blocks = cube.reflectance.data.numblocks[2] * cube.reflectance.data.numblocks[3]
    assert max(n for key, n in READS.items() if key.endswith("red")) <= blocks
    assert READS["s0 red"] == blocks


def test_the_dataset_says_what_it_is() -> None:
    cube = _open()
    assert dict(cube.sizes) == {"time": 3, "band": 2, "y": 800, "x": 803, "nv": 2}
    assert cube.reflectance.dtype == np.uint16
    assert cube.observations.dtype == np.uint8
    assert list(cube.band.values) == list(BANDS)
    assert georef_of(cube) == (GRID, BOX)
    assert cube.time.values[1] == np.datetime64("2023-04-01")
    assert CubeSpec.model_validate_json(cube.attrs["landweave_spec"]).season == "03-01/05-31"
    assert (
        len(cube.reflectance.__dask_graph__()) == 1 + 2 * 3
    )  # the plan; two layers, three months, one block


def test_a_task_does_not_carry_the_scenes() -> None:
    graph = _open(chunk=100).reflectance.__dask_graph__()
    layers = {name.rsplit("-", 1)[0]: list(dict(layer).values()) for name, layer in graph.layers.items()}
    assert len(layers["landweave-plan"]) == 1
    assert max(len(pickle.dumps(t)) for t in layers["landweave-block"]) < 1000


def test_without_a_period_each_overpass_is_a_date() -> None:
    cube = _open(CubeSpec(bands=BANDS, period=None))
    assert cube.sizes["time"] == 6
    np.testing.assert_array_equal(cube.reflectance[0].values, _clear("s0", SclMask()))


def test_the_offset_is_decided_per_scene() -> None:
    old = scene("same", dt.date(2023, 3, 3), "a")
    new = scene("same", dt.date(2023, 3, 3), "a", baseline="05.09")
    days = (dt.date(2023, 3, 1), dt.date(2023, 3, 31))
    cubes = [_open(items=ItemTable((i,), days)).reflectance[0].values for i in (old, new)]
    valid = cubes[0] > 0
    np.testing.assert_array_equal(cubes[1] > 0, valid)
    expected = np.maximum(cubes[0][valid].astype(int) - 1000, 1)
    np.testing.assert_array_equal(cubes[1][valid], expected)


def test_a_plan_is_hashed_by_what_decides_its_pixels() -> None:
    plan = plan_cube(season(), SPEC, GRID, FakeReader())
    assert plan.digest() == plan_cube(season(), SPEC, GRID, FakeReader()).digest()
    others = [
        plan_cube(season(), SPEC, Grid.make(32633, 20), FakeReader()),
        plan_cube(season(), CubeSpec(bands=["nir"]), GRID, FakeReader()),
        plan_cube(ItemTable(season().items[1:], season().time_range), SPEC, GRID, FakeReader()),
    ]
    assert len({p.digest() for p in [plan, *others]}) == 4


def test_no_scene_is_an_error_that_tells_the_mend() -> None:
    empty = ItemTable((), (dt.date(2023, 3, 1), dt.date(2023, 3, 31)))
    with pytest.raises(InputError, match="widen the area"):
        _open(items=empty)


def test_each_pixel_follows_the_calendar_of_its_region(tmp_path: Path) -> None:
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    middle = (left + right) / 2 + 13.0
    west = shapely.Polygon([(left, bottom), (middle, bottom), (middle - 900, top), (left, top)])
    east = shapely.Polygon([(middle, bottom), (right - 200, bottom), (right - 200, top), (middle - 900, top)])
    table = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=[west, east], crs=GRID.crs)
    table.to_file(tmp_path / "regions.gpkg")
    early, late = [("03-01", "03-31"), ("05-01", "05-31")], [("03-05", "03-12"), ("05-01", "05-15")]
    regions = {"west": Windows(windows=early), "east": Windows(windows=late)}
    calendar = Calendar(file=str(tmp_path / "regions.gpkg"), regions=regions)
    found = _open(SPEC.model_copy(update={"period": calendar}))
    sides = {n: _open(SPEC.model_copy(update={"period": regions[n]})) for n in regions}
    y, x = GRID.centres(BOX)
    expected = np.zeros(found.reflectance.shape, np.uint16)
    for shape, name in ((west, "west"), (east, "east")):
        inside = shapely.contains_xy(shape, *np.meshgrid(x, y))
        expected += np.where(inside, sides[name].reflectance.values, 0).astype(np.uint16)
    np.testing.assert_array_equal(found.reflectance.values, expected)
    again = _open(SPEC.model_copy(update={"period": calendar}), chunk=170)
    np.testing.assert_array_equal(again.reflectance.values, expected)
    assert "sha256" in found.attrs["landweave_spec"]
    lost = calendar.model_copy(update={"regions": (("north", regions["west"]),)})
    with pytest.raises(InputError, match="no such region"):
        _open(SPEC.model_copy(update={"period": lost}))


def test_many_dates_are_reduced_in_strips_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _open().reflectance.values
    monkeypatch.setattr("engine.cube.cube._STACK_BYTES", 1)
    np.testing.assert_array_equal(_open().reflectance.values, expected)


def test_no_band_is_read_under_closed_cloud() -> None:
    scenes = ItemTable(
        (scene("only", dt.date(2023, 3, 3), "a"),), (dt.date(2023, 3, 1), dt.date(2023, 3, 31))
    )
    closed = SPEC.model_copy(update={"mask": (SclMask(classes=(4, 9), dilate_m=0),)})
    READS.clear()
    assert not _open(closed, items=scenes).reflectance.values.any()
    assert READS["only scl"] == 1
    assert READS["only red"] == 0
