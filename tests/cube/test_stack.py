"""Every reducer through the lazy cube: the same bits for any chunking, and those of an untiled oracle."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import dask
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from scipy.ndimage import binary_dilation, distance_transform_edt

from engine.cube.composites import Evidence, composite
from engine.cube.cube import open_cube
from engine.cube.geomedian import geometric_median
from engine.cube.plan import Step, plan_cube, touches
from engine.cube.stack import read_stack, require_bands
from engine.cube.variability import variability
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.recipe import BestPixel
from engine.values.spec import Calendar, CubeSpec, Windows
from tests.cube.fakes import BANDS, GRID, READS, FakeReader, season

BOX = Box(-529_100, 50_400, -528_500, 50_903)
BEST = BestPixel(cloud_distance_m=600, date_sigma_days=9)
REDUCERS = ["median", "mean", "first", "p10", "p90", "medoid", "geomedian", "max_ndvi", BEST]
MARCH = [("s0", 3), ("s1 s2", 8), ("s3", 20), ("s4", 29)]


def _open(chunk: int = 1024, box: Box = BOX, **spec: object) -> xr.Dataset:
    made = CubeSpec.model_validate({"bands": BANDS, "period": "1MS", **spec})
    return open_cube(season(), made, grid=GRID, box=box, chunks_yx=(chunk, chunk), reader=FakeReader())


def _seen_and_clear(name: str, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene over a box, whole: values, what it has data for, what is clear (default SCL mask)."""
    record = next(i for i in season() if i.id == name)
    values = FakeReader().read(record, BANDS, GRID, box, "nearest")
    reached = touches(record, GRID, box)
    scl = FakeReader().read(record, ("scl",), GRID, box.pad(6), "nearest")[0]
    cloud = binary_dilation(scl == 9, np.ones((13, 13)))[6:-6, 6:-6]
    seen = (values[0] > 0) & reached
    return values, seen, seen & ~cloud & (values > 0).all(axis=0)


def _overpass(names: str, box: Box, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Merged values and capped cloud distance of one overpass."""
    wide = box.pad(cap)
    merged = np.zeros((len(BANDS), *box.shape_yx), np.uint16)
    seen, clear = np.zeros(wide.shape_yx, bool), np.zeros(wide.shape_yx, bool)
    inner = box.slices_in(wide)
    for name in names.split():
        values, own, good = _seen_and_clear(name, wide)
        take = (merged[0] == 0) & good[inner]
        merged = np.where(take, values[(slice(None), *inner)], merged)
        seen, clear = seen | own, clear | good
    away = np.floor(distance_transform_edt(~(seen & ~clear)))[inner]
    return merged, np.minimum(away, cap).astype(np.uint16)


def _march(cap: int = 60) -> tuple[np.ndarray, Evidence]:
    made = [_overpass(names, BOX, cap) for names, _ in MARCH]
    days = tuple(day - 1 + 0.5 - 31 / 2 for _, day in MARCH)
    return np.stack([m[0] for m in made]), Evidence(0, 1, days, np.stack([m[1] for m in made]), 10.0)


@pytest.mark.parametrize("reducer", REDUCERS, ids=str)
def test_any_chunking_gives_the_bits_of_the_untiled_stack(reducer: str | BestPixel) -> None:
    stack, evidence = _march()
    expected, counts = composite(stack, reducer, evidence)
    assert len(np.unique(counts)) >= 4
    for chunk in (5000, 97, 256):
        cube = _open(chunk, reducer=reducer).isel(time=0)
        found = dask.compute(cube.reflectance.data, cube.observations.data, scheduler="threads")
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], counts)


def test_best_pixels_of_a_part_are_those_of_the_whole() -> None:
    part = Box(-529_001, 50_433, -528_700, 50_777)
    whole = _open(reducer=BEST).reflectance.values
    cut = _open(140, part, reducer=BEST).reflectance.values
    np.testing.assert_array_equal(cut, whole[(..., *part.slices_in(BOX))])


def test_the_cap_matters_to_the_best_pixel() -> None:
    near = _open(reducer=BestPixel(cloud_distance_m=20, date_sigma_days=9)).reflectance[0].values
    assert (near != _open(reducer=BEST).reflectance[0].values).any()


def test_without_clouds_the_best_pixel_is_the_one_nearest_to_the_middle() -> None:
    cube = _open(reducer=BestPixel(), mask="none")
    plan = plan_cube(season(), CubeSpec(bands=BANDS, mask=(), reducer=BestPixel()), GRID, FakeReader())
    stack, evidence = read_stack(plan, plan.steps[0], BOX)
    assert evidence.days == (-13.0, -8.0, 4.0, 13.0)
    assert evidence.cloud_distance_px is not None
    assert (evidence.cloud_distance_px == 100).all()
    middle = stack[2][:, stack[2][0] > 0]
    np.testing.assert_array_equal(cube.reflectance[0].values[:, stack[2][0] > 0], middle)


def test_a_date_score_alone_reads_no_wider_mask() -> None:
    READS.clear()
    _open(reducer=BestPixel(cloud_weight=0)).isel(time=0).compute(scheduler="sync")
    plain = dict(READS)
    READS.clear()
    _open().isel(time=0).compute(scheduler="sync")
    assert plain == dict(READS)


def test_overpasses_without_a_clear_pixel_take_no_part() -> None:
    plan = plan_cube(season(), CubeSpec(bands=BANDS), GRID, FakeReader())
    far = Box(-100, -100, 0, 0)
    stack, evidence = read_stack(plan, plan.steps[0], far)
    assert stack.shape == (0, 2, 100, 100)
    assert evidence.days == ()
    gone = Step(dt.date(2023, 4, 1), dt.date(2023, 5, 1), ())
    assert read_stack(plan, gone, BOX)[0].shape[0] == 0


@pytest.mark.parametrize("bands", [["red"], ["nir", "green"]])
def test_the_greenest_date_needs_red_and_nir(bands: list[str]) -> None:
    with pytest.raises(InputError, match="red and nir among the bands"):
        _open(bands=bands, reducer="max_ndvi")


@pytest.mark.parametrize("reducer", ["median", "geomedian"])
@pytest.mark.parametrize("chunk", [5000, 97])
def test_variability_comes_with_the_cube(reducer: str, chunk: int) -> None:
    stack, _ = _march()
    cube = _open(chunk, reducer=reducer, variability=True)
    assert cube.variability.dims == ("time", "deviation", "y", "x")
    assert cube.variability.dtype == np.float32
    assert list(cube.deviation.values) == ["edev", "sdev", "bcdev"]
    made = cube.compute(scheduler="threads")
    medians, counts = geometric_median(stack)
    np.testing.assert_array_equal(made.variability[0], variability(stack, medians))
    np.testing.assert_array_equal(made.observations[0], counts)
    np.testing.assert_array_equal(made.reflectance[0], composite(stack, reducer)[0])
    assert np.isnan(made.variability[1]).all()
    np.testing.assert_array_equal(np.isnan(made.variability[:, 0]), made.observations == 0)


def test_variability_reads_nothing_twice_and_adds_one_cheap_task_a_block() -> None:
    READS.clear()
    _open(200).isel(time=0).compute(scheduler="sync")
    plain = dict(READS)
    READS.clear()
    cube = _open(200, variability=True)
    blocks = 3 * cube.reflectance.data.numblocks[2] * cube.reflectance.data.numblocks[3]
    assert len(cube.variability.__dask_graph__()) == 2 * blocks + 1  # the plan
    (graph,) = dask.optimize(cube)
    assert len(dict(graph.__dask_graph__())) == (1 + 3) * blocks + 1
    cube.isel(time=0).compute(scheduler="sync")
    assert dict(READS) == plain


def test_variability_follows_the_calendar_of_its_region(tmp_path: Path) -> None:
    left, bottom, right, top = GRID.bounds_of_box(BOX)
    outline = shapely.Polygon([(left, bottom), (right - 900, bottom), (left + 900, top), (left, top)])
    geopandas.GeoDataFrame({"name": ["west"]}, geometry=[outline], crs=GRID.crs).to_file(tmp_path / "r.gpkg")
    early = Windows(windows=[("03-01", "03-12")])
    calendar = Calendar(file=str(tmp_path / "r.gpkg"), regions={"west": early})
    inside = shapely.contains_xy(outline, *np.meshgrid(*GRID.centres(BOX)[::-1]))
    everywhere = _open(variability=True, period=early).variability.values
    found = _open(150, variability=True, period=calendar).variability.values
    np.testing.assert_array_equal(found, np.where(inside, everywhere, np.nan))
    assert np.isfinite(found).any()


def test_without_variability_there_is_none() -> None:
    assert set(_open().data_vars) == {"reflectance", "observations"}


def test_a_cube_of_scenes_needs_a_band() -> None:
    with pytest.raises(InputError, match="needs bands"):
        require_bands(CubeSpec(bands=()))
