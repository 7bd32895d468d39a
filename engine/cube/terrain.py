"""Terrain, as a pure kernel: slope and aspect of an elevation raster.

::

    a b c      dz/dx = ((c + 2f + i) - (a + 2d + g)) / (8 x pixel width)
    d e f      dz/dy = ((a + 2b + c) - (g + 2h + i)) / (8 x pixel height)     y to the north
    g h i      (Horn 1981, Proc. IEEE 69:14)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.recipe import Terrain

MARGIN_PX = 1
"""Pixels that must be known around a box."""


def terrain(
    elevation: NDArray[np.float32], resolution_yx: tuple[float, float], what: Terrain
) -> NDArray[np.float32]:
    """Derive slope or aspect from elevation.

    Args:
        elevation: (y + 2, x + 2) float32 metres, with one pixel more on each side; NaN = no data.
        resolution_yx: Pixel height and width in metres.
        what: ``slope`` in degrees; ``eastness`` and ``northness``, sine and cosine of the direction in
            which the slope falls (clockwise from north), 0 on flat ground.

    Returns:
        (y, x) float32, NaN where any of the nine pixels is NaN.

    >>> falls_east = np.float32([[20, 10, 0]] * 3)
    >>> [round(float(terrain(falls_east, (10.0, 10.0), w).item()), 3) for w in ("slope", "eastness", "northness")]
    [45.0, 1.0, 0.0]
    """
    z = elevation.astype(np.float64)
    height, width = resolution_yx
    along = z[:-2] + 2 * z[1:-1] + z[2:]
    across = z[:, :-2] + 2 * z[:, 1:-1] + z[:, 2:]
    to_east = (along[:, 2:] - along[:, :-2]) / (8 * width)
    to_north = (across[:-2] - across[2:]) / (8 * height)
    steep = np.hypot(to_east, to_north)
    steep[np.isnan(z[1:-1, 1:-1])] = np.nan
    if what == "slope":
        return np.degrees(np.arctan(steep)).astype(np.float32)
    uphill = to_east if what == "eastness" else to_north
    return (0.0 - uphill / np.where(steep == 0, 1.0, steep)).astype(np.float32)


def require_metres(grid: Grid) -> None:
    """Refuse a grid whose pixels are not measured in metres.

    Raises:
        InputError: If the CRS is in degrees or feet.
    """
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    if not crs.is_projected or any(axis.unit_conversion_factor != 1 for axis in crs.axis_info):
        raise InputError(
            "slope and aspect need a grid in metres",
            where="cube.features.layers",
            found=grid.crs,
            mend="choose a projected grid.crs, or a raster of slopes made elsewhere",
        )
