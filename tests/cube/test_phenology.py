"""Seasons of curves whose answers are known, a plain reference, and real fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cube.phenology import METRICS, phenology

NAMES = list(METRICS)


def _metrics(values: np.ndarray, days: np.ndarray) -> dict[str, float]:
    found = phenology(np.asarray(values, np.float32).reshape(-1, 1, 1), np.asarray(days, np.float64))
    return dict(zip(NAMES, map(float, found.ravel()), strict=True))


def test_a_gaussian_has_its_half_width_and_area() -> None:
    days = np.arange(1.0, 366, 1)
    sigma, top, base = 30.0, 0.7, 0.15
    found = _metrics(base + top * np.exp(-0.5 * ((days - 180) / sigma) ** 2), days)
    half = sigma * np.sqrt(2 * np.log(2))
    assert found["start"] == pytest.approx(180 - half, abs=0.02)
    assert found["end"] == pytest.approx(180 + half, abs=0.02)
    assert found["length"] == pytest.approx(2 * half, abs=0.03)
    assert found["peak"] == 180
    assert found["base"] == pytest.approx(base, abs=1e-4)
    assert found["amplitude"] == pytest.approx(top, abs=1e-4)
    # erf(sqrt(ln 2)) = 0.7610: the part of a Gaussian's area within its half width
    area = base * 2 * half + top * sigma * np.sqrt(2 * np.pi) * 0.76096
    assert found["integral"] == pytest.approx(area, rel=1e-3)
    rise = sigma * (np.sqrt(2 * np.log(5)) - np.sqrt(2 * np.log(1.25)))
    assert found["greening"] == pytest.approx(0.6 * top / rise, rel=1e-3)
    assert found["browning"] == pytest.approx(found["greening"], rel=1e-3)


@pytest.mark.parametrize("step", [5, 10, 16])
def test_a_double_logistic_has_its_inflections(step: int) -> None:
    """Steep edges far from each other: half of the amplitude lies at the two inflections."""
    days = np.arange(3.0, 366, step)
    rise, fall = 1 / (1 + np.exp(-(days - 120) / 6)), 1 / (1 + np.exp((days - 260) / 10))
    found = _metrics(0.2 + 0.6 * (rise + fall - 1), days)
    assert found["start"] == pytest.approx(120, abs=0.05 * step)
    assert found["end"] == pytest.approx(260, abs=0.05 * step)
    assert found["base"] == pytest.approx(0.2, abs=1e-3)
    # 20% and 80% of a logistic lie 2 ln 4 scales apart
    assert found["greening"] == pytest.approx(0.36 / (2 * np.log(4) * 6), rel=0.05 if step == 5 else 0.4)


def test_a_season_across_new_year_and_a_second_lower_one() -> None:
    days = np.arange(200.0, 565, 5)
    main = 0.6 * np.exp(-0.5 * ((days - 380) / 20) ** 2)
    second = 0.35 * np.exp(-0.5 * ((days - 480) / 15) ** 2)
    alone, both = _metrics(0.2 + main, days), _metrics(0.2 + main + second, days)
    assert alone["start"] < 365 < alone["end"]
    for name in ("start", "peak", "end", "length"):
        assert both[name] == pytest.approx(alone[name], abs=0.2), name


def _reference(values: np.ndarray, days: np.ndarray) -> dict[str, float]:
    """The same metrics in the plainest way, one series, numpy alone."""
    out = dict.fromkeys(NAMES, np.nan)
    valid = ~np.isnan(values)
    v, d = values[valid].astype(np.float64), days[valid]
    p = int(np.argmax(v)) if v.size else 0
    if not 0 < p < v.size - 1:
        return out
    top = v[p]
    out["peak"], out["peak_value"] = d[p], top
    sides = {}
    for side, (vs, ds) in {"left": (v[: p + 1][::-1], d[: p + 1][::-1]), "right": (v[p:], d[p:])}.items():
        near = (np.abs(ds - d[p]) <= 365.25) & (np.arange(ds.size) > 0)
        low = vs[near].min() if near.any() else np.nan

        def crossed(part: float, vs: np.ndarray = vs, ds: np.ndarray = ds, low: float = low) -> float:
            level = low + part * (top - low)
            under = np.flatnonzero(vs <= level)
            if np.isnan(level) or level >= top or not under.size:
                return np.nan
            k = under[0]
            return float(np.interp(level, [vs[k], vs[k - 1]], [ds[k], ds[k - 1]]))

        with np.errstate(all="ignore"):
            rate = 0.6 * (top - low) / abs(crossed(0.8) - crossed(0.2))
        sides[side] = low, crossed(0.5), rate
    (left, out["start"], out["greening"]), (right, out["end"], out["browning"]) = sides.values()
    out["length"] = out["end"] - out["start"]
    out["base"], out["amplitude"] = (left + right) / 2, top - (left + right) / 2
    if np.isfinite(out["length"]):
        inner = d[(d > out["start"]) & (d < out["end"])]
        knots = np.concatenate([[out["start"]], inner, [out["end"]]])
        out["integral"] = float(np.trapezoid(np.interp(knots, d, v), knots))
    return out


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(-20, 100)), st.integers(1, 90)), min_size=1, max_size=15
    )
)
def test_any_series_equals_the_plain_reference(steps: list[tuple[int | None, int]]) -> None:
    """Whole hundredths make ties and plateaus frequent; long steps reach beyond a year."""
    values = np.array([np.nan if v is None else v / 100 for v, _ in steps], np.float32)
    days = np.cumsum([d for _, d in steps]).astype(np.float64)
    found, expected = _metrics(values, days), _reference(values, days)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4, nan_ok=True), name


@pytest.mark.parametrize(
    "values",
    [
        [np.nan] * 5,
        [0.1, np.nan, 0.5, np.nan, np.nan],
        [0.4] * 5,  # the earliest of equals is the first
        [0.1, 0.3, 0.5, 0.7, 0.9],  # still rising: its peak is not known
        [0.9, 0.7, 0.5, 0.7, 0.3],
        [np.nan, 0.9, 0.2, 0.5, 0.1],
    ],
)
def test_a_series_that_does_not_hold_its_peak_tells_nothing(values: list[float]) -> None:
    assert all(map(np.isnan, _metrics(np.array(values), np.arange(0.0, 100, 20)).values()))


def test_a_side_that_does_not_fall_is_nan_and_the_other_is_known() -> None:
    found = _metrics(np.array([0.2, 0.8, 0.8, 0.8]), np.arange(0.0, 80, 20))
    assert found["start"] == pytest.approx(10)
    assert found["greening"] == pytest.approx(0.03)
    assert all(np.isnan(found[n]) for n in ("end", "length", "integral", "browning"))
    far = _metrics(np.array([0.2, 0.8, 0.2]), np.array([0.0, 20, 400]))
    assert far["start"] == pytest.approx(10)
    assert np.isnan(far["end"])  # the next date is more than a year away


def test_two_observations_of_one_day_are_no_trouble() -> None:
    found = _metrics(np.array([0.2, 0.2, 0.8, 0.2]), np.array([0.0, 20, 20, 40]))
    assert found["start"] == 20
    assert np.isnan(found["greening"])
    assert found["end"] == pytest.approx(30)
    assert found["integral"] == pytest.approx(10 * (0.8 + 0.5) / 2)


def test_no_cut_moves_a_value() -> None:
    rng = np.random.default_rng(3)
    series = rng.random((20, 33, 47)).astype(np.float32)
    series[rng.random(series.shape) < 0.3] = np.nan
    days = np.arange(0.0, 400, 20)
    whole = phenology(series, days)
    for rows, cols in (
        (slice(0, 7), slice(3, 40)),
        (slice(32, 33), slice(0, 47)),
        (slice(5, 33), slice(9, 10)),
    ):
        np.testing.assert_array_equal(phenology(series[:, rows, cols], days), whole[:, rows, cols])


def test_slovenian_forest_greens_up_in_spring_and_equals_the_reference(real_data: Path) -> None:
    """68 real dates with clouds; the year 2017 of forest and grassland pixels."""
    patch = np.load(real_data / "s2_slovenia_eopatch" / "eopatch_ndvi_clouds_lulc.npz", allow_pickle=True)
    times = patch["timestamps"].astype("datetime64[ns]")
    ndvi = patch["NDVI"][..., 0].astype(np.float32)
    ndvi = np.where(patch["CLM"][..., 0].astype(bool), np.float32(np.nan), ndvi)
    year = times >= np.datetime64("2017-01-01")
    days = (times[year] - np.datetime64("2017-01-01")) / np.timedelta64(1, "D") + 1
    found = phenology(ndvi[year], days)
    forest = patch["LULC"][..., 0] == 2
    start, peak, end = (np.nanmedian(found[NAMES.index(n)][forest]) for n in ("start", "peak", "end"))
    assert 75 < start < 150
    assert 120 < peak < 250
    assert 250 < end < 345
    for y, x in [(3, 5), (20, 60), (41, 17), (66, 99), (55, 30)]:
        expected = _reference(ndvi[year][:, y, x], days)
        np.testing.assert_allclose(found[:, y, x], [expected[n] for n in NAMES], rtol=1e-4, atol=1e-4)


def test_cotton_peaks_in_summer_and_winter_wheat_in_spring(real_data: Path) -> None:
    """Uzbek fields, 16-day NDVI with real gaps; only fields that were seen through the winter crops' season."""
    table = pd.read_csv(real_data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz")
    columns = [c for c in table if c.startswith("ndvi_doy")]
    days = np.array([float(c.removeprefix("ndvi_doy")) for c in columns])
    ndvi = table[columns].to_numpy(np.float32)
    seen = np.isfinite(ndvi[:, (days >= 33) & (days <= 177)]).sum(axis=1) >= 7
    found = phenology(ndvi.T[:, None, :], days)[:, 0]
    of = {crop: found[:, seen & (table["label_1"] == crop).to_numpy()] for crop in ("cotton", "wheat")}
    assert of["cotton"].shape[1] > 1000
    assert of["wheat"].shape[1] > 50
    start, peak, end = (
        {crop: np.nanmedian(m[NAMES.index(n)]) for crop, m in of.items()} for n in ("start", "peak", "end")
    )
    assert 196 <= peak["cotton"] <= 243  # mid July to August
    assert 91 <= peak["wheat"] <= 151  # April, May
    assert end["wheat"] < start["cotton"] < peak["cotton"]


def test_rondonias_forest_stays_greener_than_what_was_cleared(real_data: Path) -> None:
    folder = real_data / "s2_rondonia"
    series = pd.read_csv(folder / "s2_20LKP_timeseries.csv.gz", parse_dates=["date"])
    ndvi = series.pivot(index="date", columns="sample_id", values="NDVI")
    days = (ndvi.index - pd.Timestamp("2018-01-01")).days.to_numpy(np.float64) + 1
    found = phenology(ndvi.to_numpy(np.float32)[:, None, :], days)[:, 0]
    label = pd.read_csv(folder / "s2_20LKP_samples.csv").set_index("sample_id")["label"][ndvi.columns]
    base, amplitude = found[NAMES.index("base")], found[NAMES.index("amplitude")]
    forest, other = (label == "Forest").to_numpy(), (label == "NonForest").to_numpy()
    assert np.isfinite(base).mean() > 0.8
    assert np.nanmedian(base[forest]) > np.nanmedian(base[other]) + 0.1
    assert np.nanmedian(amplitude[forest]) < np.nanmedian(amplitude[other])
