"""Hiding: which pixels of a scene a mask hides, read from the scene itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.archive.warp import same_crs
from engine.cube.masks import hidden_by_scl, scl_margin_px
from engine.cube.plan import CubePlan
from engine.values.grid import Box, Grid
from engine.values.masking import Mask, SclMask

_SCL_RESOLUTION_M = 20.0


def hidden(plan: CubePlan, item: ItemRecord, box: Box, mask: Mask) -> NDArray[np.bool_]:
    """Tell which pixels of a box one mask hides, (y, x) bool."""
    assert isinstance(mask, SclMask)
    return _by_scl(plan, item, box, mask)


def _by_scl(plan: CubePlan, item: ItemRecord, box: Box, mask: SclMask) -> NDArray[np.bool_]:
    """Mask a box by the SCL; dilated on its own 20 m grid where that nests in ours, a quarter of the work."""
    grid = plan.grid
    factor = round(_SCL_RESOLUTION_M / grid.resolution_yx[0])
    nests = bool(item.crs) and same_crs(item.crs, grid.crs) and factor >= 1 and grid.anchor_xy == (0.0, 0.0)
    if nests and grid.resolution_yx == (_SCL_RESOLUTION_M / factor,) * 2:
        coarse = Grid(grid.crs, (_SCL_RESOLUTION_M, _SCL_RESOLUTION_M))
        whole = box.snap_out(factor)
        small = Box(*(edge // factor for edge in (whole.y0, whole.x0, whole.y1, whole.x1)))
        hidden = _scl_mask(plan, item, coarse, small, mask)
        fine = hidden.repeat(factor, axis=0).repeat(factor, axis=1)
        return np.asarray(fine[box.slices_in(whole)])
    return _scl_mask(plan, item, grid, box, mask)


def _scl_mask(plan: CubePlan, item: ItemRecord, grid: Grid, box: Box, mask: SclMask) -> NDArray[np.bool_]:
    margin = scl_margin_px(mask, min(grid.resolution_yx))
    scl = plan.reader.read(item, ("scl",), grid, box.pad(margin), "nearest")[0]
    return hidden_by_scl(scl, mask, margin)
