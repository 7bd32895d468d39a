"""Compiled loops between the cube's integers, the network's floats and the exact sums, on a CPU.

Each touches every value once: at a window of 256 pixels the plain tensor operations for the same cost
a tenth of a small network's forward pass, these a fiftieth. Their arithmetic is written out, so that it
does not depend on how a library cuts a loop into vectors.

Shape suffixes: T date, C band, H row, W column, K output, N pixel.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.lattice import PROBABILITY_ONE

# exp(x) = 2**n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; ln 2 in two parts (Cody and Waite 1980) and the
# polynomial of the Cephes library's expf (Moshier), whose error is below 2e-7 of the value.
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP_LEAST = np.float32(-87.0)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1.0), np.float32(0.0)
_FULL = np.float32(PROBABILITY_ONE)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def normalise(
    x_TCHW: NDArray[np.uint16],
    table_CV: NDArray[np.float32],
    x_HWF: NDArray[np.float32],
    valid_HWT: NDArray[np.float32],
) -> None:
    """Look up each value's normalised one, pixel by pixel; 0 where a band of the date is 0.

    Args:
        x_TCHW: Values of the cube, 0 = no data.
        table_CV: Normalised value of each of the 65536 values, per band.
        x_HWF: Output, features of a pixel side by side (F = T x C): what "channels last" means.
        valid_HWT: Output, 1 = all bands of that date are there.
    """
    n_dates, n_bands, height, width = x_TCHW.shape
    full_W = np.empty(width, np.uint16)
    for t in range(n_dates):
        for y in range(height):
            full_W[:] = 1
            for c in range(n_bands):
                values_W = x_TCHW[t, c, y]
                for x in range(width):
                    full_W[x] &= np.uint16(values_W[x] != 0)
            for x in range(width):
                valid_HWT[y, x, t] = _ONE if full_W[x] else _ZERO
            all_full = full_W.all()
            for c in range(n_bands):
                values_W, table_V, at = x_TCHW[t, c, y], table_CV[c], t * n_bands + c
                if all_full:  # without the test the loop is twice as fast
                    for x in range(width):
                        x_HWF[y, x, at] = table_V[values_W[x]]
                else:
                    for x in range(width):
                        x_HWF[y, x, at] = table_V[values_W[x]] if full_W[x] else _ZERO


@numba.njit(nogil=True, cache=True, error_model="numpy")  # pragma: no cover - compiled
def softmax(scores_HWK: NDArray[np.float32], temperature: np.float32, out_KHW: NDArray[np.int32]) -> bool:
    """Turn scores into fixed-point probabilities, ``p_k = exp(s_k / T) / sum_j exp(s_j / T)``, halves upward.

    Args:
        scores_HWK: Any memory order; fastest with the outputs of a pixel side by side.
        temperature: Divides the scores.
        out_KHW: Output, 0..65535.

    Returns:
        False if a score is not finite; the output is then of no use.
    """
    height, width, n_classes = scores_HWK.shape
    part_KW, power_W = np.empty((n_classes, width), np.float32), np.empty(width, np.int32)
    most_W, sum_W, odd_W = (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.zeros(width, np.float32),
    )
    scale = _ONE / temperature
    for y in range(height):
        for k in range(n_classes):
            for x in range(width):
                part_KW[k, x] = scores_HWK[y, x, k] * scale
        most_W[:] = part_KW[0]
        sum_W[:] = _ZERO
        for k in range(n_classes):
            for x in range(width):
                most_W[x] = max(most_W[x], part_KW[k, x])
                odd_W[x] += part_KW[k, x] * _ZERO  # 0 unless infinite or not a number
        for k in range(n_classes):
            for x in range(width):
                rest, power = _exp_parts(part_KW[k, x] - most_W[x])
                power_W[x] = (power + 127) << 23  # 2**power as the bits of a float32
                part_KW[k, x] = rest
            scale_W = power_W.view(np.float32)
            for x in range(width):
                share = part_KW[k, x] * scale_W[x]
                part_KW[k, x] = share
                sum_W[x] += share
        for x in range(width):
            sum_W[x] = _FULL / sum_W[x]
        for k in range(n_classes):
            for x in range(width):
                out_KHW[k, y, x] = np.int32(part_KW[k, x] * sum_W[x] + _HALF)
    return not np.isnan(odd_W.sum())


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _exp_parts(value: np.float32) -> tuple[np.float32, np.int32]:
    """Return ``(m, n)`` with ``exp(value) = m * 2**n``, for a value that is not above 0."""
    value = max(value, _EXP_LEAST)
    power = np.floor(np.float32(value * _LOG2_E) + _HALF)
    rest = np.float32(value - power * _LN2_HIGH)
    rest = np.float32(rest - power * _LN2_LOW)
    poly = _P0
    poly = poly * rest + _P1
    poly = poly * rest + _P2
    poly = poly * rest + _P3
    poly = poly * rest + _P4
    poly = poly * rest + _P5
    return poly * rest * rest + rest + _ONE, np.int32(power)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def add_weighted(
    sums_KYX: NDArray[np.int32],
    p_KHW: NDArray[np.int32],
    weights: NDArray[np.int32],
    at_y: int,
    at_x: int,
) -> None:
    """Add ``p * weight`` where the window lies inside `sums_KYX`; all in int32, exact."""
    n_outputs, height, width = p_KHW.shape
    y_lo, y_hi = max(0, -at_y), min(height, sums_KYX.shape[1] - at_y)
    x_lo, x_hi = max(0, -at_x), min(width, sums_KYX.shape[2] - at_x)
    for k in range(n_outputs):
        for y in range(y_lo, y_hi):
            # Rows of their own: only so does the compiler see that the three do not overlap.
            row = sums_KYX[k, at_y + y, at_x + x_lo : at_x + x_hi]
            p_W, weights_W = p_KHW[k, y, x_lo:x_hi], weights[y, x_lo:x_hi]
            for x in range(x_hi - x_lo):
                row[x] += p_W[x] * weights_W[x]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def take_pixels(
    values_TCYX: NDArray[np.uint16],
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    rows_TCN: NDArray[np.uint16],
) -> None:
    """Copy some pixels into a row."""
    for t in range(rows_TCN.shape[0]):
        for c in range(rows_TCN.shape[1]):
            plane_YX, row_N = values_TCYX[t, c], rows_TCN[t, c]
            for i in range(len(ys)):
                row_N[i] = plane_YX[ys[i], xs[i]]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def put_pixels(
    sums_KYX: NDArray[np.int32],
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    p_KN: NDArray[np.int32],
    weight: np.int32,
) -> None:
    """Write ``p * weight`` where a row's pixels come from; pixels beyond `ys` are padding."""
    for k in range(p_KN.shape[0]):
        plane_YX, row_N = sums_KYX[k], p_KN[k]
        for i in range(len(ys)):
            plane_YX[ys[i], xs[i]] = row_N[i] * weight
