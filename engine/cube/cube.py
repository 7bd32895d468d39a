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
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from numpy.typing import NDArray

from engine.archive.items import ItemTable
from engine.cube import accessor as _accessor  # noqa: F401 - registers cube.landweave
from engine.cube.backscatter import require_radar, with_backscatter
from engine.cube.composites import composite
from engine.cube.derive import with_features
from engine.cube.fill import with_gaps_filled
from engine.cube.geomedian import geometric_median, rounded
from engine.cube.masks import inside_outline
from engine.cube.origins import Origin, remember
from engine.cube.plan import BLOCK_PX, CubePlan, Step, frame_of, plan_cube
from engine.cube.stack import read_stack, require_bands
from engine.cube.variability import DEVIATIONS, variability
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.archive.reader import Reader


def open_cube(  # noqa: PLR0913
    items: ItemTable | str | Path,
    spec: CubeSpec | None = None,
    area: Area | None = None,
    *,
    grid: Grid | None = None,
    box: Box | None = None,
    chunks_yx: tuple[int, int] = (1024, 1024),
    reader: Reader | None = None,
    sentinel1: ItemTable | None = None,
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
        sentinel1: Radar scenes of the same time and area, for a spec with ``sentinel1``.

    Returns:
        Dataset with ``reflectance`` (time, band, y, x) uint16 (x 10000, 0 = no data),
        ``observations`` (time, y, x) uint8 (clear dates, at most 255), ``time_bnds`` (time, nv), and the
        coordinates time (start of the period), band (common names), y, x (pixel centres), spatial_ref.
        With ``spec.variability`` also ``variability`` (time, deviation, y, x) float32 (NaN = no data); with
        ``spec.gap_fill`` also ``filled`` (time, y, x) uint8, see `engine.cube.fill`; and what
        ``spec.features`` names, see `engine.cube.derive.with_features`.
        With ``spec.sentinel1`` also ``backscatter`` and ``radar_observations``, see
        `engine.cube.backscatter`.

    Raises:
        InputError: If no scene is left, the area lies elsewhere, the reducer needs a band that is not
            there, a feature is unknown or lacks a band, or the spec wants radar and there are no radar
            scenes, or the reverse.
        DataError: At compute time, if a file is broken; names item, asset and box.
    """
    if isinstance(items, str | Path):
        from engine.cube.stored import open_stored

        return open_stored(items, spec, area, grid=grid, box=box, chunks_yx=chunks_yx)
    if spec is None:
        raise InputError("a cube of scenes needs a spec", where="spec", mend="pass a CubeSpec")
    require_bands(spec)
    if grid is None or box is None:
        grid, area_box = frame_of(area, items, spec, grid)
        box = area_box if box is None else box
    require_radar(spec, sentinel1)
    plan = plan_cube(items, spec, grid, reader)
    cube = _to_dataset(_lazy(plan, box, chunks_yx), plan, box, items)
    if plan.spec.gap_fill is not None:
        cube = with_gaps_filled(cube, plan.spec.gap_fill)
    if plan.spec.features is not None:
        cube = with_features(cube, plan.spec.features)
    if plan.spec.sentinel1 is not None and sentinel1 is not None:
        cube = with_backscatter(cube, sentinel1, plan.spec.sentinel1, plan.reader)
    return remember(cube, Origin(items, spec, grid, box, reader))


class Pieces(NamedTuple):
    """What one task makes of one block of one time step; a tuple, so that Dask knows its size.

    Attributes:
        values: (band, y, x) uint16 reflectance x 10000, 0 = no data.
        counts: (y, x) uint8 clear dates, at most 255.
        deviations: (deviation, y, x) float32, NaN = no data; None where the spec asks for none.
    """

    values: NDArray[np.uint16]
    counts: NDArray[np.uint8]
    deviations: NDArray[np.float32] | None


def _lazy(plan: CubePlan, box: Box, chunks_yx: tuple[int, int]) -> dict[str, da.Array]:
    """Make the cube's arrays by name; those of a block come out of one task, which makes its `Pieces`."""
    edges = _edges(box.y0, box.y1, chunks_yx[0]), _edges(box.x0, box.x1, chunks_yx[1])
    sizes = [tuple(b - a for a, b in itertools.pairwise(axis)) for axis in edges]
    token = tokenize(plan, edges)
    pieces = da.map_blocks(
        _block,
        # a task of its own: a country's plan is megabytes, and travels once to a worker, not with each block
        plan=delayed(plan, name=f"landweave-plan-{token}", traverse=False),
        edges=edges,
        chunks=((1,) * len(plan.steps), *sizes),
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"landweave-block-{token}",
    )
    arrays = {
        "reflectance": _part(pieces, "values", np.uint16, token, len(plan.spec.bands)),
        "observations": _part(pieces, "counts", np.uint8, token),
    }
    if plan.spec.variability:
        arrays["variability"] = _part(pieces, "deviations", np.float32, token, len(DEVIATIONS))
    return arrays


def _part(pieces: da.Array, name: str, dtype: Any, token: str, depth: int | None = None) -> da.Array:
    """Take one array out of all pieces: (time, y, x), or (time, depth, y, x)."""
    time, *yx = pieces.chunks
    chunks = (time, *yx) if depth is None else (time, (depth,), *yx)
    return da.map_blocks(
        partial(_take, name),
        pieces,
        chunks=chunks,
        new_axis=None if depth is None else 1,
        dtype=dtype,
        meta=np.empty((0,) * len(chunks), dtype),
        name=f"landweave-{name}-{token}",
    )


def _take(name: str, pieces: Pieces) -> NDArray[Any]:
    return np.asarray(getattr(pieces, name))[None]


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
    block_id: tuple[int, ...] = (0, 0, 0),
) -> Pieces:
    step, row, col = block_id
    block = Box(edges[0][row], edges[1][col], edges[0][row + 1], edges[1][col + 1])
    return composite_block(plan, step, block)


def composite_block(plan: CubePlan, step: int, box: Box) -> Pieces:
    """Read and reduce one block of one time step.

    Args:
        plan: The cube.
        step: Number of the time step.
        box: Global pixels.
    """
    pieces = _empty(plan, box)
    if plan.regions is None:
        _composite_step(plan, plan.steps[step], box, pieces)
        return pieces
    free = np.ones(box.shape_yx, np.bool_)
    for region in plan.regions:
        inside = free & inside_outline(region.outline, plan.grid, box)
        if inside.any():
            own = _empty(plan, box)
            _composite_step(plan, region.steps[step], box, own)
            for target, source in zip(pieces, own, strict=True):
                if target is not None and source is not None:
                    np.copyto(target, source, where=inside)
            free &= ~inside
    return pieces


def _empty(plan: CubePlan, box: Box) -> Pieces:
    """Make the pieces of a block without a clear observation."""
    deviations = np.full((len(DEVIATIONS), *box.shape_yx), np.nan, np.float32)
    return Pieces(
        np.zeros((len(plan.spec.bands), *box.shape_yx), np.uint16),
        np.zeros(box.shape_yx, np.uint8),
        deviations if plan.spec.variability else None,
    )


_STACK_BYTES = 256 << 20
"""Dates are stacked strip by strip of whole block rows, so that many dates need no more memory than few."""


def _composite_step(plan: CubePlan, step: Step, box: Box, pieces: Pieces) -> None:
    """Fill the pieces of one step, in row strips."""
    spec = plan.spec
    for strip in _strips(box, len(step.groups) * (len(spec.bands) + 1) * 2):
        stack, evidence = read_stack(plan, step, strip)
        if not len(stack):
            continue
        rows = strip.slices_in(box)[0]
        medians = None
        if spec.variability or spec.reducer == "geomedian":
            medians, pieces.counts[rows] = geometric_median(stack)
        if pieces.deviations is not None and medians is not None:
            pieces.deviations[:, rows] = variability(stack, medians)
        if spec.reducer == "geomedian" and medians is not None:
            pieces.values[:, rows] = rounded(medians)
        else:
            pieces.values[:, rows], pieces.counts[rows] = composite(stack, spec.reducer, evidence)


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


_DIMS = {
    "reflectance": ("time", "band", "y", "x"),
    "observations": ("time", "y", "x"),
    "variability": ("time", "deviation", "y", "x"),
}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "reflectance": {"nodata": 0, "units": "1e-4", "long_name": "surface reflectance x 10000"},
    "observations": {"long_name": "clear observations"},
    "variability": {"units": "1", "long_name": "median deviation from the geometric median"},
}


def _to_dataset(arrays: dict[str, da.Array], plan: CubePlan, box: Box, items: ItemTable) -> xr.Dataset:
    bounds = np.array([[s.start, s.end] for s in plan.steps], "datetime64[ns]")
    mapped = {"grid_mapping": "spatial_ref"}
    variables = {name: (_DIMS[name], array, mapped | _ATTRIBUTES[name]) for name, array in arrays.items()}
    coords = {
        "time": ("time", bounds[:, 0], {"bounds": "time_bnds", "standard_name": "time"}),
        "time_bnds": (("time", "nv"), bounds),
        "band": list(plan.spec.bands),
        **({"deviation": list(DEVIATIONS)} if plan.spec.variability else {}),
        **georef_coords(plan.grid, box),
    }
    attributes = {
        "Conventions": "CF-1.11",
        "landweave_spec": plan.spec.model_dump_json(),
        "landweave_items": json.dumps({"digest": items.digest(), "count": len(items)}),
    }
    return xr.Dataset(variables, coords=coords, attrs=attributes)
