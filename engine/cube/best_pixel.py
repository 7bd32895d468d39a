"""Best pixel: how far clouds are, and what distance and date are worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from engine.values.recipe import BestPixel

_ONE = 10**8
"""A score of 1. Scores are whole numbers, so that no rounding of an exponential decides between dates."""


def cap_px(best: BestPixel, resolution_m: float) -> int:
    """Return the cloud distance in pixels beyond which clouds no longer matter.

    >>> cap_px(BestPixel(cloud_distance_m=1000), 10.0)
    100
    """
    return max(1, round(best.cloud_distance_m / resolution_m))


def cloud_distance(hidden: NDArray[np.bool_], cap_px: int, margin_px: int) -> NDArray[np.uint16]:
    """Measure how far each pixel is from the nearest hidden one, between pixel centres.

    With a margin of at least the cap, the answer is the same however an area is cut.

    Args:
        hidden: (y, x) bool, padded by `margin_px` on each side.
        cap_px: Larger distances are given as this one.
        margin_px: Width of the margin.

    Returns:
        (y, x) uint16 without the margin: pixels, rounded down, at most `cap_px`.

    >>> cloud_distance(np.array([[True, False, False, False, False]]), 3, 0)
    array([[0, 1, 2, 3, 3]], dtype=uint16)
    """
    height, width = hidden.shape
    inner = slice(margin_px, height - margin_px), slice(margin_px, width - margin_px)
    if not hidden.any():
        return np.full(hidden[inner].shape, cap_px, np.uint16)
    # Squares of whole numbers are exact in float64 and so is the floor of their root.
    away = distance_transform_edt(~hidden)[inner]
    return np.minimum(away, cap_px).astype(np.uint16)


def score_tables(
    best: BestPixel, days: NDArray[np.float64], cap_px: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what each date and each cloud distance is worth; a pixel's score is the sum of its two.

    Args:
        best: The weights; the formulas stand there.
        days: (time,) days from the middle of the period.
        cap_px: Distance at which the cloud score ends.

    Returns:
        (time,) and (cap_px + 1,) int32, in units of 1e-8.

    >>> date, distance = score_tables(BestPixel(cloud_weight=0.5), np.array([0.0, 10.0]), 4)
    >>> date.tolist(), distance.tolist()
    ([50000000, 30326533], [334643, 3792909, 25000000, 46207091, 49665357])
    """
    of_date = (1.0 - best.cloud_weight) * np.exp(-0.5 * (days / best.date_sigma_days) ** 2)
    of_distance = best.cloud_weight / (1.0 + np.exp(-10.0 * (np.arange(cap_px + 1) / cap_px - 0.5)))
    return np.rint(of_date * _ONE).astype(np.int32), np.rint(of_distance * _ONE).astype(np.int32)
