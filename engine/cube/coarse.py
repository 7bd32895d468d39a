"""Coarse cubes, for looking only: few pixels that are read, never a cube that is thinned after reading.

A live cube is opened again on a grid whose pixels are a whole multiple of its own, from the overviews of its
files. Any other Dataset (a cube from a store, one that was changed) is thinned, but only within a window of
whole chunks in its middle that holds no more than `MOST_PX` pixels::

    live    ┌─┬─┬─┬─┐  10 m    ►  ┌───┬───┐  20 m, from overviews of 20 m
    stored  chunks of 1024 px: 12 x 12  ►  the 4 x 4 in the middle, every 6th pixel of them
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from engine.cube.origins import Origin, origin_of
from engine.values.georef import georef_of
from engine.values.grid import Box, Grid
from engine.values.masking import ModelMask, SclMask
from engine.values.spec import CubeSpec

MOST_PX = 1 << 24
"""Pixels of whole chunks, per time step and band, that a look at a stored cube may touch: 4096 x 4096."""

_BY_BAND = ("median", "mean", "first")


@dataclass(frozen=True)
class Coarse:
    """A cube to look at.

    Attributes:
        cube: Lazy Dataset with ``reflectance`` and ``observations`` as far as the cube has them.
        factor: Pixels of the cube per side of one of its pixels.
        note: What it does not show, ``""`` if it shows all.
        origin: How the cube was opened, None if nobody knows.
    """

    cube: xr.Dataset
    factor: int
    note: str
    origin: Origin | None


def coarse_of(
    cube: xr.Dataset, max_px: int, bands: tuple[str, ...] | None = None, most_px: int = MOST_PX
) -> Coarse:
    """Make a cube coarse.

    A live cube costs at most ``max_px**2`` pixels per scene, band and quality layer when computed (about
    four times that from files whose overviews halve; whole files where they have none).
    Masks by models are left out, clouds grow only where a pixel is smaller than their margin, and features,
    radar and sharpening are not made. Anything else costs whole chunks of at most `most_px` pixels.

    Args:
        cube: A cube.
        max_px: Most pixels a side.
        bands: Bands that are wanted, common names; None: as few as tell where there are data.
        most_px: For what is not live: most pixels of whole chunks per step and band.
    """
    grid, box = georef_of(cube)
    factor = max(1, -(-max(box.shape_yx) // max_px))
    origin = origin_of(cube)
    if origin is not None and _same_grid(origin.grid, grid):
        wanted = bands or (origin.spec.bands[0],)
        again = _open_again(origin, box, factor, wanted) if factor > 1 or bands is None else cube
        steps = _steps_of(cube, again)
        if steps is not None:
            return Coarse(again if again is cube else again.isel(time=steps), factor, "", origin)
    middle, note = _middle(cube, most_px)
    _, shown = georef_of(middle)
    factor = max(1, -(-max(shown.shape_yx) // max_px))
    return Coarse(_thinned(middle, factor), factor, note, origin)


def _same_grid(one: Grid, other: Grid) -> bool:
    """Tell whether pixels coincide; the CRS may be written in two ways."""
    close = np.allclose(
        (*one.resolution_yx, *one.anchor_xy), (*other.resolution_yx, *other.anchor_xy), rtol=1e-9, atol=1e-6
    )
    if one.crs == other.crs:
        return bool(close)
    from engine.archive.warp import same_crs

    return bool(close) and same_crs(one.crs, other.crs)


def _open_again(origin: Origin, box: Box, factor: int, bands: tuple[str, ...]) -> xr.Dataset:
    """Open the same scenes on a grid that is coarser by a whole factor."""
    from engine.archive.reader import OdcReader
    from engine.cube.cube import open_cube

    fine = origin.grid
    res_y, res_x = (r * factor for r in fine.resolution_yx)
    grid = Grid(fine.crs, (res_y, res_x), fine.anchor_xy)
    whole = box.snap_out(factor)
    small = Box(*(edge // factor for edge in (whole.y0, whole.x0, whole.y1, whole.x1)))
    reader = OdcReader() if origin.reader is None else origin.reader
    if isinstance(reader, OdcReader):
        reader = dataclasses.replace(reader, overviews=True)
    spec = spec_for_looking(origin.spec, min(res_y, res_x), bands)
    return open_cube(origin.items, spec, grid=grid, box=small, reader=reader)


def spec_for_looking(spec: CubeSpec, resolution_m: float, bands: tuple[str, ...]) -> CubeSpec:
    """Return what of a spec a look at a coarser resolution needs; see `coarse_of`.

    >>> spec = CubeSpec(bands=["red", "green", "nir"], mask=["scl", "s2cloudless"])
    >>> small = spec_for_looking(spec, 200.0, ("red",))
    >>> small.bands, [(m.kind, m.dilate_m) for m in small.mask]
    (('red',), [('scl', 0.0)])
    """
    by_band = isinstance(spec.reducer, str) and (spec.reducer in _BY_BAND or spec.reducer[1:].isdigit())
    masks = []
    for mask in spec.mask:
        if isinstance(mask, ModelMask):
            continue
        changes: dict[str, Any] = {} if mask.dilate_m >= resolution_m else {"dilate_m": 0.0}
        if isinstance(mask, SclMask):
            near = tuple((c, m if m >= resolution_m else 0.0) for c, m in mask.dilate_class_m)
            changes["dilate_class_m"] = near
        masks.append(mask.model_copy(update=changes))
    left_out = {"features": None, "sentinel1": None, "sharpen": None, "variability": False}
    kept = bands if by_band else spec.bands
    return spec.model_copy(
        update={**left_out, "mask": tuple(masks), "bands": kept, "resolution_m": resolution_m}
    )


def _steps_of(cube: xr.Dataset, again: xr.Dataset) -> list[int] | None:
    """Find the cube's time steps among those of the cube opened again; None if one is not there."""
    if again is cube:
        return []
    asked = np.atleast_1d(cube["time"].values)
    there = again["time"].values
    if np.array_equal(asked, there):
        return list(range(there.size))
    found = [np.flatnonzero(there == t) for t in asked]
    return [int(f[0]) for f in found] if all(f.size for f in found) else None


def _middle(cube: xr.Dataset, most_px: int) -> tuple[xr.Dataset, str]:
    """Cut the largest window of whole chunks around the middle that stays within `most_px`."""
    edges = [_edges(cube, axis) for axis in ("y", "x")]
    height, width = (e[-1] for e in edges)
    if height * width <= most_px:
        return cube, ""
    shrink = math.sqrt(most_px / (height * width))
    windows = [_window(e, shrink) for e in edges]
    cut = cube.isel(y=slice(*windows[0]), x=slice(*windows[1]))
    return cut, f"the middle {cut.sizes['y']:,} x {cut.sizes['x']:,} of {height:,} x {width:,} pixels"


def _edges(cube: xr.Dataset, axis: str) -> list[int]:
    """Return the chunk edges of an axis; what is in memory has a chunk a pixel."""
    size = cube.sizes[axis]
    variable = next(v for v in cube.data_vars.values() if axis in v.dims)
    place = variable.dims.index(axis)
    if variable.chunks is not None:
        return [0, *np.cumsum(variable.chunks[place]).tolist()]
    if variable.variable._in_memory:
        return list(range(size + 1))
    step = variable.encoding.get("preferred_chunks", {}).get(axis, size)
    return [*range(0, size, step), size]


def _window(edges: list[int], shrink: float) -> tuple[int, int]:
    """Choose whole chunks around the middle that hold at most a share of the axis, at least one.

    >>> _window([0, 10, 20, 30, 40], 0.5), _window([0, 10, 20, 30], 0.2)
    ((10, 30), (10, 20))
    """
    count = len(edges) - 1
    keep = count
    while keep > 1 and _span(edges, keep)[1] - _span(edges, keep)[0] > edges[-1] * shrink:
        keep = min(keep - 1, max(1, math.floor(keep * 0.9)))
    return _span(edges, keep)


def _span(edges: list[int], keep: int) -> tuple[int, int]:
    first = (len(edges) - 1 - keep) // 2
    return edges[first], edges[first + keep]


def _thinned(cube: xr.Dataset, factor: int) -> xr.Dataset:
    """Take every n-th pixel, from the middle of n, and say in the grid mapping how far they are apart."""
    grid, box = georef_of(cube)
    y, x = (slice(min(factor // 2, cube.sizes[axis] - 1), None, factor) for axis in ("y", "x"))
    left, _, _, top = grid.bounds_of_box(box)
    res_y, res_x = (r * factor for r in grid.resolution_yx)
    told = {**cube["spatial_ref"].attrs, "GeoTransform": f"{left!r} {res_x!r} 0.0 {top!r} 0.0 {-res_y!r}"}
    return cube.isel(y=y, x=x).assign_coords(spatial_ref=((), np.int32(0), told))
