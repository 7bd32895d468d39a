"""Staging: a folder of images becomes a catalogue that search and reader understand."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer

from engine.archive.reader import OdcReader
from engine.archive.search import search
from engine.archive.staging import stage
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Grid

HAVEL = Area.from_bbox((12.0, 52.0, 13.0, 53.0))
HERE = Affine(10, 0, 330000, 0, -10, 5822040)


def image(path: Path, values: np.ndarray | None = None, transform: Affine = HERE, **more: Any) -> Path:
    values = np.full((60, 60), 7, np.uint16) if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"crs": "EPSG:32633", "count": 1, "dtype": values.dtype} | more
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        transform=transform,
        **options,
    ) as file:
        for index in range(1, options["count"] + 1):
            file.write(values, index)
    return path


def test_the_real_scene_stages_is_found_and_reads_as_rasterio_does(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "s2_l1c_33UUU"
    table = search(HAVEL, "2017", stage(folder, tmp_path))
    (item,) = table.items
    assert (item.tile, item.crs, item.collection) == ("33UUU", "EPSG:32633", "staged-l1c")
    assert item.datetime == dt.datetime(2017, 2, 16, 10, 21, 1, tzinfo=dt.UTC)
    assert len(item.bands) == 13
    grid = Grid.make("EPSG:32633", 10)
    box = grid.box_of_bounds((330000, 5814360, 345360, 5822040))
    got = OdcReader().read(item, item.bands, grid, box)
    for plane, asset in zip(got, item.assets, strict=True):
        with rasterio.open(asset.href) as file:
            factor = int(file.res[0]) // 10
            assert np.array_equal(plane, file.read(1).repeat(factor, 0).repeat(factor, 1))


def test_the_catalogue_is_valid_stac_and_can_move_with_its_files(real_data: Path, tmp_path: Path) -> None:
    shutil.copytree(real_data / "s2_l1c_33UUU", tmp_path / "a" / "images")
    stage(tmp_path / "a" / "images", tmp_path / "a" / "catalogue")
    catalog = pystac.Catalog.from_file(str(tmp_path / "a" / "catalogue" / "catalog.json"))
    (item,) = catalog.get_items(recursive=True)
    assert item.properties["proj:code"] == "EPSG:32633"
    red = item.assets["B04_10m"].to_dict()
    assert red["bands"][0]["eo:common_name"] == "red"
    assert red["proj:shape"] == [768, 1536]
    assert red["proj:transform"] == [10.0, 0.0, 330000.0, 0.0, -10.0, 5822040.0]
    assert item.assets["B05_20m"].to_dict()["bands"][0]["eo:common_name"] == "rededge071"
    (tmp_path / "a").rename(tmp_path / "b")
    (moved,) = search(HAVEL, "2017", tmp_path / "b" / "catalogue" / "catalog.json").items
    assert all(Path(a.href).exists() for a in moved.assets)


def test_a_read_only_or_foreign_place_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "in" / "north_2023-05-01_red.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "catalog.json").write_text(json.dumps({"id": "mine"}))
    with pytest.raises(InputError, match="somebody else"):
        stage(tmp_path / "in", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        stage(tmp_path / "in", tmp_path / "file" / "below")


def test_l2a_names_safe_folders_and_resolutions(tmp_path: Path) -> None:
    product = "S2B_MSIL2A_20230510T101601_N0509_R065_T33UUU_20230510T130000"
    data = tmp_path / f"{product}.SAFE" / "GRANULE" / "IMG_DATA"
    coarse = Affine(20, 0, 330000, 0, -20, 5822040)
    image(data / "R10m" / "T33UUU_20230510T101601_B02_10m.tif")
    image(data / "R20m" / "T33UUU_20230510T101601_B02_20m.tif", np.full((30, 30), 9, np.uint16), coarse)
    image(data / "R20m" / "T33UUU_20230510T101601_B8A_20m.tif", np.full((30, 30), 9, np.uint16), coarse)
    image(data / "R20m" / "T33UUU_20230510T101601_SCL_20m.tif", np.full((30, 30), 4, np.uint8), coarse)
    image(data / "R10m" / "T33UUU_20230510T101601_TCI_10m.tif", count=3)  # passed over
    (item,) = search(HAVEL, "2023", stage(tmp_path)).items
    assert item.id == product
    assert item.collection == "staged-l2a"
    assert (item.baseline, item.platform, item.relative_orbit) == ("05.09", "sentinel-2b", 65)
    assert item.bands == ("blue", "nir08", "scl")
    assert item.asset("blue").href.endswith("B02_10m.tif")


def test_generic_names(tmp_path: Path) -> None:
    for name in ("north_2023-05-01_red.tif", "north_2023-05-01_nir.tif", "north_20230611_red.tif"):
        image(tmp_path / name)
    table = search(HAVEL, "2023", stage(tmp_path, collection="fields"))
    assert [(i.id, i.bands) for i in table] == [
        ("north_2023-05-01", ("nir", "red")),
        ("north_20230611", ("red",)),
    ]
    assert {i.collection for i in table} == {"fields"}
    assert table.items[0].datetime == dt.datetime(2023, 5, 1, tzinfo=dt.UTC)


def test_the_level_can_be_given(tmp_path: Path) -> None:
    image(tmp_path / "T33UUU_20230510T101601_B04.tif")
    (item,) = search(HAVEL, "2023", stage(tmp_path, level="L2A")).items
    assert item.collection == "staged-l2a"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    image(tmp_path / "T33UUU_20230510T101601_B02.tif")
    image(tmp_path / "T33UUU_20230510T101601_B03.tif")
    image(tmp_path / "T33UUU_20230510T101601_B04.tif", crs="EPSG:32632")
    image(tmp_path / "T33UUU_20230510T101601_XYZ.tif")
    image(tmp_path / "nodate_red.tif")
    image(tmp_path / "north_2023-13-45_red.tif")
    image(tmp_path / "north_2023-05-01_red_nir.tif")
    image(tmp_path / "north_2023-05-01_green.tif", count=2)
    image(tmp_path / "north_2023-05-01_blue.tif", np.ones((5, 5), np.float32))
    image(tmp_path / "sub" / "north_2023-05-02_red.tif")
    image(tmp_path / "sub2" / "north_2023-05-02_red.tif")
    (tmp_path / "north_2023-05-01_swir16.tif").write_text("no image")
    with pytest.raises(InputError) as caught:
        stage(tmp_path)
    text = str(caught.value)
    for part in (
        "B04.tif: its CRS EPSG:32632 is not that of item",
        "XYZ.tif: no known band",
        "nodate_red.tif: no date",
        "2023-13-45_red.tif: 2023-13-45 in its name is no date",
        "red_nir.tif: several bands",
        "green.tif: has 2 bands",
        "blue.tif: holds float32",
        "is there twice",
        "swir16.tif: cannot be opened",
    ):
        assert part in text
    assert not (tmp_path / "catalog.json").exists()


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no JPEG 2000, GeoTIFF or NetCDF"):
        stage(tmp_path)


def test_the_footprint_is_the_valid_area(tmp_path: Path) -> None:
    values = np.zeros((600, 600), np.uint16)
    values[:, :200] = 5
    image(tmp_path / "north_2023-05-01_red.tif", values)
    (item,) = search(HAVEL, "2023", stage(tmp_path)).items
    to_lonlat = Transformer.from_crs(32633, 4326, always_xy=True)
    assert item.geometry.covers(shapely.Point(to_lonlat.transform(331900, 5819000)))
    assert not item.geometry.covers(shapely.Point(to_lonlat.transform(332200, 5819000)))


def test_a_real_tile_with_no_data_has_a_smaller_footprint(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "full_tile" / "T31TDH_20180101T105441_B01.jp2"
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in")
    (item,) = search(Area.from_bbox((1, 42, 4, 45)), "2018", stage(tmp_path / "in")).items
    with rasterio.open(source) as file:
        valid, bounds, transform = file.read(1) > 0, file.bounds, file.transform
    move = Transformer.from_crs(32631, 4326, always_xy=True)
    whole = shapely.Polygon(np.column_stack(move.transform(*shapely.get_coordinates(shapely.box(*bounds)).T)))
    assert item.geometry.area < 0.95 * whole.area
    rows, cols = np.nonzero(valid)
    pick = np.random.default_rng(0).choice(len(rows), 3000)
    x, y = transform.c + (cols[pick] + 0.5) * transform.a, transform.f + (rows[pick] + 0.5) * transform.e
    assert shapely.covers(item.geometry, shapely.points(*move.transform(x, y))).all()


def test_a_path_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        stage(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()
