"""Place: the pixels of one file on a grid, the right pixel whoever asks.

Two ways lead to a pixel, and neither depends on the box that is asked for:

- The file lies in the grid's CRS, and nearest is asked for (or the pixels coincide): whole file pixels are
  copied and repeated, without any warp.
- Otherwise the position of each pixel within the file follows from its fixed block of 512 x 512 grid pixels
  (`engine.archive.mapping`), and its value from the position and the file pixels around it
  (`engine.archive.gather`). GDAL's warps of different windows differ::

      grid   ┌───────┬───────┐       file  ┌──────────────┐
             │    ┌──┼────┐  │             │  ╱╲  window  │
             │    │ box   │  │   ──────►   │ ╱  ╲ within  │
             ├────┼──┼────┼──┤             │ ╲  ╱ reach   │
             │    └──┼────┘  │             │  ╲╱          │
             └───────┴───────┘             └──────────────┘

All that a way of reading must bring along is to fetch whole file pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gather import gather
from engine.archive.mapping import mapping_of
from engine.archive.warp import (
    WARP_BLOCK_PX,
    Raster,
    coincides,
    require_transform,
    same_crs,
    source_index,
)
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling

Fetch = Callable[[Box], NDArray[Any]]
"""Gives whole pixels of a file, (y, x) DN or float32; the box counts the file's own pixels from its corner."""

_AT_ONCE_PX = 5000 * 5000
"""Blocks share one read of a file up to this size, so that none of its own blocks is decoded twice."""


def place(file: Raster, fetch: Fetch, grid: Grid, box: Box, how: Resampling, out: NDArray[Any]) -> None:
    """Read one file into a box of a grid.

    Args:
        file: Its header.
        fetch: Gives its pixels.
        grid: Where the pixels go.
        box: Which pixels; it may lie partly or wholly outside the file.
        how: How coarser or reprojected pixels reach the grid.
        out: (y, x) uint16 or float32, all no data (0 or NaN) before; pixels outside the file stay so.

    Raises:
        InputError: If only a ballpark transformation is known.
    """
    if not box:
        return
    if same_crs(file.crs, grid.crs) and file.north_up:
        if how == "nearest" or coincides(file, grid):
            _copy(file, fetch, grid, box, out)
            return
    else:
        require_transform(file.crs, grid.crs)
    _warp(file, fetch, grid, box, how, out)


def _copy(file: Raster, fetch: Fetch, grid: Grid, box: Box, out: NDArray[Any]) -> None:
    """Copy whole file pixels into `out` (y, x), repeated or dropped where the pixel sizes differ."""
    rows, cols = source_index(file, grid, box)
    in_y, in_x = (_inside(i, n) for i, n in zip((rows, cols), file.shape_yx, strict=True))
    rows, cols = rows[in_y], cols[in_x]
    if not rows.size or not cols.size:
        return
    window = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    values = fetch(window)
    if window.shape_yx != (rows.size, cols.size):
        values = values.take(cols - cols[0], axis=1).take(rows - rows[0], axis=0)
    out[in_y, in_x] = values


def _inside(index: NDArray[np.int64], size: int) -> slice:
    """Return the slice of a rising index that lies within ``0 <= index < size``."""
    first, last = np.searchsorted(index, [0, size])
    return slice(int(first), int(last))


def _warp(file: Raster, fetch: Fetch, grid: Grid, box: Box, how: Resampling, out: NDArray[Any]) -> None:
    """Fill `out` (y, x) with the values at the positions of its pixels, block by block."""
    parts = []
    for part in box.blocks(WARP_BLOCK_PX):
        mapping = mapping_of(file.crs, file.transform, grid, part.snap_out(WARP_BLOCK_PX))
        if window := _window(mapping.positions(part), how, mapping.ratio_yx, file.shape_yx):
            parts.append((part, mapping, window))
    if not parts:
        return
    whole = functools.reduce(_around, (window for _, _, window in parts))
    shared = fetch(whole) if whole.area_px <= _AT_ONCE_PX else None
    for part, mapping, window in parts:
        pixels, corner = (shared, whole) if shared is not None else (fetch(window), window)
        where = mapping.positions(part)  # once more: cheaper than to keep those of all blocks
        where -= np.array([corner.y0, corner.x0], float)[:, None, None]
        gather(pixels, where, how, mapping.ratio_yx, out[part.slices_in(box)])


_REACH_PX = {"nearest": 0, "bilinear": 1, "cubic": 2}


def _window(
    where: NDArray[np.float64], how: Resampling, ratio_yx: tuple[float, float], shape_yx: tuple[int, int]
) -> Box:
    """Return the file pixels within reach of positions (2, y, x); empty if they lie elsewhere."""
    finite = np.isfinite(where)
    if not finite.all():
        where = where[:, finite.all(axis=0)]
    if not where.size:
        return Box(0, 0, 0, 0)
    low, high = where.reshape(2, -1).min(axis=1), where.reshape(2, -1).max(axis=1)
    reach = np.ceil(_REACH_PX[how] * np.array(ratio_yx)) + 1
    first, last = np.floor(low - reach).clip(-1, 2**40), np.ceil(high + reach).clip(-1, 2**40)
    return Box(int(first[0]), int(first[1]), int(last[0]), int(last[1])) & Box(0, 0, *shape_yx)


def _around(one: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    low = min(one.y0, other.y0), min(one.x0, other.x0)
    return Box(*low, max(one.y1, other.y1), max(one.x1, other.x1))
