"""Radiometry: a table over every real item, the order of the rules, and exact arithmetic."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pytest
import rustac
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.archive.radiometry import Radiometry, radiometry, to_reflectance
from engine.archive.stac import from_stac, item_record
from engine.values.errors import InputError
from tests.archive.samples import record, stac_items

# file: (number of items, offset in DN, part of the recorded reason, why the files must be so)
REAL: dict[str, tuple[int, int, str, str]] = {
    "cdse_36NYH_20200322_reprocessed.json": (
        1, -1000, "baseline 05.00 is 04.00", "ESA's own JP2 (L2A_N0500), made in 2023 of an image of 2020"),
    "es_v0_28QCH_20200714.json": (
        1, 0, "baseline 02.14 is before", "N0214 in sentinel:product_id: the offset did not exist yet"),
    "es_v1_32TPS_20230602.json": (
        1, 0, "taken the offset off; the catalogue claims -1000", "boa_offset_applied: raster:bands is about the JP2"),
    "es_v1_c1_l2a_10_13TDE.json": (
        10, -1000, "baseline 05.10 is 04.00", "Collection 1 as made by ESA: no flag, raster:bands say -0.1 too"),
    "es_v1_l2a_eodm.json": (
        3, 0, "taken the offset off", "boa_offset_applied true in all three, bands read from sentinel-cogs"),
    "pc_06VVN_20190629.json": (1, 0, "baseline 02.12 is before", "made in 2020; no offset before 04.00"),
    "pc_s2l2a_13_35MNM_2020.geojson": (13, 0, "baseline 02.12 is before", "no offset before 04.00"),
    "pc_s2l2a_4_utm46_47_20240419.json": (
        4, -1000, "baseline 05.10 is 04.00", "the Planetary Computer takes nothing off and claims nothing"),
    "pc_s2l2a_9_strip_35M_35L_20200606.geojson": (9, 0, "baseline 02.12 is before", "no offset before 04.00"),
    "stactools_01CCV_20191228_antimeridian.json": (
        1, 0, "baseline 02.12 is before", "read from the product's own metadata: offset 0"),
    "stactools_01WCP_20230625_antimeridian.json": (
        1, -1000, "baseline 05.09 is 04.00", "read from the product's own metadata: -0.1"),
    "stactools_22HBD_20210122_0214.json": (1, 0, "baseline 02.14 is before", "the product's metadata: 0"),
    "stactools_34LBP_20220401_0400.json": (1, -1000, "baseline 04.00 is 04.00", "the first baseline with the offset"),
    "stactools_34LBQ_20220401_0400.json": (
        1, -1000, "claims -7000 DN, which is not followed", "-0.7 would make the darkest ground reflect -60%"),
    "stactools_60CWS_20240109_antimeridian.json": (1, -1000, "baseline 05.10 is 04.00", "the product's metadata: -0.1"),
}  # fmt: skip


def test_every_real_file_is_in_the_table(real_data: Path) -> None:
    assert set(stac_items(real_data / "stac")) == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_every_real_item(real_data: Path, name: str) -> None:
    count, offset, reason, _ = REAL[name]
    records = from_stac(stac_items(real_data / "stac")[name], "/stac/item.json")
    assert len(records) == count
    for item in records:
        decided = radiometry(item)
        assert (decided.offset_dn, decided.scale) == (offset, 1e-4)
        assert reason in decided.reason


def test_every_item_of_the_thousand(real_data: Path) -> None:
    """Planetary Computer, summer 2024: the baseline stands in the product's name, an oracle of its own."""
    found = rustac.read_sync(str(real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"))["features"]
    records = from_stac(found)
    named = [re.search(r"_N(\d{4})_", i["properties"]["s2:product_uri"])[1] for i in found]  # type: ignore[index]
    assert set(named) == {"0510", "0511"}
    for item, number in zip(records, named, strict=True):
        decided = radiometry(item)
        assert (decided.offset_dn, decided.scale) == (-1000, 1e-4)
        assert decided.reason == f"baseline {number[:2]}.{number[2:]} is 04.00 or later"


@pytest.mark.parametrize(
    ("changes", "offset", "scale"),
    [
        ({"baseline": "03.01"}, 0, 1e-4),
        ({"baseline": "04.00"}, -1000, 1e-4),
        ({"baseline": "04.00", "collection": "sentinel-2-l1c"}, -1000, 1e-4),
        ({"baseline": "05.11", "offset_applied": False}, -1000, 1e-4),
        ({"baseline": "05.11", "offset_applied": True}, 0, 1e-4),
        ({"baseline": "02.14", "claimed_offset": -1000.0}, 0, 1e-4),
        ({"baseline": None, "claimed_offset": -1000.0, "claimed_scale": 1e-4}, -1000, 1e-4),
        ({"baseline": None, "claimed_offset": -7272.727273, "claimed_scale": 2.75e-5}, -7272.727273, 2.75e-5),
        ({"baseline": None}, 0, 1e-4),
        # the flag is about bottom-of-atmosphere reflectance: it says nothing of L1C
        ({"baseline": "05.11", "collection": "sentinel-2-l1c", "offset_applied": True}, -1000, 1e-4),
        ({"baseline": "02.04", "collection": "sentinel-2-l1c"}, 0, 1e-4),
        # Earth Search: the same baseline in its two collections
        ({"provider": "earth-search", "baseline": "05.09", "offset_applied": True}, 0, 1e-4),
        ({"provider": "earth-search", "baseline": "05.09", "collection": "sentinel-2-c1-l2a"}, -1000, 1e-4),
        ({"provider": "planetary-computer", "baseline": "05.11"}, -1000, 1e-4),
        ({"provider": "cdse", "baseline": "05.00", "claimed_offset": -1000.0}, -1000, 1e-4),
        ({"provider": "sample", "baseline": "03.01", "claimed_offset": 0.0}, 0, 1e-4),
        # what the pixels showed stands above all
        ({"baseline": "05.09", "probed_offset": 0.0, "probe": "x"}, 0, 1e-4),
        ({"baseline": "02.12", "probed_offset": -1000.0, "probe": "x"}, -1000, 1e-4),
        ({"platform": "sentinel-1a", "baseline": None}, 0, 1.0),
    ],
)
def test_rules(changes: dict[str, object], offset: float, scale: float) -> None:
    decided = radiometry(record(**changes))
    assert (decided.offset_dn, decided.scale) == (offset, scale)
    assert decided.reason


@pytest.mark.parametrize(
    "day", [dt.datetime(2016, 1, 1, tzinfo=dt.UTC), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)]
)
def test_the_date_never_matters(day: dt.datetime) -> None:
    for baseline, offset in (("02.14", 0), ("05.00", -1000)):
        assert radiometry(record(baseline=baseline, datetime=day)).offset_dn == offset
    assert radiometry(record(baseline=None, datetime=day)).offset_dn == 0


def test_a_reason_tells_what_was_not_followed() -> None:
    told = radiometry(record(baseline="05.11", offset_applied=False, claimed_offset=0.0)).reason
    assert "has not taken the offset off" in told
    assert "claims 0 DN, which is not followed" in told
    assert "dark end" in radiometry(record(probed_offset=0.0, probe="dark end (DN) blue 120")).reason


def test_the_flag_and_the_assets_speak_of_the_same_files(real_data: Path) -> None:
    """The JPEG 2000 files beside Earth Search's GeoTIFFs are ESA's and keep the offset."""
    item = stac_items(real_data / "stac")["es_v1_32TPS_20230602.json"][0]
    jp2 = {k: a for k, a in item["assets"].items() if k.endswith("-jp2") or k == "scl"}
    untouched = item_record(item | {"assets": jp2})
    assert all(a.href.endswith(".jp2") for a in untouched.assets if a.band != "scl")
    assert untouched.offset_applied is False
    assert radiometry(untouched).offset_dn == -1000
    mixed = item_record(item | {"assets": jp2 | {"red": item["assets"]["red"]}})
    assert mixed.bands == ("red", "scl")
    assert radiometry(mixed).offset_dn == 0


def test_an_unreadable_baseline_is_an_error() -> None:
    with pytest.raises(InputError, match=r"NN\.NN"):
        radiometry(record(baseline="five"))


@given(hnp.arrays(np.uint16, (3, 17)), st.sampled_from([0, -1000, 1000, -7000]))
def test_integer_arithmetic_is_exact(dn: np.ndarray, offset: int) -> None:
    got = to_reflectance(dn, Radiometry(offset, 1e-4, ""))
    expected = [0 if v == 0 else min(max(int(v) + offset, 1), 65535) for v in dn.ravel().tolist()]
    assert got.dtype == np.uint16
    assert got.ravel().tolist() == expected


@given(hnp.arrays(np.uint16, (50,)))
def test_other_scales_against_plain_floats(dn: np.ndarray) -> None:
    got = to_reflectance(dn, Radiometry(-0.2 / 2.75e-5, 2.75e-5, ""))
    real = (dn.astype(float) * 2.75e-5 - 0.2) * 10000
    assert ((got == 0) == (dn == 0)).all()
    assert (np.abs(got - np.clip(real, 1, 65535))[dn > 0] <= 0.5 + 1e-6).all()


def test_the_input_stays() -> None:
    dn = np.array([0, 5000], np.uint16)
    to_reflectance(dn, Radiometry(-1000, 1e-4, ""))
    assert dn.tolist() == [0, 5000]
