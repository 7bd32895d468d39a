"""Overviews: the map at half, quarter, ... resolution, each reduced from full resolution (`reducers`).

The store is read once, plane by plane. Blocks come along a Z-order curve, so that every level has one
unfinished shard at a time, whatever the map's size::

    base blocks     level 2     level 4      A level's shard is written when the curve leaves it:
     0  1 │ 4  5    ┌──┬──┐     ┌─────┐      memory = one shard per level, and the blocks in work.
     2  3 │ 6  7    │  │  │     │     │
    ──────┼──────   ├──┼──┤     │     │
     8  9 │12 13    │  │  │     │     │
    10 11 │14 15    └──┴──┘     └─────┘
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.products.reducers import mean_levels, mode_levels
from engine.store.conventions import MULTISCALES, with_convention
from engine.store.layout import open_group
from engine.store.view import MapView, in_flight, open_view
from engine.values.errors import InputError
from engine.values.grid import Box, TileKey, tiles_over

if TYPE_CHECKING:
    import zarr

BLOCK_PX = 2048
"""Side of the blocks that are read; a power of two, so that every smaller level divides it."""

Listener = Callable[[int, int, str], None]
"""Gets (done, in all, what) as long work goes on."""

SMALLEST_PX = 512
"""Levels are added until the longest side is shorter than this."""


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
    """One plane of one overview group being written: the shard under the curve."""

    factor: int
    array: Any
    plane: int | None
    shard_px: int
    key: tuple[int, int] | None = None
    shard: NDArray[Any] | None = None

    def put(self, y: int, x: int, reduced: NDArray[Any]) -> None:
        """Place one block's reduced pixels, whose upper-left is (y, x) in pixels of this level."""
        key = (y // self.shard_px, x // self.shard_px)
        if key != self.key or self.shard is None:
            self.flush()
            self.key = key
            self.shard = np.full((self.shard_px,) * 2, self.array.fill_value, self.array.dtype)
        row, col = y % self.shard_px, x % self.shard_px
        self.shard[row : row + reduced.shape[0], col : col + reduced.shape[1]] = reduced

    def flush(self) -> None:
        """Write the shard under the curve, if there is one."""
        if self.key is None or self.shard is None:
            return
        y, x = (k * self.shard_px for k in self.key)
        height, width = (
            min(self.shard_px, n - o) for n, o in zip(self.array.shape[-2:], (y, x), strict=True)
        )
        at = (slice(y, y + height), slice(x, x + width))
        self.array[at if self.plane is None else (self.plane, *at)] = self.shard[:height, :width]
        self.key, self.shard = None, None


def build_overviews(
    url: str,
    levels: Sequence[int] | None = None,
    *,
    block_px: int = BLOCK_PX,
    workers: int = 2,
    listener: Listener | None = None,
) -> tuple[int, ...]:
    """Write the groups ``overviews/2``, ``overviews/4``, ... into a map store and describe them.

    Labels are reduced by majority (`mode_levels`), other variables by their mean (`mean_levels`), each
    from full resolution, aligned to the store's upper-left corner. Existing overviews are replaced; until
    the new ones are whole, the store says that it has none. Metadata is consolidated again at the end.

    Args:
        url: The map store.
        levels: Powers of two; None takes `default_levels`.
        block_px: Side of the blocks that are read, a power of two.
        workers: Blocks that are read and reduced at a time.
        listener: Called with (blocks done, blocks in all, variable).

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
    shard_px = max(block_px // 2, 1)
    groups = [_create_level(root, view, f, shard_px) for f in factors]
    keys, planes = tiles_over(Box(0, 0, *view.box.shape_yx), block_px), list(view.planes())
    done = 0
    for name, plane in planes:
        parts = [_Level(f, g[name], plane, shard_px) for f, g in zip(factors, groups, strict=True)]
        for _ in _reduce_plane(view, (name, plane), keys, parts, (block_px, workers)):
            done += 1
            if listener is not None:
                listener(done, len(planes) * len(keys), name)
    _describe(root, view, factors)
    _consolidate(root, factors)
    return factors


def _reduce_plane(
    view: MapView,
    what: tuple[str, int | None],
    keys: Sequence[TileKey],
    parts: Sequence[_Level],
    block_px_workers: tuple[int, int],
) -> Iterator[None]:
    """Read one plane block by block and hand each level its part; yields after each block."""
    (name, plane), (block_px, workers) = what, block_px_workers
    factors = [part.factor for part in parts]

    def reduce(key: TileKey) -> tuple[TileKey, list[NDArray[Any]]]:
        values = view.read(name, _shift(key.box(block_px), view.box) & view.box, plane)
        if view.is_classes(name):
            return key, mode_levels(values, factors)
        return key, mean_levels(values, factors, view.no_data(name))

    for key, reduced in in_flight(reduce, keys, workers):
        for part, level in zip(parts, reduced, strict=True):
            part.put(key.row * block_px // part.factor, key.col * block_px // part.factor, level)
        yield
    for part in parts:
        part.flush()


def _shift(box: Box, origin: Box) -> Box:
    """Move a box counted from a store's corner to global pixels."""
    return Box(box.y0 + origin.y0, box.x0 + origin.x0, box.y1 + origin.y0, box.x1 + origin.x0)


def _forget(root: zarr.Group) -> None:
    """Remove old overviews, the description first: a killed build never leaves half a pyramid described."""
    if "multiscales" in root.attrs:
        del root.attrs["multiscales"]
    if "overviews" in root:
        del root["overviews"]


def _create_level(root: zarr.Group, view: MapView, factor: int, shard_px: int) -> Any:
    """Create one overview group: its rasters, its coordinates, its spatial_ref."""
    group = root.create_group(f"overviews/{factor}", overwrite=True)
    shape = _level_shape(view, factor)
    for name in view.variables:
        base = view.array(name)
        attributes = {k: v for k, v in base.attrs.items() if not k.startswith(("spatial:", "proj:", "zarr_"))}
        group.create_array(
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
    return group


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
