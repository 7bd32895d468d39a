"""Masks, as pure kernels: which observations hide the ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.grid import Box, Grid
from engine.values.spec import CloudProbabilityMask, SclMask

CLOUDY = (3, 8, 9, 10)
"""SCL classes that are dilated: cloud shadow, cloud medium and high probability, thin cirrus."""


def pixels_of(distance_m: float, resolution_m: float) -> int:
    """Return a distance in whole pixels, rounded up.

    >>> pixels_of(50, 20), pixels_of(0, 20)
    (3, 0)
    """
    return int(-(-distance_m // resolution_m))


def scl_reach_m(mask: SclMask) -> dict[int, float]:
    """Return how far each class of a mask grows, in metres.

    >>> scl_reach_m(SclMask(classes=(0, 3, 9, 11), dilate_class_m={3: 100, 11: 20}))
    {0: 0.0, 3: 100.0, 9: 60.0, 11: 20.0}
    """
    own = dict(mask.dilate_class_m)
    return {c: own.get(c, mask.dilate_m if c in CLOUDY else 0.0) for c in mask.classes}


def scl_margin_px(mask: SclMask, resolution_m: float) -> int:
    """Return how many pixels around a box the SCL must be known for its mask: its largest dilation.

    >>> scl_margin_px(SclMask(dilate_m=50), 20), scl_margin_px(SclMask(dilate_class_m={3: 200}), 20)
    (3, 10)
    """
    return max((pixels_of(m, resolution_m) for m in scl_reach_m(mask).values()), default=0)


def hidden_by_scl(scl: NDArray[np.uint16], mask: SclMask, resolution_m: float) -> NDArray[np.bool_]:
    """Tell which pixels the scene classification hides.

    Args:
        scl: (y, x) scene classes, padded by ``scl_margin_px(mask, resolution_m)`` on each side.
        mask: Classes and dilation (Chebyshev distance: a square neighbourhood).
        resolution_m: Pixel size in metres.

    Returns:
        (y, x) bool without the margin. No data (0) counts as hidden only if class 0 is listed.

    >>> scl = np.full((3, 5), 4); scl[1, 1] = 9
    >>> hidden_by_scl(scl, SclMask(dilate_m=20), 20)
    array([[ True,  True, False]])
    """
    by_reach: dict[int, list[int]] = {}
    for scl_class, reach_m in scl_reach_m(mask).items():
        by_reach.setdefault(pixels_of(reach_m, resolution_m), []).append(scl_class)
    hidden = np.zeros(scl.shape, np.bool_)
    reaches = sorted(by_reach, reverse=True)
    for reach, nearer in zip(reaches, [*reaches[1:], 0], strict=True):
        hidden = grown(hidden | np.isin(scl, by_reach[reach]), reach - nearer)
    return without_margin(hidden, scl_margin_px(mask, resolution_m))


def hidden_by_probability(
    percent: NDArray[np.uint16], mask: CloudProbabilityMask, resolution_m: float
) -> NDArray[np.bool_]:
    """Tell which pixels a probability layer hides.

    Args:
        percent: (y, x) percent, 0..100, padded by ``pixels_of(mask.dilate_m, resolution_m)`` on each side.
            0 is "0 %" or no data, and clear either way.
        mask: Threshold and dilation.
        resolution_m: Pixel size in metres.

    Returns:
        (y, x) bool without the margin.

    >>> hidden_by_probability(np.array([[0, 39, 40]], np.uint16), CloudProbabilityMask(dilate_m=0), 20)
    array([[False, False,  True]])
    """
    reach = pixels_of(mask.dilate_m, resolution_m)
    return without_margin(grown((percent > 0) & (percent >= mask.threshold), reach), reach)


def grown(hidden: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    """Grow what is hidden by a distance in pixels (Chebyshev: a square neighbourhood).

    The square is the OR of shifted copies, per axis and with doubling shifts, so its cost grows with the
    logarithm of the distance. A square grown by a and then by b is one grown by a + b.

    Args:
        hidden: (y, x) bool; beyond the edges nothing is hidden.
        distance_px: Pixels, 0 or more.

    Returns:
        (y, x) bool.

    >>> grown(np.array([[False, False, False, True]]), 2)
    array([[False,  True,  True,  True]])
    """
    if not distance_px:
        return hidden
    return _grown_down(_grown_down(hidden, distance_px).T, distance_px).T


def _grown_down(hidden: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    """Grow along the first axis only."""
    out = np.pad(hidden, ((distance_px, distance_px), (0, 0)))
    width, full = 1, 2 * distance_px + 1
    while width < full:  # out[i] holds the OR of `width` padded pixels from i on
        step = min(width, full - width)
        out = out[:-step] | out[step:]
        width += step
    return out


def without_margin(values: NDArray[np.bool_], margin_px: int) -> NDArray[np.bool_]:
    """Cut a margin off each side of (y, x) values."""
    inner = slice(margin_px, -margin_px or None)
    return np.ascontiguousarray(values[inner, inner])


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
