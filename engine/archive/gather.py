"""Gather: the value of a file at any position of it, by nearest, bilinear or cubic, as compiled kernels.

The kernels are GDAL's: linear, and cubic convolution with a = -0.5 (Keys 1981, IEEE ASSP 29:1153). Where grid
pixels are coarser than the file's, both widen by the ratio of the sizes, so that every file pixel counts and
nothing aliases. A position has a value only if the file pixel that holds it has one; pixels without data, and
those beyond the edge, are left out and the other weights made to sum to one. Cubic falls back to linear where
one of its pixels is missing: with negative weights there is no honest rest.

Each value depends on its position and the pixels around it alone, summed in one order, in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

NEAREST, LINEAR, CUBIC = 0, 1, 2
KINDS = {"nearest": NEAREST, "bilinear": LINEAR, "cubic": CUBIC}

_EDGE = 1e-6  # part of a pixel: a position this near below an edge is on it, and takes the pixel behind it


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def polynomial(lines: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate polynomials line by line.

    Args:
        lines: (2, y, n) float64 coefficients.
        along: (n, x) float64 values of the base polynomials.

    Returns:
        (2, y, x) float64.
    """
    planes, height, terms = lines.shape
    width = along.shape[1]
    out = np.zeros((planes, height, width))
    for p in range(planes):
        for i in range(height):
            for k in range(terms):  # outside: many sums at once, each in its own fixed order
                factor = lines[p, i, k]
                for j in range(width):
                    out[p, i, j] += factor * along[k, j]
    return out


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _weight(kind: int, distance: float) -> float:
    """Return the weight of a pixel at a distance from the position, in units of the kernel."""
    d = abs(distance)
    if kind == LINEAR:
        return max(0.0, 1.0 - d)
    if d < 1.0:
        return (1.5 * d - 2.5) * d * d + 1.0
    if d < 2.0:
        return ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return 0.0


@njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _of_four(pixels: NDArray[Any], nodata: float, row: float, col: float) -> float:
    """Return the mean of the four pixels around a position, NaN where one is missing: the usual case."""
    y, x = row - 0.5, col - 0.5
    top, left = int(np.floor(y)), int(np.floor(x))
    if top < 0 or left < 0 or top + 1 >= pixels.shape[0] or left + 1 >= pixels.shape[1]:
        return np.nan
    low, right = y - top, x - left
    a, b, c, d = pixels[top, left], pixels[top, left + 1], pixels[top + 1, left], pixels[top + 1, left + 1]
    if a == nodata or b == nodata or c == nodata or d == nodata:
        return np.nan
    return (1.0 - low) * ((1.0 - right) * a + right * b) + low * ((1.0 - right) * c + right * d)


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _sum(
    pixels: NDArray[Any], nodata: float, kind: int, at: tuple[float, float], ratio: tuple[float, float]
) -> tuple[float, float, bool]:
    """Return weighted sum, sum of weights and whether a pixel with a weight is missing."""
    height, width = pixels.shape
    reach_y, reach_x = kind * ratio[0], kind * ratio[1]
    y, x = at[0] - 0.5, at[1] - 0.5
    total, weights, missing = 0.0, 0.0, False
    for i in range(int(np.ceil(y - reach_y)), int(np.floor(y + reach_y)) + 1):
        weight_y = _weight(kind, (i - y) / ratio[0])
        if weight_y == 0.0:
            continue
        for j in range(int(np.ceil(x - reach_x)), int(np.floor(x + reach_x)) + 1):
            weight = weight_y * _weight(kind, (j - x) / ratio[1])
            if weight == 0.0:
                continue
            if i < 0 or j < 0 or i >= height or j >= width:
                missing = True
                continue
            value = pixels[i, j]
            if value == nodata or value != value:
                missing = True
                continue
            total += weight * value
            weights += weight
    return total, weights, missing


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _gather(
    pixels: NDArray[Any],
    nodata: float,
    kind: int,
    where: NDArray[np.float64],
    ratio: tuple[float, float],
    out: NDArray[Any],
    whole: bool,
) -> None:
    height, width = pixels.shape
    plain = kind == LINEAR and ratio[0] == 1.0 and ratio[1] == 1.0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            row, col = where[0, i, j], where[1, i, j]
            if not (-1.0 < row < height + 1.0 and -1.0 < col < width + 1.0):
                continue
            near_y, near_x = int(np.floor(row + _EDGE)), int(np.floor(col + _EDGE))
            if near_y < 0 or near_x < 0 or near_y >= height or near_x >= width:
                continue
            value = pixels[near_y, near_x]
            if value == nodata or value != value:
                continue
            if kind == NEAREST:
                out[i, j] = value
                continue
            mean = _of_four(pixels, nodata, row, col) if plain else np.nan
            if mean != mean:  # NaN
                total, weights, missing = _sum(pixels, nodata, kind, (row, col), ratio)
                if kind == CUBIC and missing:
                    total, weights, missing = _sum(pixels, nodata, LINEAR, (row, col), ratio)
                mean = total / weights
            if whole:
                mean = min(max(np.floor(mean + 0.5), 1.0), 65535.0)
            out[i, j] = mean


def gather(
    pixels: NDArray[Any],
    where: NDArray[np.float64],
    how: str,
    ratio_yx: tuple[float, float],
    out: NDArray[Any],
) -> None:
    """Fill `out` with the values of pixels at positions.

    Args:
        pixels: (y, x) uint16, 0 = no data, or float32, NaN = no data: a window of a file that holds all
            pixels within reach, or ends where the file does.
        where: (2, y, x) float64 rows and columns within the window; 0.5 is the middle of the first pixel.
        how: ``nearest``, ``bilinear`` or ``cubic``.
        ratio_yx: File pixels per grid pixel, at least 1: how much the kernels widen.
        out: (y, x), same dtype as `pixels`, all no data before. Whole numbers are rounded, halves up, and
            clipped to 1..65535.

    >>> out = np.zeros((1, 2), np.uint16)
    >>> gather(np.array([[10, 20, 40]], np.uint16), np.array([[[0.5, 0.5]], [[1.0, 2.25]]]), "bilinear", (1, 1), out)
    >>> out
    array([[15, 35]], dtype=uint16)
    """
    whole = pixels.dtype.kind == "u"
    ratio = float(ratio_yx[0]), float(ratio_yx[1])
    _gather(pixels, 0.0 if whole else np.nan, KINDS[how], where, ratio, out, whole)
