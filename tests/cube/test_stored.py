"""Any cube that xarray can hold on a grid comes back from its store as the very same Dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from engine.cube.cube import open_cube
from engine.cube.stored import (
    CUBE_SPEC_ATTR,
    STAGED_ATTR,
    Stage,
    Staged,
    dataset_attrs,
    growth_barriers,
    store_of,
    store_spec,
)
from engine.store.layout import create, update_attrs
from engine.store.regions import write_region
from engine.values.errors import ConflictError, InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec, Features, Layer
from tests.cube.fakes import BANDS, GRID, FakeReader, season

BOX = Box(-529_700, 50_100, -529_400, 50_277)
STAGE = Stage("cube", (0, 3), ("2023-03-01", "2023-05-31"), "2023-03-01", "complete")


def _cube(box: Box = BOX, chunk: int = 1024) -> xr.Dataset:
    spec = CubeSpec(bands=BANDS)
    return open_cube(season(), spec, grid=GRID, box=box, chunks_yx=(chunk, chunk), reader=FakeReader())


def _rich(box: Box = BOX) -> xr.Dataset:
    """A cube with variables and coordinates of every shape that features bring."""
    cube = _cube(box).compute(scheduler="sync")
    rng = np.random.default_rng(4)
    shape = box.shape_yx
    mapped = {"grid_mapping": "spatial_ref"}
    index = rng.normal(size=(3, 2, *shape)).astype(np.float32)
    index[index < -1] = np.nan
    cube["indices"] = (("time", "index", "y", "x"), index, {**mapped, "long_name": "indices", "units": "1"})
    filled = rng.choice(np.array([0, 1, 2, 255], np.uint8), (3, *shape))
    cube["filled"] = (("time", "y", "x"), filled, {**mapped, "nodata": 255, "flag_values": [0, 1, 2]})
    cube["layers"] = (("layer", "y", "x"), rng.normal(size=(1, *shape)).astype(np.float32), mapped)
    cube["signed"] = (("y", "x"), rng.integers(-9, 9, shape).astype(np.int16), {"nodata": -9999})
    cube["day_of_year"] = (("time", "encoding"), rng.normal(size=(3, 2)).astype(np.float32), {"units": "1"})
    cube["bare"] = (("time", "unnamed", "y", "x"), rng.normal(size=(3, 4, *shape)))
    cube = cube.assign_coords(
        index=("index", ["NDVI", "EVI"], {"long_name": "spectral index"}),
        layer=["height"],
        encoding=["sin", "cos"],
        wavelength=("band", [665.0, 842.0], {"units": "nm"}),
    )
    cube.attrs["landweave_features"] = np.int64(7)
    return cube


def _put(cube: xr.Dataset, folder: Path, shard: int = 64, stage: Stage = STAGE, grid: Grid = GRID) -> Path:
    """Write a cube over BOX as one region."""
    url = str(folder / "cube.zarr")
    layout = store_spec(cube, grid, BOX, shard, "a cube")
    create(url, layout)
    arrays = {}
    for v in layout.variables:
        values = np.asarray(cube[v.name].values)
        arrays[v.name] = np.full((*values.shape[:-2], *layout.box.shape_yx), v.no_data, v.dtype)
        arrays[v.name][(..., *BOX.slices_in(layout.box))] = values
    write_region(url, layout.box, arrays)
    attrs = dataset_attrs(cube)
    update_attrs(url, attrs | {STAGED_ATTR: Staged(BOX, tuple(attrs), (stage,)).to_dict()})
    return folder


@pytest.mark.parametrize("shard", [16, 48, 64, 512])
def test_a_plain_cube_comes_back_identical(shard: int, tmp_path: Path) -> None:
    wanted = _cube()
    found = open_cube(_put(wanted, tmp_path, shard))
    xr.testing.assert_identical(found.compute(scheduler="threads"), wanted.compute(scheduler="threads"))


def test_a_rich_cube_comes_back_identical(tmp_path: Path) -> None:
    wanted = _rich()
    found = open_cube(_put(wanted, tmp_path))
    assert all(dask.is_dask_collection(found[n].data) for n in ("indices", "filled", "layers", "bare"))
    xr.testing.assert_identical(found.compute(scheduler="threads"), wanted)
    assert {n: found[n].dtype for n in found.variables} == {n: wanted[n].dtype for n in wanted.variables}


@pytest.mark.parametrize("chunk", [1, 50, 100, 5000])
def test_any_chunking_and_any_part_give_the_same(chunk: int, tmp_path: Path) -> None:
    part = Box(BOX.y0 + 31, BOX.x0 + 77, BOX.y1 - 5, BOX.x1 - 1)
    run = _put(_cube(), tmp_path, 32)
    found = open_cube(run, box=part, chunks_yx=(chunk, chunk))
    xr.testing.assert_identical(found.compute(), _cube(part).compute())
    for axis, first, last in (("y", part.y0, part.y1), ("x", part.x0, part.x1)):
        edges = np.cumsum((first, *found.reflectance.chunksizes[axis]))
        assert edges[-1] == last
        assert (edges[1:-1] % 32 == 0).all()


def test_a_cube_is_opened_without_reading_pixels(tmp_path: Path) -> None:
    run = _put(_cube(), tmp_path)
    for shard in (run / "cube.zarr" / "reflectance" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"broken")
    cube = open_cube(run)
    assert cube.sizes["time"] == 3
    with pytest.raises(Exception, match=r"checksum|index|buffer|range|invalid|decode|Codec"):
        cube.reflectance.compute(scheduler="sync")


def test_what_is_not_complete_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage("cube", (0, 3), STAGE.asked, STAGE.begins, "partial", ("r-9_c3",))
    run = _put(_cube(), tmp_path, stage=stage)
    with caplog.at_level(logging.WARNING):
        cube = open_cube(run)
    told = "cube (time steps 0..2) is partial, without the tiles r-9_c3"
    assert cube.attrs["landweave_incomplete"] == told
    assert told in caplog.text


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    run = _put(_cube(), tmp_path)
    with pytest.raises(InputError, match="does not reach so far"):
        open_cube(run, box=BOX.pad(1))
    with pytest.raises(ConflictError, match="another grid"):
        open_cube(run, grid=Grid.make(32632, 10))
    with pytest.raises(InputError, match="no store"):
        open_cube(tmp_path / "elsewhere")
    url = str(tmp_path / "map.zarr")
    create(url, store_spec(_cube(), GRID, BOX, 64))
    with pytest.raises(InputError, match="holds no cube"):
        open_cube(url)


def test_an_array_without_a_place_is_refused() -> None:
    cube = _cube().assign_coords(lat=(("y", "x"), np.zeros(BOX.shape_yx)))
    with pytest.raises(InputError, match=r"no place .*\[lat\]"):
        store_spec(cube, GRID, BOX, 64)


def test_a_place_is_a_run_folder_or_a_store_by_path_or_url(tmp_path: Path) -> None:
    wanted = f"{tmp_path}/run/cube.zarr"
    for place in (tmp_path / "run", f"{tmp_path}/run/", wanted, Path(wanted), f"file://{tmp_path}/run"):
        assert store_of(place) == wanted
    assert store_of("s3://bucket/run") == "s3://bucket/run/cube.zarr"
    assert store_of("https://host/run/cube.zarr") == "https://host/run/cube.zarr"


def test_growth_is_barred_where_the_past_depends_on_the_future() -> None:
    layers = (Layer(name="height", file="dem.tif"),)
    free = Features(indices=("NDVI",), day_of_year=True, position=True, layers=layers)
    assert growth_barriers(CubeSpec(bands=["red"], features=free)) == ""
    bound = Features(statistics=("NDVI_mean",), phenology="NDVI")
    spec = CubeSpec(bands=["red"], features=bound, gap_fill="nearest")
    assert growth_barriers(spec) == "gap_fill, features.statistics, features.phenology"


def test_the_attributes_stand_in_the_group_for_everybody(tmp_path: Path) -> None:
    run = _put(_rich(), tmp_path)
    raw = xr.open_zarr(run / "cube.zarr")
    assert raw.attrs[CUBE_SPEC_ATTR] == _cube().attrs[CUBE_SPEC_ATTR]
    assert georef_coords(GRID, BOX)["x"][1][0] in raw.x.values
    assert raw.filled.attrs["nodata"] == 255
    assert raw.indices.dtype == np.float32
