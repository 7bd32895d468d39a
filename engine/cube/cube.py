"""Open a lazy cube: the one place that makes the pure kernels lazy.

One task makes one block of one time step, whole: it reads each scene once, masks, and reduces. So the
graph has (time steps x blocks) tasks however many scenes there are, and a block never waits for others.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from engine.archive.items import ItemTable
from engine.cube.composites import composite
from engine.cube.masks import inside_outline
from engine.cube.plan import BLOCK_PX, CubePlan, Step, frame_of, plan_cube
from engine.cube.scene import read_group
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.archive.reader import Reader


def open_cube(
    items: ItemTable | str | Path,
    spec: CubeSpec | None = None,
    area: Area | None = None,
    *,
    grid: Grid | None = None,
    box: Box | None = None,
    chunks_yx: tuple[int, int] = (1024, 1024),
    reader: Reader | None = None,
) -> xr.Dataset:
    """Open scenes, or a cube that was staged, as a lazy cube.

    Args:
        items: The scenes, from `engine.search`; or a run folder or ``cube.zarr``, path or URL, as
            `engine.cube.stored.open_stored` opens it.
        spec: Bands, resolution, period, reducer, mask; a staged cube knows its own.
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
    if isinstance(items, str | Path):
        from engine.cube.stored import open_stored

        return open_stored(items, spec, area, grid=grid, box=box, chunks_yx=chunks_yx)
    if spec is None:
        raise InputError("a cube of scenes needs a spec", where="spec", mend="pass a CubeSpec")
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
    values = np.zeros((len(plan.spec.bands), *box.shape_yx), np.uint16)
    count = np.zeros(box.shape_yx, np.uint8)
    if plan.regions is None:
        _composite_step(plan, plan.steps[step], box, values, count)
        return values, count
    free = np.ones(box.shape_yx, np.bool_)
    for region in plan.regions:
        inside = free & inside_outline(region.outline, plan.grid, box)
        if inside.any():
            own_values, own_count = np.zeros_like(values), np.zeros_like(count)
            _composite_step(plan, region.steps[step], box, own_values, own_count)
            np.copyto(values, own_values, where=inside)
            np.copyto(count, own_count, where=inside)
            free &= ~inside
    return values, count


_STACK_BYTES = 256 << 20
"""Dates are stacked strip by strip of whole block rows, so that many dates need no more memory than few."""


def _composite_step(
    plan: CubePlan, step: Step, box: Box, values: NDArray[np.uint16], count: NDArray[np.uint8]
) -> None:
    """Fill (band, y, x) values and (y, x) counts of one step, in row strips."""
    for strip in _strips(box, len(step.groups) * len(plan.spec.bands) * 2):
        layers = [layer for g in step.groups if (layer := read_group(plan, g, strip)) is not None]
        if layers:
            rows = strip.slices_in(box)[0]
            values[:, rows], count[rows] = composite(np.stack(layers), plan.spec.reducer)


def _strips(box: Box, bytes_a_pixel: int) -> Iterator[Box]:
    """Cut a box into strips of whole block rows that stay below `_STACK_BYTES`, as far as one row does.

    >>> [s.shape_yx for s in _strips(Box(0, 0, 2048, 2048), 36 * 10 * 2)]
    [(512, 2048), (512, 2048), (512, 2048), (512, 2048)]
    """
    rows = max(1, _STACK_BYTES // max(1, bytes_a_pixel * (box.x1 - box.x0) * BLOCK_PX)) * BLOCK_PX
    first = -(-(box.y0 + 1) // BLOCK_PX) * BLOCK_PX + rows - BLOCK_PX
    edges = [box.y0, *range(first, box.y1, rows), box.y1]
    for y0, y1 in itertools.pairwise(edges):
        yield Box(y0, box.x0, y1, box.x1)


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
