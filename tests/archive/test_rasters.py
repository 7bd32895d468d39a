"""read_raster: static layers on a grid, against plain rasterio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling as RioResampling
from rasterio.warp import reproject

from engine.archive.rasters import read_raster
from engine.values.errors import DataError
from engine.values.grid import Box, Grid

UTM33 = Grid.make("EPSG:32633", 10)


def dem(path: Path, dtype: str = "float32", nodata: float | None = -9999) -> str:
    """Write two bands: a plane that rises to the east and south, and its negative; one hole."""
    rows, cols = np.mgrid[:200, :300]
    values = (rows * 2 + cols).astype(dtype)
    values[50, 60] = -9999
    with rasterio.open(
        path, "w", driver="GTiff", height=200, width=300, count=2, dtype=dtype, nodata=nodata,
        crs="EPSG:32633", transform=Affine(30, 0, 300000, 0, -30, 5900040),
    ) as file:  # fmt: skip
        file.write(values, 1)
        file.write(-values, 2)
    return str(path)


def test_whole_pixels_by_nearest(tmp_path: Path) -> None:
    box = Box(-590004 - 3, 30000 - 3, -590004 + 30, 30000 + 30)
    for band, sign in ((1, 1), (2, -1)):
        got = read_raster(dem(tmp_path / "d.tif"), band, UTM33, box, "nearest")
        assert got.dtype == np.float32
        assert got.shape == (33, 33)
        assert np.isnan(got[:3]).all()
        assert np.isnan(got[:, :3]).all()
        rows, cols = np.mgrid[:30, :30] // 3
        assert np.array_equal(got[3:, 3:], sign * (rows * 2 + cols))


def test_bilinear_is_the_plane_itself_at_the_centres(tmp_path: Path) -> None:
    box = Box(-590004 + 20, 30000 + 30, -590004 + 120, 30000 + 130)
    got = read_raster(dem(tmp_path / "d.tif"), 1, UTM33, box)
    rows, cols = np.mgrid[20:120, 30:130] / 3 - 1 / 3
    assert np.allclose(got, rows * 2 + cols, atol=1e-3)


def test_a_hole_is_no_data_and_zero_is_a_value(tmp_path: Path) -> None:
    grid = Grid.make("EPSG:32633", 30)
    box = Box(-196668, 10000, -196468, 10300)
    got = read_raster(dem(tmp_path / "d.tif"), 1, grid, box)
    assert got[0, 0] == 0
    assert np.argwhere(np.isnan(got)).tolist() == [[50, 60]]
    plain = read_raster(dem(tmp_path / "i.tif", "int16", None), 1, grid, box)
    assert plain[50, 60] == -9999  # nothing declares it
    assert not np.isnan(plain).any()


@pytest.mark.parametrize("how", ["bilinear", "cubic"])
def test_another_crs_is_the_warp_of_its_block(tmp_path: Path, how: str) -> None:
    path, grid = dem(tmp_path / "d.tif"), Grid.make("EPSG:3035", 10)
    east, north = rasterio.warp.transform("EPSG:32633", "EPSG:3035", [304500], [5897000])
    box = grid.box_of_bounds((east[0], north[0], east[0] + 10, north[0] + 10)).snap_out(512)
    got = read_raster(path, 1, grid, box, how)  # type: ignore[arg-type]
    truth = np.full(box.shape_yx, np.nan, np.float32)
    with rasterio.open(path) as file:
        reproject(
            rasterio.band(file, 1), truth, dst_crs="EPSG:3035", dst_nodata=np.nan,
            dst_transform=Affine(*grid.transform_of(box)), resampling=RioResampling[how],
        )  # fmt: skip
    assert np.array_equal(np.isnan(got), np.isnan(truth))
    assert 0.2 < np.isfinite(got).mean() < 1
    assert np.nanmax(np.abs(got - truth)) < 0.02  # of a slope of 2 to a pixel: GDAL's approximation
    for size in (512, 200, 77):
        parts = np.full(box.shape_yx, -1, np.float32)
        for part in box.blocks(size):
            parts[part.slices_in(box)] = read_raster(path, 1, grid, part, how)  # type: ignore[arg-type]
        assert np.array_equal(parts, got, equal_nan=True)


def test_a_missing_band_or_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few bands"):
        read_raster(dem(tmp_path / "d.tif"), 3, UTM33, Box(0, 0, 5, 5))
    with pytest.raises(DataError, match="absent"):
        read_raster(str(tmp_path / "absent.tif"), 1, UTM33, Box(0, 0, 5, 5))


def test_a_real_float_raster(real_data: Path) -> None:
    path = sorted((real_data / "s2_ndvi_portugal").glob("*.tif"))[0]
    with rasterio.open(path) as file:
        grid, box = Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)
        truth = file.read(1)
    assert grid.resolution_yx[0] != grid.resolution_yx[1]
    assert np.array_equal(read_raster(str(path), 1, grid, box), truth, equal_nan=True)
