"""Radiometry: a table over every real item, the order of the rules, and exact arithmetic."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.archive.radiometry import Radiometry, radiometry, to_reflectance
from engine.archive.stac import from_stac
from engine.values.errors import InputError
from tests.archive.samples import record, stac_items

REAL = {
    "cdse_36NYH_20200322_reprocessed.json": (-1000, "05.00"),  # an image of 2020, processed in 2023
    "es_v0_28QCH_20200714.json": (0, "02.14"),
    "es_v1_32TPS_20230602.json": (0, "taken the offset off; the catalogue claims -1000"),
    "es_v1_c1_l2a_10_13TDE.json": (-1000, "05.10"),
    "es_v1_l2a_eodm.json": (0, "taken the offset off"),
    "pc_06VVN_20190629.json": (0, "02.12"),
    "pc_s2l2a_13_35MNM_2020.geojson": (0, "02.12"),
    "pc_s2l2a_4_utm46_47_20240419.json": (-1000, "05.10"),
    "pc_s2l2a_9_strip_35M_35L_20200606.geojson": (0, "02.12"),
    "stactools_01CCV_20191228_antimeridian.json": (0, "02.12"),
    "stactools_01WCP_20230625_antimeridian.json": (-1000, "05.09"),
    "stactools_22HBD_20210122_0214.json": (0, "02.14"),
    "stactools_34LBP_20220401_0400.json": (-1000, "04.00"),
    "stactools_34LBQ_20220401_0400.json": (-1000, "claims -7000 DN, which is not followed"),
    "stactools_60CWS_20240109_antimeridian.json": (-1000, "05.10"),
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_item(real_data: Path, name: str) -> None:
    offset, reason = REAL[name]
    records = from_stac(stac_items(real_data / "stac")[name], "/stac/item.json")
    assert records
    for item in records:
        decided = radiometry(item)
        assert (decided.offset_dn, decided.scale) == (offset, 1e-4)
        assert reason in decided.reason


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
