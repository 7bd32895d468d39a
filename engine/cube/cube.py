"""Open a lazy cube: the one place that makes the pure kernels lazy.

One task makes one block of one time step, whole: it reads each scene once, masks, and reduces. So the
graph has (time steps x blocks) tasks however many scenes there are, and a block never waits for others.
"""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from engine.archive.items import ItemRecord, ItemTable
from engine.archive.radiometry import radiometry, to_reflectance
from engine.archive.warp import same_crs
from engine.cube.composites import composite
from engine.cube.masks import hidden_by_scl, scl_margin_px
from engine.cube.plan import BLOCK_PX, CubePlan, frame_of, plan_cube, touches
from engine.values.area import Area
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec, SclMask

if TYPE_CHECKING:
    from engine.archive.reader import Reader

_SCL_RESOLUTION_M = 20.0


def open_cube(
    items: ItemTable,
    spec: CubeSpec,
    area: Area | None = None,
    *,
    grid: Grid | None = None,
    box: Box | None = None,
    chunks_yx: tuple[int, int] = (1024, 1024),
    reader: Reader | None = None,
) -> xr.Dataset:
    """Open scenes as a lazy cube.

    Args:
        items: The scenes, from `engine.search`.
        spec: Bands, resolution, period, reducer, mask.
        area: What to cover; default everything that the scenes cover.
        grid: Where pixels lie; default the area's usual CRS at the spec's resolution.
        box: Global pixels to cover instead of the area's bounds (for a halo: ``lattice.pad(box)``).
        chunks_yx: Size of a chunk in pixels, about; changes no value.
        reader: How pixels are read; default odc-stac.

    Returns:
        Dataset with ``reflectance`` (time, band, y, x) uint16 (x 10000, 0 = no data),
        ``observations`` (time, y, x) uint8 (clear dates, at most 255), ``time_bnds`` (time, nv), and the
        coordinates time (start of the period), band (common names), y, x (pixel centres), spatial_ref.

    Raises:
        InputError: If no scene is left or the area lies elsewhere.
        DataError: At compute time, if a file is broken; names item, asset and box.
    """
    if grid is None or box is None:
        grid, area_box = frame_of(area, items, spec, grid)
        box = area_box if box is None else box
    plan = plan_cube(items, spec, grid, reader)
    return _to_dataset(_lazy(plan, box, chunks_yx), plan, box, items)


def _lazy(plan: CubePlan, box: Box, chunks_yx: tuple[int, int]) -> da.Array:
    """Make (time, band + 1, y, x) uint16: the bands and, last, the observation count."""
    edges = _edges(box.y0, box.y1, chunks_yx[0]), _edges(box.x0, box.x1, chunks_yx[1])
    sizes = [tuple(b - a for a, b in itertools.pairwise(axis)) for axis in edges]
    n_bands = len(plan.spec.bands)
    name = f"landweave-cube-{tokenize(plan, edges)}"
    return da.map_blocks(
        partial(_block, plan, edges),
        chunks=((1,) * len(plan.steps), (n_bands + 1,), *sizes),
        dtype=np.uint16,
        meta=np.empty((0, 0, 0, 0), np.uint16),
        name=name,
    )


def _edges(lo: int, hi: int, chunk: int) -> tuple[int, ...]:
    """Cut an axis into even pieces of about `chunk` pixels, so that no thin rest reads whole files.

    Inner edges lie on the fixed blocks of the grid where chunks are larger than those: a warped block is
    then made once.

    >>> _edges(-100, 2200, 1024), _edges(0, 700, 1024), _edges(0, 100, 30)
    ((-100, 1024, 2200), (0, 700), (0, 33, 67, 100))
    """
    pieces = max(1, round((hi - lo) / chunk))
    even = [lo + round(i * (hi - lo) / pieces) for i in range(1, pieces)]
    step = BLOCK_PX if chunk >= 2 * BLOCK_PX else 1
    inner = {round(edge / step) * step for edge in even} - {lo, hi}
    return (lo, *sorted(e for e in inner if lo < e < hi), hi)


def _block(
    plan: CubePlan,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    block_id: tuple[int, ...] = (0, 0, 0, 0),
) -> NDArray[np.uint16]:
    step, _, row, col = block_id
    block = Box(edges[0][row], edges[1][col], edges[0][row + 1], edges[1][col + 1])
    values, count = composite_block(plan, step, block)
    return np.concatenate([values, count[None].astype(np.uint16)])[None]


def composite_block(plan: CubePlan, step: int, box: Box) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Read and reduce one block of one time step.

    Args:
        plan: The cube.
        step: Number of the time step.
        box: Global pixels.

    Returns:
        (band, y, x) uint16 reflectance x 10000, 0 = no data, and the (y, x) uint8 count of clear dates.
    """
    layers = [layer for g in plan.steps[step].groups if (layer := _read_group(plan, g, box)) is not None]
    if not layers:
        empty = np.zeros((len(plan.spec.bands), *box.shape_yx), np.uint16)
        return empty, np.zeros(box.shape_yx, np.uint8)
    return composite(np.stack(layers), plan.spec.reducer)


def _read_group(plan: CubePlan, group: tuple[ItemRecord, ...], box: Box) -> NDArray[np.uint16] | None:
    """Read one overpass: the first scene with a clear pixel gives it, in the group's fixed order."""
    merged: NDArray[np.uint16] | None = None
    for item in group:
        scene = read_scene(plan, item, box)
        if scene is None:
            continue
        if merged is None:
            merged = scene
        else:
            np.copyto(merged, scene, where=(merged[0] == 0) & (scene[0] != 0))
        if merged[0].all():
            break
    return merged


def read_scene(plan: CubePlan, item: ItemRecord, box: Box) -> NDArray[np.uint16] | None:
    """Read one scene's clear pixels, (band, y, x) uint16 reflectance x 10000; None where it has none.

    A pixel that is hidden by the mask, or lacks any band, is 0 in all bands.
    """
    reached = touches(item, plan.grid, box)
    if reached is False:
        return None
    dn = plan.reader.read(item, plan.spec.bands, plan.grid, box, plan.spec.resampling)
    values = to_reflectance(dn, radiometry(item))
    clear = values.all(axis=0)
    if reached is not True:
        clear &= reached
    if plan.spec.mask is not None and clear.any():
        clear &= ~_hidden(plan, item, box, plan.spec.mask)
    if not clear.any():
        return None
    values *= clear
    return values


def _hidden(plan: CubePlan, item: ItemRecord, box: Box, mask: SclMask) -> NDArray[np.bool_]:
    """Mask a box by the SCL; dilated on its own 20 m grid where that nests in ours, a quarter of the work."""
    grid = plan.grid
    factor = round(_SCL_RESOLUTION_M / grid.resolution_yx[0])
    nests = bool(item.crs) and same_crs(item.crs, grid.crs) and factor >= 1 and grid.anchor_xy == (0.0, 0.0)
    if nests and grid.resolution_yx == (_SCL_RESOLUTION_M / factor,) * 2:
        coarse = Grid(grid.crs, (_SCL_RESOLUTION_M, _SCL_RESOLUTION_M))
        whole = box.snap_out(factor)
        small = Box(*(edge // factor for edge in (whole.y0, whole.x0, whole.y1, whole.x1)))
        hidden = _scl_mask(plan, item, coarse, small, mask)
        fine = hidden.repeat(factor, axis=0).repeat(factor, axis=1)
        return np.asarray(fine[box.slices_in(whole)])
    return _scl_mask(plan, item, grid, box, mask)


def _scl_mask(plan: CubePlan, item: ItemRecord, grid: Grid, box: Box, mask: SclMask) -> NDArray[np.bool_]:
    margin = scl_margin_px(mask, min(grid.resolution_yx))
    scl = plan.reader.read(item, ("scl",), grid, box.pad(margin), "nearest")[0]
    return hidden_by_scl(scl, mask, margin)


def _to_dataset(packed: da.Array, plan: CubePlan, box: Box, items: ItemTable) -> xr.Dataset:
    n_bands = len(plan.spec.bands)
    mapped = {"grid_mapping": "spatial_ref"}
    reflectance = {**mapped, "nodata": 0, "units": "1e-4", "long_name": "surface reflectance x 10000"}
    counts = {**mapped, "long_name": "clear observations"}
    bounds = np.array([[s.start, s.end] for s in plan.steps], "datetime64[ns]")
    variables: dict[str, Any] = {
        "reflectance": (("time", "band", "y", "x"), packed[:, :n_bands], reflectance),
        "observations": (("time", "y", "x"), packed[:, n_bands].astype(np.uint8), counts),
    }
    coords = {
        "time": ("time", bounds[:, 0], {"bounds": "time_bnds", "standard_name": "time"}),
        "time_bnds": (("time", "nv"), bounds),
        "band": list(plan.spec.bands),
        **georef_coords(plan.grid, box),
    }
    attributes = {
        "Conventions": "CF-1.11",
        "landweave_spec": plan.spec.model_dump_json(),
        "landweave_items": json.dumps({"digest": items.digest(), "count": len(items)}),
    }
    return xr.Dataset(variables, coords=coords, attrs=attributes)
