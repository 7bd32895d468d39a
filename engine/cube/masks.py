"""Masks, as pure kernels: which observations hide the ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from engine.values.grid import Box, Grid
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


_LEAF_PX = 16


def inside_outline(outline: Any, grid: Grid, box: Box) -> NDArray[np.bool_]:
    """Tell which pixel centres of a box lie inside an outline.

    Each centre is tested by its own coordinates (quadtree; only blocks on the border test points), so
    the answer does not depend on how the area is cut. A centre exactly on the outline is outside.

    Args:
        outline: Shapely geometry in the grid's CRS.
        grid: Where pixels lie.
        box: Global pixels.

    Returns:
        (y, x) bool.
    """
    from shapely import prepare

    inside = np.zeros(box.shape_yx, np.bool_)
    prepare(outline)
    _fill_inside(outline, grid, box, box, inside)
    return inside


def _fill_inside(outline: Any, grid: Grid, part: Box, box: Box, inside: NDArray[np.bool_]) -> None:
    from shapely import box as rectangle
    from shapely import contains_xy

    area = rectangle(*grid.bounds_of_box(part))
    if not part or not outline.intersects(area):
        return
    if outline.contains_properly(area):
        inside[part.slices_in(box)] = True
        return
    height, width = part.shape_yx
    if max(height, width) <= _LEAF_PX:
        y, x = grid.centres(part)
        xx, yy = np.meshgrid(x, y)
        inside[part.slices_in(box)] = contains_xy(outline, xx, yy)
        return
    mid_y, mid_x = part.y0 + (height + 1) // 2, part.x0 + (width + 1) // 2
    for quarter in (
        Box(part.y0, part.x0, mid_y, mid_x),
        Box(part.y0, mid_x, mid_y, part.x1),
        Box(mid_y, part.x0, part.y1, mid_x),
        Box(mid_y, mid_x, part.y1, part.x1),
    ):
        _fill_inside(outline, grid, quarter, box, inside)
