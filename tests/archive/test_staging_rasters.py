"""GeoTIFFs of several bands and dates, unusual CRSs and number types, staged and read back exactly."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import shape

from engine.archive.search import search
from engine.archive.staging import Hints, hints_of, stage
from engine.cube.cube import open_cube
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.spec import CubeSpec

WORLD = Area.from_bbox((-180, -85, 180, 85))


def own_grid(path: Path) -> tuple[Grid, Any]:
    with rasterio.open(path) as file:
        return Grid.of_transform(file.crs.to_wkt(), file.transform, file.shape)


def read(items: Any, bands: list[str], path: Path) -> NDArray[np.uint16]:
    """(time, band, y, x) of a cube on the file's own grid, one step per date."""
    grid, box = own_grid(path)
    spec = CubeSpec(bands=bands, resolution_m=grid.resolution_yx[1], period=None, mask="none")
    cube = open_cube(items, spec, grid=grid, box=box)
    return np.asarray(cube["reflectance"].compute(scheduler="synchronous").values)


def test_two_dates_in_one_real_file(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "s2_ftw_austria" / "inference-img.tif"
    hints = Hints(bands=["red", "green", "blue", "nir"], dates=["2021-05-01", "2021-08-01"])
    items = search(WORLD, "2021", stage(path, tmp_path, hints=hints))
    assert [i.datetime.date() for i in items] == [dt.date(2021, 5, 1), dt.date(2021, 8, 1)]
    assert {i.crs for i in items} == {"EPSG:32633"}
    with rasterio.open(path) as file:
        dn = file.read().reshape(2, 4, *file.shape)
    expected = dn * dn.all(axis=1, keepdims=True)
    assert np.array_equal(read(items, ["red", "green", "blue", "nir"], path), expected)


def test_a_yaml_beside_the_file_says_the_same(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "s2_ftw_austria" / "inference-img.tif", tmp_path / "image.tif")
    (tmp_path / "image.yaml").write_text("bands: [B04, B03, B02, B08]\ndates: [2021-05-01, 2021-08-01]\n")
    items = search(WORLD, "2021", stage(tmp_path))
    assert [i.id for i in items] == ["image_2021-05-01", "image_2021-08-01"]
    assert items.items[0].bands == ("blue", "green", "nir", "red")
    (tmp_path / "image.yaml").write_text("band: [B04]\n")
    with pytest.raises(InputError, match=r"image.yaml beside it cannot be read .*band"):
        stage(tmp_path)


def test_a_custom_crs_without_a_code(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "cbers4_bahia"
    paths = sorted(folder.glob("*_NDVI.tif"))[:2]
    (tmp_path / "in").mkdir()
    for path in paths:
        shutil.copy(path, tmp_path / "in")
    items = search(WORLD, "2018", stage(tmp_path / "in", tmp_path / "out", hints=Hints(bands=["nir"])))
    assert "Albers" in items.items[0].crs
    got = read(items, ["nir"], paths[0])
    for plane, path in zip(got[:, 0], paths, strict=True):
        with rasterio.open(path) as file:
            values = file.read(1)
        assert np.array_equal(plane, np.where(values == -9999, 0, np.maximum(values, 1)))


def test_all_indices_of_a_folder_are_refused_in_two_lines(real_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="46 of 46 files cannot be placed") as caught:
        stage(real_data / "cbers4_bahia", tmp_path)
    text = str(caught.value)
    assert text.count("and 22 more: ") == 2
    assert "NDVI is an index and no band" in text
    assert len(text) < 1000
    assert not list(tmp_path.iterdir())


def test_floats_with_pixels_that_are_not_square(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "s2_ndvi_portugal"
    with pytest.raises(InputError, match="and 3 more: holds float32, not integers"):
        stage(folder, tmp_path, hints=Hints(bands=["nir"]))
    catalog = stage(folder, tmp_path / "out", hints=Hints(bands=["nir"], scale=1), copy=True)
    items = search(WORLD, "2017", catalog)
    paths = sorted(folder.glob("*.tif"))
    got = read(items, ["nir"], paths[0])
    for plane, path in zip(got[:, 0], paths, strict=True):
        with rasterio.open(path) as file:
            value = file.read(1).astype(np.float64)
        expected = np.where(np.isfinite(value), np.maximum(np.floor(np.nan_to_num(value) * 1e4 + 0.5), 1), 0)
        assert np.array_equal(plane, expected)
    with rasterio.open(next((tmp_path / "out").rglob("*.staged.tif"))) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def image(path: Path, values: NDArray[Any], **more: Any) -> Path:
    """Write (band, y, x) with names and tags."""
    names, tags = more.pop("names", ()), more.pop("tags", {})
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=Affine(10, 0, 330000, 0, -10, 5822040),
        count=count, height=height, width=width, dtype=values.dtype, **more,
    ) as file:  # fmt: skip
        file.write(values)
        file.update_tags(**tags)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)
    return path


VALUES = np.random.default_rng(0).integers(0, 9000, (3, 40, 50)).astype(np.uint16)


def test_names_and_date_from_the_metadata(tmp_path: Path) -> None:
    tags = {"ACQUISITION_DATE": "2022-06-03", "TIFFTAG_DATETIME": "2024:01:01 00:00:00"}
    path = image(tmp_path / "x.tif", VALUES, names=("B02", "SCL", "elevation"), tags=tags)
    (item,) = search(WORLD, "2022", stage(path, tmp_path / "out")).items
    assert (item.id, item.bands) == ("x_2022-06-03", ("blue", "scl"))


def test_dates_in_the_names_of_bands(tmp_path: Path) -> None:
    path = image(tmp_path / "x.tif", VALUES[:2], names=("2022-06-03 red", "2022-07-03 red"))
    items = search(WORLD, "2022", stage(path, tmp_path / "out"))
    assert [i.datetime.month for i in items] == [6, 7]
    got = read(items, ["red"], path)
    assert np.array_equal(got[:, 0], VALUES[:2])


def test_no_data_scale_and_offset_can_be_given(tmp_path: Path) -> None:
    path = image(tmp_path / "x_20220603_red.tif", VALUES[:1])
    value = int(VALUES[0, 0, 0])
    hints = Hints(nodata=value, scale=0.0002, offset=-0.01)
    items = search(WORLD, "2022", stage(path, tmp_path / "out", hints=hints))
    got = read(items, ["red"], path)[0, 0]
    dn = np.maximum(VALUES[0].astype(np.float64), 1)
    expected = np.clip(np.floor((dn - 50) * 2 + 0.5), 1, 65535)
    assert np.array_equal(got, np.where(VALUES[0] == value, 0, expected))


def test_a_valid_zero_is_kept_where_no_data_is_another_value(tmp_path: Path) -> None:
    values = np.zeros((1, 40, 50), np.uint16)
    values[0, 5:, 5:] = 65535
    path = image(tmp_path / "x_20220603_red.tif", values, nodata=65535)
    got = read(search(WORLD, "2022", stage(path, tmp_path / "out")), ["red"], path)
    assert np.array_equal(got[0, 0], np.where(values[0] == 65535, 0, 1))


def test_a_copy_needs_the_source_no_more(tmp_path: Path) -> None:
    path = image(tmp_path / "x_20220603.tif", VALUES, names=("red", "nir", "scl"))
    catalog = stage(path, tmp_path / "out", copy=True)
    kept = tmp_path / "kept.tif"
    path.rename(kept)
    got = read(search(WORLD, "2022", catalog), ["red", "nir"], kept)
    assert np.array_equal(got[0], VALUES[:2] * VALUES[:2].all(axis=0))
    with pytest.raises(InputError, match="no JPEG 2000"):
        stage(tmp_path / "out")  # a copy is not staged again


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = image(tmp_path / "x.tif", VALUES)
    for hints, told in (
        ({}, "has 3 bands .none described., no known one: name them with --bands"),
        ({"bands": ["red", "nir"]}, "has 3 bands, no multiple of the 2 that are named"),
        ({"bands": ["red", "nir", "scl"]}, "no date in its name, metadata or band descriptions"),
        ({"bands": ["red"]}, "no date in its name"),
        ({"bands": ["red"], "dates": ["2022-01-01"]}, "3 bands in 3 groups, but 1 dates"),
    ):
        with pytest.raises(InputError, match=told):
            stage(path, tmp_path / "out", hints=hints_of(hints))
    dated = image(tmp_path / "x_20220101.tif", VALUES)
    with pytest.raises(InputError, match="has red several times: give the 3 dates with --dates"):
        stage(dated, tmp_path / "out", hints=Hints(bands=["red"]))
    with pytest.raises(InputError, match=r"unknown band .*purple"):
        hints_of({"bands": ["purple"]})
    with pytest.raises(InputError, match="dates"):
        hints_of({"dates": ["yesterday"]})
    with pytest.raises(InputError, match="no such processing level"):
        stage(path, tmp_path / "out", level="L3")


def test_progress_is_told(tmp_path: Path) -> None:
    image(tmp_path / "a_20220101_red.tif", VALUES[:1])
    image(tmp_path / "b_20220101_red.tif", VALUES[:1])
    told: list[tuple[int, int, str]] = []
    stage(tmp_path, listener=lambda *event: told.append(event))
    assert told == [(0, 2, "a_20220101"), (1, 2, "b_20220101"), (2, 2, "catalogue")]


def test_a_large_image_is_outlined_on_a_decimated_look(tmp_path: Path) -> None:
    values = np.zeros((1, 3000, 3000), np.uint8)
    values[0, 1000:2500, 200:900] = 9
    path = image(tmp_path / "x_20220603_red.tif", values, compress="deflate")
    stage(path, tmp_path / "out")
    item = json.loads(next((tmp_path / "out").rglob("x_20220603.json")).read_text())
    assert item["properties"]["landweave:coverage"] == pytest.approx(100 * 1500 * 700 / 9e6, rel=0.02)
    to_grid = Transformer.from_crs(4326, 32633, always_xy=True)
    corners = shapely.get_coordinates(shape(item["geometry"]))
    (left, bottom), (right, top) = (
        f(np.stack(to_grid.transform(*corners.T)), axis=1) for f in (np.min, np.max)
    )
    assert 330000 + 2000 - 400 < left <= 330000 + 2000 + 60
    assert 330000 + 9000 - 60 <= right < 330000 + 9000 + 400
    assert 5822040 - 25000 - 400 < bottom <= 5822040 - 25000 + 60
    assert 5822040 - 10000 - 60 <= top < 5822040 - 10000 + 400
