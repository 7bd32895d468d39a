"""Overviews: the map at half, quarter, ... resolution, each reduced from full resolution.

A class overview is the majority of the full-resolution pixels below it, not the majority of majorities,
which can name a class that holds a quarter of the pixels. The store is read once. Blocks come along a
Z-order curve, so that every level has one unfinished shard at a time, whatever the map's size::

    base blocks     level 2     level 4      A level's shard is written when the curve leaves it:
     0  1 │ 4  5    ┌──┬──┐     ┌─────┐      memory = levels x variables x one shard.
     2  3 │ 6  7    │  │  │     │     │
    ──────┼──────   ├──┼──┤     │     │
     8  9 │12 13    │  │  │     │     │
    10 11 │14 15    └──┴──┘     └─────┘
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.store.conventions import MULTISCALES, with_convention
from engine.store.layout import open_group
from engine.store.view import MapView, in_flight, open_view
from engine.values.errors import InputError
from engine.values.grid import Box, TileKey, tiles_over

if TYPE_CHECKING:
    import zarr

BLOCK_PX = 2048
"""Side of the blocks that are read; a power of two, so that every smaller level divides it."""

SMALLEST_PX = 512
"""Levels are added until the longest side is shorter than this."""


def mode_blocks(label: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Reduce labels to the commonest one of each ``factor x factor`` block.

    Args:
        label: (y, x) uint8, 0 = no data.
        factor: Side of a block in pixels.

    Returns:
        (ceil(y / factor), ceil(x / factor)) uint8. No-data pixels have no vote; ties go to the lowest
        value; a block without data stays 0; blocks at the lower and right edge use the pixels they have.

    >>> mode_blocks(np.array([[1, 1, 0], [2, 2, 0], [3, 0, 7]], np.uint8), 2)
    array([[1, 0],
           [3, 7]], dtype=uint8)
    """
    _check_factor(factor)
    reduced: NDArray[np.uint8] = _mode(np.ascontiguousarray(label, np.uint8), factor)
    return reduced


def mean_blocks(values: NDArray[Any], factor: int, no_data: int | None) -> NDArray[Any]:
    """Reduce amounts to the mean of each ``factor x factor`` block, rounded half up.

    Args:
        values: (y, x), uint8 or another integer type up to 32 bits.
        factor: Side of a block in pixels.
        no_data: Value that is left out of the mean, and the answer where nothing else is there; None
            takes every pixel.

    Returns:
        (ceil(y / factor), ceil(x / factor)) of the same type.

    >>> mean_blocks(np.array([[1, 2, 255], [1, 2, 255]], np.uint8), 2, 255)
    array([[  2, 255]], dtype=uint8)
    """
    _check_factor(factor)
    nothing = 2**40  # no integer of 32 bits is it
    reduced: NDArray[Any] = _mean(
        np.ascontiguousarray(values), factor, nothing if no_data is None else no_data
    )
    return reduced


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise InputError("overview factor must be positive", found=factor, mend="use 2, 4, 8, ...")


@njit(nogil=True, cache=True)
def _mode(label, factor):  # type: ignore[no-untyped-def]
    height, width = label.shape
    rows, cols = -(-height // factor), -(-width // factor)
    out = np.zeros((rows, cols), np.uint8)
    counts = np.zeros(256, np.int64)
    for row in range(rows):
        y0, y1 = row * factor, min((row + 1) * factor, height)
        for col in range(cols):
            x0, x1 = col * factor, min((col + 1) * factor, width)
            first = label[y0, x0]
            uniform = True
            for y in range(y0, y1):
                for x in range(x0, x1):
                    uniform &= label[y, x] == first
            if uniform:  # most blocks of a map: no vote to count
                out[row, col] = first
                continue
            best, winner = 0, 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    counts[label[y, x]] += 1
            for y in range(y0, y1):
                for x in range(x0, x1):
                    value = label[y, x]
                    votes = counts[value]
                    counts[value] = 0  # the first pixel of a class speaks for it and clears its count
                    if value and (votes > best or (votes == best and value < winner)):
                        best, winner = votes, value
            out[row, col] = winner
    return out


@njit(nogil=True, cache=True)
def _mean(values, factor, missing):  # type: ignore[no-untyped-def]
    height, width = values.shape
    rows, cols = -(-height // factor), -(-width // factor)
    out = np.empty((rows, cols), values.dtype)
    for row in range(rows):
        y0, y1 = row * factor, min((row + 1) * factor, height)
        for col in range(cols):
            x0, x1 = col * factor, min((col + 1) * factor, width)
            total, count = 0, 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    keep = values[y, x] != missing
                    total += values[y, x] * keep
                    count += keep
            out[row, col] = (2 * total + count) // (2 * count) if count else missing
    return out


def default_levels(shape_yx: tuple[int, int]) -> tuple[int, ...]:
    """Return the factors 2, 4, 8, ... down to a longest side below 512 pixels.

    >>> default_levels((2048, 4000))
    (2, 4, 8)
    """
    factors, factor = [], 1
    while -(-max(shape_yx) // factor) >= SMALLEST_PX:
        factor *= 2
        factors.append(factor)
    return tuple(factors)


@dataclass
class _Level:
    """One overview group being written: the shard under the curve, per variable."""

    factor: int
    arrays: dict[str, Any]
    shard_px: int
    key: tuple[int, int] | None = None
    shards: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def put(self, y: int, x: int, reduced: dict[str, NDArray[np.uint8]]) -> None:
        """Place one block's reduced pixels, whose upper-left is (y, x) in pixels of this level."""
        key = (y // self.shard_px, x // self.shard_px)
        if key != self.key:
            self.flush()
            self.key = key
        for name, values in reduced.items():
            shard = self.shards.get(name)
            if shard is None:
                shape = (*values.shape[:-2], self.shard_px, self.shard_px)
                shard = self.shards[name] = np.zeros(shape, np.uint8)
            row, col = y % self.shard_px, x % self.shard_px
            shard[..., row : row + values.shape[-2], col : col + values.shape[-1]] = values

    def flush(self) -> None:
        """Write the shard under the curve, if there is one."""
        if self.key is None:
            return
        y, x = (k * self.shard_px for k in self.key)
        for name, shard in self.shards.items():
            array = self.arrays[name]
            height, width = min(self.shard_px, array.shape[-2] - y), min(self.shard_px, array.shape[-1] - x)
            array[..., y : y + height, x : x + width] = shard[..., :height, :width]
        self.key, self.shards = None, {}


def build_overviews(
    url: str, levels: Sequence[int] | None = None, *, block_px: int = BLOCK_PX, workers: int = 2
) -> tuple[int, ...]:
    """Write the groups ``overviews/2``, ``overviews/4``, ... into a map store and describe them.

    Labels are reduced by majority (`mode_blocks`), other variables by their mean (`mean_blocks`), each
    from full resolution, aligned to the store's upper-left corner. Existing overviews are replaced; until
    the new ones are whole, the store says that it has none. Metadata is consolidated again at the end.

    Args:
        url: The map store.
        levels: Powers of two; None takes `default_levels`.
        block_px: Side of the blocks that are read, a power of two.
        workers: Blocks that are read and reduced at a time.

    Returns:
        The factors that were written.

    Raises:
        InputError: If a level or the block size is not a power of two, or there is no map at `url`.
    """
    view = open_view(url)
    factors = default_levels(view.box.shape_yx) if levels is None else tuple(sorted(set(levels)))
    block_px = max([block_px, *factors])
    if any(n < 2 or n & (n - 1) for n in (*factors, block_px)):
        raise InputError("overview levels and blocks are powers of two", found=(*factors, block_px))
    root = open_group(str(url), "r+")
    _forget(root)
    steps = [_create_level(root, view, f, max(block_px // 2, 1)) for f in factors]

    def reduce(key: TileKey) -> tuple[TileKey, list[dict[str, NDArray[np.uint8]]]]:
        block = _shift(key.box(block_px), view.box) & view.box
        base = {name: view.read(name, block) for name in view.variables}
        return key, [{n: _reduce(view, n, values, f) for n, values in base.items()} for f in factors]

    extent = Box(0, 0, *view.box.shape_yx)
    for key, reduced in in_flight(reduce, tiles_over(extent, block_px), workers):
        for step, part in zip(steps, reduced, strict=True):
            step.put(key.row * block_px // step.factor, key.col * block_px // step.factor, part)
    for step in steps:
        step.flush()
    _describe(root, view, factors)
    _consolidate(root, factors)
    return factors


def _shift(box: Box, origin: Box) -> Box:
    """Move a box counted from a store's corner to global pixels."""
    return Box(box.y0 + origin.y0, box.x0 + origin.x0, box.y1 + origin.y0, box.x1 + origin.x0)


def _reduce(view: MapView, name: str, values: NDArray[Any], factor: int) -> NDArray[Any]:
    if values.ndim == 3:
        return np.stack([_reduce(view, name, plane, factor) for plane in values])
    if view.is_classes(name):
        return mode_blocks(values, factor)
    return mean_blocks(values, factor, view.no_data(name))


def _forget(root: zarr.Group) -> None:
    """Remove old overviews, the description first: a killed build never leaves half a pyramid described."""
    if "multiscales" in root.attrs:
        del root.attrs["multiscales"]
    if "overviews" in root:
        del root["overviews"]


def _create_level(root: zarr.Group, view: MapView, factor: int, shard_px: int) -> _Level:
    """Create one overview group: its rasters, its coordinates, its spatial_ref."""
    group = root.create_group(f"overviews/{factor}", overwrite=True)
    shape = _level_shape(view, factor)
    arrays = {}
    for name in view.variables:
        base = view.array(name)
        attributes = {k: v for k, v in base.attrs.items() if not k.startswith(("spatial:", "proj:", "zarr_"))}
        arrays[name] = group.create_array(
            name,
            shape=(*base.shape[:-2], *shape),
            dtype=base.dtype,
            chunks=(*(1 for _ in base.shape[:-2]), *(min(256, shard_px),) * 2),
            shards=(*(1 for _ in base.shape[:-2]), shard_px, shard_px),
            fill_value=base.fill_value,
            dimension_names=base.metadata.dimension_names,
            attributes=attributes,
        )
    _create_coordinates(root, group, view, factor)
    return _Level(factor, arrays, shard_px)


def _create_coordinates(root: zarr.Group, group: zarr.Group, view: MapView, factor: int) -> None:
    res_x, _, left, _, res_y, top = _level_transform(view, factor)
    height, width = _level_shape(view, factor)
    centres = {"y": top + (np.arange(height) + 0.5) * res_y, "x": left + (np.arange(width) + 0.5) * res_x}
    for name, values in centres.items():
        known = dict(root[name].attrs) if name in root else {}
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, dimension_names=(name,), attributes=known
        )
        array[:] = values
    for name, source in root.arrays():
        if name not in ("y", "x", *view.variables):  # spatial_ref, class: as they are
            copy = group.create_array(
                name,
                shape=source.shape,
                dtype=source.dtype,
                dimension_names=source.metadata.dimension_names,  # type: ignore[union-attr]
                attributes=dict(source.attrs),
            )
            copy[...] = source[...]
    transform = f"{left!r} {res_x!r} 0.0 {top!r} 0.0 {res_y!r}"
    group["spatial_ref"].attrs["GeoTransform"] = transform


def _level_shape(view: MapView, factor: int) -> tuple[int, int]:
    height, width = view.box.shape_yx
    return -(-height // factor), -(-width // factor)


def _level_transform(view: MapView, factor: int) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = view.grid.transform_of(view.box)
    return a * factor, b, c, d, e * factor, f


def _describe(root: zarr.Group, view: MapView, factors: tuple[int, ...]) -> None:
    """Write the multiscales convention (v1) on the root group.

    The convention wants asset paths relative to the group that holds the attribute, neither absolute nor
    with ``..``; the full resolution lies in that very group, so its path is ``.``.
    """
    layout = [_layout(view, factor) for factor in (1, *factors)]
    described = with_convention(dict(root.attrs), MULTISCALES)
    root.attrs.update({**described, "multiscales": {"layout": layout, "resampling_method": "mode"}})


def _layout(view: MapView, factor: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"asset": "." if factor == 1 else f"overviews/{factor}"}
    if factor > 1:
        entry["derived_from"] = "."
    return entry | {
        "transform": {"scale": [float(factor)] * 2, "translation": [0.0, 0.0]},
        "spatial:shape": list(_level_shape(view, factor)),
        "spatial:transform": list(_level_transform(view, factor)),
    }


def _consolidate(root: zarr.Group, factors: tuple[int, ...]) -> None:
    """Consolidate each level and then the root, for readers that cannot list (plain HTTP)."""
    import zarr

    with warnings.catch_warnings():
        # zarr-python warns that version 3 of the format does not yet specify consolidated metadata.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        for path in (*(f"overviews/{f}" for f in factors), None):
            zarr.consolidate_metadata(root.store, path=path)
