"""Geometric median: the point in the space of all bands whose distances to the clear dates sum up to least.

Roberts, Mueller and McIntyre 2017 (IEEE TGRS 55:6254, high-dimensional pixel composites). All bands of a
pixel are reduced together, so that the relations between them stay those of an observation.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.cube.choices import add_square_distance
from engine.cube.rows import by_rows, load_piece

TOLERANCE = 1e-3
"""The search ends when a step is shorter than this (in 1e-4 reflectance, over all bands)."""

MOST_STEPS = 500
"""The search ends here at the latest."""

_STRETCH = 1.6
"""Steps are this much longer than Weiszfeld's: below 2 they converge as well, in fewer steps (Ostresh 1978,
Oper. Res. 26:597)."""

_TILE_PX = 32


def geometric_median(
    stack: NDArray[np.uint16], threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Find the geometric median of the clear dates of each pixel.

    Weiszfeld's iteration in float64 from the mean, in order of dates; each pixel ends by its own step
    (`TOLERANCE`, `MOST_STEPS`) and then stays, so that its neighbours change nothing. Distances below the
    tolerance count as the tolerance: the search does not stick to an observation that it meets. Two dates
    give their mean.

    Args:
        stack: (time, band, y, x) uint16, 0 in any band = missing.
        threads: Threads to work in.

    Returns:
        (band, y, x) float32 in steps of 1/1024 (what lies below is noise of the search), NaN = no data,
        and the (y, x) uint8 count of clear dates (at most 255).

    >>> points = np.array([[10, 10], [10, 30], [30, 10], [30, 30], [20, 20]], np.uint16)
    >>> geometric_median(points[:, :, None, None])[0].ravel().tolist()
    [20.0, 20.0]
    """
    out = np.empty(stack.shape[1:], np.float32)
    count = np.empty(stack.shape[2:], np.uint8)
    by_rows(lambda y0, y1: _geomedian(stack, out, count, y0, y1), stack.shape[2], threads)
    return out, count


def rounded(geomedian: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round a geometric median half up to (band, y, x) uint16, 0 = no data."""
    whole = np.floor(geomedian + np.float32(0.5))
    return np.nan_to_num(whole, copy=False, nan=0.0).astype(np.uint16)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _geomedian(
    stack: NDArray[np.uint16], out: NDArray[np.float32], count: NDArray[np.uint8], y0: int, y1: int
) -> None:
    """Fill rows ``y0..y1`` of (band, y, x) medians and (y, x) counts."""
    n_dates, n_bands, _, width = stack.shape
    values = np.zeros((n_bands, n_dates, _TILE_PX), np.uint16)
    points = np.empty((n_dates, n_bands * _TILE_PX), np.float64)
    median = np.empty(n_bands * _TILE_PX, np.float64)
    sizes = np.empty(_TILE_PX, np.int32)
    for y in range(y0, y1):
        for x0 in range(0, width, _TILE_PX):
            n = min(_TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            if sizes[:n].max() == 0:
                out[:, y, x0 : x0 + n], count[y, x0 : x0 + n] = np.nan, 0
                continue
            _begin(values, sizes, points, median)
            _search(points, values[0], median)
            for i in range(n):
                count[y, x0 + i] = min(sizes[i], 255)
                for b in range(n_bands):
                    found = np.floor(median[b * _TILE_PX + i] * 1024.0 + 0.5) / 1024.0
                    out[b, y, x0 + i] = found if sizes[i] else np.nan


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _begin(
    values: NDArray[np.uint16],
    sizes: NDArray[np.int32],
    points: NDArray[np.float64],
    median: NDArray[np.float64],
) -> None:
    """Fill points (time, band x tile) from values (band, time, tile), and the median with their mean."""
    n_bands, n_dates, width = values.shape
    median[:] = 0.0
    for b in range(n_bands):
        for t in range(n_dates):
            for i in range(width):
                points[t, b * width + i] = values[b, t, i]
                median[b * width + i] += values[b, t, i]
        for i in range(width):
            median[b * width + i] /= max(sizes[i], 1)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _search(points: NDArray[np.float64], clear: NDArray[np.uint16], median: NDArray[np.float64]) -> None:
    """Move the medians (band x tile,) of a piece until each has come to rest."""
    n_dates, width = clear.shape
    total, weights = np.empty(len(median), np.float64), np.empty(width, np.float64)
    square, moving = np.empty(width, np.float64), np.ones(width, np.float64)
    for _ in range(MOST_STEPS):
        total[:], weights[:] = 0.0, 0.0
        for t in range(n_dates):
            add_square_distance(points[t], median, square)
            for i in range(width):
                near = 1.0 / max(np.sqrt(square[i]), TOLERANCE)
                square[i] = near if clear[t, i] != 0 else 0.0
                weights[i] += square[i]
            _add_weighted(points[t], square, total)
        for i in range(width):
            weights[i] = _STRETCH * moving[i] / max(weights[i], 1e-300)
        square[:] = 0.0
        for start in range(0, len(median), width):
            for i in range(width):
                step = total[start + i] * weights[i] - median[start + i] * (_STRETCH * moving[i])
                square[i] += step * step
                median[start + i] += step
        for i in range(width):
            moving[i] = moving[i] if square[i] > TOLERANCE * TOLERANCE else 0.0
        if moving.max() == 0.0:
            break


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _add_weighted(
    point: NDArray[np.float64], weights: NDArray[np.float64], total: NDArray[np.float64]
) -> None:
    """Add weights (x,) times one date (band x tile,) to a total (band x tile,)."""
    width = np.uintp(len(weights))
    for start in range(np.uintp(0), np.uintp(len(point)), width):
        for i in range(width):
            total[start + i] += weights[i] * point[start + i]
