"""Grid, Box and tiles: where a pixel is.

A `Grid` is endless: a CRS, a pixel size and an anchor. Pixel (row 0, column 0) has its upper-left
corner on the anchor; rows grow to the south, columns to the east, and both may be negative. Every
area, tile, window and store is a `Box` of such global pixel indices, so that a larger area never
moves a pixel of a smaller one::

          column  -1      0      1      2
                   │      │      │      │
      row -1   ────┼──────┼──────┼──────┼───
                   │      │(-1,0)│      │
      row  0   ────┼──────●──────┼──────┼───    ● = anchor (x, y in CRS units)
                   │      │(0,0) │(0,1) │
      row  1   ────┼──────┼──────┼──────┼───

Boxes are half open: ``Box(y0, x0, y1, x1)`` holds rows ``y0 <= y < y1``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.values.errors import InputError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_SNAP = 1e-6  # a part of a pixel below which a bound counts as lying on a pixel edge


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle of global pixel indices: ``[y0, y1) x [x0, x1)``.

    >>> Box(0, 0, 4, 6).shape_yx
    (4, 6)
    >>> Box(0, 0, 4, 6) & Box(2, 3, 9, 9)
    Box(y0=2, x0=3, y1=4, x1=6)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in pixels, never negative."""
        return max(0, self.y1 - self.y0), max(0, self.x1 - self.x0)

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        height, width = self.shape_yx
        return height * width

    def __bool__(self) -> bool:
        return self.y1 > self.y0 and self.x1 > self.x0

    def __and__(self, other: Box) -> Box:
        return Box(
            max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1)
        )

    def pad(self, before: int, after: int | None = None) -> Box:
        """Grow by pixels on the upper/left (`before`) and lower/right side (`after`, default the same)."""
        after = before if after is None else after
        return Box(self.y0 - before, self.x0 - before, self.y1 + after, self.x1 + after)

    def snap_out(self, multiple: int) -> Box:
        """Return the smallest box on whole multiples that holds this one.

        >>> Box(-3, 5, 9, 17).snap_out(8)
        Box(y0=-8, x0=0, y1=16, x1=24)
        """
        m = multiple
        return Box(self.y0 // m * m, self.x0 // m * m, -(-self.y1 // m) * m, -(-self.x1 // m) * m)

    def holds(self, other: Box) -> bool:
        """Tell whether `other` lies wholly inside."""
        inside_y = self.y0 <= other.y0 and other.y1 <= self.y1
        return inside_y and self.x0 <= other.x0 and other.x1 <= self.x1

    def slices_in(self, outer: Box) -> tuple[slice, slice]:
        """Return the (y, x) slices that cut this box out of an array that covers `outer`."""
        if not outer.holds(self):
            raise InputError("box reaches outside its array", found=self, limit=outer)
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def blocks(self, size_px: int) -> Iterator[Box]:
        """Yield the parts of this box that each multiple-aligned block of `size_px` holds, row by row."""
        for y in range(self.y0 // size_px * size_px, self.y1, size_px):
            for x in range(self.x0 // size_px * size_px, self.x1, size_px):
                yield self & Box(y, x, y + size_px, x + size_px)


@dataclass(frozen=True, order=True)
class TileKey:
    """A tile's row and column on the tiling of its size, counted from the grid's anchor."""

    row: int
    col: int

    def __str__(self) -> str:
        return f"r{self.row}_c{self.col}"

    @classmethod
    def parse(cls, text: str) -> TileKey:
        """Read what `str` wrote.

        >>> TileKey.parse("r-12_c3")
        TileKey(row=-12, col=3)
        """
        row, col = text.removeprefix("r").split("_c")
        return cls(int(row), int(col))

    def box(self, tile_px: int) -> Box:
        """Return the pixels of this tile."""
        return Box(self.row * tile_px, self.col * tile_px, (self.row + 1) * tile_px, (self.col + 1) * tile_px)


@dataclass(frozen=True)
class Grid:
    """An endless, north-up, pixel-edge anchored raster.

    Attributes:
        crs: ``"EPSG:32633"``, or WKT2 for a CRS without a code.
        resolution_yx: Pixel height and width in CRS units (metres for projected CRSs), both positive.
        anchor_xy: CRS coordinates of the upper-left corner of pixel (0, 0).
    """

    crs: str
    resolution_yx: tuple[float, float]
    anchor_xy: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if min(self.resolution_yx) <= 0 or not all(map(math.isfinite, self.resolution_yx)):
            raise InputError(
                "pixel size must be positive", where="grid", found=self.resolution_yx, mend="use e.g. 10"
            )

    @classmethod
    def make(cls, crs: Any, resolution_m: float) -> Grid:
        """Make a grid of square pixels whose edges lie on whole multiples of the resolution.

        Args:
            crs: Anything that pyproj reads: ``"EPSG:32633"``, ``32633``, WKT.
            resolution_m: Pixel size in CRS units.

        Raises:
            InputError: If the CRS cannot be read.
        """
        return cls(crs=normal_crs(crs), resolution_yx=(float(resolution_m), float(resolution_m)))

    @classmethod
    def of_transform(cls, crs: Any, transform: Any, shape_yx: tuple[int, int]) -> tuple[Grid, Box]:
        """Find the grid and the box of an existing raster, its sub-pixel anchor included.

        Args:
            crs: The raster's CRS.
            transform: Its affine transform (north-up, no rotation).
            shape_yx: Its height and width in pixels.

        Raises:
            InputError: If the raster is rotated or not north-up.
        """
        if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
            raise InputError(
                "raster is rotated or not north-up", found=tuple(transform)[:6], mend="warp it first"
            )
        res_y, res_x = -transform.e, transform.a
        col, off_x = _split(transform.c, res_x)
        row, off_y = _split(-transform.f, res_y)
        grid = cls(normal_crs(crs), (res_y, res_x), (off_x, 0.0 - off_y))
        return grid, Box(row, col, row + shape_yx[0], col + shape_yx[1])

    def coarser(self, factor: int) -> Grid:
        """Return the grid whose pixels hold ``factor x factor`` of this one's; the anchor stays.

        >>> Grid("EPSG:32633", (10.0, 10.0)).coarser(2).resolution_yx
        (20.0, 20.0)
        """
        if factor == 1:
            return self
        return Grid(
            self.crs, (self.resolution_yx[0] * factor, self.resolution_yx[1] * factor), self.anchor_xy
        )

    def finer(self, factor: int) -> Grid:
        """Return the grid of which this one is ``coarser(factor)``."""
        if factor == 1:
            return self
        return Grid(
            self.crs, (self.resolution_yx[0] / factor, self.resolution_yx[1] / factor), self.anchor_xy
        )

    def box_of_bounds(self, bounds_xyxy: tuple[float, float, float, float]) -> Box:
        """Return the smallest box that covers ``(left, bottom, right, top)`` in CRS units.

        >>> Grid("EPSG:32633", (10.0, 10.0)).box_of_bounds((500000, 5000000, 500025, 5000040))
        Box(y0=-500004, x0=50000, y1=-500000, x1=50003)
        """
        left, bottom, right, top = bounds_xyxy
        (res_y, res_x), (ax, ay) = self.resolution_yx, self.anchor_xy
        return Box(
            _floor((ay - top) / res_y),
            _floor((left - ax) / res_x),
            -_floor(-(ay - bottom) / res_y),
            -_floor(-(right - ax) / res_x),
        )

    def bounds_of_box(self, box: Box) -> tuple[float, float, float, float]:
        """Return ``(left, bottom, right, top)`` of a box in CRS units."""
        (res_y, res_x), (ax, ay) = self.resolution_yx, self.anchor_xy
        return ax + box.x0 * res_x, ay - box.y1 * res_y, ax + box.x1 * res_x, ay - box.y0 * res_y

    def transform_of(self, box: Box) -> tuple[float, float, float, float, float, float]:
        """Return the affine coefficients ``(a, b, c, d, e, f)`` of an array that covers `box`."""
        left, _, _, top = self.bounds_of_box(box)
        res_y, res_x = self.resolution_yx
        return res_x, 0.0, left, 0.0, -res_y, top

    def geobox(self, box: Box) -> GeoBox:
        """Return odc-geo's GeoBox of a box."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(box.shape_yx, Affine(*self.transform_of(box)), self.crs)

    def centres(self, box: Box) -> tuple[Any, Any]:
        """Return the pixel centres ``(y, x)`` of a box as two float64 arrays in CRS units."""
        import numpy as np

        (res_y, res_x), (ax, ay) = self.resolution_yx, self.anchor_xy
        y = ay - (np.arange(box.y0, box.y1) + 0.5) * res_y
        x = ax + (np.arange(box.x0, box.x1) + 0.5) * res_x
        return y, x

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("landweave.Grid", self.crs, self.resolution_yx, self.anchor_xy)


def normal_crs(crs: Any) -> str:
    """Write a CRS as ``AUTHORITY:CODE`` where there is one, else as WKT2.

    >>> normal_crs(32633)
    'EPSG:32633'
    """
    return _normal_text(crs) if isinstance(crs, str) else _normal(crs)


@functools.lru_cache(maxsize=256)
def _normal_text(crs: str) -> str:  # looking a CRS up costs milliseconds, and each tile asks
    return _normal(crs)


def _normal(crs: Any) -> str:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as error:
        raise InputError("cannot read the CRS", found=crs, mend="use e.g. EPSG:32633") from error
    authority = parsed.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(parsed.to_wkt("WKT2_2019"))


def tiles_over(box: Box, tile_px: int) -> list[TileKey]:
    """List the tiles that touch a box along a Z-order curve, so that a partial map is compact.

    >>> [str(t) for t in tiles_over(Box(0, 0, 8, 8), 4)]
    ['r0_c0', 'r0_c1', 'r1_c0', 'r1_c1']
    """
    if not box:
        return []
    rows = range(box.y0 // tile_px, -(-box.y1 // tile_px))
    cols = range(box.x0 // tile_px, -(-box.x1 // tile_px))
    keys = [TileKey(r, c) for r in rows for c in cols]
    return sorted(keys, key=lambda k: _z_order(k.row - rows.start, k.col - cols.start))


def _z_order(row: int, col: int) -> int:
    """Interleave the bits of two non-negative integers (Morton 1966)."""
    bits = max(row.bit_length(), col.bit_length())
    return sum(((row >> i & 1) << (2 * i + 1)) | ((col >> i & 1) << (2 * i)) for i in range(bits))


def _floor(value: float) -> int:
    """Floor, but take a value within a millionth of a pixel of an edge for that edge."""
    nearest = round(value)
    return nearest if abs(value - nearest) < _SNAP else math.floor(value)


def _split(value: float, step: float) -> tuple[int, float]:
    """Split ``value = index * step + offset`` with the offset in ``[0, step)``, rounding noise removed."""
    index = _floor(value / step)
    offset = value - index * step
    return index, 0.0 if abs(offset) < _SNAP * step else offset
