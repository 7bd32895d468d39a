"""Composites, as pure kernels: several clear observations become one value per band.

An observation is missing where any of its bands is 0, so all bands of a pixel come from the same dates.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.spec import Reducer

_CODES: dict[str, int] = {"median": 0, "mean": 1, "first": 2}


def composite(
    observations: NDArray[np.uint16], reducer: Reducer
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Reduce the dates of one period.

    Args:
        observations: (time, band, y, x) uint16, 0 in any band = missing.
        reducer: ``median`` and ``mean`` round half up; ``first`` takes the earliest clear date.

    Returns:
        (band, y, x) uint16 with 0 = no data, and the (y, x) uint8 count of clear dates (at most 255).

    >>> values = np.array([4, 0, 7, 8], np.uint16).reshape(4, 1, 1, 1)
    >>> [int(a.squeeze()) for a in composite(values, "median")]
    [7, 3]
    """
    _, n_bands, height, width = observations.shape
    out = np.zeros((n_bands, height, width), np.uint16)
    count = np.zeros((height, width), np.uint8)
    _composite(observations, _CODES[str(reducer)], out, count)
    return out, count


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _composite(
    observations: NDArray[np.uint16], code: int, out: NDArray[np.uint16], count: NDArray[np.uint8]
) -> None:
    n_dates, n_bands, height, width = observations.shape
    dates = np.empty(n_dates, np.int64)
    values = np.empty(n_dates, np.uint16)
    for y in range(height):
        for x in range(width):
            n = 0
            for t in range(n_dates):
                clear = True
                for b in range(n_bands):
                    if observations[t, b, y, x] == 0:
                        clear = False
                        break
                if clear:
                    dates[n] = t
                    n += 1
            count[y, x] = min(n, 255)
            if n == 0:
                continue
            for b in range(n_bands):
                for i in range(n):
                    values[i] = observations[dates[i], b, y, x]
                out[b, y, x] = _reduce(values, n, code)


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _reduce(values: NDArray[np.uint16], n: int, code: int) -> np.uint16:
    if code == 2 or n == 1:
        return values[0]
    if code == 1:
        total = np.int64(0)
        for i in range(n):
            total += values[i]
        return np.uint16((2 * total + n) // (2 * n))
    for i in range(1, n):  # insertion sort: a period has few dates
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value
    upper = np.int64(values[n // 2])
    if n % 2:
        return np.uint16(upper)
    return np.uint16((upper + np.int64(values[n // 2 - 1]) + 1) // 2)
