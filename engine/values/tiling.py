"""Tiling: the tiles that touch an outline, along a Z-order curve, without ever holding them all.

The curve is a quadtree walked depth first. A square that misses the outline is left out whole, one that
lies within it is not looked at again::

    ┌───┬───┬───────┐      quarter by quarter: upper left, upper right, lower left, lower right
    │ · │ █ │       │      ·  misses the outline: nothing below it is visited
    ├───┼───┤   ■   │      ■  lies within: every tile below it, no more tests
    │ █ │ █ │       │      █  touches
    └───┴───┴───────┘
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.values.grid import Grid, TileKey


@dataclass(frozen=True)
class Tiling:
    """The tiles of a grid that touch an outline: countable and iterable, in memory that does not grow.

    Attributes:
        grid: Where pixels lie.
        tile_px: Side of a tile in pixels.
        outline: Shapely geometry in the grid's CRS.

    >>> import shapely
    >>> tiling = Tiling(Grid("EPSG:32633", (10.0, 10.0)), 4, shapely.box(0, -80, 80, 0).buffer(-1))
    >>> len(tiling), [str(t) for t in tiling]
    (4, ['r0_c0', 'r0_c1', 'r1_c0', 'r1_c1'])
    """

    grid: Grid
    tile_px: int
    outline: Any

    def __len__(self) -> int:
        return self._count

    @functools.cached_property
    def _count(self) -> int:
        return sum((r1 - r0) * (c1 - c0) for r0, c0, r1, c1 in self._squares(whole=True))

    def __iter__(self) -> Iterator[TileKey]:
        for row, col, _, _ in self._squares(whole=False):
            yield TileKey(row, col)

    def _squares(self, *, whole: bool) -> Iterator[tuple[int, int, int, int]]:
        """Yield ranges of tiles (row, col, row end, col end) in Z-order; squares within are not split if `whole`."""
        import shapely

        if self.outline.is_empty:
            return
        shapely.prepare(self.outline)
        box, size = self.grid.box_of_bounds(self.outline.bounds), self.tile_px
        rows = box.y0 // size, -(-box.y1 // size)
        cols = box.x0 // size, -(-box.x1 // size)
        side = 1 << max(1, rows[1] - rows[0], cols[1] - cols[0]).bit_length()
        stack = [(rows[0], cols[0], side, False)]
        while stack:
            row, col, side, within = stack.pop()
            end_row, end_col = min(row + side, rows[1]), min(col + side, cols[1])
            if row >= end_row or col >= end_col:
                continue
            if not within:
                square = self._rectangle(row, col, end_row, end_col)
                if not self.outline.intersects(square):
                    continue
                within = bool(self.outline.contains_properly(square))
            if side == 1 or (whole and within):
                yield row, col, end_row, end_col
                continue
            half = side // 2
            quarters = ((row, col), (row, col + half), (row + half, col), (row + half, col + half))
            stack.extend((r, c, half, within) for r, c in reversed(quarters))

    def _rectangle(self, row: int, col: int, end_row: int, end_col: int) -> Any:
        import shapely

        first, last = TileKey(row, col).box(self.tile_px), TileKey(end_row - 1, end_col - 1).box(self.tile_px)
        left, _, _, top = self.grid.bounds_of_box(first)
        _, bottom, right, _ = self.grid.bounds_of_box(last)
        return shapely.box(left, bottom, right, top)
