"""Masks, as pure kernels: which observations hide the ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from engine.values.spec import SclMask

CLOUDY = (3, 8, 9, 10)
"""SCL classes that are dilated: cloud shadow, cloud medium and high probability, thin cirrus."""


def scl_margin_px(mask: SclMask, resolution_m: float) -> int:
    """Return how many pixels around a box the SCL must be known for its mask.

    >>> scl_margin_px(SclMask(dilate_m=50), 20)
    3
    """
    return int(-(-mask.dilate_m // resolution_m))


def hidden_by_scl(scl: NDArray[np.uint16], mask: SclMask, margin_px: int) -> NDArray[np.bool_]:
    """Tell which pixels the scene classification hides.

    Args:
        scl: (y, x) scene classes, padded by `margin_px` on each side.
        mask: Classes and dilation.
        margin_px: Dilation in pixels (Chebyshev distance: a square neighbourhood).

    Returns:
        (y, x) bool without the margin. No data (0) counts as hidden only if class 0 is listed.

    >>> scl = np.full((3, 5), 4); scl[1, 1] = 9
    >>> hidden_by_scl(scl, SclMask(), 1)
    array([[ True,  True, False]])
    """
    grown = np.isin(scl, [c for c in mask.classes if c in CLOUDY])
    if margin_px:
        grown = maximum_filter(grown, size=2 * margin_px + 1, mode="constant", cval=0)
    plain = np.isin(scl, [c for c in mask.classes if c not in CLOUDY])
    inner = slice(margin_px, -margin_px or None)
    return np.asarray((grown | plain)[inner, inner])
