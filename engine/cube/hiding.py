"""Hiding: which pixels of a scene a mask hides, read from the scene itself."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.archive.radiometry import radiometry, to_reflectance
from engine.archive.reader import Reader
from engine.archive.warp import Raster, same_crs, source_index
from engine.cube.maskers import MASK_BLOCK_PX, bands_of, open_masker
from engine.cube.masks import (
    grown,
    hidden_by_probability,
    hidden_by_scl,
    pixels_of,
    scl_margin_px,
    without_margin,
)
from engine.cube.plan import CubePlan
from engine.values.grid import Box, Grid
from engine.values.masking import Mask, ModelMask, SclMask
from engine.values.spec import Resampling

_LAYER_RESOLUTION_M = 20.0
_KEPT_BLOCKS = 512
"""Answers of maskers that a process keeps, 32 KiB each: 16 MiB."""


def hidden(plan: CubePlan, item: ItemRecord, box: Box, mask: Mask) -> NDArray[np.bool_]:
    """Tell which pixels of a box one mask hides, (y, x) bool."""
    if isinstance(mask, ModelMask):
        return _by_model(plan, item, box, mask)
    if isinstance(mask, SclMask):
        margin_of, hide = partial(scl_margin_px, mask), partial(hidden_by_scl, mask=mask)
        return _by_layer(plan, item, box, _Layer("scl", margin_of, hide))
    margin_of = partial(pixels_of, mask.dilate_m)
    return _by_layer(plan, item, box, _Layer(mask.band, margin_of, partial(hidden_by_probability, mask=mask)))


class _Layer:
    """A quality layer of 20 m: its band, its margin in pixels of a size, and what its values hide."""

    def __init__(self, band: str, margin_px: Callable[[float], int], hide: Callable[..., NDArray[np.bool_]]):
        self.band, self.margin_px, self.hide = band, margin_px, hide

    def hidden(self, plan: CubePlan, item: ItemRecord, grid: Grid, box: Box) -> NDArray[np.bool_]:
        """Read the layer with its margin, always by nearest neighbour, and hide."""
        resolution_m = min(grid.resolution_yx)
        padded = box.pad(self.margin_px(resolution_m))
        values = plan.reader.read(item, (self.band,), grid, padded, "nearest")[0]
        return self.hide(values, resolution_m=resolution_m)


def _by_layer(plan: CubePlan, item: ItemRecord, box: Box, layer: _Layer) -> NDArray[np.bool_]:
    """Mask a box by a layer; dilated on its own 20 m grid where that nests in ours, a quarter of the work."""
    grid = plan.grid
    factor = round(_LAYER_RESOLUTION_M / grid.resolution_yx[0])
    nests = bool(item.crs) and same_crs(item.crs, grid.crs) and factor >= 1 and grid.anchor_xy == (0.0, 0.0)
    if nests and grid.resolution_yx == (_LAYER_RESOLUTION_M / factor,) * 2:
        coarse = Grid(grid.crs, (_LAYER_RESOLUTION_M, _LAYER_RESOLUTION_M))
        whole = box.snap_out(factor)
        small = Box(*(edge // factor for edge in (whole.y0, whole.x0, whole.y1, whole.x1)))
        fine = layer.hidden(plan, item, coarse, small).repeat(factor, axis=0).repeat(factor, axis=1)
        return np.asarray(fine[box.slices_in(whole)])
    return layer.hidden(plan, item, grid, box)


def _by_model(plan: CubePlan, item: ItemRecord, box: Box, mask: ModelMask) -> NDArray[np.bool_]:
    """Mask a box by a model: each pixel takes what the mask's pixel under its centre says."""
    size = mask.resolution_m
    grid = Grid(plan.grid.crs, (size, size))
    own = Raster(grid.crs, (size, 0.0, 0.0, 0.0, -size, 0.0), (0, 0), "bool", None)
    rows, cols = source_index(own, plan.grid, box)
    inner = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    coarse = np.zeros(inner.shape_yx, np.bool_)
    for block in inner.snap_out(MASK_BLOCK_PX).blocks(MASK_BLOCK_PX):
        part = block & inner
        asked = partial(_ask, plan.reader, item, mask, grid, block, plan.spec.resampling)
        packed = _kept((plan.reader, item, mask, grid, block, plan.spec.resampling), asked)
        whole = np.unpackbits(packed, axis=1).astype(np.bool_)
        coarse[part.slices_in(inner)] = whole[part.slices_in(block)]
    return coarse.take(rows - inner.y0, axis=0).take(cols - inner.x0, axis=1)


def _ask(
    reader: Reader, item: ItemRecord, mask: ModelMask, grid: Grid, block: Box, resampling: Resampling
) -> NDArray[np.uint8]:
    """Ask a masker for one fixed block; (y, x) bits, packed along x.

    Pixels without data in any band hide nothing, and where there are no data at all nobody is asked.
    """
    dn = reader.read(item, bands_of(mask), grid, block.pad(mask.margin_px), resampling)
    if not dn.any():
        return np.packbits(np.zeros(block.shape_yx, np.bool_), axis=1)
    said = open_masker(mask).hide(to_reflectance(dn, radiometry(item))) & dn.any(axis=0)
    spread = grown(said, pixels_of(mask.dilate_m, mask.resolution_m))
    return np.packbits(without_margin(spread, mask.margin_px), axis=1)


class _Keeper:
    """Keep the latest answers, and let one thread alone work on each: chunks share blocks."""

    def __init__(self, limit: int):
        self._limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[Hashable, Future[NDArray[np.uint8]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return what is kept, wait for the thread that is at it, or make it; a failure is not kept."""
        with self._lock:
            future = self._kept.get(key)
            mine = future is None
            if future is None:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        if not mine:
            return future.result()
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                if self._kept.get(key) is future:
                    del self._kept[key]
            future.set_exception(error)
            raise
        return future.result()


_KEPT = _Keeper(_KEPT_BLOCKS)


def _kept(key: tuple[object, ...], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Keep an answer, unless the user's reader cannot be told from another (has no hash)."""
    try:
        hash(key)
    except TypeError:
        return make()
    return _KEPT.get(key, make)
