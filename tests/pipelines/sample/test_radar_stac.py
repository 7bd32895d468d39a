from __future__ import annotations

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from pyproj import Transformer
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.extensions.sar import SarExtension
from pystac.extensions.sat import SatExtension

from engine.archive.search import search
from engine.values.area import Area
from pipelines.sample.archive import SampleArchive
from pipelines.sample.radar import LOOKS, RADAR_NODATA
from pipelines.sample.stac import RADAR_COLLECTION
from tests.pipelines.conftest import DATES


@pytest.fixture(scope="module")
def items(two_zones: SampleArchive) -> list[pystac.Item]:
    catalog = pystac.Catalog.from_file(str(two_zones.catalog))
    return [i for i in catalog.get_items(recursive=True) if i.collection_id == RADAR_COLLECTION]


def _open(item: pystac.Item, key: str) -> rasterio.DatasetReader:
    return rasterio.open(Path(item.get_self_href()).parent / item.assets[key].href)


def test_each_pass_has_two_slices_of_two_polarisations(items: list[pystac.Item]) -> None:
    assert len(items) == 2 * 2 * DATES
    for item in items:
        assert set(item.assets) == {"vv", "vh"}
        assert item.properties["landweave:simulated"] is True
    for state, epsg in (("ascending", 32633), ("descending", 32632)):
        own = [i for i in items if SatExtension.ext(i).orbit_state == state]
        assert len(own) == 2 * DATES
        assert {i.properties["proj:code"] for i in own} == {f"EPSG:{epsg}"}
        assert len({SatExtension.ext(i).relative_orbit for i in own}) == 1


def test_the_extensions_read_what_the_files_say(items: list[pystac.Item]) -> None:
    for item in items:
        sar = SarExtension.ext(item)
        assert (sar.instrument_mode, sar.product_type, sar.looks_equivalent_number) == ("IW", "RTC", LOOKS)
        for key, asset in item.assets.items():
            with _open(item, key) as source:
                proj = ProjectionExtension.ext(asset)
                assert proj.code == source.crs.to_string()
                assert proj.shape == list(source.shape)
                assert proj.transform == list(source.transform)[:6]
                layer = RasterExtension.ext(asset).bands[0]
                assert layer.nodata == source.nodata == RADAR_NODATA
                assert layer.data_type == source.dtypes[0] == "float32"
                values = source.read(1)
            valid = values != RADAR_NODATA
            assert values[valid].min() > 0
            assert 0.01 < values[valid].mean() < 0.3, "linear power, not decibels"


def test_footprints_are_the_valid_pixels(items: list[pystac.Item]) -> None:
    for item in items:
        degrees = shapely.geometry.shape(item.geometry)
        assert degrees.is_valid
        to_utm = Transformer.from_crs(4326, item.properties["proj:code"], always_xy=True)
        ground = shapely.transform(degrees, lambda xy, t=to_utm: np.stack(t.transform(*xy.T), axis=1))
        with _open(item, "vv") as source:
            valid = source.read(1) != RADAR_NODATA
            x, y = (np.array(v).reshape(valid.shape) for v in source.xy(*np.indices(valid.shape)))
        inside = shapely.contains_xy(ground, x.ravel(), y.ravel()).reshape(valid.shape)
        differs = inside != valid
        assert differs.mean() < 2e-3
        assert (shapely.distance(ground.boundary, shapely.points(x[differs], y[differs])) < 1).all()


def test_the_search_knows_orbit_datatake_and_slices(two_zones: SampleArchive) -> None:
    area = Area.from_file(two_zones.territory)
    table = search(area, "2023-03/2023-10", two_zones.catalog, collection=RADAR_COLLECTION)
    assert len(table) == 2 * 2 * DATES
    assert table.superseded == ()
    assert {(i.relative_orbit, i.orbit_state) for i in table} == {(117, "ascending"), (168, "descending")}
    assert len({i.datatake for i in table}) == 2 * DATES
    assert {i.bands for i in table} == {("vh", "vv")}
    for item in table:
        north = [o for o in table if o.datatake == item.datatake]
        assert len(north) == 2
    southward = [i for i in table if i.orbit_state == "descending"][:2]
    first, second = sorted(southward, key=lambda i: i.id)
    assert first.geometry.centroid.y > second.geometry.centroid.y, "descending passes see the north first"
