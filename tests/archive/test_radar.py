"""Sentinel-1 of three providers: bands, orbits, datatakes, reprocessed slices; L1C; searching by orbit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.archive.items import drop_superseded
from engine.archive.radar import is_radar
from engine.archive.radiometry import radiometry
from engine.archive.search import search
from engine.archive.stac import item_record
from engine.values.area import Area
from engine.values.bands import band
from engine.values.errors import InputError

SLICE = "S1A_IW_GRDH_1SDV_20230514T165001_20230514T165026_048535_05D680"
NEXT = "S1A_IW_GRDH_1SDV_20230514T165026_20230514T165051_048535_05D680"
AREA = Area.from_bbox((13.0, 52.0, 14.0, 53.0))


def radar(name: str, hrefs: dict[str, str], **facts: Any) -> dict[str, Any]:
    told = {"datetime": "2023-05-14T16:50:13Z", "platform": "sentinel-1a", "constellation": "Sentinel-1"}
    told |= {"sat:orbit_state": "ascending", "sat:relative_orbit": 44, "sat:absolute_orbit": 48535}
    return {
        "type": "Feature",
        "id": name,
        "collection": "sentinel-1-grd",
        "geometry": {"type": "Polygon", "coordinates": [[[12, 51], [15, 51], [15, 54], [12, 54], [12, 51]]]},
        "properties": told | facts,
        "assets": {key: {"href": href} for key, href in hrefs.items()},
        "links": [],
    }


EARTH_SEARCH = radar(
    SLICE,
    {
        "vv": f"s3://sentinel-s1-l1c/GRD/2023/5/14/IW/DV/{SLICE}_6FF8/measurement/iw-vv.tiff",
        "vh": f"s3://sentinel-s1-l1c/GRD/2023/5/14/IW/DV/{SLICE}_6FF8/measurement/iw-vh.tiff",
        "schema-calibration-vv": f"s3://sentinel-s1-l1c/{SLICE}_6FF8/annotation/calibration/calibration-iw-vv.xml",
        "thumbnail": f"s3://sentinel-s1-l1c/{SLICE}_6FF8/preview/quick-look.png",
    },
)
COMPUTER = radar(
    f"{SLICE}_rtc",
    {
        "vv": "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/a/iw-vv.rtc.tiff",
        "vh": "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/a/iw-vh.rtc.tiff",
    },
    platform="SENTINEL-1A",
    **{"proj:epsg": 32633},
) | {"collection": "sentinel-1-rtc"}
CDSE = radar(
    f"{SLICE}_0C1D_COG",
    {
        "VV": "s3://eodata/Sentinel-1/SAR/a/iw-vv-cog.tiff",
        "VH": "s3://eodata/Sentinel-1/SAR/a/iw-vh-cog.tiff",
    },
    **{
        "processing:version": "003.61",
        "eopf:datatake_id": "382592",
        "processing:datetime": "2023-05-14T18:00:00Z",
    },
)


@pytest.mark.parametrize(
    ("item", "provider", "crs"),
    [(EARTH_SEARCH, "earth-search", ""), (COMPUTER, "planetary-computer", "EPSG:32633"), (CDSE, "cdse", "")],
)
def test_three_providers_give_one_picture(item: dict[str, Any], provider: str, crs: str) -> None:
    record = item_record(item)
    assert (record.provider, record.crs, record.bands) == (provider, crs, ("vh", "vv"))
    assert (record.platform, record.relative_orbit, record.orbit_state) == ("sentinel-1a", 44, "ascending")
    assert record.datatake == "sentinel-1a_048535_05D680"
    assert record.datastrip == "20230514T165001_20230514T165026"
    assert (record.baseline, record.tile, record.claimed_offset) == (None, "", None)
    assert (radiometry(record).offset_dn, radiometry(record).scale) == (0.0, 1.0)


def test_slices_of_one_pass_share_their_datatake_and_stay_apart() -> None:
    one, two = item_record(EARTH_SEARCH), item_record(EARTH_SEARCH | {"id": NEXT})
    assert one.datatake == two.datatake
    assert drop_superseded([one, two]) == ([one, two], ())


def test_a_reprocessed_slice_replaces_the_older_one() -> None:
    old = CDSE | {"id": f"{SLICE}_AAAA"}
    new = json.loads(json.dumps(old)) | {"id": f"{SLICE}_0001"}
    new["properties"]["processing:datetime"] = "2024-02-01T00:00:00Z"
    kept, dropped = drop_superseded([item_record(new), item_record(old)])
    assert [r.id for r in kept] == [f"{SLICE}_0001"]
    assert dropped == (f"{SLICE}_AAAA",)


def test_names_and_orbits_without_a_product_name() -> None:
    record = item_record(EARTH_SEARCH | {"id": "scene-7"})
    assert record.datatake == "sentinel-1a_048535"
    assert record.datastrip == ""
    assert not is_radar("S2A_33UUU", {"platform": "Sentinel-2A"})
    nameless = item_record(radar(SLICE, {"vv": "/a.tif"}, platform=None, constellation=None))
    assert nameless.platform == "sentinel-1a"


def test_orbits_and_directions(tmp_path: Path) -> None:
    other = json.loads(json.dumps(EARTH_SEARCH)) | {"id": NEXT}
    other["properties"] |= {"sat:orbit_state": "descending", "sat:relative_orbit": 95}
    (tmp_path / "items.json").write_text(json.dumps([EARTH_SEARCH, other]))

    def found(orbits: Any) -> list[str]:
        return [i.id for i in search(AREA, "2023", tmp_path / "items.json", orbits=orbits)]

    assert found(None) == found((44, 95)) == [SLICE, NEXT]
    assert found((44,)) == found("ascending") == found([44, 95, "ascending"]) == [SLICE]
    assert found("descending") == [NEXT]
    with pytest.raises(
        InputError, match=r"no items of these orbits.*44 ascending, 95 descending.*7, descending"
    ):
        found([7, "descending"])
    for wrong in ("up", ["ascending", "descending"]):
        with pytest.raises(InputError, match="cannot read the orbits"):
            found(wrong)


def test_orbits_of_real_items(real_data: Path) -> None:
    path = real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"
    area = Area.from_bbox((-106, 38, -105, 40))
    every = search(area, "2024", path)
    some = search(area, "2024", path, orbits=[98])
    assert {i.relative_orbit for i in every} > {98}
    assert {i.id for i in some} == {i.id for i in every if i.relative_orbit == 98}
    assert len(search(area, "2024", path, orbits=["descending", 98])) == len(some)
    with pytest.raises(InputError, match="no items of these orbits"):
        search(area, "2024", path, orbits="ascending")


def test_level_1c_of_earth_search() -> None:
    name = "S2A_33UUU_20230510_0_L1C"
    base = "s3://sentinel-s2-l1c/tiles/33/U/UU/2023/5/10/0"
    facts = {"datetime": "2023-05-10T10:16:01Z", "s2:processing_baseline": "05.09", "platform": "sentinel-2a"}
    item = radar(name, {"blue": f"{base}/B02.jp2", "cirrus": f"{base}/B10.jp2"}) | {"properties": facts}
    record = item_record(item | {"collection": "sentinel-2-l1c"})
    assert (record.provider, record.bands) == ("earth-search", ("blue", "cirrus"))
    assert radiometry(record).offset_dn == -1000


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("VV", "vv"), ("vh", "vh"), ("cloud", "cloud"), ("cloud_probability", "cloud"), ("CLDPRB", "cloud"),
        ("MSK_CLDPRB_20m", "cloud"), ("CLD_20m", "cloud"), ("snow", "snow"), ("MSK_SNWPRB_60m", "snow"),
        ("SCL_20m", "scl"), ("B02_10m", "blue"), ("b8a", "nir08"), ("B8A_60m", "nir08"), ("rededge3_60m", "rededge3"),
        ("nir09", "nir09"), ("B2", "blue"),
    ],
)  # fmt: skip
def test_one_vocabulary(key: str, name: str) -> None:
    assert band(key).name == name


def test_probabilities_and_radar_are_no_reflectance() -> None:
    kinds = {n: band(n).kind for n in ("blue", "scl", "cloud", "snow", "vv", "vh")}
    assert kinds == {
        "blue": "reflectance", "scl": "class", "cloud": "probability", "snow": "probability",
        "vv": "backscatter", "vh": "backscatter",
    }  # fmt: skip
