"""Phenology, as a pure kernel: when a pixel greens up, peaks and ripens.

::

     index      peak value ─────────────●
                                      ╱   ╲
                                    ╱       ╲          start, end: half of the way between the lowest
     half of the rise  ───────────●           ●──────  value on that side and the peak, on straight lines
                                ╱ │           │ ╲      between the observations
     lowest before ●──────────●   │           │   ●─── lowest after
                                start        end       base: mean of the two lowest values

The half-amplitude threshold is White et al. 1997 (Global Biogeochem. Cycles 11:217); the base, the rates
between 20% and 80% of the amplitude and the integral are those of TIMESAT (Joensson and Eklundh 2004,
Computers & Geosciences 30:833), taken on the observations themselves: nothing is smoothed or fitted here.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

METRICS: dict[str, tuple[str, str]] = {
    "start": ("start of season", "day of year"),
    "peak": ("day of the highest value", "day of year"),
    "end": ("end of season", "day of year"),
    "length": ("end less start of season", "day"),
    "base": ("mean of the lowest values before and after the peak", "1"),
    "peak_value": ("highest value", "1"),
    "amplitude": ("highest value less base", "1"),
    "integral": ("area under the series from start to end of season", "day"),
    "greening": ("rate of rise between 20% and 80% of the amplitude", "day-1"),
    "browning": ("rate of fall between 80% and 20% of the amplitude", "day-1"),
}
"""Meaning and unit of each metric, in the kernel's order."""

_YEAR_DAYS = 365.25


def phenology(series: NDArray[np.float32], days: NDArray[np.float64]) -> NDArray[np.float32]:
    """Describe the season with the highest peak, pixel by pixel.

    The peak is the highest value, the earliest of equals. Where that is the first or last date with data,
    the series does not hold the season and nothing is known. The lowest values are sought within a year on
    each side of the peak; thresholds are crossed where the series, walked away from it, first falls to
    them, so that a second, lower season within the year does not lengthen the first.

    Args:
        series: (time, y, x) float32, an index; NaN = no data.
        days: (time,) float64, day of each step, ascending; days of the result count alike.

    Returns:
        (metric, y, x) float32 in the order of `METRICS`. NaN where a metric cannot be known: all of them
        without a date before and after the peak, those of a side on which the series does not fall.

    >>> green = np.float32([0.2, 0.2, 0.8, 0.4, 0.2]).reshape(5, 1, 1)
    >>> [round(float(v), 2) for v in phenology(green, np.arange(0.0, 50, 10)).ravel()[:5]]
    [15.0, 20.0, 27.5, 12.5, 0.2]
    """
    out = np.full((len(METRICS), *series.shape[1:]), np.nan, np.float32)
    _phenology(series, days.astype(np.float64), out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _phenology(series: NDArray[np.float32], days: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    n_dates, height, width = series.shape
    values, at = np.empty(n_dates, np.float64), np.empty(n_dates, np.float64)
    for y in range(height):
        for x in range(width):
            n, peak = 0, 0
            for t in range(n_dates):
                value = series[t, y, x]
                if not np.isnan(value):
                    values[n], at[n] = value, days[t]
                    if value > values[peak]:
                        peak = n
                    n += 1
            if 0 < peak < n - 1:
                _season(values[:n], at[:n], peak, out[:, y, x])


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _season(
    values: NDArray[np.float64], days: NDArray[np.float64], peak: int, out: NDArray[np.float32]
) -> None:
    """Write the metrics of one pixel, NaN where unknown."""
    top = values[peak]
    before, after = _lowest(values, days, peak, -1), _lowest(values, days, peak, 1)
    start = _crossing(values, days, peak, -1, before + 0.5 * (top - before))
    end = _crossing(values, days, peak, 1, after + 0.5 * (top - after))
    base = (before + after) / 2
    out[0], out[1], out[2] = start, days[peak], end
    out[3] = end - start
    out[4], out[5], out[6] = base, top, top - base
    if not np.isnan(end - start):
        out[7] = _area(values, days, start, end)
    out[8] = _rate(values, days, peak, -1, before)
    out[9] = _rate(values, days, peak, 1, after)


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _lowest(values: NDArray[np.float64], days: NDArray[np.float64], peak: int, step: int) -> float:
    """Return the lowest value within a year on one side of the peak, NaN where there is none."""
    lowest = np.nan
    k = peak + step
    while 0 <= k < values.size and abs(days[k] - days[peak]) <= _YEAR_DAYS:
        if np.isnan(lowest) or values[k] < lowest:
            lowest = values[k]
        k += step
    return lowest


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _crossing(
    values: NDArray[np.float64], days: NDArray[np.float64], peak: int, step: int, level: float
) -> float:
    """Return the day on which the series, walked from its peak, first falls to a level; NaN if never."""
    if not level < values[peak]:
        return np.nan
    k = peak + step
    while 0 <= k < values.size:
        if values[k] <= level:
            part = (level - values[k]) / (values[k - step] - values[k])
            return days[k] + part * (days[k - step] - days[k])
        k += step
    return np.nan


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _rate(
    values: NDArray[np.float64], days: NDArray[np.float64], peak: int, step: int, lowest: float
) -> float:
    """Return the change a day between 20% and 80% of one side's amplitude, positive for both sides."""
    rise = values[peak] - lowest
    low = _crossing(values, days, peak, step, lowest + 0.2 * rise)
    high = _crossing(values, days, peak, step, lowest + 0.8 * rise)
    return 0.6 * rise / abs(high - low) if high != low else np.nan


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def _area(values: NDArray[np.float64], days: NDArray[np.float64], start: float, end: float) -> float:
    """Integrate the straight lines between the observations from start to end."""
    total = 0.0
    for k in range(values.size - 1):
        a, b = max(start, days[k]), min(end, days[k + 1])
        if a < b:
            slope = (values[k + 1] - values[k]) / (days[k + 1] - days[k])
            middle = values[k] + slope * ((a + b) / 2 - days[k])
            total += middle * (b - a)
    return total
