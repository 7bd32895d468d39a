"""The probe on real pixels with and without a thousand added, its policies, and what it leaves undecided."""

from __future__ import annotations

import dataclasses
import datetime as dt
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from engine.archive import probe as probing
from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.archive.probe import MIN_PIXELS, RadiometryWarning, dark_end, presence, probe
from engine.archive.radiometry import radiometry
from engine.values.bands import band
from engine.values.errors import DataError
from tests.archive.samples import record

YEAR = (dt.date(2017, 1, 1), dt.date(2017, 12, 31))
L1C = "s2_l1c_33UUU/T33UUU_20170216T102101"
L1C_BANDS = ("B02", "B04", "B8A", "B12")


@pytest.fixture(scope="module")
def winter(real_data: Path) -> dict[str, np.ndarray]:
    """Real L1C of February 2017: frozen lakes, haze; made before the offset existed."""
    found = {}
    for name in L1C_BANDS:
        with rasterio.open(real_data / f"{L1C}_{name}.jp2") as file:
            found[name] = file.read(1)
    return found


def scene(folder: Path, values: dict[str, np.ndarray], name: str = "a", **changes: object) -> ItemRecord:
    assets = []
    for key, plane in values.items():
        path = folder / f"{name}_{key}.tif"
        size = band(key).resolution_m
        with rasterio.open(
            path, "w", driver="GTiff", height=plane.shape[0], width=plane.shape[1], count=1, dtype="uint16",
            crs="EPSG:32633", transform=Affine(size, 0, 3e5, 0, -size, 5e6), nodata=0,
        ) as file:  # fmt: skip
            file.write(plane, 1)
        assets.append(AssetRecord(band(key).name, str(path), 0.0))
    return record(name, assets=tuple(sorted(assets)), **changes)


def raised(values: dict[str, np.ndarray], by: int = 1000) -> dict[str, np.ndarray]:
    return {k: np.where(v > 0, v + by, 0).astype(np.uint16) for k, v in values.items()}


def table(*items: ItemRecord) -> ItemTable:
    return ItemTable(items, YEAR)


def test_the_dark_end_is_the_first_hundredth() -> None:
    values = np.random.default_rng(2).permutation(np.arange(1, 10001)).reshape(100, 100).astype(np.uint16)
    assert dark_end(values) == np.percentile(values, 1, method="lower") == 100


def test_pixels_beside_no_data_do_not_count() -> None:
    values = np.full((100, 100), 3000, np.uint16)
    values[:, :40] = 0
    values[:, 40:42] = 200  # what averaging makes of valid pixels beside no data
    assert dark_end(values) == 3000
    assert dark_end(np.zeros((100, 100), np.uint16)) is None
    assert dark_end(np.full((31, 31), 5, np.uint16)) is None
    assert MIN_PIXELS > 31 * 31


def test_real_l1c_without_and_with_a_thousand_added(winter: dict[str, np.ndarray]) -> None:
    ends = {band(k).name: dark_end(v) for k, v in winter.items()}
    assert ends == {"blue": 1200, "red": 608, "nir08": 448, "swir22": 64}
    assert presence(ends) == "no offset"
    assert presence({k: dark_end(v) for k, v in zip(ends, raised(winter).values(), strict=True)}) == "offset"


def test_real_l2a_of_two_seasons(real_data: Path) -> None:
    with rasterio.open(real_data / "s2_ftw_austria" / "inference-img.tif") as file:
        for first in (1, 5):
            window = {n: file.read(first + i) for i, n in enumerate(("red", "green", "blue", "nir"))}
            plain = {k: dark_end(v) for k, v in window.items() if k != "green"}
            more = {k: dark_end(v) for k, v in raised(window).items() if k != "green"}
            assert (presence(plain), presence(more)) == ("no offset", "offset")


def test_real_cloudy_series_are_never_decided_wrongly(real_data: Path) -> None:
    """Dates of small cubes, most overcast, reflectance x 10000 without offset; fields without dark water."""
    seen = {0: Counter[str](), 1000: Counter[str]()}
    for name in ("test_optical_cube", "cdse_sentinel2_l2a", "openEO_1", "openEO_3"):
        with xr.open_dataset(real_data / "s2_l2a_openeo" / f"{name}.nc", decode_cf=False) as cube:
            bands = [v for v in cube.data_vars if str(v)[-3:] in ("B02", "B04", "B08", "B11")]
            for date in range(cube.sizes["t"]):
                for added, count in seen.items():
                    planes = {band(str(b)[-3:]).name: cube[b].values[date] for b in bands}
                    planes = {
                        k: np.where((v > 0) & (v < 32767), v + added, 0).astype(np.uint16)
                        for k, v in planes.items()
                    }
                    ends = {k: e for k, v in planes.items() if (e := dark_end(v)) is not None}
                    count[presence(ends)] += 1
    assert seen[0]["offset"] == 0
    assert seen[1000]["no offset"] == 0
    assert seen[0]["no offset"] == 7  # the clear dates


@given(st.lists(st.integers(1, 9000), min_size=3, max_size=4))
def test_the_same_pixels_are_never_called_both(dark: list[int]) -> None:
    """Whatever the ground, adding a thousand never turns 'offset' into 'no offset' or the reverse into a lie."""
    names = ("blue", "red", "swir22", "nir08")[: len(dark)]
    plain = presence(dict(zip(names, dark, strict=True)))
    more = presence(dict(zip(names, [d + 1000 for d in dark], strict=True)))
    assert more != "no offset"
    if more == "offset":
        assert plain == "no offset"


@pytest.mark.parametrize(
    ("baseline", "added", "verdict"),
    [
        ("02.04", 0, "agrees"),
        ("05.00", 1000, "agrees"),
        ("02.04", 1000, "contradicts"),
        ("05.00", 0, "contradicts"),
    ],
)
def test_verdicts_on_real_files(
    winter: dict[str, np.ndarray], tmp_path: Path, baseline: str, added: int, verdict: str
) -> None:
    item = scene(tmp_path, raised(winter, added) if added else winter, baseline=baseline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RadiometryWarning)
        (said,) = probe(table(item)).items
    assert said.probe.startswith(f"{verdict}: dark end (DN)")
    assert dataclasses.replace(said, probe="") == item  # a warning changes nothing else
    assert said.digest() == item.digest()


def test_warn_fail_and_trust(winter: dict[str, np.ndarray], tmp_path: Path) -> None:
    wrong = scene(tmp_path, winter, "wrong", baseline="05.00")
    right = scene(tmp_path, winter, "right", baseline="02.04")
    with pytest.warns(RadiometryWarning, match=r"1 item\(s\) contradict.*\n  wrong: contradicts"):
        warned = probe(table(wrong, right))
    assert [radiometry(i).offset_dn for i in warned] == [0, -1000]
    with pytest.raises(DataError, match=r"item wrong.*dark end.*no offset.*-1000 DN \(baseline 05.00"):
        probe(table(wrong, right), "fail")
    trusted = probe(table(wrong, right), "trust")
    assert [radiometry(i).offset_dn for i in trusted] == [0, 0]
    assert [i.probed_offset for i in trusted] == [None, 0.0]
    assert "the pixels decide: contradicts: dark end" in radiometry(trusted.items[1]).reason
    assert trusted.digest() != warned.digest() == table(wrong, right).digest()


def test_a_probed_table_survives_parquet_and_is_not_looked_at_again(
    winter: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = probe(table(scene(tmp_path, winter, baseline="05.00")), "trust")
    trusted.to_parquet(tmp_path / "items.parquet")
    back = ItemTable.from_parquet(tmp_path / "items.parquet")
    assert back == trusted
    assert back.digest() == trusted.digest()

    def never(*_: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(probing, "look", never)
    assert probe(back, "fail") == trusted


def test_what_cannot_be_read_is_undecided_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    items = [
        record("absent", assets=(AssetRecord("blue", str(tmp_path / "absent.tif")),)),
        record("broken", assets=(AssetRecord("blue", str(tmp_path / "broken.tif")),)),
        record("bandless", assets=()),
        record("radar", platform="sentinel-1a", baseline=None),
        record("landsat", baseline=None, claimed_offset=-7272.7, claimed_scale=2.75e-5),
    ]
    said = {i.id: i.probe for i in probe(table(*items), "fail")}
    assert all(text.startswith("undecided: ") for text in said.values())
    assert "absent.tif" in said["absent"]
    assert "too few valid pixels" in said["bandless"]


def test_a_thin_strip_of_data_is_undecided(winter: dict[str, np.ndarray], tmp_path: Path) -> None:
    strip = {k: np.where(np.arange(v.shape[1]) < 4, v, 0).astype(np.uint16) for k, v in winter.items()}
    (said,) = probe(table(scene(tmp_path, strip, baseline="02.04"))).items
    assert "too few valid pixels" in said.probe


def test_snow_and_desert_without_offset_are_undecided() -> None:
    snow = {"blue": 7800, "red": 7600, "swir22": 950, "nir08": 7000}
    desert = {"blue": 1010, "red": 2200, "swir22": 4500, "nir08": 3000}
    assert presence(snow) == presence(desert) == presence({}) == "undecided"


def test_one_dark_band_says_no_offset_without_a_look_at_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def dark(item: ItemRecord, name: str) -> np.ndarray:
        looked.append(name)
        return np.full((64, 64), 150, np.uint16)

    monkeypatch.setattr(probing, "look", dark)
    both = record(assets=(AssetRecord("blue", "/b"), AssetRecord("red", "/r")), baseline="02.04")
    assert probe(table(both)).items[0].probe == "agrees: dark end (DN) blue 150: no offset"
    assert looked == ["blue"]
