"""Tiling: the tiles that touch an outline, along a Z-order curve, without ever holding them all.

The curve is a quadtree walked depth first. A square that misses the outline is left out whole, one that
lies within it is not looked at again::

    ┌───┬───┬───────┐      quarter by quarter: upper left, upper right, lower left, lower right
    │ · │ █ │       │      ·  misses the outline: nothing below it is visited
    ├───┼───┤   ■   │      ■  lies within: every tile below it, no more tests
    │ █ │ █ │       │      █  touches
    └───┴───┴───────┘

The outline's part in one tile is clipped down a second quadtree, whose squares lie on whole powers of two
of the tiles' global numbers: each square clips the part of the square around it, so that a country's
outline is walked once per level and not once per tile. What a tile's part is depends on the outline and
the tile alone, to the last bit, whoever asks and in whatever order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.values.grid import Box, Grid, TileKey

_PARTS_KEPT = 512


@dataclass(frozen=True)
class Reach:
    """What is wanted around an outline: fixed blocks of the grid whose surroundings touch it.

    Attributes:
        within: Global pixels beyond which nothing is wanted.
        block_px: Side of a block; blocks lie on whole multiples of it.
        halo_px: Pixels around a block that count as the block.
    """

    within: Box
    block_px: int
    halo_px: int


@dataclass(frozen=True)
class Tiling:
    """The tiles of a grid that touch an outline: countable and iterable, in memory that does not grow.

    Attributes:
        grid: Where pixels lie.
        tile_px: Side of a tile in pixels.
        outline: Shapely geometry in the grid's CRS.
        reach: What is wanted beyond the outline; None for nothing.

    >>> import shapely
    >>> tiling = Tiling(Grid("EPSG:32633", (10.0, 10.0)), 4, shapely.box(0, -80, 80, 0).buffer(-1))
    >>> len(tiling), [str(t) for t in tiling]
    (4, ['r0_c0', 'r0_c1', 'r1_c0', 'r1_c1'])
    >>> tiling.part(TileKey(1, 0)).bounds
    (1.0, -79.0, 40.0, -40.0)
    """

    grid: Grid
    tile_px: int
    outline: Any
    reach: Reach | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # the parts stay behind
        return type(self), (self.grid, self.tile_px, self.outline, self.reach)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TileKey]:
        import shapely

        shapely.prepare(self.outline)
        rows, cols = self._range
        side = 1 << max(1, rows[1] - rows[0], cols[1] - cols[0]).bit_length()
        stack = [(rows[0], cols[0], side, False)]
        while stack:
            row, col, side, within = stack.pop()
            end_row, end_col = min(row + side, rows[1]), min(col + side, cols[1])
            if row >= end_row or col >= end_col:
                continue
            if not within:
                square = shapely.box(*self.grid.bounds_of_box(self._wanted_by(row, col, end_row, end_col)))
                if not self.outline.intersects(square):
                    continue
                within = side > 1 and bool(self.outline.contains_properly(square))
            if side == 1:
                yield TileKey(row, col)
                continue
            half = side // 2
            quarters = ((row, col), (row, col + half), (row + half, col), (row + half, col + half))
            stack.extend((r, c, half, within) for r, c in reversed(quarters))

    def __contains__(self, tile: object) -> bool:
        import shapely

        if not isinstance(tile, TileKey):
            return False
        rows, cols = self._range
        if not (rows[0] <= tile.row < rows[1] and cols[0] <= tile.col < cols[1]):
            return False
        shapely.prepare(self.outline)
        box = self._wanted_by(tile.row, tile.col, tile.row + 1, tile.col + 1)
        return bool(self.outline.intersects(shapely.box(*self.grid.bounds_of_box(box))))

    def part(self, tile: TileKey) -> Any:
        """Return the outline's surface in a tile: a normalised Polygon or MultiPolygon, empty where it has none.

        Equal to the last bit whoever asks and in whatever order; the last few hundred parts are kept.
        """
        import shapely

        return shapely.normalize(self._parts(0, tile.row, tile.col))

    def blocks(self, tile: TileKey) -> list[Box]:
        """Return the pixels of a tile that are wanted, one box for each block of the reach."""
        import shapely

        reach, inside = self._reach, tile.box(self.tile_px)
        inside = inside & reach.within if self.reach else inside
        boxes = list(inside.blocks(reach.block_px)) if inside else []
        if not boxes:
            return []
        shapely.prepare(self.outline)
        around = [self.grid.bounds_of_box(b.snap_out(reach.block_px).pad(reach.halo_px)) for b in boxes]
        meets = shapely.intersects(self.outline, shapely.box(*zip(*around, strict=True)))
        return [box for box, wanted in zip(boxes, meets, strict=True) if wanted]

    @functools.cached_property
    def _reach(self) -> Reach:
        return self.reach or Reach(self._box, self.tile_px, 0)

    @functools.cached_property
    def _box(self) -> Box:
        """Pixels that the outline's bounds touch."""
        return Box(0, 0, 0, 0) if self.outline.is_empty else self.grid.box_of_bounds(self.outline.bounds)

    @functools.cached_property
    def _range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row of tiles that may be wanted and the one after the last; the same of columns."""
        box, size, reach = self._box, self.tile_px, self.reach
        if box and reach is not None:
            box = box.pad(reach.halo_px + reach.block_px) & reach.within
        if not box:
            return (0, 0), (0, 0)
        box = box.snap_out(size)
        return (box.y0 // size, box.y1 // size), (box.x0 // size, box.x1 // size)

    def _wanted_by(self, row: int, col: int, end_row: int, end_col: int) -> Box:
        """Return the pixels that decide whether a range of tiles is wanted: it is where the outline touches them.

        Blocks fill their range without a gap, and their halos together are the halo of the range.
        """
        size, reach = self.tile_px, self.reach
        box = Box(row * size, col * size, end_row * size, end_col * size)
        return box if reach is None else (box & reach.within).snap_out(reach.block_px).pad(reach.halo_px)

    @functools.cached_property
    def _count(self) -> int:
        """Count level by level, all squares of a level in one go; only those on the outline are divided."""
        import numpy as np
        import shapely

        shapely.prepare(self.outline)
        rows, cols = self._range
        side, total = 1 << max(1, rows[1] - rows[0], cols[1] - cols[0]).bit_length(), 0
        corners = np.array([[rows[0], cols[0]]])
        while len(corners):
            ends = np.minimum(corners + side, [rows[1], cols[1]])
            there = (corners < ends).all(axis=1)
            corners, ends = corners[there], ends[there]
            squares = self._squares(corners, ends)
            meets = shapely.intersects(self.outline, squares)
            within = meets & ((side == 1) | shapely.contains_properly(self.outline, squares))
            total += int((ends - corners)[within].prod(axis=1).sum())
            side //= 2
            quarters = np.array([[0, 0], [0, side], [side, 0], [side, side]])
            corners = (corners[meets & ~within][:, None] + quarters).reshape(-1, 2)
        return total

    def _squares(self, corners: Any, ends: Any) -> Any:
        """Return what `_wanted_by` says of many ranges at once, (n, row and col) each, as shapely boxes."""
        import numpy as np
        import shapely

        low, high, reach = corners * self.tile_px, ends * self.tile_px, self.reach
        if reach is not None:
            within, block = reach.within, reach.block_px
            low = np.maximum(low, [within.y0, within.x0]) // block * block - reach.halo_px
            high = -(-np.minimum(high, [within.y1, within.x1]) // block) * block + reach.halo_px
        return shapely.box(*self.grid.bounds_of_box(Box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])))

    @functools.cached_property
    def _parts(self) -> Callable[[int, int, int], Any]:
        return functools.lru_cache(maxsize=_PARTS_KEPT)(self._clipped)

    @functools.cached_property
    def _top(self) -> int:
        """Level of the quadtree at which the outline lies in at most four squares."""
        box = self._box.snap_out(self.tile_px)
        return int(max(box.shape_yx) // self.tile_px).bit_length()

    def _clipped(self, level: int, row: int, col: int) -> Any:
        """Return the outline's surface in the square of ``2 ** level`` tiles a side at (row, col) of its level."""
        import shapely

        around = self.outline if level >= self._top else self._parts(level + 1, row >> 1, col >> 1)
        size = self.tile_px << level
        left, bottom, right, top = self.grid.bounds_of_box(TileKey(row, col).box(size))
        xmin, ymin, xmax, ymax = around.bounds
        if around.is_empty or (left <= xmin and bottom <= ymin and xmax <= right and ymax <= top):
            return around
        return _surface(shapely.intersection(around, shapely.box(left, bottom, right, top)))


def _surface(shape: Any) -> Any:
    """Leave points and lines out, which remain where two shapes only touch."""
    import shapely

    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    parts = [p for p in shapely.get_parts(shape) if p.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts) if parts else shapely.Polygon()
