"""Features beside a cube: the same bits for any chunking, equal to an untiled oracle, few tasks, one read."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from pyproj import Transformer

from engine.archive.items import AssetRecord, ItemTable
from engine.cube.cube import open_cube
from engine.cube.derive import _strips, with_features
from engine.cube.features import indices
from engine.cube.phenology import METRICS, phenology
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec, Features, Layer
from tests.cube.fakes import GRID, READS, FakeReader, scene

BANDS = ("blue", "green", "red", "rededge1", "nir", "swir16")
BOX = Box(-529_700, 50_100, -529_500, 50_330)
MONTHS = (3, 4, 5, 6, 7, 8)
STATISTICS = ("NDVI_mean", "red_p90", "EVI_std", "NDVI_count", "NDVI_slope", "red_min", "NDVI_amplitude")


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """A slanted plane in another CRS, with a hole."""
    path = tmp_path_factory.mktemp("layers") / "height.tif"
    south = Transformer.from_crs(32633, 3035, always_xy=True)
    left, bottom, right, top = south.transform_bounds(*GRID.bounds_of_box(BOX.pad(30)))
    rows, cols = int((top - bottom) / 25) + 2, int((right - left) / 25) + 2
    height = (np.arange(rows)[:, None] * 1.5 + np.arange(cols)[None] * 0.25 + 300).astype(np.float32)
    height[40:50, 40:52] = -9999
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "nodata": -9999, "crs": "EPSG:3035"}
    transform = rasterio.transform.from_origin(left, top, 25, 25)
    with rasterio.open(path, "w", height=rows, width=cols, transform=transform, **profile) as file:
        file.write(height, 1)
    return Layer(name="height", file=str(path))


def _features(layer: Layer) -> Features:
    return Features(
        indices=("NDVI", "NDVI45", "EVI"),
        statistics=STATISTICS,
        phenology="NDVI",
        day_of_year=True,
        position=True,
        layers=(layer, layer.model_copy(update={"name": "slope", "derive": "slope"})),
    )


def _items() -> ItemTable:
    scenes = []
    for i, month in enumerate(MONTHS):
        for day in (4, 17):
            made = scene(f"f{i}-{day}", dt.date(2023, month, day), f"take-{month}-{day}")
            assets = tuple(AssetRecord(b, f"fake://{made.id}/{b}", 0) for b in (*BANDS, "scl"))
            scenes.append(dataclasses.replace(made, assets=assets))
    return ItemTable(tuple(scenes), (dt.date(2023, 3, 1), dt.date(2023, 8, 31)))


def _open(features: Features | None, chunk: int = 1024, box: Box = BOX) -> xr.Dataset:
    spec = CubeSpec(bands=BANDS, reducer="first", features=features)
    return open_cube(_items(), spec, grid=GRID, box=box, chunks_yx=(chunk, chunk), reader=FakeReader())


NEW = ("indices", "statistics", "phenology", "day_of_year", "position", "layers")


@pytest.mark.parametrize("chunk", [77, 150])
def test_any_chunking_gives_the_same_bits(chunk: int, layer: Layer) -> None:
    expected, found = _open(_features(layer)), _open(_features(layer), chunk)
    for name in NEW:
        a, b = dask.compute(expected[name], found[name], scheduler="threads")
        assert a.dtype == np.float32
        xr.testing.assert_identical(a, b)


def test_a_part_of_the_area_has_the_same_bits(layer: Layer) -> None:
    part = Box(-529_651, 50_133, -529_600, 50_277)
    whole, cut = _open(_features(layer)).load(), _open(_features(layer), 50, part).load()
    inside = part.slices_in(BOX)
    for name in NEW:
        expected = whole[name].values
        if "y" in whole[name].dims:
            expected = expected[(..., *inside)]
        np.testing.assert_array_equal(cut[name].values, expected, err_msg=name)


def test_it_equals_plain_numpy_over_the_whole_cube(layer: Layer) -> None:
    cube = _open(_features(layer), 100).load()
    red, nir = (
        np.where(v == 0, np.nan, v / 10000)
        for v in (cube.reflectance.sel(band=b).values for b in ("red", "nir"))
    )
    ndvi = (nir - red) / (nir + red)
    np.testing.assert_allclose(cube.indices.sel(index="NDVI").values, ndvi, rtol=1e-5, atol=1e-6)
    some = np.isfinite(ndvi).sum(axis=0) > 0
    at = lambda name: cube.statistics.sel(statistic=name).values  # noqa: E731
    np.testing.assert_allclose(at("NDVI_mean")[some], np.nanmean(ndvi[:, some], axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at("red_p90")[some], np.nanpercentile(red[:, some], 90, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(at("NDVI_count"), np.isfinite(ndvi).sum(axis=0))
    assert np.isnan(at("red_min")[~some]).all()
    bounds = cube.time_bnds.values.astype("datetime64[s]").astype(np.int64) / 86400
    new_year = np.datetime64("2023-01-01", "D").astype(np.int64)
    days = bounds.mean(axis=1) - new_year + 1
    assert days[0] == 75.5  # the middle of March
    expected = phenology(indices(cube.reflectance.values, BANDS, ["NDVI"])[:, 0], days)
    np.testing.assert_array_equal(cube.phenology.values, expected)
    assert np.isfinite(expected).mean() > 0.1
    passed = (bounds.mean(axis=1) - new_year) / 365
    np.testing.assert_allclose(cube.day_of_year.sel(encoding="sin"), np.sin(2 * np.pi * passed), atol=1e-6)
    height = cube.layers.sel(layer="height").values
    assert 0.0 < np.isnan(height).mean() < 0.1
    steepest = np.degrees(np.arctan(np.hypot(1.5, 0.25) / 25))
    assert np.nanmedian(cube.layers.sel(layer="slope")) == pytest.approx(steepest, rel=0.01)


def test_few_tasks_and_one_read_of_each_scene_whatever_is_computed(layer: Layer) -> None:
    cube = _open(_features(layer), 64)
    blocks = cube.reflectance.data.numblocks[2] * cube.reflectance.data.numblocks[3]
    plain = len(_open(None, 64).reflectance.data.__dask_graph__())
    for name, limit in (
        ("indices", plain + len(MONTHS) * blocks),
        ("statistics", plain + blocks),
        ("phenology", plain + blocks),
        ("position", blocks),
        ("layers", blocks),
    ):
        assert len(cube[name].data.__dask_graph__()) <= limit, name
    READS.clear()
    dask.compute(*(cube[n].data for n in ("reflectance", *NEW)), scheduler="sync")
    assert READS["f0-4 blue"] == blocks
    assert max(n for key, n in READS.items() if key.endswith("blue")) <= blocks


def test_nothing_is_read_before_it_is_computed(layer: Layer) -> None:
    READS.clear()
    cube = _open(_features(layer))
    assert not READS
    assert all(cube[n].chunks for n in NEW if n != "day_of_year")


def test_variables_say_what_they_are(layer: Layer, tmp_path: Path) -> None:
    cube = _open(_features(layer))
    assert cube.indices.dims == ("time", "index", "y", "x")
    assert list(cube.index.values) == ["NDVI", "NDVI45", "EVI"]
    assert list(cube.statistic.values) == list(STATISTICS)
    assert list(cube.metric.values) == list(METRICS)
    assert "NDVI45 = (RE1-R)/(RE1+R)" in cube.indices.attrs["formula"]
    assert "EVI: C2 = 7.5" in cube.indices.attrs["constants"]
    assert "1 January 2023" in cube.phenology.attrs["days"]
    for name in NEW:
        assert cube[name].attrs["long_name"]
        if "y" in cube[name].dims:
            assert cube[name].attrs["grid_mapping"] == "spatial_ref"
    for name in ("time", "time_bnds"):
        cube[name].encoding["units"] = "days since 2023-01-01"
    cube.isel(y=slice(20), x=slice(20)).to_netcdf(tmp_path / "cube.nc")
    with xr.open_dataset(tmp_path / "cube.nc", mask_and_scale=False) as stored:
        np.testing.assert_array_equal(stored.indices, cube.indices[..., :20, :20])


def test_a_stored_a_sliced_and_a_turned_cube_give_the_same(tmp_path: Path, layer: Layer) -> None:
    cube = _open(None, 100)
    expected = with_features(cube, _features(layer)).load()
    cube.to_zarr(tmp_path / "c.zarr", zarr_format=2, consolidated=True)
    stored = xr.open_zarr(tmp_path / "c.zarr", mask_and_scale=False).chunk(time=4, band=2, y=70)
    turned = cube.load().transpose("y", "time", "x", "band", "nv")
    renamed = cube.assign_coords(band=["B02", "B03", "B04", "B05", "B08", "B11"])
    for other in (stored, turned, renamed, cube.isel(y=slice(31, 90), x=slice(7, 100))):
        found = with_features(other, _features(layer))
        rows = slice(31, 90) if found.sizes["y"] == 59 else slice(None)
        cols = slice(7, 100) if found.sizes["x"] == 93 else slice(None)
        for name in NEW:
            whole = expected[name]
            part = whole.isel(y=rows, x=cols) if "y" in whole.dims else whole
            np.testing.assert_array_equal(found[name].values, part.values, err_msg=name)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"indices": "NDVl"}, "one like"),
        ({"indices": "NDII"}, None),
        ({"indices": "IRECI"}, "add rededge2, rededge3 to cube.bands"),
        ({"statistics": "NBR_mean"}, "NBR needs a band"),
        ({"statistics": "NDVI_often"}, "unknown statistic"),
        ({"statistics": "lime_mean"}, "unknown spectral index or band"),
        ({"phenology": "nir09"}, "add nir09"),
        ({"indices": ("NDVI", "EVI", "NDVI")}, "named once each"),
        (
            {"layers": ({"name": "a", "file": "a.tif"}, {"name": "a", "file": "b.tif"})},
            "named once each",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_when_the_cube_is_opened(features: dict, says: str | None) -> None:
    if says is None:
        assert "indices" in _open(Features(**features))
        return
    with pytest.raises(InputError, match=says):
        _open(Features(**features))


@pytest.mark.parametrize(
    "features", [{"phenology": "NDVI"}, {"day_of_year": True}, {"statistics": ("NDVI_mean", "NDVI_slope")}]
)
def test_what_depends_on_the_day_is_refused_where_regions_have_days_of_their_own(features: dict) -> None:
    cube = _open(None)
    spec = json.loads(cube.attrs["landweave_spec"]) | {"period": {"kind": "calendar", "regions": "x.gpkg"}}
    regional = cube.assign_attrs(landweave_spec=json.dumps(spec))
    with pytest.raises(InputError, match="crop calendar"):
        with_features(regional, Features(**features))
    free = Features(indices="NDVI", statistics=("NDVI_mean", "NDVI_p90"), position=True)
    assert {"indices", "statistics", "position"} <= set(with_features(regional, free))


def test_what_is_no_cube_is_refused() -> None:
    cube = _open(None)
    with pytest.raises(InputError, match="no reflectance"):
        with_features(cube.drop_vars("reflectance"), Features(indices="NDVI"))
    with pytest.raises(InputError, match="uint16"):
        with_features(cube.assign(reflectance=cube.reflectance.astype("float32")), Features(indices="NDVI"))


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="not in order"):
        with_features(_open(None).isel(time=slice(None, None, -1)), Features(phenology="NDVI"))


def test_slopes_need_a_grid_in_metres(layer: Layer) -> None:
    degrees, box = Grid.make("EPSG:4326", 0.001), Box(-47_600, 15_000, -47_590, 15_010)
    cube = _open(None, box=BOX).isel(y=slice(10), x=slice(10)).drop_vars(["y", "x", "spatial_ref"])
    turned = cube.assign_coords(georef_coords(degrees, box))
    assert with_features(turned, Features(layers=(layer,))).layers.shape == (1, 10, 10)
    with pytest.raises(InputError, match="grid in metres"):
        with_features(turned, Features(layers=(layer.model_copy(update={"derive": "slope"}),)))


def test_strips_cover_every_row_once_however_wide_a_row_is() -> None:
    for height, row_bytes in ((7, 1), (7, 10 << 20), (7, 1 << 40), (1, 0)):
        rows = [r for s in _strips(height, row_bytes) for r in range(s.start, s.stop)]
        assert rows == list(range(height))


def test_worldcereals_belgian_fields(real_data: Path) -> None:
    """Twelve months, two of them empty; what has no data stays without, the season is a temperate one."""
    path = real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    names = {"B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B08": "nir", "B11": "swir16"}
    with xr.open_dataset(path, mask_and_scale=False) as file:
        stored = np.stack([file[f"S2-L2A-{b}"].values for b in names], axis=1).view(np.uint16)
        time, y, x = file["t"].values, file["y"].values, file["x"].values
    transform = rasterio.transform.from_origin(x[0] - 5, y[0] + 5, 10, 10)
    grid, box = Grid.of_transform("EPSG:32631", transform, (100, 100))
    values = np.where((stored == 65535).any(axis=1, keepdims=True), 0, stored).astype(np.uint16)
    coords = {"time": time, "band": list(names), **georef_coords(grid, box)}
    lazy = da.from_array(values, chunks=(1, -1, 30, 30))
    cube = xr.Dataset({"reflectance": (("time", "band", "y", "x"), lazy)}, coords=coords)
    wanted = Features(
        indices=("NDVI", "NDVI45"), statistics=("NDVI_max", "NDVI_count"), phenology="NDVI", position=True
    )
    found = with_features(cube, wanted).load()
    ndvi, ndvi45 = found.indices.sel(index="NDVI"), found.indices.sel(index="NDVI45")
    months = [f"{t:%Y-%m}" for t in found.time.to_index()]
    empty = [m for m, layer in zip(months, ndvi.values, strict=True) if np.isnan(layer).all()]
    assert empty == ["2020-12", "2021-01"]
    assert found.statistics.sel(statistic="NDVI_count").max() == 10
    assert np.corrcoef(ndvi.values[~np.isnan(ndvi)], ndvi45.values[~np.isnan(ndvi)])[0, 1] > 0.9
    season = {m: float(np.nanmedian(found.phenology.sel(metric=m))) for m in ("start", "peak", "end")}
    assert 366 + 60 < season["start"] < 366 + 121 < season["peak"] < season["end"] < 366 + 213
    longitude = np.degrees(np.arctan2(found.position[1], found.position[0]))
    assert 5.0 < float(longitude.mean()) < 6.0
