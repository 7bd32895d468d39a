"""Reducers that take each band by itself: median and other percentiles, mean."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.cube.rows import TILE_PX, load_piece, sort_columns


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def percentile(
    stack: NDArray[np.uint16],
    network: NDArray[np.uintp],
    percent: int,
    out: NDArray[np.uint16],
    count: NDArray[np.uint8],
    y0: int,
    y1: int,
) -> None:
    """Reduce rows ``y0..y1`` to a percentile by linear interpolation, in whole numbers.

    Of n clear values in ascending order v[0..n-1] the percentile lies at h = percent (n - 1) / 100, that is
    v[k] + (h - k) (v[k+1] - v[k]) with k = floor(h): definition 7 of Hyndman and Fan 1996 (Am. Stat.
    50:361), numpy's ``linear``; halves are rounded up. All values of a band are sorted, missing ones as
    zeros to the front, and the count says where the clear ones begin.

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        network: From `engine.cube.rows.sorting_network`.
        percent: 0..100.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    sizes = np.empty(TILE_PX, np.int32)
    values = np.empty((n_bands, n_dates, TILE_PX), np.uint16)
    lower, upper = np.empty(TILE_PX, np.int64), np.empty(TILE_PX, np.int64)
    part = np.empty(TILE_PX, np.uint32)
    for y in range(y0, y1):
        for x0 in range(0, width, TILE_PX):
            n = min(TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            for i in range(n):
                size = sizes[i]
                count[y, x0 + i] = min(size, 255)
                h = percent * max(size - 1, 0)
                k = min(n_dates - size + h // 100, n_dates - 1)
                lower[i] = k * TILE_PX + i
                upper[i] = min(k + 1, n_dates - 1) * TILE_PX + i
                part[i] = h % 100
            for b in range(n_bands):
                column = values[b].reshape(n_dates * TILE_PX)
                sort_columns(column, network, TILE_PX, n)
                for i in range(n):
                    low, high = np.uint32(column[lower[i]]), np.uint32(column[upper[i]])
                    hundred = low * (np.uint32(100) - part[i]) + high * part[i]
                    out[b, y, x0 + i] = np.uint32(hundred + np.uint32(50)) // np.uint32(100)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def mean(
    stack: NDArray[np.uint16], out: NDArray[np.uint16], count: NDArray[np.uint8], y0: int, y1: int
) -> None:
    """Reduce rows ``y0..y1`` to the mean of the clear dates, halves rounded up.

    Sums are whole numbers; the quotient in float64 falls on the same side of a half as the exact one
    (both are far below 2**53).

    Args:
        stack: (time, band, y, x), 0 in any band = missing; at most 65536 dates.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    values = np.empty((n_bands, n_dates, TILE_PX), np.uint16)
    sizes = np.empty(TILE_PX, np.int32)
    total = np.empty(TILE_PX, np.uint32)
    for y in range(y0, y1):
        for x0 in range(0, width, TILE_PX):
            n = min(TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            for i in range(n):
                count[y, x0 + i] = min(sizes[i], 255)
            for b in range(n_bands):
                total[:] = 0
                for t in range(n_dates):
                    date = values[b, t]
                    for i in range(n):
                        total[i] += np.uint32(date[i])
                for i in range(n):
                    size = max(np.float64(sizes[i]), 1.0)
                    out[b, y, x0 + i] = np.uint16(np.floor((2.0 * total[i] + size) / (2.0 * size)))
