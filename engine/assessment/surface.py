"""How much of the Earth's surface a pixel covers: true area on the CRS's ellipsoid, in whole numbers.

A projection's areal scale changes slowly, so it is computed on the nodes of a coarse lattice of global pixel
corners and interpolated bilinearly between them. Nodes stand on whole multiples of their distance, and the
interpolation is integer arithmetic: a pixel's area does not depend on who asks for which box::

      ●───────────────●      ● node: |∂r/∂x × ∂r/∂y| of the point r on the ellipsoid, by central
      │ · · · · · · · │              differences to its neighbours, about 1 km away
      │ · · · · · · · │      · pixel: bilinear between its four nodes
      ●───────────────●

The vectors are those of the Earth-centred, Earth-fixed frame, so neither a pole nor the antimeridian is special.

Error: differences over ``h`` on a sphere of radius ``R`` leave out ``(h / R)^2 / 3``, interpolation about as much:
1e-8 for h of 1 km and a projection that is not used far beyond its place. Pixels of more than 1 km get a node at
each corner. `tests/assessment/test_surface.py` holds 1e-7 against PROJ's own factors and geodesic polygons.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid

NODE_M = 1000.0
"""Distance of nodes that is not exceeded, as long as a pixel is smaller."""

_FARTHEST_PX = 64
_BITS = 28  # a nominal pixel is 2**28 units, the largest true one below 8 of it
_DEGREE_M = 111_320.0
_NOWHERE = -1
_GROUP = 8  # nodes are computed in groups of this many a side: what a node is never depends on the box


@dataclass(frozen=True)
class Surface:
    """The true areas of a grid's pixels.

    Attributes:
        grid: Where the pixels lie; any CRS that PROJ inverts.
    """

    grid: Grid

    @functools.cached_property
    def unit_m2(self) -> float:
        """Square metres of one unit: the nominal pixel (for degrees: at the equator) in 2**28 parts."""
        res_y, res_x = self.grid.resolution_yx
        return res_y * res_x * self._metres**2 / 2**_BITS

    @functools.cached_property
    def step_px(self) -> int:
        """Pixels between nodes: the largest power of two that is no more than `NODE_M`."""
        largest = max(self.grid.resolution_yx) * self._metres
        step = _FARTHEST_PX
        while step > 1 and step * largest > NODE_M:
            step //= 2
        return step

    def units(self, box: Box) -> NDArray[np.int32]:
        """Return the area of each pixel of a box, (y, x) int32 in `unit_m2`.

        Raises:
            InputError: If the CRS ends before the box does, or a pixel is 8 times its nominal size.
        """
        s = self.step_px
        rows, cols = (box.y0 // s, -(-box.y1 // s) + 1), (box.x0 // s, -(-box.x1 // s) + 1)
        nodes = self._nodes(rows, cols)
        return _interpolated(nodes, s, box.y0 - rows[0] * s, box.x0 - cols[0] * s, box.shape_yx)

    def _nodes(self, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.int64]:
        """Return nodes of half-open ranges of rows and columns, put together from whole groups."""
        first, last = (rows[0] // _GROUP, cols[0] // _GROUP), (-(-rows[1] // _GROUP), -(-cols[1] // _GROUP))
        groups = [[self._group(r, c) for c in range(first[1], last[1])] for r in range(first[0], last[0])]
        joined = np.block(groups)
        y, x = rows[0] - first[0] * _GROUP, cols[0] - first[1] * _GROUP
        nodes = np.ascontiguousarray(joined[y : y + rows[1] - rows[0], x : x + cols[1] - cols[0]])
        if (nodes == _NOWHERE).any():
            box = Box(*(v * self.step_px for v in (rows[0], cols[0], rows[1], cols[1])))
            raise InputError(
                "the CRS gives no true area here: it ends, or its pixels are 8 times what they seem",
                where=self.grid.crs[:60],
                found=f"x and y from and to {self.grid.bounds_of_box(box)}",
                mend="use a map in a CRS that is made for this area",
            )
        return nodes

    @functools.cached_property
    def _group(self) -> Any:
        return functools.lru_cache(maxsize=4096)(self._made)

    def _made(self, row: int, col: int) -> NDArray[np.int64]:
        """Compute the nodes of a group, (8, 8) int64 in `unit_m2`."""
        (res_y, res_x), (ax, ay), s = self.grid.resolution_yx, self.grid.anchor_xy, self.step_px
        steps = np.arange(-1, _GROUP + 1)
        x = ax + (col * _GROUP + steps) * (s * res_x)
        y = ay - (row * _GROUP + steps) * (s * res_y)
        xyz = self._on_ellipsoid(*np.meshgrid(x, y))
        along_x, along_y = xyz[1:-1, 2:] - xyz[1:-1, :-2], xyz[2:, 1:-1] - xyz[:-2, 1:-1]
        pixel_m2 = np.linalg.norm(np.cross(along_x, along_y), axis=-1) / (2 * s) ** 2
        known = pixel_m2 < self.unit_m2 * (8 << _BITS)  # not where the CRS has ended: NaN
        return np.where(known, np.rint(np.where(known, pixel_m2, 0) / self.unit_m2), _NOWHERE).astype(
            np.int64
        )

    def _on_ellipsoid(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return Earth-centred coordinates in metres, (..., 3); EPSG guidance note 7-2, section 4.1.1, height 0."""
        lon, lat = self._inverse.transform(x, y)
        lon, lat = (np.radians(np.where(np.isfinite(v), v, np.nan)) for v in (lon, lat))
        a, e2 = self._ellipsoid
        n = a / np.sqrt(1 - e2 * np.sin(lat) ** 2)
        return np.stack(
            [n * np.cos(lat) * np.cos(lon), n * np.cos(lat) * np.sin(lon), n * (1 - e2) * np.sin(lat)],
            axis=-1,
        )

    @functools.cached_property
    def _inverse(self) -> Any:
        from pyproj import CRS, Transformer

        crs = CRS.from_user_input(self.grid.crs)
        return Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)

    @functools.cached_property
    def _ellipsoid(self) -> tuple[float, float]:
        """Semi-major axis in metres and squared eccentricity."""
        geod = ellipsoid_of(self.grid.crs)
        return float(geod.a), float(geod.es)

    @functools.cached_property
    def _metres(self) -> float:
        """Metres of one unit of the CRS; of a degree, those at the equator."""
        from pyproj import CRS

        crs = CRS.from_user_input(self.grid.crs)
        return _DEGREE_M if crs.is_geographic else float(crs.axis_info[0].unit_conversion_factor)


def ellipsoid_of(crs: str) -> Any:
    """Return pyproj's Geod of a CRS's ellipsoid.

    Raises:
        InputError: If the CRS has none (it is local, not on Earth).
    """
    from pyproj import CRS

    geod = CRS.from_user_input(crs).get_geod()
    if geod is None:
        raise InputError("the CRS has no ellipsoid", where="areas", found=crs[:60], mend="use one on Earth")
    return geod


@njit(nogil=True, cache=True)
def _interpolated(
    nodes: NDArray[np.int64], s: int, y0: int, x0: int, shape_yx: tuple[int, int]
) -> NDArray[np.int32]:
    """Interpolate nodes `s` pixels apart at pixel centres; the first pixel lies (y0, x0) from the first node."""
    out = np.empty(shape_yx, np.int32)
    shift = 2  # the weights of four nodes add up to (2 s)^2, and s is a power of two
    while 1 << shift < 4 * s * s:
        shift += 1
    left = np.empty(nodes.shape[1], np.int64)
    for row in range(shape_yx[0]):
        i, down = (y0 + row) // s, 2 * ((y0 + row) % s) + 1
        for j in range(nodes.shape[1]):
            left[j] = nodes[i, j] * (2 * s - down) + nodes[i + 1, j] * down
        for j in range(nodes.shape[1] - 1):
            first, last = max(0, j * s - x0), min(shape_yx[1], (j + 1) * s - x0)
            slope = left[j + 1] - left[j]
            start = 2 * s * left[j] + (2 * (first + x0 - j * s) + 1) * slope + (1 << (shift - 1))
            for col in range(first, last):
                out[row, col] = (start + 2 * (col - first) * slope) >> shift
    return out
