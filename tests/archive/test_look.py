"""A look at a file: decimated from overviews, all formats, no-data, errors that name the item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from engine.archive.items import AssetRecord
from engine.archive.look import look
from engine.values.errors import DataError, InputError
from tests.archive.samples import record


def write(path: Path, values: np.ndarray, overviews: bool = False, nodata: float | None = 0) -> Path:
    profile = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 3e5, 0, -10, 5e6), "nodata": nodata}
    with rasterio.open(path, "w", dtype=values.dtype, **profile, **place) as file:
        file.write(values, 1)
        if overviews:
            file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    return path


def item(path: Path, nodata: float | None = 0.0) -> object:
    return record(assets=(AssetRecord("red", str(path), nodata),))


def test_a_small_file_comes_as_it_is(tmp_path: Path) -> None:
    values = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20)
    assert np.array_equal(look(item(write(tmp_path / "a.tif", values)), "B04"), values)


def test_a_large_file_is_read_from_its_overviews(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1, 9000, (1024, 512)).astype(np.uint16)
    path = write(tmp_path / "a.tif", values, overviews=True)
    seen = look(item(path), "red", max_px=128)
    assert seen.shape == (128, 64)
    with rasterio.open(path, overview_level=2) as file:  # every eighth: the level that fits
        assert np.array_equal(seen, file.read(1))


def test_the_longest_side_is_kept_below_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((1000, 330), np.uint16))
    assert look(item(path), "red", max_px=300).shape == (250, 83)


def test_no_data_becomes_zero_and_a_valid_zero_one(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 7], [7, 7, 7]], np.uint16)
    path = write(tmp_path / "a.tif", values, nodata=65535)
    assert look(item(path), "red").tolist() == [[1, 0, 7], [7, 7, 7]]
    signed = write(tmp_path / "b.tif", np.array([[-9999, -3, 5]], np.int16), nodata=None)
    assert look(item(signed, -9999.0), "red").tolist() == [[0, 1, 5]]


def test_jpeg_2000_is_read_at_a_lower_resolution_level(real_data: Path) -> None:
    path = real_data / "full_tile" / "T31TDH_20180101T105441_B01.jp2"
    seen = look(record(assets=(AssetRecord("coastal", str(path), 0.0),)), "B01", max_px=512)
    with rasterio.open(path) as file:
        whole = file.read(1)
    assert seen.shape == (458, 458)
    assert abs((seen == 0).mean() - (whole == 0).mean()) < 0.01
    assert abs(np.median(seen[seen > 0]) - np.median(whole[whole > 0])) < 20


def test_errors_name_the_item_and_no_secret(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="band red"):
        look(record(assets=()), "red")
    with pytest.raises(DataError, match=r"item a, band red, .*gone\.tif"):
        look(item(tmp_path / "gone.tif"), "red")
    with pytest.raises(DataError, match="integers"):
        look(item(write(tmp_path / "f.tif", np.ones((9, 9), np.float32))), "red")
    secret = "https://127.0.0.1:9/B04.tif?sig=SECRET"
    with pytest.raises(DataError) as caught:
        look(record(assets=(AssetRecord("red", secret.replace("?sig=SECRET", "")),)), "red")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None
