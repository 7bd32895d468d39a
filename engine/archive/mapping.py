"""Mapping: where each pixel of a grid's block lies in a file of another CRS or pixel size.

GDAL's warp interpolates coordinates along each line of whatever window it is given, to an eighth of a pixel:
another window is another image, and in degrees one nearest pixel in twelve is the wrong one. Here a
block of 512 x 512 grid pixels has one smooth function, fixed for good, whoever asks for which part of it:
a polynomial through exactly transformed points, better than a thousandth of a file pixel everywhere, which
is checked between the points. Where it is not, each pixel is transformed by itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gather import polynomial
from engine.archive.warp import WARP_BLOCK_PX, Raster, same_crs
from engine.values.grid import Box, Grid

_DEGREE = 7
_TOLERANCE_PX = 1e-3
_AS_ONE = 1.05
"""Grid pixels that are hardly larger than a file's are no coarser: no smoothing for a turn or a stretch."""


@dataclass(frozen=True, eq=False)
class Mapping:
    """Where the pixels of one block lie in a file.

    Attributes:
        crs: CRS of the file.
        transform: Affine coefficients of the file.
        grid: The grid.
        block: The block, of `WARP_BLOCK_PX` pixels.
        ratio_yx: File pixels per grid pixel, at least 1: how far kernels reach.
        lines: (2, y, n) float64: for each grid row the coefficients of file row and file column along it;
            None where no polynomial holds, and each pixel is transformed by itself.
    """

    crs: str
    transform: tuple[float, ...]
    grid: Grid
    block: Box
    ratio_yx: tuple[float, float]
    lines: NDArray[np.float64] | None

    def positions(self, part: Box) -> NDArray[np.float64]:
        """Return the file rows and columns of pixel centres.

        Args:
            part: Pixels within the block.

        Returns:
            (2, y, x) float64; 0.5 is the middle of the file's first pixel; not finite where unknown.
        """
        if self.lines is None:
            y, x = np.arange(part.y0, part.y1) + 0.5, np.arange(part.x0, part.x1) + 0.5
            return _transformed(self.crs, self.transform, self.grid, y, x)
        rows, cols = part.slices_in(self.block)
        return polynomial(
            np.ascontiguousarray(self.lines[:, rows]), np.ascontiguousarray(_along().T[:, cols])
        )


@functools.lru_cache(maxsize=512)
def mapping_of(crs: str, transform: tuple[float, ...], grid: Grid, block: Box) -> Mapping:
    """Return the mapping of a fixed block, which all dates and bands share.

    Args:
        crs: CRS of the file.
        transform: Affine coefficients of the file.
        grid: The grid.
        block: A whole block of `WARP_BLOCK_PX` pixels.
    """
    node = (1 - np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))) / 2 * WARP_BLOCK_PX
    found = _transformed(crs, transform, grid, block.y0 + node, block.x0 + node)
    lines = None
    if np.isfinite(found).all():
        coefficients = _coefficients(node, found)
        between = (node[1:] + node[:-1]) / 2
        base = _chebyshev(between)
        truth = _transformed(crs, transform, grid, block.y0 + between, block.x0 + between)
        if np.abs(np.einsum("yk,pkl,xl->pyx", base, coefficients, base) - truth).max() <= _TOLERANCE_PX:
            lines = np.einsum("yk,pkl->pyl", _along(), coefficients)
    return Mapping(crs, transform, grid, block, _ratio(crs, transform, grid, block), lines)


def _coefficients(node: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Chebyshev coefficients (2, n, n) of the polynomial through nodes (2, y, x)."""
    inverse = np.linalg.inv(_chebyshev(node))
    return np.einsum("ky,pyx,lx->pkl", inverse, found, inverse)


@functools.cache
def _along() -> NDArray[np.float64]:
    """Return the Chebyshev polynomials (pixel, n) at the pixel centres of a block."""
    return _chebyshev(np.arange(WARP_BLOCK_PX) + 0.5)


def _chebyshev(position: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Chebyshev polynomials T_0..T_n at positions 0..`WARP_BLOCK_PX`."""
    return np.asarray(
        np.polynomial.chebyshev.chebvander(position / WARP_BLOCK_PX * 2 - 1, _DEGREE), np.float64
    )


def _ratio(crs: str, transform: tuple[float, ...], grid: Grid, block: Box) -> tuple[float, float]:
    """Return file pixels per grid pixel along the file's rows and columns, median over a block."""
    start = np.arange(16, WARP_BLOCK_PX, 60.0)
    here = _transformed(crs, transform, grid, block.y0 + start, block.x0 + start)
    down = _transformed(crs, transform, grid, block.y0 + start + 1, block.x0 + start) - here
    right = _transformed(crs, transform, grid, block.y0 + start, block.x0 + start + 1) - here
    lengths = np.hypot(down, right).reshape(2, -1)
    known = lengths[:, np.isfinite(lengths).all(axis=0)]
    ratio_y, ratio_x = (float(np.median(axis)) if axis.size else 1.0 for axis in known)
    return (ratio_y if ratio_y > _AS_ONE else 1.0), (ratio_x if ratio_x > _AS_ONE else 1.0)


def file_pixels_per_pixel(raster: Raster, grid: Grid, box: Box) -> float:
    """Tell how many file pixels lie side by side in a grid pixel, in the middle of a box; 1 if unknown."""
    row, col = (box.y0 + box.y1) // 2, (box.x0 + box.x1) // 2
    corners = _transformed(
        raster.crs, raster.transform, grid, np.array([row, row + 1.0]), np.array([col, col + 1.0])
    )
    steps = np.hypot(*(corners[:, [1, 0], [0, 1]] - corners[:, 0, :1]))
    return float(steps.min()) if np.isfinite(steps).all() else 1.0


def _transformed(
    crs: str, transform: tuple[float, ...], grid: Grid, rows: NDArray[Any], cols: NDArray[Any]
) -> NDArray[np.float64]:
    """Return where a lattice of grid positions lies in a file, (2, y, x); inf where it is unknown."""
    from affine import Affine

    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    y, x = np.meshgrid(ay - rows * res_y, ax + cols * res_x, indexing="ij")
    if not same_crs(crs, grid.crs):
        x, y = _transformer(grid.crs, crs).transform(x, y)
    a, b, c, d, e, f = tuple(~Affine(*transform))[:6]
    with np.errstate(invalid="ignore"):
        return np.stack([d * x + e * y + f, a * x + b * y + c])


@functools.lru_cache(maxsize=256)
def _transformer(source: str, target: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)
