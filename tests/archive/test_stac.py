"""Every real item of four providers becomes the record that its metadata says."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely

from engine.archive.items import ItemRecord
from engine.archive.stac import absolute_href, from_stac, item_record, unsigned
from engine.values.bands import BANDS
from engine.values.errors import DataError, InputError
from tests.archive.samples import stac_items

L2A_BANDS = tuple(sorted(b.name for b in BANDS if b.name not in ("cirrus", "cloud", "snow", "vv", "vh")))
WITH_PROBABILITIES = ("es_v1_c1_", "stactools_34L", "stactools_60C")  # cloud and snow, 20 m
FILE_NAMES = {"cloud": "CLD", "snow": "SNW"}

# file: provider, baseline, CRS, tile, relative orbit, offset applied, claimed offset in DN
EXPECTED: dict[str, tuple[Any, ...]] = {
    "cdse_36NYH_20200322_reprocessed.json": ("cdse", "05.00", 32636, "36NYH", 135, None, -1000),
    "es_v0_28QCH_20200714.json": ("earth-search", "02.14", 32628, "28QCH", 123, None, None),
    "es_v1_32TPS_20230602.json": ("earth-search", "05.09", 32632, "32TPS", 22, True, -1000),
    "es_v1_c1_l2a_10_13TDE.json": ("earth-search", "05.10", 32613, "13TDE", 98, None, -1000),
    "es_v1_l2a_eodm.json": ("earth-search", "05.09", 32639, "39QTA", 106, True, -1000),
    "pc_06VVN_20190629.json": ("planetary-computer", "02.12", 32606, "06VVN", 43, None, None),
    "pc_s2l2a_13_35MNM_2020.geojson": ("planetary-computer", "02.12", 32735, "35MNM", 78, None, None),
    "pc_s2l2a_4_utm46_47_20240419.json": ("planetary-computer", "05.10", 32647, "47XML", 122, None, None),
    "pc_s2l2a_9_strip_35M_35L_20200606.geojson": (
        "planetary-computer",
        "02.12",
        32735,
        "35MNM",
        78,
        None,
        None,
    ),
    "stactools_01CCV_20191228_antimeridian.json": ("other", "02.12", 32701, "01CCV", 71, None, 0),
    "stactools_01WCP_20230625_antimeridian.json": ("other", "05.09", 32601, "01WCP", 73, None, -1000),
    "stactools_22HBD_20210122_0214.json": ("other", "02.14", 32722, "22HBD", 81, None, 0),
    "stactools_34LBP_20220401_0400.json": ("other", "04.00", 32734, "34LBP", None, None, -1000),
    "stactools_34LBQ_20220401_0400.json": ("other", "04.00", 32734, "34LBQ", 64, None, -7000),
    "stactools_60CWS_20240109_antimeridian.json": ("other", "05.10", 32760, "60CWS", None, None, -1000),
}


def test_every_file_is_expected(real_data: Path) -> None:
    assert set(stac_items(real_data / "stac")) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_real_items(real_data: Path, name: str) -> None:
    provider, baseline, epsg, tile, orbit, applied, claimed = EXPECTED[name]
    items = stac_items(real_data / "stac")[name]
    records = from_stac(items, str(real_data / "stac" / name))
    assert [r.id for r in records] == [i["id"] for i in items]
    assert {(r.provider, r.baseline) for r in records} == {(provider, baseline)}
    first = records[0]
    assert (first.crs, first.tile, first.relative_orbit) == (f"EPSG:{epsg}", tile, orbit)
    assert (first.offset_applied, first.claimed_offset) == (applied, claimed)
    for record, item in zip(records, items, strict=True):
        more = ("cloud", "snow") if name.startswith(WITH_PROBABILITIES) else ()
        assert record.bands == tuple(sorted((*L2A_BANDS, *more)))
        assert record.orbit_state == item["properties"].get("sat:orbit_state", "")
        _check_against_the_item(record, item)


def _check_against_the_item(record: ItemRecord, item: dict[str, Any]) -> None:
    facts = item["properties"]
    assert record.datetime == dt.datetime.fromisoformat(facts["datetime"])
    assert record.cloud_cover == facts["eo:cloud_cover"]
    assert shapely.equals(record.geometry, shapely.geometry.shape(item["geometry"]))
    told = facts.get("s2:datatake_id") or facts.get("eopf:datatake_id")
    if told:
        assert told.startswith(record.datatake)
        assert "_N" not in record.datatake
    for asset in record.assets:
        assert "://" in asset.href or Path(asset.href).is_absolute()
        assert "sig=" not in asset.href
        name = Path(asset.href).name
        msi = FILE_NAMES.get(asset.band) or next(b for b in BANDS if b.name == asset.band).msi
        assert msi in name, f"{asset.band} is read from {name}"  # the file name is an oracle of its own
        native = next(b for b in BANDS if b.name == asset.band).resolution_m
        assert f"{native}m" in asset.href or not any(f"{m}m" in asset.href for m in (10, 20, 60))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_pystac_item_gives_the_same_record(real_data: Path, name: str) -> None:
    base = str(real_data / "stac" / name)
    for item in stac_items(real_data / "stac")[name][:3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pystac announces what it migrates
            parsed = pystac.Item.from_dict(item)
        assert item_record(parsed, base) == item_record(item, base)


def test_offset_applied_items_read_the_cogs_and_not_the_untouched_jp2(real_data: Path) -> None:
    for item in stac_items(real_data / "stac")["es_v1_l2a_eodm.json"]:
        assert any(k.endswith("-jp2") for k in item["assets"])
        assert all(a.href.endswith(".tif") for a in item_record(item).assets)


def _item(**changes: Any) -> dict[str, Any]:
    item = {
        "type": "Feature",
        "id": "S2A_33UUU",
        "geometry": {"type": "Polygon", "coordinates": [[[13, 52], [14, 52], [14, 53], [13, 52]]]},
        "properties": {"datetime": "2023-05-01T10:00:00Z", "platform": "Sentinel-2A"},
        "assets": {"B04": {"href": "https://h.net/B04.tif"}},
        "links": [],
    }
    return item | changes


def test_signatures_never_reach_a_record() -> None:
    href = "https://a.blob.core.windows.net/c/B04.tif?st=1&se=2&sp=r&sv=2021&sr=c&skoid=x&sig=SECRET"
    record = item_record(_item(assets={"B04": {"href": href}}))
    assert record.asset("red").href == "https://a.blob.core.windows.net/c/B04.tif"
    assert record.provider == "planetary-computer"


@pytest.mark.parametrize(
    ("href", "clean"),
    [
        ("https://h/a.tif?X-Amz-Signature=1&X-Amz-Date=2", "https://h/a.tif"),
        ("https://h/a.tif?token=1&version=3", "https://h/a.tif?version=3"),
        ("https://h/a.tif?version=3&b=%20x", "https://h/a.tif?version=3&b=%20x"),
        ("https://h/a.tif?sv=3", "https://h/a.tif?sv=3"),  # no signature: sv may be anything
        ("s3://eodata/B04.jp2", "s3://eodata/B04.jp2"),
        ("/data/odd?name.tif", "/data/odd?name.tif"),
    ],
)
def test_unsigned(href: str, clean: str) -> None:
    assert unsigned(href) == clean
    assert unsigned(clean) == clean


def test_relative_hrefs() -> None:
    assert absolute_href("file:///a/b.tif", None) == "/a/b.tif"
    assert absolute_href("/vsicurl/https://h/b.tif", None) == "/vsicurl/https://h/b.tif"
    with pytest.raises(InputError, match="relative"):
        absolute_href("b.tif", None)


def test_time_zones_and_missing_times() -> None:
    moved = _item(properties={"datetime": None, "start_datetime": "2023-05-01T12:00:00+02:00"})
    assert item_record(moved).datetime == dt.datetime(2023, 5, 1, 10, tzinfo=dt.UTC)
    for facts in ({}, {"datetime": "yesterday"}):
        with pytest.raises(DataError, match="S2A_33UUU"):
            item_record(_item(properties=facts))


def test_no_footprint() -> None:
    record = item_record(_item(geometry=None, bbox=[13, 52, 14, 53]))
    assert record.geometry.bounds == (13, 52, 14, 53)
    with pytest.raises(DataError, match="geometry"):
        item_record(_item(geometry=None))


def test_claims_that_differ_between_bands_are_no_claim() -> None:
    def asset(offset: float) -> dict[str, Any]:
        return {"href": "https://h/x.tif", "raster:bands": [{"scale": 0.0001, "offset": offset}]}

    both = item_record(_item(assets={"B04": asset(-0.1), "B03": asset(0.0)}))
    assert both.claimed_offset is None
    assert both.claimed_scale is None
    assert item_record(_item(assets={"B04": asset(-0.1)})).claimed_offset == -1000


def test_sample_collections_and_unknown_ones() -> None:
    assert item_record(_item(collection="landweave-sample")).provider == "sample"
    assert item_record(_item(collection="x")).provider == "other"


def test_a_picture_of_three_bands_is_no_band() -> None:
    rgb = [{"name": "B04"}, {"name": "B03"}, {"name": "B02"}]
    record = item_record(_item(assets={"red": {"href": "https://h/tci.tif", "eo:bands": rgb}}))
    assert record.bands == ()
