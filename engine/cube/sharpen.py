"""Sharpening, as pure kernels: 20 m and 60 m bands at 10 m, with the detail of the four 10 m bands.

The pan band is the mean of blue, green, red and near infrared, as Sentinel-2 has none of its own (Selva et al.
2015, IEEE GRSL 12:2115; Wang et al. 2016, Remote Sens. Environ. 187:241). With B the coarse band, P the pan
band, and ^ what is averaged to coarse pixels and interpolated back linearly between their middles::

    ratio      B^ x P / P^             Gillespie et al. 1987, Remote Sens. Environ. 22:343 (Brovey type)
    high_pass  B^ + weight x (P - P^)  Chavez et al. 1991, Photogramm. Eng. Remote Sens. 57:295

      coarse    │     ●     │     ●     │     ●     │      ● known values
      fine      │  ·  │  ·  │  ·  │  ·  │  ·  │  ·  │      · between them: 3/4 and 1/4 of the nearest two
                │  margin   │  what is given back   │ margin ...

Each value depends on its own coarse pixel and the eight around it alone, so no cutting moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.values.bands import band
from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.recipe import Sharpen
from engine.values.spec import CubeSpec

PAN = ("blue", "green", "red", "nir")
"""Bands whose mean is the pan band."""

FINE_M = 10
"""Pixel size of the pan band in metres."""


def sharpen(
    coarse: NDArray[np.uint16], pan: NDArray[np.uint16], factor: int, how: Sharpen
) -> NDArray[np.uint16]:
    """Sharpen one band.

    Args:
        coarse: (Y, X) uint16 reflectance x 10000, 0 = no data, with a margin of one pixel on each side.
        pan: (4, y, x) uint16 bands of `PAN`, same unit and margin, ``y = factor * Y``.
        factor: Fine pixels per coarse pixel, along one side.
        how: Method and weight.

    Returns:
        (y, x) uint16 without the margin, halves rounded up, valid values clipped to 1..65535; 0 where the
        coarse pixel or one of the pan bands has no data.

    >>> flat = np.full((4, 6, 6), 800, np.uint16)  # no detail: nothing is added to the interpolated band
    >>> sharpen(np.array([[100, 200, 300]] * 3, np.uint16), flat, 2, Sharpen())
    array([[175, 225],
           [175, 225]], dtype=uint16)
    """
    height, width = coarse.shape
    fine_valid = np.asarray((pan > 0).all(axis=0))
    detail = pan.sum(axis=0, dtype=np.int64) * fine_valid
    cells = (height, factor, width, factor)
    count = fine_valid.reshape(cells).sum(axis=(1, 3))
    mean = detail.reshape(cells).sum(axis=(1, 3)) / np.maximum(count, 1)
    known = (count > 0) & (coarse > 0)
    smooth = [_between(np.where(known, plane, 0.0), factor) for plane in (coarse, mean, known)]
    inner = slice(factor, -factor)
    detail, fine_valid = detail[inner, inner], fine_valid[inner, inner]
    valid = fine_valid & known[1:-1, 1:-1].repeat(factor, 0).repeat(factor, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if how.method == "ratio":
            value = smooth[0] * detail / smooth[1]
        else:
            value = (smooth[0] + how.weight / len(PAN) * (detail * smooth[2] - smooth[1])) / smooth[2]
    rounded = np.floor(np.where(valid, value, 0.0) + 0.5)
    return np.where(valid, np.clip(rounded, 1, 65535), 0).astype(np.uint16)


def _between(plane: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Interpolate (Y, X) linearly between the middles of pixels, to (y, x) without the outer pixels."""
    rows = _along_rows(plane, factor)
    return _along_rows(rows.T, factor).T


def _along_rows(plane: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Interpolate between rows; the first and last row are only there to be reached."""
    out = np.empty(((plane.shape[0] - 2) * factor, plane.shape[1]))
    before, here, after = plane[:-2], plane[1:-1], plane[2:]
    for i in range(factor):
        offset = (i + 0.5) / factor - 0.5
        other = before if offset < 0 else after
        out[i::factor] = (1 - abs(offset)) * here + abs(offset) * other
    return out


def is_coarse(name: str) -> bool:
    """Tell whether a band is one that sharpening changes: spectral, and coarser than the pan band."""
    found = band(name)
    return found.wavelength_um > 0 and found.resolution_m > FINE_M


def require_sharpenable(spec: CubeSpec, grid: Grid, items: Sequence[ItemRecord]) -> None:
    """Check, before anything is read, that a cube's bands can be sharpened as its spec asks.

    Raises:
        InputError: If the grid is coarser than 10 m, or an item lacks a pan band or its CRS.
    """
    if spec.sharpen is None or not any(map(is_coarse, spec.bands)):
        return
    if max(spec.resolution_m, *_metres(grid)) > FINE_M * (1 + 1e-9):
        raise InputError(
            "sharpening makes 10 m pixels, and the grid's are coarser",
            where="cube.sharpen",
            found=f"{max(spec.resolution_m, *_metres(grid)):g} m",
            limit=f"at most {FINE_M} m",
            mend="leave cube.sharpen out, or set cube.resolution_m to 10",
        )
    for item in items:
        missing = [name for name in PAN if name not in item.bands]
        if missing or not item.crs:
            raise InputError(
                "an item cannot be sharpened",
                where=f"item {item.id}",
                found=", ".join(item.bands) if missing else "no CRS in the catalogue",
                limit=", ".join(missing) or "its projection",
                mend="leave cube.sharpen out",
            )


def _metres(grid: Grid) -> tuple[float, float]:
    """Return the pixel size in metres, about; degrees by their length on the equator."""
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    factor = 111_320.0 if crs.is_geographic else crs.axis_info[0].unit_conversion_factor or 1.0
    return grid.resolution_yx[0] * factor, grid.resolution_yx[1] * factor
