"""Indices, statistics and encodings equal numpy, whatever the cut."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from engine.cube.features import STATISTICS, day_of_year, indices, position, split_statistic, statistics
from engine.cube.spectral import catalogue
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

BANDS = (
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "nir09",
    "swir16",
    "swir22",
)


def _cube(shape_yx: tuple[int, int] = (90, 1111), dates: int = 2) -> np.ndarray:
    values = np.random.default_rng(1).integers(1, 9000, (dates, len(BANDS), *shape_yx), np.uint16)
    values[:, :, 3:4, 5:60] = 0
    values[0, 3, 7:8] = 0  # red alone
    return values


def test_indices_equal_numpy_and_are_nan_where_a_band_of_theirs_is_missing() -> None:
    cube = _cube()
    found = indices(cube, BANDS, ["NDVI", "GNDVI", "EVI"])
    assert found.dtype == np.float32
    assert found.shape == (2, 3, 90, 1111)
    blue, green, red, nir = (cube[:, BANDS.index(b)] / 10000 for b in ("blue", "green", "red", "nir"))
    gone = cube[:, 0] == 0
    with np.errstate(all="ignore"):
        ndvi = np.where(gone | (red == 0), np.nan, (nir - red) / (nir + red))
        gndvi = np.where(gone, np.nan, (nir - green) / (nir + green))
        below = nir + 6 * red - 7.5 * blue + 1
        evi = np.where(gone | (red == 0), np.nan, 2.5 * (nir - red) / below)
    np.testing.assert_allclose(found[:, 0], ndvi, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], gndvi, rtol=1e-5, atol=1e-6)
    far = np.abs(below) > 0.01
    np.testing.assert_allclose(found[:, 2][far], evi[far], rtol=1e-3)
    np.testing.assert_array_equal(np.isnan(found[:, 2]), np.isnan(evi))


@pytest.mark.parametrize("cut", [1, 13, 64, 333])
def test_every_index_of_the_catalogue_has_the_same_bits_for_any_cut(cut: int) -> None:
    """Powers, roots and tanh too: a vector's rest must not be rounded otherwise than its body."""
    cube = _cube((3, 700), dates=1)
    names = list(catalogue())
    whole = indices(cube, BANDS, names)
    parts = [indices(cube[..., x : x + cut], BANDS, names) for x in range(0, 700 if cut > 1 else 40, cut)]
    joined = np.concatenate(parts, axis=-1)
    np.testing.assert_array_equal(joined, whole[..., : joined.shape[-1]])


def test_an_empty_block_and_no_index_are_no_trouble() -> None:
    assert indices(_cube((0, 5)), BANDS, ["NDVI"]).shape == (2, 1, 0, 5)
    assert indices(_cube((4, 5)), BANDS, []).shape == (2, 0, 4, 5)


def _series(dates: int = 23) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    series = rng.normal(0.4, 0.2, (dates, 30, 41)).astype(np.float32)
    series[rng.random(series.shape) < 0.35] = np.nan
    series[:, 0, 0] = np.nan
    series[1:, 0, 1] = np.nan
    series[0, 0, 1] = 0.5
    return series, np.cumsum(rng.uniform(5, 30, dates))


def test_statistics_equal_numpys_nan_functions() -> None:
    series, days = _series()
    names = ["mean", "std", "min", "max", "range", "median", "count", "p0", "p10", "p73", "p100"]
    found = dict(zip(names, statistics(series, days, names), strict=True))
    some = ~np.isnan(series).all(axis=0)
    wide = series.astype(np.float64)[:, some]
    expected = {
        "mean": np.nanmean(wide, axis=0),
        "std": np.nanstd(wide, axis=0),
        "min": np.nanmin(wide, axis=0),
        "max": np.nanmax(wide, axis=0),
        "range": np.nanmax(wide, axis=0) - np.nanmin(wide, axis=0),
        "median": np.nanmedian(wide, axis=0),
        **{f"p{q}": np.nanpercentile(wide, q, axis=0) for q in (0, 10, 73, 100)},
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][some], values, rtol=1e-6, atol=1e-7, err_msg=name)
        assert np.isnan(found[name][~some]).all()
    np.testing.assert_array_equal(found["count"], (~np.isnan(series)).sum(axis=0))


def test_slope_and_amplitude_equal_a_least_squares_fit() -> None:
    series, days = _series()
    slope, amplitude = statistics(series, days, ["slope", "amplitude"])
    for y, x in [(0, 0), (0, 1), (3, 4), (17, 40), (29, 0)]:
        values = series[:, y, x].astype(np.float64)
        valid = ~np.isnan(values)
        if valid.sum() < 2:
            assert np.isnan(slope[y, x])
            assert np.isnan(amplitude[y, x])
            continue
        assert slope[y, x] == pytest.approx(np.polyfit(days[valid] / 365.25, values[valid], 1)[0], rel=1e-4)
        turn = 2 * np.pi * days[valid] / 365.25
        design = np.column_stack([np.ones(valid.sum()), np.cos(turn), np.sin(turn)])
        _, b, c = np.linalg.lstsq(design, values[valid], rcond=None)[0]
        assert amplitude[y, x] == pytest.approx(np.hypot(b, c), rel=1e-4)


def test_an_annual_sine_has_its_amplitude_and_a_short_series_none() -> None:
    days = np.arange(0.0, 365, 15)
    wave = (0.4 + 0.25 * np.sin(2 * np.pi * (days - 30) / 365.25)).astype(np.float32).reshape(-1, 1, 1)
    assert statistics(wave, days, ["amplitude"]).item() == pytest.approx(0.25, abs=1e-6)
    assert np.isnan(statistics(wave[:10], days[:10], ["amplitude"]).item())


@given(
    st.lists(st.one_of(st.none(), st.floats(-1, 1, width=32)), min_size=1, max_size=12),
    st.integers(0, 100),
)
def test_percentiles_equal_numpys_for_any_series(values: list[float | None], q: int) -> None:
    series = np.array([np.nan if v is None else v for v in values], np.float32).reshape(-1, 1, 1)
    valid = series[~np.isnan(series)].astype(np.float64)
    found = statistics(series, np.arange(float(len(values))), [f"p{q}"]).item()
    if valid.size:
        assert found == pytest.approx(np.percentile(valid, q), rel=1e-6, abs=1e-7)
    else:
        assert np.isnan(found)


@pytest.mark.parametrize("name", ["NDVI", "NDVI_", "_mean", "NDVI_p101", "NDVI_mode", "NDVI_p", "mean"])
def test_a_name_that_is_no_statistic_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown statistic"):
        split_statistic(name)


def test_every_named_statistic_is_computed() -> None:
    series, days = _series()
    assert statistics(series, days, [*STATISTICS, "p5"]).shape == (len(STATISTICS) + 1, 30, 41)


def test_the_circle_of_the_year_joins_december_to_january_in_leap_years_too() -> None:
    times = np.array(
        ["2023-12-31T23:00", "2024-01-01T01:00", "2024-07-02", "2023-04-02T06:00"], "datetime64[ns]"
    )
    found = day_of_year(times)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
    np.testing.assert_allclose(found[2], [0, -1], atol=1e-6)  # the middle of 366 days
    np.testing.assert_allclose(found[3], [1, 0], atol=1e-6)  # a quarter of 365 days
    np.testing.assert_allclose((found**2).sum(axis=1), 1, atol=1e-6)


def test_positions_have_the_geodesic_distances_and_do_not_depend_on_the_cut() -> None:
    grid, box = Grid.make("EPSG:32633", 10), Box(-529_700, 50_100, -529_650, 50_180)
    found = position(grid, box)
    assert found.shape == (3, 50, 80)
    assert found.dtype == np.float32
    part = Box(-529_690, 50_120, -529_671, 50_133)
    np.testing.assert_array_equal(position(grid, part), found[(slice(None), *part.slices_in(box))])
    x, y, z = found.astype(np.float64)
    longitude, latitude = np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(z))
    _, _, metres = Geod(ellps="WGS84").inv(longitude[0, 0], latitude[0, 0], longitude[0, 79], latitude[0, 79])
    assert metres == pytest.approx(790, abs=3)  # float32 on the unit sphere: about half a metre
    assert longitude.mean() == pytest.approx(15.0, abs=0.05)


def test_a_pixel_outside_the_projection_has_no_position() -> None:
    far = position(Grid.make("EPSG:3035", 100_000), Box(-400, -400, -398, -398))
    assert np.isnan(far).all()


def _pixels(table: pd.DataFrame, columns: dict[str, str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples as a cube of one date and one row."""
    values = np.stack([table[c].to_numpy(np.float64) for c in columns.values()])
    scaled = np.clip(np.rint(values * 10000), 0, 65535).astype(np.uint16)
    return scaled[None, :, None, :], tuple(columns)


def _differences(
    table: pd.DataFrame, columns: dict[str, str], stored: dict[str, str]
) -> dict[str, np.ndarray]:
    """Absolute differences between our indices and a table's columns."""
    cube, bands = _pixels(table, columns)
    found = indices(cube, bands, list(stored))[0, :, 0]
    assert np.isfinite(found).all()
    return {n: np.abs(v - table[stored[n]].to_numpy()) for n, v in zip(stored, found, strict=True)}


def test_published_indices_of_rondonia_are_met(real_data: Path) -> None:
    """The source interpolated each index in time by itself, so single dates differ, the usual one hardly."""
    table = pd.read_csv(real_data / "s2_rondonia" / "s2_20LKP_timeseries.csv.gz")
    columns = {"blue": "B02", "red": "B07", "nir": "B08", "swir16": "B11"}
    for name, away in _differences(table, columns, {n: n for n in ("NDVI", "EVI", "NDMI")}).items():
        assert np.median(away) < 2e-4, name
        assert np.percentile(away, 95) < 0.02, name
    # its SAVI has L = 0.428 (Sentinel Hub's), Huete's 0.5 gives others: the constant is seen
    red, nir = table["B07"], table["B08"]
    assert np.median(np.abs(1.428 * (nir - red) / (nir + red + 0.428) - table["SAVI"])) < 2e-4
    assert np.median(_differences(table, columns, {"SAVI": "SAVI"})["SAVI"]) == pytest.approx(0.017, abs=2e-3)


@pytest.mark.parametrize("region", ["eastern", "sahel", "central", "south_eastern", "indian_ocean"])
def test_published_indices_of_african_geomedians_are_met(real_data: Path, region: str) -> None:
    """Each value is a mean over a field, of the index there and of the bands here; so they differ a little."""
    with gzip.open(real_data / "deafrica_cropmask" / f"{region}_training_data.txt.gz", "rt") as lines:
        header = lines.readline().lstrip("#").split()
        table = pd.DataFrame(np.loadtxt(lines), columns=header)
    columns = {"blue": "blue", "green": "green", "red": "red", "nir": "nir", "swir16": "swir_1"}
    for season in ("_S1", "_S2"):
        named = {band: column + season for band, column in columns.items()}
        away = _differences(table, named, {n: n + season for n in ("NDVI", "MNDWI", "LAI")})
        for name, limit in {"NDVI": 0.004, "MNDWI": 0.003, "LAI": 0.01}.items():
            assert np.median(away[name]) < limit, name
            assert np.percentile(away[name], 99) < 15 * limit, name
