"""NetCDF cubes, staged: what the cube gives is exactly what netCDF4 reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from engine.archive.search import search
from engine.archive.staging import Hints, stage
from engine.cube.cube import open_cube
from engine.values.area import Area
from engine.values.bands import band
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.masking import SclMask
from engine.values.spec import CubeSpec

WORLD = Area.from_bbox((-180, -85, 180, 85))


def raw(path: Path, names: list[str]) -> NDArray[np.int64]:
    """(time, band, y, x) as the file holds them, unsigned, unmasked."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        planes = [np.asarray(file[n][:]).astype(np.int64) & 0xFFFF for n in names]
    return np.stack(planes, axis=1)


def frame(path: Path, crs: str) -> tuple[Grid, Box]:
    with netCDF4.Dataset(path) as file:
        x, y = np.asarray(file["x"][:]), np.asarray(file["y"][:])
    step = (x[-1] - x[0]) / (x.size - 1)
    transform = Affine(step, 0, x[0] - step / 2, 0, -step, y[0] + step / 2)
    return Grid.of_transform(crs, transform, (y.size, x.size))


def seen(dn: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a cube makes of DN: 65535 is no data, a valid 0 is 1, a pixel lacks all bands or none."""
    values = np.where(dn == 65535, 0, np.maximum(dn, 1))
    return np.asarray(values * values.all(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("name", "crs", "bands"),
    [
        ("s2_l2a_openeo/test_optical_cube.nc", "EPSG:32631", ["B02", "B03", "B04", "B08"]),
        ("s2_l2a_openeo/cdse_sentinel2_l2a.nc", "EPSG:32631", ["B01", "B04", "B08", "B11"]),
        ("s2_l2a_openeo/openEO_1.nc", "EPSG:3035", ["B02", "B03", "B04"]),
        ("s2_l2a_openeo/openEO_2.nc", "EPSG:3035", ["B02", "B03", "B04"]),
        ("s2_l2a_openeo/openEO_3.nc", "EPSG:3035", ["B02", "B03", "B04"]),
        (
            "worldcereal/worldcereal_preprocessed_inputs.nc",
            "EPSG:32631",
            ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"],
        ),
    ],
)
def test_each_date_of_a_real_cube_comes_back_exactly(
    real_data: Path, tmp_path: Path, name: str, crs: str, bands: list[str]
) -> None:
    path = real_data / name
    items = search(WORLD, "2020/2024", stage(path, tmp_path))
    grid, box = frame(path, crs)
    spec = CubeSpec(bands=bands, resolution_m=10, period=None, mask="none")
    cube = open_cube(items, spec, grid=grid, box=box).compute(scheduler="synchronous")
    expected = seen(raw(path, [f"S2-L2A-{b}" for b in bands]))
    assert cube.sizes["time"] == expected.shape[0]
    assert np.array_equal(cube["reflectance"].values, expected)


@pytest.mark.parametrize("name", ["test_optical_cube", "cdse_sentinel2_l2a"])
def test_a_monthly_median_with_the_scene_classes(real_data: Path, tmp_path: Path, name: str) -> None:
    path = real_data / "s2_l2a_openeo" / f"{name}.nc"
    items = search(WORLD, "2023", stage(path, tmp_path))
    grid, box = frame(path, "EPSG:32631")
    mask = SclMask(dilate_m=0)
    spec = CubeSpec(bands=["red", "nir"], period="1YS", mask=[mask])
    cube = open_cube(items, spec, grid=grid, box=box).compute(scheduler="synchronous")
    scl = raw(path, ["S2-L2A-SCL"])
    dn = seen(raw(path, ["S2-L2A-B04", "S2-L2A-B08"]))
    hidden = np.isin(scl, [*mask.classes, 65535])
    values = np.where(hidden | (dn == 0), np.nan, dn)
    with np.errstate(all="ignore"):
        count = np.isfinite(values[:, 0]).sum(axis=0)
        ordered = np.sort(values, axis=0)
        low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None, None] // 2, 0)[0]
        high = np.take_along_axis(ordered, count[None, None] // 2 % len(values), 0)[0]
    median = np.where(count > 0, np.floor((low + high) / 2 + 0.5), 0)
    inner = slice(2, -2)  # classes are looked up on 20 m pixels, which do not fit at the file's border
    assert np.array_equal(cube["observations"].values[0, inner, inner], count[inner, inner])
    assert np.array_equal(cube["reflectance"].values[0, :, inner, inner], median[:, inner, inner])


def test_coverage_cloud_and_no_data_are_told(real_data: Path, tmp_path: Path) -> None:
    import json

    path = real_data / "s2_l2a_openeo" / "cdse_sentinel2_l2a.nc"
    stage(path, tmp_path)
    scl = raw(path, ["S2-L2A-SCL"])[:, 0]
    items = sorted(tmp_path.rglob("cdse*.json"))
    assert len(items) == len(scl)
    for file, classes in zip(items, scl, strict=True):
        item = json.loads(file.read_text())
        valid = ~np.isin(classes, (0, 65535))
        facts = item["properties"]
        assert facts["landweave:coverage"] == pytest.approx(100 * valid.mean(), abs=1e-3)
        assert facts["s2:nodata_pixel_percentage"] == pytest.approx(100 - 100 * valid.mean(), abs=1e-3)
        if valid.any():
            cloudy = np.isin(classes, (8, 9, 10))[valid].mean()
            assert facts["eo:cloud_cover"] == pytest.approx(100 * cloudy, abs=1e-3)
        assert item["assets"]["B04_10m"]["nodata"] == 65535
        assert item["assets"]["SCL_10m"]["nodata"] == 0


def write_cube(path: Path, values: NDArray[Any], *, south_up: bool = False, **attributes: Any) -> Path:
    """Write (time, band, y, x) with a band dimension, as CF."""
    times, _, rows, cols = values.shape
    y = 5_000_055 - 10 * np.arange(rows)
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("time", "band", "y", "x"), values.shape, strict=True):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "hours since 2020-01-01"
        time[:] = 25.5 * np.arange(times)
        file.createVariable("band", str, ("band",))[:] = np.array(["B02", "B8A"], object)
        for axis, centres in (("y", y[::-1] if south_up else y), ("x", 300_005 + 10 * np.arange(cols))):
            variable = file.createVariable(axis, "f8", (axis,))
            variable.standard_name = f"projection_{axis}_coordinate"
            variable[:] = centres
        crs = file.createVariable("spatial_ref", "i4")
        crs.setncatts({"crs_wkt": CRS.from_epsg(32633).to_wkt(), "grid_mapping_name": "transverse_mercator"})
        fill = attributes.pop("fill_value", None)
        data = file.createVariable("refl", values.dtype, ("time", "band", "y", "x"), fill_value=fill)
        data.setncatts({"grid_mapping": "spatial_ref", **attributes})
        data.set_auto_maskandscale(False)
        data[:] = values[:, :, ::-1] if south_up else values
    return path


@pytest.mark.parametrize("south_up", [False, True])
def test_a_band_dimension_with_time_of_day_either_way_up(tmp_path: Path, south_up: bool) -> None:
    values = np.random.default_rng(3).integers(0, 9000, (3, 2, 6, 5)).astype(np.uint16)
    path = write_cube(tmp_path / "field.nc", values, south_up=south_up, fill_value=7)
    values[0, 0, 0, 0] = values[1, :, 2, 2] = 7
    write_cube(path, values, south_up=south_up, fill_value=7)
    items = search(WORLD, "2020", stage(path))
    assert [f"{i.datetime:%d %H:%M}" for i in items] == ["01 00:00", "02 01:30", "03 03:00"]
    assert items.items[1].bands == ("blue", "nir08")
    grid = Grid.make("EPSG:32633", 10)
    box = grid.box_of_bounds((300_000, 5_000_000, 300_050, 5_000_060))
    spec = CubeSpec(bands=["B02", "B8A"], period=None, mask="none")
    cube = open_cube(items, spec, grid=grid, box=box).compute(scheduler="synchronous")
    dn = np.where(values == 7, 0, np.maximum(values, 1))
    assert np.array_equal(cube["reflectance"].values, dn * dn.all(axis=1, keepdims=True))


def test_scale_and_offset_of_the_file_become_the_claim(tmp_path: Path) -> None:
    values = np.full((1, 2, 6, 5), 3000, np.int16)
    path = write_cube(
        tmp_path / "field.nc",
        values,
        fill_value=-1,
        scale_factor=np.float32(0.0001),
        add_offset=np.float32(-0.1),
    )
    (item,) = search(WORLD, "2020", stage(path)).items
    assert item.claimed_scale == pytest.approx(1e-4)
    assert item.claimed_offset == pytest.approx(-1000, abs=0.01)


def test_floats_need_a_scale_and_a_copy(tmp_path: Path) -> None:
    values = np.linspace(-0.01, 0.6, 60, dtype=np.float32).reshape(1, 2, 6, 5)
    values[0, 0, 0, 3] = np.nan
    path = write_cube(tmp_path / "field.nc", values)
    with pytest.raises(InputError, match="holds float32, not integers"):
        stage(path)
    items = search(WORLD, "2020", stage(path, tmp_path / "out", hints=Hints(scale=1), copy=True))
    grid = Grid.make("EPSG:32633", 10)
    box = grid.box_of_bounds((300_000, 5_000_000, 300_050, 5_000_060))
    cube = open_cube(items, CubeSpec(bands=["B02"], period=None, mask="none"), grid=grid, box=box)
    exact = np.floor(values[:, 0].astype(np.float64) * 10_000 + 0.5)
    expected = np.where(np.isfinite(exact), np.maximum(np.nan_to_num(exact), 1), 0)
    assert np.array_equal(cube["reflectance"].compute(scheduler="synchronous").values[:, 0], expected)


def test_what_is_no_cube_of_bands_is_told(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "worldcereal" / "worldcereal_cropland_classification.nc"
    with pytest.raises(InputError, match="a dimension bands of 4 that is neither time nor bands"):
        stage(path, tmp_path)
    (tmp_path / "broken.nc").write_bytes(b"CDF")
    with pytest.raises(InputError, match="cannot be opened"):
        stage(tmp_path / "broken.nc", tmp_path / "out")


def test_the_bands_can_be_named(tmp_path: Path) -> None:
    path = write_cube(tmp_path / "field.nc", np.full((1, 2, 6, 5), 9, np.uint16))
    (item,) = search(WORLD, "2020", stage(path, hints=Hints(bands=["red", "nir"]))).items
    assert item.bands == (band("B08").name, band("B04").name)


def test_files_and_catalogue_can_move_together(tmp_path: Path) -> None:
    (tmp_path / "a" / "in").mkdir(parents=True)
    write_cube(tmp_path / "a" / "in" / "field.nc", np.full((1, 2, 6, 5), 9, np.uint16))
    stage(tmp_path / "a" / "in", tmp_path / "a" / "out")
    (tmp_path / "a").rename(tmp_path / "b")
    items = search(WORLD, "2020", tmp_path / "b" / "out" / "catalog.json")
    cube = open_cube(items, CubeSpec(bands=["B02"], period=None, mask="none"))
    assert cube["reflectance"].compute(scheduler="synchronous").values.max() == 9
