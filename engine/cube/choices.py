"""Reducers that choose one date for each pixel, so that all bands come from it: first, max NDVI, best, medoid."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.cube.rows import TILE_PX, load_piece

_MEDOID_PX = 32
"""Pixels of a row piece for the medoid, whose distances are float64."""


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def first(
    stack: NDArray[np.uint16], out: NDArray[np.uint16], count: NDArray[np.uint8], y0: int, y1: int
) -> None:
    """Take the earliest clear date in rows ``y0..y1``.

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    values = np.empty((n_bands, n_dates, TILE_PX), np.uint16)
    sizes, chosen = np.empty(TILE_PX, np.int32), np.empty(TILE_PX, np.int32)
    for y in range(y0, y1):
        for x0 in range(0, width, TILE_PX):
            n = min(TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            chosen[:] = 0
            for t in range(n_dates):
                date, at = values[0, n_dates - 1 - t], np.int32(n_dates - 1 - t)
                for i in range(n):
                    chosen[i] = at if date[i] != 0 else chosen[i]
            _take(values, chosen, sizes[:n], out[:, y, x0 : x0 + n], count[y, x0 : x0 + n])


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def max_ndvi(
    stack: NDArray[np.uint16],
    red: int,
    nir: int,
    out: NDArray[np.uint16],
    count: NDArray[np.uint8],
    y0: int,
    y1: int,
) -> None:
    """Take the clear date with the highest NDVI in rows ``y0..y1``, the earliest of equal ones.

    (nir - red) / (nir + red) grows with nir / red, and a / b > c / d just where a d > c b: whole numbers
    decide, exactly (Holben 1986, Int. J. Remote Sens. 7:1417, maximum value composites).

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        red: Position of red among the bands.
        nir: Position of the near infrared.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    values = np.empty((n_bands, n_dates, TILE_PX), np.uint16)
    sizes, chosen = np.empty(TILE_PX, np.int32), np.empty(TILE_PX, np.int32)
    best_red, best_nir = np.empty(TILE_PX, np.uint32), np.empty(TILE_PX, np.uint32)
    for y in range(y0, y1):
        for x0 in range(0, width, TILE_PX):
            n = min(TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            chosen[:], best_red[:], best_nir[:] = 0, 1, 0
            for t in range(n_dates):
                reds, nirs, at = values[red, t], values[nir, t], np.int32(t)
                for i in range(n):
                    a, b = np.uint32(nirs[i]), np.uint32(reds[i])
                    greener = np.uint32(a * best_red[i]) > np.uint32(best_nir[i] * b)
                    chosen[i] = at if greener else chosen[i]
                    best_red[i] = b if greener else best_red[i]
                    best_nir[i] = a if greener else best_nir[i]
            _take(values, chosen, sizes[:n], out[:, y, x0 : x0 + n], count[y, x0 : x0 + n])


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def highest_score(
    stack: NDArray[np.uint16],
    scores: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]],
    out: NDArray[np.uint16],
    count: NDArray[np.uint8],
    y0: int,
    y1: int,
) -> None:
    """Take the clear date with the highest score in rows ``y0..y1``, the earliest of equal ones.

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        scores: The score of each date (time,), the score of each cloud distance (pixel,), both 0 or more,
            and the cloud distances (time, y, x) in pixels, which end where their scores do.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    of_date, of_distance, distance = scores
    values = np.empty((n_bands, n_dates, TILE_PX), np.uint16)
    sizes, chosen = np.empty(TILE_PX, np.int32), np.empty(TILE_PX, np.int32)
    highest, score = np.empty(TILE_PX, np.int32), np.empty(TILE_PX, np.int32)
    last = np.uintp(len(of_distance) - 1)
    for y in range(y0, y1):
        for x0 in range(0, width, TILE_PX):
            n = min(TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            chosen[:], highest[:] = 0, -1
            for t in range(n_dates):
                date, away = values[0, t], distance[t, y, x0 : x0 + n]
                at, own = np.int32(t), of_date[t]
                for i in range(n):
                    score[i] = of_distance[min(np.uintp(away[i]), last)]
                for i in range(n):
                    total = np.int32(own + score[i])
                    higher = (date[i] != 0) & (total > highest[i])
                    chosen[i] = at if higher else chosen[i]
                    highest[i] = total if higher else highest[i]
            _take(values, chosen, sizes[:n], out[:, y, x0 : x0 + n], count[y, x0 : x0 + n])


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def medoid(
    stack: NDArray[np.uint16], out: NDArray[np.uint16], count: NDArray[np.uint8], y0: int, y1: int
) -> None:
    """Take the clear date nearest to all others in rows ``y0..y1``, the earliest of equal ones.

    The medoid has the smallest sum of Euclidean distances to the other clear dates over all bands (Flood
    2013, Remote Sens. 5:6481). Squares are whole numbers, exact in float64; distances are cut to 2**-16,
    so that their sums are exact and no order of the dates can decide.

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        out: (band, y, x), filled.
        count: (y, x), filled, at most 255.
        y0: First row.
        y1: Row after the last.
    """
    n_dates, n_bands, _, width = stack.shape
    values = np.zeros((n_bands, n_dates, _MEDOID_PX), np.uint16)
    points = np.empty((n_dates, n_bands * _MEDOID_PX), np.float64)
    sums = np.empty((n_dates, _MEDOID_PX), np.float64)
    sizes, chosen = np.empty(_MEDOID_PX, np.int32), np.empty(_MEDOID_PX, np.int32)
    for y in range(y0, y1):
        for x0 in range(0, width, _MEDOID_PX):
            n = min(_MEDOID_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            for t in range(n_dates):
                for b in range(n_bands):
                    for i in range(_MEDOID_PX):
                        points[t, b * _MEDOID_PX + i] = values[b, t, i]
            _sum_distances(points, values[0], sums)
            chosen[:] = 0
            for i in range(n):
                least = np.inf
                for t in range(n_dates):
                    if values[0, t, i] != 0 and sums[t, i] < least:
                        chosen[i], least = t, sums[t, i]
            _take(values, chosen, sizes[:n], out[:, y, x0 : x0 + n], count[y, x0 : x0 + n])


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _sum_distances(points: NDArray[np.float64], clear: NDArray[np.uint16], sums: NDArray[np.float64]) -> None:
    """Add up the distances of each date to all other clear dates: (time, band x tile) to (time, x)."""
    n_dates, width = clear.shape
    square = np.empty(width, np.float64)
    sums[:] = 0.0
    for t in range(n_dates):
        for u in range(t + 1, n_dates):
            add_square_distance(points[t], points[u], square)
            one, other = clear[t], clear[u]
            of_one, of_other = sums[t], sums[u]
            for i in range(width):
                distance = np.floor(np.sqrt(square[i]) * 65536.0)
                of_one[i] += distance if other[i] != 0 else 0.0
                of_other[i] += distance if one[i] != 0 else 0.0


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def add_square_distance(a: NDArray[np.float64], b: NDArray[np.float64], square: NDArray[np.float64]) -> None:
    """Fill `square` (x,) with the squared distances of two dates, each (band x tile,), in order of bands."""
    width = np.uintp(len(square))
    square[:] = 0.0
    for start in range(np.uintp(0), np.uintp(len(a)), width):
        for i in range(width):
            difference = a[start + i] - b[start + i]
            square[i] += difference * difference


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _take(
    values: NDArray[np.uint16],
    chosen: NDArray[np.int32],
    sizes: NDArray[np.int32],
    out: NDArray[np.uint16],
    count: NDArray[np.uint8],
) -> None:
    """Write the chosen dates of a piece: (band, time, x) to (band, x); without a clear date they are 0."""
    for i in range(len(sizes)):
        count[i] = min(sizes[i], 255)
    for b in range(len(values)):
        for i in range(len(sizes)):
            out[b, i] = values[b, chosen[i], i]
