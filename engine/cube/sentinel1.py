"""Backscatter composites, as a pure kernel: the passes of one period become one value a pixel, in dB.

All means are of linear power. A mean of decibels is the geometric mean of power: it lies below the mean,
by an amount that grows with the spread. Speckle alone lowers it by 10/ln(10) * (ln L - psi(L)) dB,
2.5 dB for one look (L = 1) and 0.5 dB for 4.4 (the intensity of L looks follows a Gamma distribution: Oliver & Quegan
2004, Understanding Synthetic Aperture Radar Images, ch. 4), so that a mean of decibels would depend on the
looks of a product and on how pixels were averaged before, not on the ground alone.

Each relative orbit sees the ground at its own incidence angle, hence a little brighter or darker. So the dates of one
orbit are composited first, and the orbits after that with equal weight: a month with more passes of one orbit is
not brighter for it::

    orbit 15   d1  d4  d7 ──► mean ─┐
    orbit 66     d2    d8 ──► mean ─┴─► mean of orbits (or the orbit most observed) ──► 10 log10
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.recipe import Sentinel1


def composite_backscatter(
    power: NDArray[np.float32], orbits: Sequence[int] | NDArray[np.int64], spec: Sentinel1
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Reduce the passes of one period: per relative orbit first, then over orbits, in linear power.

    A pass is missing where any polarisation is NaN, infinite, zero or negative (what the subtraction of thermal
    noise leaves), so that all polarisations of a pixel come from the same passes. Sums run in float64 in
    the order of orbit number and then of the passes given: no cut and no number of threads moves a bit.

    Args:
        power: (time, polarisation, y, x) float32, linear power (not dB), NaN = no data.
        orbits: (time,) relative orbit of each pass.
        spec: ``reducer`` over the dates of an orbit, ``combine`` over orbits; the orbit ``most`` observed is
            chosen per pixel, the lowest number of equals.

    Returns:
        (polarisation, y, x) float32 dB with NaN = no data, and the (y, x) uint8 count of passes (at most 255).

    Raises:
        InputError: If there are not as many orbits as passes.

    >>> power = np.array([0.1, 0.3, 0.4], np.float32).reshape(3, 1, 1, 1)
    >>> db, count = composite_backscatter(power, [15, 15, 66], Sentinel1())
    >>> round(float(db.item()), 3), int(count.item())  # 10 log10((0.2 + 0.4) / 2)
    (-5.229, 3)
    """
    n_dates, n_bands, height, width = power.shape
    number = np.asarray(orbits, np.int64)
    if number.shape != (n_dates,):
        raise InputError("each pass needs its orbit", where="orbits", found=number.shape, limit=(n_dates,))
    order = np.argsort(number, kind="stable")
    starts = np.unique(number[order], return_index=True)[1]
    out = np.full((n_bands, height, width), np.nan, np.float32)
    count = np.zeros((height, width), np.uint8)
    if n_dates:
        edges = np.append(starts, n_dates).astype(np.int64)
        _composite(power, order, edges, spec.reducer == "median", spec.combine == "most", out, count)
    return out, count


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _composite(
    power: NDArray[np.float32],
    order: NDArray[np.int64],
    edges: NDArray[np.int64],
    median: bool,
    most: bool,
    out: NDArray[np.float32],
    count: NDArray[np.uint8],
) -> None:
    """Fill `out` and `count`; orbit i holds the passes ``order[edges[i]:edges[i + 1]]``."""
    n_dates, n_bands, height, width = power.shape
    n_orbits = edges.size - 1
    dates = np.empty(n_dates, np.int64)  # valid passes of the pixel, orbit by orbit
    ends = np.empty(n_orbits, np.int64)
    values = np.empty(n_dates, np.float64)
    for y in range(height):
        for x in range(width):
            n = 0
            for i in range(n_orbits):
                for at in range(edges[i], edges[i + 1]):
                    if _valid(power, order[at], y, x):
                        dates[n] = order[at]
                        n += 1
                ends[i] = n
            count[y, x] = min(n, 255)
            if n == 0:
                continue
            first, last = _most_observed(ends) if most else (0, n_orbits)
            for b in range(n_bands):
                total = 0.0
                seen = 0
                for i in range(first, last):
                    begin = ends[i - 1] if i else 0
                    if ends[i] > begin:
                        for k in range(begin, ends[i]):
                            values[k - begin] = power[dates[k], b, y, x]
                        total += _reduce(values, ends[i] - begin, median)
                        seen += 1
                out[b, y, x] = np.float32(10.0 * np.log10(total / seen))


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _valid(power: NDArray[np.float32], t: int, y: int, x: int) -> bool:
    for b in range(power.shape[1]):
        value = power[t, b, y, x]
        if not (value > 0.0 and value < np.inf):  # NaN fails every comparison
            return False
    return True


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _most_observed(ends: NDArray[np.int64]) -> tuple[int, int]:
    best, best_n = 0, ends[0]
    for i in range(1, ends.size):
        if ends[i] - ends[i - 1] > best_n:
            best, best_n = i, ends[i] - ends[i - 1]
    return best, best + 1


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _reduce(values: NDArray[np.float64], n: int, median: bool) -> float:
    if not median:
        total = 0.0
        for i in range(n):
            total += values[i]
        return total / n
    for i in range(1, n):  # insertion sort: a period has few passes
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value
    return values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2.0
