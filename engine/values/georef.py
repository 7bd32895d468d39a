"""Between xarray and the Grid: which pixels a Dataset holds, and the coordinates that say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from engine.values.errors import InputError
from engine.values.grid import Box, Grid


def georef_coords(grid: Grid, box: Box) -> dict[str, Any]:
    """Return the coordinates ``y``, ``x`` (pixel centres, CRS units) and ``spatial_ref`` of a box.

    ``spatial_ref`` is the CF grid mapping with the attributes that rioxarray and GDAL read
    (``crs_wkt``, ``spatial_ref``, ``GeoTransform``).
    """
    y, x = grid.centres(box)
    units = "m" if _is_projected(grid.crs) else "degree"
    return {
        "y": ("y", y, {"axis": "Y", "standard_name": "projection_y_coordinate", "units": units}),
        "x": ("x", x, {"axis": "X", "standard_name": "projection_x_coordinate", "units": units}),
        "spatial_ref": ((), np.int32(0), grid_mapping(grid, box)),
    }


def grid_mapping(grid: Grid, box: Box) -> dict[str, Any]:
    """Return the attributes of the CF grid mapping variable of an array that covers `box`."""
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    a, b, c, d, e, f = grid.transform_of(box)
    attributes: dict[str, Any] = {k: v for k, v in crs.to_cf().items() if v is not None}
    wkt = crs.to_wkt()
    attributes |= {"crs_wkt": wkt, "spatial_ref": wkt}
    attributes["GeoTransform"] = " ".join(repr(float(v)) for v in (c, a, b, f, d, e))
    return attributes


def georef_of(cube: xr.Dataset) -> tuple[Grid, Box]:
    """Find the grid and the global pixel box of a Dataset with ``y``, ``x`` and ``spatial_ref``.

    The pixel size and position come from the coordinates, so a slice of a cube keeps its place.

    Raises:
        InputError: If a coordinate is missing, uneven or not north-up.
    """
    for name in ("y", "x"):
        if name not in cube.coords:
            raise InputError("the cube has no coordinate", where=name, mend="open it with open_cube")
    if "spatial_ref" not in cube.coords:
        raise InputError(
            "the cube has no CRS", where="spatial_ref", mend="add it with cube.rio.write_crs('EPSG:...')"
        )
    from affine import Affine

    attributes = cube["spatial_ref"].attrs
    stated = [float(v) for v in str(attributes.get("GeoTransform", "")).split()]
    res_x = _step(cube["x"].values, "x", abs(stated[1]) if len(stated) == 6 else None)
    res_y = _step(-cube["y"].values, "y", abs(stated[5]) if len(stated) == 6 else None)
    left = float(cube["x"].values[0]) - res_x / 2
    top = float(cube["y"].values[0]) + res_y / 2
    crs = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    shape = cube.sizes["y"], cube.sizes["x"]
    return Grid.of_transform(crs, Affine(res_x, 0, left, 0, -res_y, top), shape)


def _step(centres: np.ndarray[Any, Any], axis: str, stated: float | None) -> float:
    """Return the even, positive step of a coordinate; a single pixel takes the stated one."""
    if centres.size < 2:
        if stated is None:
            raise InputError("one pixel tells no resolution", where=axis, mend="write a GeoTransform")
        return stated
    step = float(centres[-1] - centres[0]) / (centres.size - 1)
    if step <= 0 or not np.allclose(np.diff(centres), step, rtol=1e-6, atol=0):
        raise InputError(
            "coordinate is not even and north-up", where=axis, found=f"mean step {step}", mend="regrid it"
        )
    if stated is not None and abs(step - stated) < 1e-9 * stated:
        return stated
    return step


def _is_projected(crs: str) -> bool:
    from pyproj import CRS

    return bool(CRS.from_user_input(crs).is_projected)
