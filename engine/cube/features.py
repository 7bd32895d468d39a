"""Features, as pure kernels: spectral indices, statistics over time, encodings of day and place.

Reflectance comes as (time, band, y, x) uint16 x 10000 with 0 = no data; features are float32, NaN = no
data. Every kernel computes pixel by pixel, so that no cut can move a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from engine.cube.spectral import Index, evaluate, find_index, require_bands
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.spec import REFLECTANCE_ONE

_BLOCK_PX = 32_768  # pixels computed at once: a band of them fits into a core's cache
_LANES = 64  # whole vectors only: the rest of a vector loop may round a power otherwise


def indices(
    reflectance: NDArray[np.uint16], bands: Sequence[str], names: Sequence[str]
) -> NDArray[np.float32]:
    """Compute spectral indices.

    Args:
        reflectance: (time, band, y, x) uint16 x 10000, 0 = no data.
        bands: Name of each band.
        names: Indices, by name.

    Returns:
        (time, index, y, x) float32, NaN where a band is missing or the formula divides by zero.

    Raises:
        InputError: If an index is unknown or needs a band that is not there.

    >>> values = np.array([2500, 7500], np.uint16).reshape(1, 2, 1, 1)
    >>> indices(values, ["red", "nir"], ["NDVI"]).squeeze()
    array(0.5, dtype=float32)
    """
    return measure(reflectance, bands, [find_index(name) for name in names])


def measure(
    reflectance: NDArray[np.uint16], bands: Sequence[str], measures: Sequence[Index]
) -> NDArray[np.float32]:
    """Compute indices, or bands as reflectance 0..1, that were looked up before; see `indices`."""
    require_bands(measures, bands)
    n_dates, _, height, width = reflectance.shape
    out = np.empty((n_dates, len(measures), height, width), np.float32)
    used = tuple(dict.fromkeys(b for m in measures for b in m.bands))
    trees = [m.tree for m in measures]
    for date in range(n_dates):
        planes = [np.ascontiguousarray(reflectance[date, bands.index(b)]).reshape(-1) for b in used]
        flat = out[date].reshape(len(measures), height * width)
        for part, values in _blocks(planes):
            named = dict(zip(used, values, strict=True))
            for row, tree in zip(flat, trees, strict=True):
                row[part] = evaluate(tree, named)[: part.stop - part.start]
    return out


def _blocks(planes: list[NDArray[np.uint16]]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield pieces of flat planes as (band, pixel) float32 reflectance, filled up to whole vectors."""
    n = planes[0].size if planes else 0
    values = np.empty((len(planes), min(_BLOCK_PX, -(-n // _LANES) * _LANES)), np.float32)
    for start in range(0, n, _BLOCK_PX):
        stop = min(start + _BLOCK_PX, n)
        size = stop - start
        filled = values[:, : -(-size // _LANES) * _LANES]
        filled[:, size:] = np.nan
        for plane, row in zip(planes, filled, strict=True):
            _scale(plane[start:stop], np.float32(REFLECTANCE_ONE), row[:size])
        yield slice(start, stop), filled


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _scale(stored: NDArray[np.uint16], one: np.float32, out: NDArray[np.float32]) -> None:
    """Turn uint16 into reflectance 0..1; 0 becomes NaN."""
    for i in range(stored.size):
        value = stored[i]
        out[i] = np.float32(value) / one if value else np.float32(np.nan)


STATISTICS: dict[str, str] = {
    "mean": "mean",
    "std": "standard deviation (of the population)",
    "min": "minimum",
    "max": "maximum",
    "range": "maximum less minimum",
    "median": "median",
    "count": "number of time steps with data",
    "slope": "slope of the least squares line, per year",
    "amplitude": "amplitude of the least squares annual sine",
}
"""Statistics by name; percentiles ``p0`` .. ``p100`` (linear, as numpy's) come beside them."""

_CODES = {name: code for code, name in enumerate(STATISTICS)}
_PERCENTILE = len(_CODES)
_YEAR_DAYS = 365.25


def split_statistic(name: str) -> tuple[str, str]:
    """Split a statistic's name into what is measured and how.

    >>> split_statistic("NDVI_mean"), split_statistic("B8A_p90")
    (('NDVI', 'mean'), ('B8A', 'p90'))

    Raises:
        InputError: If it has no such form or there is no such statistic.
    """
    what, _, how = name.rpartition("_")
    if not what or _code(how) is None:
        raise InputError(
            "unknown statistic",
            where="cube.features.statistics",
            found=name,
            limit=f"<index or band>_<{', '.join(STATISTICS)}, p0..p100>",
            mend="write e.g. NDVI_mean or red_p90",
        )
    return what, how


def _code(how: str) -> tuple[int, float] | None:
    """Return a statistic's code and, for a percentile, its fraction."""
    percentile = re.fullmatch(r"p(\d{1,2}|100)", how)
    if percentile:
        return _PERCENTILE, int(percentile[1]) / 100
    return (_CODES[how], 0.0) if how in _CODES else None


def statistics(
    series: NDArray[np.float32], days: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float32]:
    """Reduce time series, pixel by pixel, without their gaps.

    Args:
        series: (time, y, x) float32, NaN = no data.
        days: (time,) float64, day of each step, ascending.
        names: Of `STATISTICS`, or percentiles ``p10``.

    Returns:
        (statistic, y, x) float32; NaN without any data (``count`` is then 0), for ``slope`` with less than
        two dates, and for ``amplitude`` with less than four dates or half a year.

    Raises:
        InputError: If a name is unknown.

    >>> series = np.float32([1, np.nan, 3]).reshape(3, 1, 1)
    >>> statistics(series, np.array([0.0, 10, 20]), ["mean", "count", "p25"]).ravel()
    array([2. , 2. , 1.5], dtype=float32)
    """
    codes = [code for _, how in (split_statistic(f"series_{n}") for n in names) if (code := _code(how))]
    out = np.empty((len(codes), *series.shape[1:]), np.float32)
    kinds = np.array([kind for kind, _ in codes], np.int64)
    fractions = np.array([fraction for _, fraction in codes], np.float64)
    _statistics(series, days.astype(np.float64), kinds, fractions, out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _statistics(
    series: NDArray[np.float32],
    days: NDArray[np.float64],
    kinds: NDArray[np.int64],
    fractions: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    n_dates, height, width = series.shape
    values, at = np.empty(n_dates, np.float64), np.empty(n_dates, np.float64)
    ordered = np.empty(n_dates, np.float64)
    for y in range(height):
        for x in range(width):
            n = 0
            for t in range(n_dates):
                value = series[t, y, x]
                if not np.isnan(value):
                    values[n], at[n], ordered[n] = value, days[t], value
                    n += 1
            _sort(ordered, n)
            for s in range(kinds.size):
                out[s, y, x] = _statistic(values[:n], at[:n], ordered, kinds[s], fractions[s])


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _sort(values: NDArray[np.float64], n: int) -> None:
    """Sort the first n values in place (Shell 1959): a series is short, and this compiles fast."""
    gap = n // 2
    while gap:
        for i in range(gap, n):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
        gap //= 2


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _statistic(
    values: NDArray[np.float64],
    days: NDArray[np.float64],
    ordered: NDArray[np.float64],
    kind: int,
    fraction: float,
) -> float:
    n = values.size
    if kind == 6:
        return float(n)
    if n == 0:
        return np.nan
    if kind == 0:
        return _mean(values)
    if kind == 1:
        return np.sqrt(_mean_product(values, _mean(values), values, _mean(values)))
    if kind == 2:
        return ordered[0]
    if kind == 3:
        return ordered[n - 1]
    if kind == 4:
        return ordered[n - 1] - ordered[0]
    if kind == 7:
        return _slope(values, days)
    if kind == 8:
        return _annual_amplitude(values, days)
    place = (n - 1) * (0.5 if kind == 5 else fraction)
    below = int(place)
    above = min(below + 1, n - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _mean(values: NDArray[np.float64]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / values.size


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _mean_product(a: NDArray[np.float64], a_mean: float, b: NDArray[np.float64], b_mean: float) -> float:
    """Return the covariance of the population."""
    total = 0.0
    for i in range(a.size):
        total += (a[i] - a_mean) * (b[i] - b_mean)
    return total / a.size


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _slope(values: NDArray[np.float64], days: NDArray[np.float64]) -> float:
    middle = _mean(days)
    spread = _mean_product(days, middle, days, middle)
    if spread <= 0:
        return np.nan
    return _mean_product(days, middle, values, _mean(values)) / spread * _YEAR_DAYS


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _annual_amplitude(values: NDArray[np.float64], days: NDArray[np.float64]) -> float:
    """Fit mean + b cos + c sin of the year (the first harmonic of Jakubauskas et al. 2001, PE&RS 67:461)."""
    n = values.size
    if n < 4 or days[n - 1] - days[0] < _YEAR_DAYS / 2:
        return np.nan
    cos, sin = np.empty(n, np.float64), np.empty(n, np.float64)
    for i in range(n):
        turn = days[i] * (2 * np.pi / _YEAR_DAYS)
        cos[i], sin[i] = np.cos(turn), np.sin(turn)
    c, s, v = _mean(cos), _mean(sin), _mean(values)
    cc, ss, cs = _mean_product(cos, c, cos, c), _mean_product(sin, s, sin, s), _mean_product(cos, c, sin, s)
    cv, sv = _mean_product(cos, c, values, v), _mean_product(sin, s, values, v)
    determinant = cc * ss - cs * cs
    if determinant <= 1e-9:  # dates half a year apart, again and again, tell no wave
        return np.nan
    return np.hypot((cv * ss - sv * cs) / determinant, (sv * cc - cv * cs) / determinant)


def day_of_year(times: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Turn times into places on the circle of the year, so that December lies beside January.

    Args:
        times: (time,) datetime64, the middle of each step.

    Returns:
        (time, 2) float32: sine and cosine of 2 pi x the part of its year that has passed.

    >>> day_of_year(np.array(["2023-01-01", "2023-07-02T12:00"], "datetime64[ns]")).round(3) + 0
    array([[ 0.,  1.],
           [ 0., -1.]], dtype=float32)
    """
    year = times.astype("datetime64[Y]")
    start, end = year.astype("datetime64[ns]"), (year + 1).astype("datetime64[ns]")
    angle = (times.astype("datetime64[ns]") - start) / (end - start) * (2 * np.pi)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def position(grid: Grid, box: Box) -> NDArray[np.float32]:
    """Give each pixel's place on the unit sphere, as Presto takes it (Tseng et al. 2023, arXiv:2304.14065).

    Args:
        grid: Where pixels lie.
        box: Global pixels.

    Returns:
        (xyz, y, x) float32: cos lat cos lon, cos lat sin lon, sin lat of the pixel centres (WGS 84); NaN
        where the projection has no place.
    """
    from pyproj import Transformer

    y, x = grid.centres(box)
    columns, rows = np.meshgrid(x, y)
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    degrees = np.array(to_degrees.transform(columns, rows))
    longitude, latitude = np.radians(np.where(np.isfinite(degrees), degrees, np.nan))
    across = np.cos(latitude)
    sphere = [across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)]
    return np.stack(sphere).astype(np.float32)
