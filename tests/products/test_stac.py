from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import pystac
import pytest
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from shapely.geometry import Point, shape

from engine.products.stac import MapProduct, ModelRef, Terms, write_stac
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from tests.products.stac_rules import validate

SCHEME = ClassScheme(
    classes=(
        LandClass(value=1, name="winter wheat", colour="#e3b448"),
        LandClass(value=4, name="forêt", colour="#106010"),
    )
)


@pytest.fixture
def product(tmp_path: Path) -> MapProduct:
    (tmp_path / "cog").mkdir()
    (tmp_path / "map.zarr").mkdir()
    files = {"label": "cog/label.tif", "confidence": "cog/confidence.tif", "quicklook": "quicklook.png"}
    for name in (*files.values(), "cog/label.qml", "cog/probability.tif"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    return MapProduct(
        id="lux-2023",
        title="Luxembourg 2023",
        grid=Grid("EPSG:32631", (10.0, 10.0)),
        box=Box(-555_000, 70_000, -550_000, 76_000),
        scheme=SCHEME,
        start=dt.date(2023, 3, 1),
        end=dt.date(2023, 10, 31),
        files={k: tmp_path / v for k, v in files.items()}
        | {
            "style": tmp_path / "cog/label.qml",
            "map": tmp_path / "map.zarr",
            "probability": tmp_path / "cog/probability.tif",
        },
        model=ModelRef("unet-small", str(tmp_path / "bundle/manifest.json"), "ab" * 32),
        sources=(str(tmp_path / "items.parquet"), "https://earth-search.example/collections/s2"),
        version="0.1.0",
        created=dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    )


def test_item_and_collection_are_valid(product: MapProduct, tmp_path: Path) -> None:
    path = write_stac(tmp_path / "stac", replace(product, terms=Terms(licence="CC-BY-4.0")))
    assert path == tmp_path / "stac/lux-2023.json"
    item, collection = (json.loads(p.read_text()) for p in (path, path.with_name("collection.json")))
    validate(item)
    validate(collection)
    validate(json.loads(path.with_name("catalog.json").read_text()))
    assert item["stac_version"] == collection["stac_version"] == "1.1.0"
    assert (item["properties"]["start_datetime"], item["properties"]["end_datetime"]) == (
        "2023-03-01T00:00:00Z",
        "2023-10-31T23:59:59Z",
    )
    assert item["properties"]["datetime"] is None
    assert item["properties"]["processing:software"] == {"landweave": "0.1.0"}
    assert collection["license"] == "CC-BY-4.0"
    with pytest.raises(Exception, match="required"):  # the validator does validate
        validate({k: v for k, v in item.items() if k != "assets"})


def test_all_links_are_relative_and_lead_somewhere(product: MapProduct, tmp_path: Path) -> None:
    path = write_stac(tmp_path / "stac", product)
    item = json.loads(path.read_text())
    hrefs = [a["href"] for a in item["assets"].values()]
    hrefs += [k["href"] for k in item["links"] if k["rel"] not in ("derived_from",)]
    assert not any(h.startswith("/") or "://" in h or str(tmp_path) in h for h in hrefs)
    assert all((path.parent / h).exists() for h in hrefs)
    derived = {k["href"]: k for k in item["links"] if k["rel"] == "derived_from"}
    assert set(derived) == {
        "../items.parquet",
        "../bundle/manifest.json",
        "https://earth-search.example/collections/s2",
    }
    model = derived["../bundle/manifest.json"]
    assert (model["mlm:name"], model["processing:level"]) == ("unet-small", "L4")
    expression = item["properties"]["processing:expression"]
    assert expression == {"format": "stac-mlm", "expression": "../bundle/manifest.json"}
    collection = pystac.Collection.from_file(str(path.with_name("collection.json")))
    (read,) = collection.get_items()
    assert read.id == "lux-2023"
    assert read.collection_id == collection.id


def test_the_extensions_read_back(product: MapProduct, tmp_path: Path) -> None:
    item = pystac.Item.from_file(str(write_stac(tmp_path / "stac", product)))
    projection = ProjectionExtension.ext(item)
    assert (projection.code, projection.shape) == ("EPSG:32631", [5000, 6000])
    assert projection.transform == [10.0, 0.0, 700_000.0, 0.0, -10.0, 5_550_000.0]
    assert projection.bbox == [700_000.0, 5_500_000.0, 760_000.0, 5_550_000.0]

    label = item.assets["label"]
    classes = ClassificationExtension.ext(label).classes
    assert [(c.value, c.name, c.title, c.color_hint, c.nodata) for c in classes] == [
        (0, "no_data", "no data", None, True),
        (1, "winter_wheat", "winter wheat", "E3B448", None),
        (4, "for_t", "forêt", "106010", None),
    ]
    (band,) = RasterExtension.ext(label).bands
    assert (band.nodata, band.data_type, band.spatial_resolution) == (0, "uint8", 10.0)
    (band,) = RasterExtension.ext(item.assets["confidence"]).bands
    assert (band.nodata, band.scale) == (255, 1 / 250)
    assert len(RasterExtension.ext(item.assets["probability"]).bands) == 2
    assert [b["name"] for b in item.assets["probability"].to_dict()["bands"]] == ["winter wheat", "forêt"]

    file = FileExtension.ext(label)
    content = (tmp_path / "cog/label.tif").read_bytes()
    assert file.size == len(content)
    assert file.checksum == "1220" + hashlib.sha256(content).hexdigest()
    assert FileExtension.ext(item.assets["map"]).checksum is None  # a folder has no one checksum
    assert {k: a.roles for k, a in item.assets.items()} == {
        "label": ["data"],
        "confidence": ["data"],
        "probability": ["data"],
        "map": ["data"],
        "quicklook": ["overview"],
        "style": ["style"],
    }


def test_footprint_is_the_box_or_the_outline(product: MapProduct, tmp_path: Path, real_data: Path) -> None:
    item = pystac.Item.from_file(str(write_stac(tmp_path / "a", product)))
    polygon = shape(item.geometry)
    left, bottom, right, top = product.grid.bounds_of_box(product.box)
    corners = geopandas.points_from_xy([left, left, right, right], [bottom, top, bottom, top], crs=32631)
    assert polygon.exterior.is_ccw
    assert max(polygon.distance(Point(c.x, c.y)) for c in corners.to_crs(4326)) < 1e-6
    assert polygon.bounds == tuple(item.bbox or ())
    countries = geopandas.read_file(real_data / "boundaries/ne_110m/naturalearth_lowres.shp")
    outline = countries.loc[countries["name"] == "Luxembourg", "geometry"].iloc[0]
    around = product.grid.box_of_bounds(gpd_bounds(outline))
    item = pystac.Item.from_file(
        str(write_stac(tmp_path / "b", replace(product, outline=outline, box=around)))
    )
    assert shape(item.geometry).equals(outline)
    validate(item.to_dict(include_self_link=False))


def gpd_bounds(outline: Any) -> tuple[float, float, float, float]:
    west, south, east, north = geopandas.GeoSeries([outline], crs=4326).to_crs(32631).total_bounds
    return float(west), float(south), float(east), float(north)


def test_a_crs_without_code_is_written_in_full(product: MapProduct, tmp_path: Path) -> None:
    laea = Grid.make("+proj=laea +lat_0=50 +lon_0=6 +ellps=GRS80 +units=m +type=crs", 10)
    own = replace(product, grid=laea, box=Box(-100, -100, 100, 100))
    item = pystac.Item.from_file(str(write_stac(tmp_path / "stac", own)))
    projection = ProjectionExtension.ext(item)
    assert projection.code is None
    assert (projection.wkt2 or "").startswith("PROJCRS")
    lon, lat = (sum(item.bbox[i::2]) / 2 for i in (0, 1))  # type: ignore[index]
    assert (round(lon, 3), round(lat, 3)) == (6.0, 50.0)


def test_what_cannot_be_described_is_refused(product: MapProduct, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        write_stac(tmp_path, replace(product, files={"label": tmp_path / "absent.tif"}))
    with pytest.raises(InputError, match="id"):
        write_stac(tmp_path, replace(product, id="../x"))
    with pytest.raises(InputError, match="ends before"):
        write_stac(tmp_path, replace(product, end=dt.date(2022, 1, 1)))
    assert not list(tmp_path.glob("*.json"))
