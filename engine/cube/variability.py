"""Variability: how far the observations of a period lie from their geometric median.

Three temporal median absolute deviations (Roberts, Dunn and Mueller 2018, IGARSS, 8647-8650, Open Data Cube
products using high-dimensional statistics of time series). With x an observation and m the geometric median:

    edev   median of |x - m|                              Euclidean, in reflectance 0..1
    sdev   median of 1 - x . m / (|x| |m|)                cosine: the spectrum's shape, blind to brightness
    bcdev  median of sum |x - m| / sum (x + m)            Bray-Curtis, 0..1
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.cube.rows import by_rows, load_piece, sort_columns, sorting_network
from engine.values.errors import InputError
from engine.values.spec import REFLECTANCE_ONE

DEVIATIONS = ("edev", "sdev", "bcdev")

_TILE_PX = 64


def variability(
    observations: NDArray[np.uint16], geomedian: NDArray[np.float32] | NDArray[np.uint16], *, threads: int = 1
) -> NDArray[np.float32]:
    """Measure the median distances of the clear dates from their geometric median.

    Args:
        observations: (time, band, y, x) uint16 reflectance x 10000, 0 in any band = missing.
        geomedian: (band, y, x) in the same scale, uint16 or float, 0 or NaN = no data.
        threads: Threads to work in; the values are the same.

    Returns:
        (3, y, x) float32: edev, sdev, bcdev; NaN = no data. An even number of dates takes the mean of the
        two in the middle; one date gives 0.

    Raises:
        InputError: If the shapes do not fit.

    >>> two = np.array([[1000, 3000], [3000, 3000]], np.uint16)[:, :, None, None]
    >>> found = variability(two, np.array([2000, 3000], np.uint16)[:, None, None])
    >>> [round(float(d), 4) for d in found.ravel()]
    [0.1, 0.0273, 0.101]
    """
    if observations.shape[1:] != geomedian.shape:
        raise InputError(
            "observations and median differ", found=geomedian.shape, limit=observations.shape[1:]
        )
    stack = np.ascontiguousarray(observations)
    n_dates, _, height, width = stack.shape
    out = np.full((len(DEVIATIONS), height, width), np.nan, np.float32)
    if n_dates:
        network, median = sorting_network(n_dates, 50), geomedian.astype(np.float32, copy=False)
        by_rows(lambda y0, y1: _deviations(stack, median, network, out, y0, y1), height, threads)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _deviations(
    stack: NDArray[np.uint16],
    geomedian: NDArray[np.float32],
    network: NDArray[np.uintp],
    out: NDArray[np.float32],
    y0: int,
    y1: int,
) -> None:
    """Fill rows ``y0..y1`` of (3, y, x) deviations."""
    n_dates, n_bands, _, width = stack.shape
    values = np.zeros((n_bands, n_dates, _TILE_PX), np.uint16)
    distances = np.empty((3, n_dates * _TILE_PX), np.float64)
    median, sizes = np.zeros((n_bands, _TILE_PX), np.float64), np.empty(_TILE_PX, np.int32)
    for y in range(y0, y1):
        for x0 in range(0, width, _TILE_PX):
            n = min(_TILE_PX, width - x0)
            load_piece(stack, y, x0, values, sizes[:n])
            for b in range(n_bands):
                for i in range(n):
                    median[b, i] = geomedian[b, y, x0 + i]
            for t in range(n_dates):
                _measure(values[:, t], median, distances[:, t * _TILE_PX : (t + 1) * _TILE_PX])
            for d in range(3):
                sort_columns(distances[d], network, _TILE_PX, n)
                for i in range(n):
                    if sizes[i] == 0 or not median[0, i] > 0:
                        continue
                    first = n_dates - sizes[i]
                    low = distances[d, (first + (sizes[i] - 1) // 2) * _TILE_PX + i]
                    high = distances[d, (first + sizes[i] // 2) * _TILE_PX + i]
                    out[d, y, x0 + i] = (low + high) / 2


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _measure(date: NDArray[np.uint16], median: NDArray[np.float64], distances: NDArray[np.float64]) -> None:
    """Fill (3, x) distances of one date (band, x) from the median (band, x); -1 where the date is missing."""
    n_bands, width = median.shape
    square, product = np.zeros(width, np.float64), np.zeros(width, np.float64)
    own, other = np.zeros(width, np.float64), np.zeros(width, np.float64)
    apart, together = np.zeros(width, np.float64), np.zeros(width, np.float64)
    for b in range(n_bands):
        values, middles = date[b], median[b]
        for i in range(width):
            x, m = np.float64(values[i]), middles[i]
            square[i] += (x - m) * (x - m)
            product[i] += x * m
            own[i] += x * x
            other[i] += m * m
            apart[i] += abs(x - m)
            together[i] += x + m
    for i in range(width):
        missing = date[0, i] == 0 or not together[i] > 0
        length = max(np.sqrt(own[i] * other[i]), 1e-300)
        distances[0, i] = -1.0 if missing else np.sqrt(square[i]) / REFLECTANCE_ONE
        distances[1, i] = -1.0 if missing else max(1.0 - product[i] / length, 0.0)
        distances[2, i] = -1.0 if missing else apart[i] / max(together[i], 1e-300)
