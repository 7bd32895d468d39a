"""Where the pixel of a grid lies in a file: index arithmetic and the check of the transformation.

The grid and the file in one CRS need no warp. Each grid pixel takes the file pixel that holds its centre,
found from its global index alone, so the box that asked cannot move it::

      file, 20 m   │    0    │    1    │    2    │
      grid, 10 m   │ 4 │ 5 │ 6 │ 7 │ 8 │ 9 │            source_index: 0 0 1 1 2 2
                     ●   ●   ●   ●   ●   ●   centres

A centre on the very edge between two file pixels takes the one to the right or below.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid, normal_crs

WARP_BLOCK_PX = 512
"""Every warp is that of exactly one block of the grid of this size, whoever asks."""

_EDGE = 1e-6  # part of a pixel: rounding noise below this is none


@dataclass(frozen=True)
class Raster:
    """What the header of a file says.

    Attributes:
        crs: WKT of the CRS.
        transform: Affine coefficients ``(a, b, c, d, e, f)``.
        shape_yx: Height and width in pixels.
        dtype: Name of the numpy dtype.
        nodata: Declared no-data value, or None.
        overviews: Factors of its overviews, rising: ``(2, 4, 8)``.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape_yx: tuple[int, int]
    dtype: str
    nodata: float | None
    overviews: tuple[int, ...] = ()

    @property
    def north_up(self) -> bool:
        """Whether rows run to the south and columns to the east."""
        a, b, _, d, e, _ = self.transform
        return a > 0 and e < 0 and b == 0 and d == 0


@functools.lru_cache(maxsize=1024)
def same_crs(one: str, other: str) -> bool:
    """Tell whether two CRSs are the same but for the order of their axes.

    Raises:
        DataError: If one cannot be read.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    if one == other:
        return True
    try:
        return bool(CRS.from_user_input(one).equals(CRS.from_user_input(other), ignore_axis_order=True))
    except CRSError as error:
        raise DataError("cannot read a CRS", found=(one, other)) from error


def source_index(raster: Raster, grid: Grid, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the file row of each grid row and the file column of each grid column, same CRS.

    Args:
        raster: The file, north-up.
        grid: The grid, in the same CRS.
        box: The pixels asked for.

    Returns:
        Rows (y,) and columns (x,), int64; they may lie outside the file.
    """
    a, _, c, _, e, f = raster.transform
    y, x = grid.centres(box)
    rows = np.floor((y - f) / e + _EDGE).astype(np.int64)
    cols = np.floor((x - c) / a + _EDGE).astype(np.int64)
    return rows, cols


def coincides(raster: Raster, grid: Grid) -> bool:
    """Tell whether the pixels of file and grid are the same squares; the CRS is the caller's to check.

    >>> utm = Raster("EPSG:32633", (10.0, 0.0, 300000.0, 0.0, -10.0, 5900040.0), (9, 9), "uint16", 0)
    >>> coincides(utm, Grid("EPSG:32633", (10.0, 10.0))), coincides(utm, Grid("EPSG:32633", (20.0, 20.0)))
    (True, False)
    """
    a, _, c, _, e, f = raster.transform
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    if not (math.isclose(a, res_x, rel_tol=1e-9) and math.isclose(-e, res_y, rel_tol=1e-9)):
        return False
    steps = ((c - ax) / res_x, (f - ay) / res_y)
    return all(abs(s - round(s)) < _EDGE for s in steps)


@functools.lru_cache(maxsize=1024)
def pipeline(source: str, target: str) -> str:
    """Return PROJ's definition of the transformation between two CRSs, empty between equal ones.

    It is part of what a tile's pixels depend on: another PROJ, or a grid file more, may choose another one.
    """
    from pyproj import Transformer

    if normal_crs(source) == normal_crs(target):
        return ""
    return str(Transformer.from_crs(source, target, always_xy=True).definition)


@functools.lru_cache(maxsize=1024)
def require_transform(source: str, target: str) -> None:
    """Refuse a pair of CRSs between which PROJ only knows a ballpark transformation.

    Raises:
        InputError: Naming the transformation grid that is missing, where one would help.
    """
    import warnings

    from pyproj.transformer import TransformerGroup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pyproj warns of a better grid; the check is below
        group = TransformerGroup(source, target, always_xy=True)
    best = group.transformers[0] if group.transformers else None
    if best is not None and "ballpark" not in best.description.lower():
        return
    grids = [g.short_name for operation in group.unavailable_operations for g in operation.grids]
    raise InputError(
        "only a ballpark transformation is known between the image and the grid",
        where=f"{source[:40]} to {target[:40]}",
        found=best.description if best else "none",
        limit=", ".join(dict.fromkeys(grids)) or "an exact transformation",
        mend="install the grid (projsync --file NAME) or choose another grid.crs",
    )
