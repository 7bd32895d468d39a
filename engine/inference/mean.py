"""Several answers to one question: their weighted mean and their disagreement, in exact integers.

With ``p_m`` the fixed-point answer of member m (0..65535 for each output k), ``w_m`` its integer weight and
``W`` the sum of the weights::

    mean           sum_m w_m p_m / W
    disagreement   sum_m w_m d(p_m, mean) / W

where d is the total variation distance: ``1/2 sum_k |p_mk - mean_k|`` for classes, of which a pixel has one;
for many classes a pixel, each of them a yes or no of its own, the largest ``|p_mk - mean_k|``. Both lie
between 0 (all agree) and 1. Nothing is divided before the last step, so the order of adding is of no matter.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.head import Classes, MultiLabel, Values

WEIGHT_SUM_MAX = 32767
"""Largest sum of weights: times 65535 it is still an int32."""


def shares(sums: NDArray[np.int32], weight_sums: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Divide the sums of one model, halves upward.

    Args:
        sums: (K + 1, y, x) int32 from `engine.inference.blend.window_sums`, spills added; the last plane
            tells data.
        weight_sums: (y, x) int32, the summed weights; 0 = not answered.

    Returns:
        (K + 1, y, x) uint16: fixed point 0..65535; last 1 where there is an answer.
    """
    out = np.empty(sums.shape, np.uint16)
    _divide(sums, weight_sums, out)
    return out


def totals(
    parts_MKYX: NDArray[np.uint16],
    weights: tuple[int, ...],
    head: Classes | MultiLabel | Values,
    *,
    disagreement: bool = False,
) -> NDArray[np.int32]:
    """Add up the answers of several members, not yet divided by the sum of the weights.

    Args:
        parts_MKYX: Fixed point 0..65535 of each member M and output K.
        weights: Weight of each member, (M,); their sum at most `WEIGHT_SUM_MAX`.
        head: What the outputs mean.
        disagreement: Whether to give that too.

    Returns:
        (K, y, x) int32, ``sum_m w_m p_m``; with disagreement one plane more, times W like the others.
    """
    n_outputs, height, width = parts_MKYX.shape[1:]
    out = np.empty((n_outputs + disagreement, height, width), np.int32)
    _add_up(parts_MKYX, np.array(weights, np.int64), isinstance(head, MultiLabel), out)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _divide(sums, weight_sums, out):  # type: ignore[no-untyped-def]
    last = sums.shape[0] - 1
    for k in range(last):
        for y in range(sums.shape[1]):
            for x in range(sums.shape[2]):
                weight = np.int64(weight_sums[y, x])
                answered = weight > 0 and sums[last, y, x] != 0
                out[k, y, x] = (2 * np.int64(sums[k, y, x]) + weight) // (2 * weight) if answered else 0
    for y in range(sums.shape[1]):
        for x in range(sums.shape[2]):
            out[last, y, x] = 1 if weight_sums[y, x] > 0 and sums[last, y, x] != 0 else 0


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _add_up(parts, weights, largest, out):  # type: ignore[no-untyped-def]
    n_members, n_outputs = parts.shape[:2]
    total_weight = weights.sum()
    for y in range(parts.shape[2]):
        for x in range(parts.shape[3]):
            for k in range(n_outputs):
                total = np.int64(0)
                for m in range(n_members):
                    total += weights[m] * np.int64(parts[m, k, y, x])
                out[k, y, x] = total
            if out.shape[0] == n_outputs:
                continue
            spread = np.int64(0)  # times 2 W W
            for m in range(n_members):
                distance = np.int64(0)
                for k in range(n_outputs):
                    apart = abs(total_weight * np.int64(parts[m, k, y, x]) - np.int64(out[k, y, x]))
                    distance = max(distance, 2 * apart) if largest else distance + apart
                spread += weights[m] * distance
            out[n_outputs, y, x] = (spread + total_weight) // (2 * total_weight)
