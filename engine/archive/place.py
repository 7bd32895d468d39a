"""Place: the pixels of one file on a grid, the right pixel whoever asks.

Two ways lead to a pixel, and neither depends on the box that is asked for:

- The file lies in the grid's CRS, and nearest is asked for (or the pixels coincide): whole file pixels are
  copied and repeated, without any warp.
- Otherwise: each block of 512 x 512 grid pixels is warped by itself, from the whole file pixels that it can
  need, and the box is cut out of the blocks, because GDAL's warps of different windows differ::

      grid   ┌───────┬───────┐       file  ┌──────────────┐
             │    ┌──┼────┐  │             │  ╱╲  window  │
             │    │ box   │  │   ──────►   │ ╱  ╲ of one  │
             ├────┼──┼────┼──┤             │ ╲  ╱ block   │
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

from engine.archive.warp import (
    WARP_BLOCK_PX,
    Raster,
    coincides,
    require_transform,
    same_crs,
    source_index,
    source_window,
)
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling

Fetch = Callable[[Box], NDArray[Any]]
"""Gives whole pixels of a file, (y, x) DN or float32; the box counts the file's own pixels from its corner."""

_AT_ONCE_PX = 5000 * 5000
"""Blocks share one read of the file up to this size, so that none of its own blocks is decoded twice."""


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
    """Warp each fixed block that the box touches into `out` (y, x)."""
    blocks = list(box.snap_out(WARP_BLOCK_PX).blocks(WARP_BLOCK_PX))
    windows = [(block, source_window(file, grid, block, how)) for block in blocks]
    windows = [(block, window) for block, window in windows if window]
    if not windows:
        return
    whole = functools.reduce(_around, (window for _, window in windows))
    shared = fetch(whole) if whole.area_px <= _AT_ONCE_PX else None
    for block, window in windows:
        pixels = fetch(window) if shared is None else shared[window.slices_in(whole)]
        part = block & box
        warped = warp_block(file, window, pixels, grid, block, how)
        out[part.slices_in(box)] = warped[part.slices_in(block)]


def _around(one: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    low = min(one.y0, other.y0), min(one.x0, other.x0)
    return Box(*low, max(one.y1, other.y1), max(one.x1, other.x1))


def warp_block(
    file: Raster, window: Box, pixels: NDArray[Any], grid: Grid, block: Box, how: Resampling
) -> NDArray[Any]:
    """Warp the pixels of a file's window onto a block of a grid.

    Args:
        file: The file's header.
        window: Which of its pixels they are.
        pixels: (y, x) uint16, 0 = no data, or float32, NaN = no data.
        grid: The grid.
        block: Which of its pixels are made.
        how: Resampling.

    Returns:
        (y, x) in the dtype of `pixels`, with its no-data value.
    """
    from affine import Affine
    from rasterio.enums import Resampling as RioResampling
    from rasterio.warp import reproject

    nodata = 0.0 if pixels.dtype.kind == "u" else float("nan")
    warped = np.full(block.shape_yx, nodata, pixels.dtype)
    corner = Affine(*file.transform) @ Affine.translation(window.x0, window.y0)
    reproject(
        np.ascontiguousarray(pixels),
        warped,
        src_transform=corner,
        src_crs=_rio_crs(file.crs),
        src_nodata=nodata,
        dst_transform=Affine(*grid.transform_of(block)),
        dst_crs=_rio_crs(grid.crs),
        dst_nodata=nodata,
        resampling=RioResampling[how],
        num_threads=1,
    )
    return warped


@functools.lru_cache(maxsize=256)
def _rio_crs(crs: str) -> Any:
    from rasterio.crs import CRS

    return CRS.from_user_input(crs)
