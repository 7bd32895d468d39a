from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rustac
import shapely
from pyproj import Transformer
from pystac.extensions.eo import EOExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.extensions.sat import OrbitState, SatExtension
from pystac.extensions.view import ViewExtension
from pystac.validation import validate_dict

from engine.values.bands import band
from pipelines.sample.archive import SampleArchive
from pipelines.sample.stac import COLLECTION


@pytest.fixture(scope="module")
def items(two_zones: SampleArchive) -> list[pystac.Item]:
    """The items of Sentinel-2; those of Sentinel-1 have a module of their own."""
    catalog = pystac.Catalog.from_file(str(two_zones.catalog))
    return [i for i in catalog.get_items(recursive=True) if i.collection_id == COLLECTION]


def _open(item: pystac.Item, key: str) -> rasterio.DatasetReader:
    return rasterio.open(Path(item.get_self_href()).parent / item.assets[key].href)


def test_the_catalogue_is_valid_stac(two_zones: SampleArchive) -> None:
    files = [two_zones.catalog, *two_zones.root.glob("sentinel-*/**/*.json")]
    assert len(files) == 1 + 2 + 16 + 16
    for path in files:
        assert validate_dict(json.loads(path.read_text()), extensions=[])


def test_an_invalid_item_would_be_found(items: list[pystac.Item]) -> None:
    broken = items[0].to_dict()
    broken["properties"].pop("datetime")
    with pytest.raises(pystac.STACValidationError):
        validate_dict(broken, extensions=[])


def test_all_hrefs_are_relative_and_lead_to_files(two_zones: SampleArchive, items: list[pystac.Item]) -> None:
    assert str(two_zones.root) not in two_zones.catalog.read_text()
    for item in items:
        assert len(item.assets) == 13
        for asset in item.assets.values():
            assert asset.href.startswith("./")
            assert (Path(item.get_self_href()).parent / asset.href).exists()


def test_the_extensions_read_what_the_files_say(items: list[pystac.Item]) -> None:
    for item in items:
        for key, asset in item.assets.items():
            with _open(item, key) as source:
                proj = ProjectionExtension.ext(asset)
                assert proj.code == source.crs.to_string()
                assert proj.shape == list(source.shape)
                assert proj.transform == list(source.transform)[:6]
                layer = RasterExtension.ext(asset).bands[0]
                assert layer.nodata == source.nodata
                assert layer.data_type == source.dtypes[0]
                assert layer.spatial_resolution == source.res[0]
            if key != "scl":
                assert EOExtension.ext(asset).bands[0].common_name == key
                assert band(key).name == key


def test_scale_and_offset_follow_the_baseline(items: list[pystac.Item]) -> None:
    offsets = set()
    for item in items:
        layer = RasterExtension.ext(item.assets["red"]).bands[0]
        later = item.properties["s2:processing_baseline"] >= "04.00"
        assert (layer.scale, layer.offset) == (0.0001, -0.1 if later else 0)
        offsets.add(layer.offset)
    assert offsets == {0, -0.1}


def test_orbit_sun_and_platform(items: list[pystac.Item]) -> None:
    orbits = {SatExtension.ext(i).relative_orbit for i in items}
    assert orbits == {22, 122}
    for item in items:
        assert SatExtension.ext(item).orbit_state == OrbitState.DESCENDING
        assert 25 < ViewExtension.ext(item).sun_elevation < 66
        properties = item.properties
        assert properties["grid:code"] == f"MGRS-{properties['s2:mgrs_tile']}"
        assert properties["constellation"] == "sentinel-2"
        assert properties["landweave:simulated"] is True
        assert properties["s2:datatake_id"].startswith(f"GS2{properties['platform'][-1].upper()}_2023")
    of_takes = {i.properties["s2:datatake_id"] for i in items}
    assert len(of_takes) < len(items), "two tiles share a datatake"


def test_cloud_cover_is_counted_from_the_scene_classification(items: list[pystac.Item]) -> None:
    covers = []
    for item in items:
        with _open(item, "scl") as source:
            scl = source.read(1)
        cloud = 100 * np.isin(scl, [8, 9, 10]).sum() / (scl > 0).sum()
        assert EOExtension.ext(item).cloud_cover == pytest.approx(cloud, abs=1e-3)
        covers.append(cloud)
    assert max(covers) > 10


def test_footprints_are_the_valid_pixels(items: list[pystac.Item]) -> None:
    partial = {"EPSG:32632": 0, "EPSG:32633": 0}
    for item in items:
        zone = item.properties["proj:code"]
        to_utm = Transformer.from_crs("EPSG:4326", zone, always_xy=True)
        degrees = shapely.geometry.shape(item.geometry)
        assert degrees.is_valid
        assert shapely.is_ccw(degrees.exterior), "RFC 7946"
        assert item.bbox == pytest.approx(degrees.bounds, abs=1e-6)
        ground = shapely.transform(degrees, lambda xy: np.stack(to_utm.transform(*xy.T), axis=1))
        with _open(item, "red") as source:
            valid = source.read(1) > 0
            x, y = (np.array(v).reshape(valid.shape) for v in source.xy(*np.indices(valid.shape)))
        inside = shapely.contains_xy(ground, x.ravel(), y.ravel()).reshape(valid.shape)
        differs = inside != valid
        at_edge = np.abs(shapely.distance(ground.boundary, shapely.points(x[differs], y[differs])))
        assert differs.mean() < 1e-3
        assert (at_edge < 1).all()
        partial[zone] += not valid.all()
    assert min(partial.values()) >= 2


def test_geoparquet_holds_the_items_of_the_catalogue(
    two_zones: SampleArchive, items: list[pystac.Item]
) -> None:
    read = {i["id"]: i for i in rustac.read_sync(str(two_zones.items_parquet))["features"]}
    assert set(read) == {i.id for i in items}
    for item in items:
        row, wanted = read[item.id], item.to_dict(include_self_link=False)
        assert row["collection"] == COLLECTION
        assert row["bbox"] == pytest.approx(wanted["bbox"])
        assert shapely.geometry.shape(row["geometry"]).equals(shapely.geometry.shape(wanted["geometry"]))
        for key, value in wanted["properties"].items():
            if key in {"created", "datetime"}:
                got, value = (dt.datetime.fromisoformat(v) for v in (row["properties"][key], value))
                assert got == value, key
            else:
                assert row["properties"][key] == value, key
        for key, asset in wanted["assets"].items():
            got = row["assets"][key]
            assert (two_zones.root / got.pop("href")).samefile(
                Path(item.get_self_href()).parent / asset.pop("href")
            )
            assert {k: v for k, v in got.items() if v is not None} == asset, key
