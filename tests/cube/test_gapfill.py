"""Gap filling against numpy, exact fractions and scipy, and the lazy cube for any chunking."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import spsolve

from engine.cube.fill import middle_days, with_gaps_filled
from engine.cube.gapfill import BETWEEN, EMPTY, OBSERVED, ONE_SIDE, fill_gaps, fill_in_place, penalty_rows
from engine.values.errors import InputError
from engine.values.recipe import GapFill

METHODS = ("linear", "nearest", "whittaker")


def _random(seed: int, n: int, bands: int = 2, gone: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 65536, (n, bands, 3, 5)).astype(np.uint16)
    values *= rng.random((n, 1, 3, 5)) >= gone
    return values, np.cumsum(rng.integers(1, 80, n)) / 2


def _exact(series: list[int], days: list[float], how: GapFill) -> tuple[list[int], list[int]]:
    """One pixel's linear or nearest filling in whole fractions, in the plainest way."""
    seen = [i for i, v in enumerate(series) if v]
    out, flags = [], []
    longest = math.inf if how.max_gap_days is None else how.max_gap_days
    for t, value in enumerate(series):
        left, right = [i for i in seen if i <= t], [i for i in seen if i >= t]
        if value:
            out.append(value), flags.append(OBSERVED)
        elif left and right and days[right[0]] - days[left[-1]] <= longest:
            p, q = left[-1], right[0]
            share = Fraction(days[t] - days[p]) / Fraction(days[q] - days[p])
            if how.method == "linear":
                out.append(math.floor(series[p] + share * (series[q] - series[p]) + Fraction(1, 2)))
            else:
                out.append(series[p if share <= Fraction(1, 2) else q])
            flags.append(BETWEEN)
        elif bool(left) != bool(right) and abs(days[t] - days[(left[-1:] + right[:1])[0]]) <= longest:
            out.append(series[(left[-1:] + right[:1])[0]]), flags.append(ONE_SIDE)
        else:
            out.append(0), flags.append(EMPTY)
    return out, flags


def _whittaker(series: np.ndarray, days: np.ndarray, smoothness: float) -> np.ndarray:
    """Smooth one series over its observed range with a general sparse solver."""
    seen = np.flatnonzero(series)
    cut = slice(seen[0], seen[-1] + 1)
    t, w = np.asarray(days, float)[cut], (series[cut] > 0).astype(float)
    n = len(t)
    mean = (days[-1] - days[0]) / (len(days) - 1)
    rows = np.zeros((max(n - 2, 0), n))
    for i in range(n - 2):  # second divided differences, from their definition
        h, k = t[i + 1] - t[i], t[i + 2] - t[i + 1]
        unit = np.eye(n)
        slope = (unit[i + 2] - unit[i + 1]) / k - (unit[i + 1] - unit[i]) / h
        rows[i] = mean**2 * 2 * slope / (h + k)
    matrix = sp.csc_matrix(np.diag(w) + smoothness * rows.T @ rows)
    inner = np.atleast_1d(spsolve(matrix, w * series[cut]))
    return np.concatenate([np.full(seen[0], inner[0]), inner, np.full(len(days) - seen[-1] - 1, inner[-1])])


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 14),
    st.sampled_from(["linear", "nearest"]),
    st.sampled_from([None, 20, 60]),
)
def test_linear_and_nearest_equal_exact_fractions(
    seed: int, n: int, method: str, longest: int | None
) -> None:
    values, days = _random(seed, n)
    how = GapFill(method=method, max_gap_days=longest)  # type: ignore[arg-type]
    found, flags = fill_gaps(values, days, how)
    for y, x in np.ndindex(values.shape[2:]):
        for b in range(values.shape[1]):
            expected, flag = _exact(values[:, b, y, x].tolist(), days.tolist(), how)
            assert found[:, b, y, x].tolist() == expected
            assert flags[:, y, x].tolist() == flag


def test_linear_is_numpys_interpolation() -> None:
    values, days = _random(1, 40, gone=0.6)
    found, _ = fill_gaps(values, days, GapFill())
    for index in np.ndindex(values.shape[1:]):
        series = values[(slice(None), *index)]
        seen = series > 0
        expected = np.interp(days, days[seen], series[seen].astype(float))
        np.testing.assert_allclose(found[(slice(None), *index)], expected, atol=0.5 + 1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.floats(0.01, 1e4), st.sampled_from([0.0, 0.4, 0.8]))
def test_whittaker_equals_a_general_sparse_solver(seed: int, n: int, smoothness: float, gone: float) -> None:
    values, days = _random(seed, n, bands=1, gone=gone)
    found, flags = fill_gaps(values, days, GapFill(method="whittaker", smoothness=smoothness))
    for y, x in np.ndindex(values.shape[2:]):
        series = values[:, 0, y, x]
        if not series.any():
            assert (flags[:, y, x] == EMPTY).all()
            assert not found[:, 0, y, x].any()
            continue
        expected = np.clip(_whittaker(series, days, smoothness), 1, 65535)
        np.testing.assert_allclose(
            found[:, 0, y, x], expected, atol=0.6
        )  # both lose digits when ill-conditioned
        seen = np.flatnonzero(series)
        assert (flags[seen, y, x] == OBSERVED).all()
        assert (flags[: seen[0], y, x] == ONE_SIDE).all()


def _exact_whittaker(series: np.ndarray, days: np.ndarray, smoothness: float) -> list[float]:
    """Solve the normal equations of a series that is observed at both ends in whole fractions."""
    n, t = len(series), [Fraction(d) for d in days]
    matrix = [[Fraction(0)] * n for _ in range(n)]
    right = [Fraction(int(v)) for v in series]
    for i in range(n):
        matrix[i][i] = Fraction(int(series[i] > 0))
    for i in range(n - 2):
        h, k = t[i + 1] - t[i], t[i + 2] - t[i + 1]
        scale = 2 * ((t[-1] - t[0]) / (n - 1)) ** 2
        row = [scale / (h * (h + k)), -scale / (h * k), scale / (k * (h + k))]
        for a in range(3):
            for b in range(3):
                matrix[i + a][i + b] += Fraction(smoothness) * row[a] * row[b]
    for i in range(n):
        for j in range(i + 1, min(n, i + 3)):
            share = matrix[j][i] / matrix[i][i]
            matrix[j] = [b - share * a for a, b in zip(matrix[i], matrix[j], strict=True)]
            right[j] -= share * right[i]
    for i in reversed(range(n)):
        right[i] = (right[i] - sum(matrix[i][j] * right[j] for j in range(i + 1, n))) / matrix[i][i]
    return [float(min(max(v, Fraction(1)), Fraction(65535))) for v in right]


@pytest.mark.parametrize(
    ("seed", "smoothness", "slack"), [(0, 0.5, 1e-9), (1, 10.0, 1e-9), (3796630, 12204.0, 0.1), (3, 1e5, 0.1)]
)
def test_whittaker_equals_exact_fractions(seed: int, smoothness: float, slack: float) -> None:
    values, days = _random(seed, 17, bands=1)
    values[[0, -1]] = np.maximum(values[[0, -1]], 1)
    found, _ = fill_gaps(values, days, GapFill(method="whittaker", smoothness=smoothness))
    for y, x in np.ndindex(3, 5):
        exact = _exact_whittaker(values[:, 0, y, x], days, smoothness)
        np.testing.assert_allclose(found[:, 0, y, x], exact, rtol=0, atol=0.5 + slack)


def test_on_even_dates_whittaker_is_eilers_with_plain_second_differences() -> None:
    values, _ = _random(5, 24, bands=1)
    found, _ = fill_gaps(values, np.arange(24) * 16, GapFill(method="whittaker", smoothness=30))
    differences = np.diff(np.eye(24), 2, axis=0)
    for y, x in np.ndindex(values.shape[2:]):
        series = values[:, 0, y, x].astype(float)
        w, seen = series > 0, np.flatnonzero(series)
        # Missing dates at the ends add nothing to the penalty, so the whole system gives the same inside
        z = np.linalg.solve(np.diag(w.astype(float)) + 30 * differences.T @ differences, w * series)
        inside = slice(seen[0], seen[-1] + 1)
        expected = np.clip(z, 1, 65535)[inside]
        np.testing.assert_allclose(found[inside, 0, y, x], expected, atol=0.5 + 1e-6)


def test_whittaker_of_one_or_two_observations_is_a_constant_or_a_line() -> None:
    values = np.zeros((5, 1, 1, 2), np.uint16)
    values[2, 0, 0, 0] = 700
    values[[0, 4], 0, 0, 1] = 100, 900
    found, flags = fill_gaps(values, np.arange(5.0), GapFill(method="whittaker"))
    assert found[:, 0, 0, 0].tolist() == [700] * 5
    assert found[:, 0, 0, 1].tolist() == [100, 300, 500, 700, 900]
    assert flags[:, 0, 0].tolist() == [2, 2, 0, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_one_missing_band_is_a_missing_date_and_nothing_else_is_kept_of_it(method: str) -> None:
    values = np.array([[10, 20], [30, 0], [50, 60]], np.uint16)[:, :, None, None]
    longest = GapFill(method=method, max_gap_days=1, smoothness=1e-9)  # type: ignore[arg-type]
    found, flags = fill_gaps(values, [0, 1, 2], longest)
    assert found[1].ravel().tolist() == [0, 0]
    assert flags.ravel().tolist() == [0, 255, 0]
    found, flags = fill_gaps(values, [0, 1, 2], longest.model_copy(update={"max_gap_days": 2}))
    assert found[1].ravel().tolist() == ([10, 20] if method == "nearest" else [30, 40])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_observed_stays_and_nothing_is_invented_from_nothing(method: str) -> None:
    values, days = _random(9, 12)
    values[:, :, 0, 0] = 0
    found, flags = fill_gaps(values, days, GapFill(method=method))  # type: ignore[arg-type]
    assert (flags[:, 0, 0] == EMPTY).all()
    assert not found[:, :, 0, 0].any()
    assert found[:, :, 1:].all()
    if method != "whittaker":
        seen = values > 0
        np.testing.assert_array_equal(found[seen], values[seen])


@pytest.mark.parametrize("method", METHODS)
def test_two_overpasses_of_one_day_are_in_order(method: str) -> None:
    values = np.array([100, 0, 200, 0, 300], np.uint16).reshape(5, 1, 1, 1)
    found, _ = fill_gaps(values, [0, 3, 3, 3, 6], GapFill(method=method, smoothness=1e-6))  # type: ignore[arg-type]
    assert found[2].item() == 200
    assert 100 <= found[1].item() <= 200 <= found[3].item() <= 300


def test_days_that_fall_or_are_too_few_are_refused() -> None:
    values = np.ones((2, 1, 1, 1), np.uint16)
    for days in ([3, 2], [1]):
        with pytest.raises(InputError, match="one day per date"):
            fill_gaps(values, days, GapFill())


def test_an_empty_cube_stays_empty() -> None:
    found, flags = fill_gaps(np.zeros((3, 2, 0, 4), np.uint16), [1, 2, 3], GapFill())
    assert found.shape == (3, 2, 0, 4)
    assert flags.shape == (3, 0, 4)


def test_penalty_of_a_parabola_is_its_curvature() -> None:
    days = np.array([0.0, 3, 4, 9, 20, 21])
    curvature = (penalty_rows(days) * [days[i : i + 3] ** 2 for i in range(4)]).sum(axis=1)
    np.testing.assert_allclose(curvature, 2 * (21 / 5) ** 2)


def _cube(values: np.ndarray, chunks: dict[str, int] | None) -> xr.Dataset:
    starts = pd.date_range("2023-01-01", periods=len(values) + 1, freq="MS").to_numpy()
    bounds = np.stack([starts[:-1], starts[1:]], axis=1)
    cube = xr.Dataset(
        {"reflectance": (("time", "band", "y", "x"), values, {"nodata": 0})},
        coords={"time": bounds[:, 0], "time_bnds": (("time", "nv"), bounds)},
    )
    return cube if chunks is None else cube.chunk(chunks)


@pytest.mark.parametrize("method", METHODS)
def test_any_chunking_gives_the_same_bits(method: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(1, 9000, (12, 3, 41, 67)).astype(np.uint16)
    values *= rng.random((12, 1, 41, 67)) > 0.5
    values[5] = 0  # a month without any scene
    how = GapFill(method=method)  # type: ignore[arg-type]
    middle = middle_days(_cube(values, None))
    expected, flags = fill_gaps(values, middle, how)
    for chunks in (
        None,
        {"time": 1, "y": 7, "x": 67},
        {"time": 5, "band": 2, "y": 41, "x": 13},
        {"time": 12},
    ):
        found = with_gaps_filled(_cube(values, chunks), how)
        np.testing.assert_array_equal(found.reflectance, expected)
        np.testing.assert_array_equal(found.filled, flags)
        assert found.reflectance.dtype == np.uint16
        assert found.filled.dtype == np.uint8
    assert (flags[5] != OBSERVED).all()
    assert expected[5].min() > 0


def test_filling_is_lazy_and_takes_two_tasks_a_block() -> None:
    values = np.ones((12, 2, 40, 60), np.uint16)
    cube = _cube(values, {"time": 1, "y": 20, "x": 20})
    found = with_gaps_filled(cube, GapFill())
    before = len(cube.reflectance.data.__dask_graph__())
    assert len(found.reflectance.data.__dask_graph__()) - before == 2 * 6
    assert found.reflectance.data.chunks == ((12,), (2,), (20, 20), (20, 20, 20))
    assert found.reflectance.attrs == {"nodata": 0}
    with pytest.raises(InputError, match="filled already"):
        with_gaps_filled(found, GapFill())


def test_each_block_is_filled_once_however_many_variables_are_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(values: np.ndarray, days: np.ndarray, how: GapFill) -> np.ndarray:
        calls.append(values.shape)
        assert values.flags.c_contiguous
        return fill_in_place(values, days, how)

    monkeypatch.setattr("engine.cube.fill.fill_in_place", counted)
    cube = _cube(np.ones((12, 2, 40, 60), np.uint16), {"time": 1, "band": 1, "y": 20, "x": 20})
    found = with_gaps_filled(cube, GapFill())
    values, flags = found.reflectance.data, found.filled.data
    made = dask.compute(values, flags, values + 1, values.mean(axis=0), flags == 1, scheduler="sync")
    assert calls == [(12, 2, 20, 20)] * 6
    assert (made[2] == 2).all()
    assert made[0].flags.c_contiguous


def test_the_same_filling_has_the_same_name_and_another_another() -> None:
    cube = _cube(np.ones((3, 1, 4, 4), np.uint16), {"time": 1})
    names = [
        with_gaps_filled(cube, how).reflectance.data.name
        for how in (GapFill(), GapFill(), GapFill(max_gap_days=9))
    ]
    assert names[0] == names[1] != names[2]


def _ndvi(real_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slovenia, 68 dates: NDVI as uint16 (1 = -1, 20001 = 1), 0 under clouds, days and timestamps' order."""
    patch = np.load(real_data / "s2_slovenia_eopatch" / "eopatch_ndvi_clouds_lulc.npz", allow_pickle=False)
    days = patch["timestamps"].astype("datetime64[m]").astype(np.int64) / 1440
    ndvi, clear = patch["NDVI"][..., 0], (patch["CLM"][..., 0] == 0) & (patch["IS_DATA"][..., 0] > 0)
    scaled = np.clip(np.nan_to_num(ndvi), -1, 1) * 10_000 + 10_001
    return (np.round(scaled) * (clear & np.isfinite(ndvi))).astype(np.uint16)[:, None], days, ndvi


def ndvi_errors(real_data: Path, smoothness: float = 10.0) -> dict[str, float]:
    """RMSE in NDVI of clear values that were hidden in blobs, per method; ``mean`` is each pixel's mean."""
    values, days, _ = _ndvi(real_data)
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.random((len(days), 1, 12, 17)) < 0.25, np.ones((1, 1, 6, 6)))[..., :67, :100] > 0
    hidden = blobs & (values > 0)
    left = np.where(hidden, 0, values)
    judged = hidden & ((left > 0).sum(axis=0) > 2)
    truth = values[judged].astype(float)
    errors = {}
    for method in METHODS:
        found, _ = fill_gaps(left, days, GapFill(method=method, smoothness=smoothness))  # type: ignore[arg-type]
        errors[method] = float(np.sqrt(np.mean((found[judged] - truth) ** 2)) / 10_000)
    mean = left.sum(axis=0, dtype=float) / np.maximum((left > 0).sum(axis=0), 1)
    level = np.broadcast_to(mean, values.shape)[judged]
    errors["mean"] = float(np.sqrt(np.mean((level - truth) ** 2)) / 10_000)
    return errors


def test_hidden_ndvi_of_slovenia_comes_back_better_than_its_mean(real_data: Path) -> None:
    errors = ndvi_errors(real_data)
    assert errors["linear"] < 0.75 * errors["mean"]
    assert errors["whittaker"] < errors["linear"] < errors["nearest"]


def test_two_empty_months_of_worldcereal_are_filled_linearly(real_data: Path) -> None:
    with xr.open_dataset(
        real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc", mask_and_scale=False
    ) as data:
        bands = [data[name].to_numpy().astype(np.uint16) for name in ("S2-L2A-B04", "S2-L2A-B08")]
        values, starts = np.stack(bands, axis=1), data.t.to_numpy().astype("datetime64[D]")
    values = np.where(values == 65535, 0, np.maximum(values, 1)).astype(np.uint16)
    empty = ~values.any(axis=(1, 2, 3))
    assert empty.tolist() == [False, True, True] + [False] * 9
    days = starts.astype(float)
    found, flags = fill_gaps(values, days, GapFill())
    assert found.all()
    assert (flags[empty] == BETWEEN).all()
    for t in (1, 2):
        share = (days[t] - days[0]) / (days[3] - days[0])
        expected = np.floor(values[0] + share * (values[3].astype(float) - values[0]) + 0.5)
        assert np.abs(found[t] - expected).max() <= 1
        assert (found[t] == expected).mean() > 0.999
    short, flags = fill_gaps(values, days, GapFill(max_gap_days=60))
    assert not short[empty].any()
    assert (flags[empty] == EMPTY).all()


def test_fields_of_central_asia_with_a_quarter_missing(real_data: Path) -> None:
    table = pd.read_csv(real_data / "cawa_central_asia" / "cawa_croptype_ndvi.csv.gz")
    columns = [c for c in table if c.startswith("ndvi_doy")]
    ndvi = table[columns].to_numpy().T
    days = np.array([int(c.removeprefix("ndvi_doy")) for c in columns], float)
    values = np.where(np.isfinite(ndvi), np.round(np.nan_to_num(ndvi) * 10_000) + 10_001, 0)
    values = np.clip(values, 0, 65535).astype(np.uint16)[:, None, None]
    assert 0.2 < (values == 0).mean() < 0.35
    found, flags = fill_gaps(values, days, GapFill())
    observed = (values > 0).any(axis=0)[0, 0]
    assert (found[:, 0, 0] > 0).all(axis=0).tolist() == observed.tolist()
    for i in np.flatnonzero(observed)[::50]:
        series = values[:, 0, 0, i]
        expected = np.interp(days, days[series > 0], series[series > 0].astype(float))
        assert np.abs(found[:, 0, 0, i] - expected).max() <= 0.5 + 1e-6
    assert ((flags[:, 0] == OBSERVED) == (values[:, 0, 0] > 0)).all()


def test_a_cube_with_filling_in_its_spec_is_filled_for_any_chunking() -> None:
    from engine.cube.cube import open_cube
    from engine.values.grid import Box
    from engine.values.spec import CubeSpec
    from tests.cube.fakes import BANDS, GRID, FakeReader, season

    spec = CubeSpec(bands=BANDS, gap_fill="linear")
    box = Box(-529_700, 50_100, -529_300, 50_503)
    plain = open_cube(
        season(), spec.model_copy(update={"gap_fill": None}), grid=GRID, box=box, reader=FakeReader()
    )
    expected, flags = fill_gaps(plain.reflectance.values, middle_days(plain), GapFill())
    for chunk in (90, 1024):
        cube = open_cube(season(), spec, grid=GRID, box=box, chunks_yx=(chunk, chunk), reader=FakeReader())
        found = dask.compute(
            cube.reflectance.data, cube.filled.data, cube.observations.data, scheduler="threads"
        )
        for a, b in zip(found, (expected, flags, plain.observations.values), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (flags[1] == BETWEEN).any()
    assert (
        cube.attrs["landweave_spec"]
        == CubeSpec.model_validate_json(cube.attrs["landweave_spec"])
        .model_copy(update={"gap_fill": GapFill()})
        .model_dump_json()
    )
