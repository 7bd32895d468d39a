"""Sentinel-1 beside the reflectance: backscatter of the same time steps on the same pixels, lazily.

One task makes one block of one time step, in rows of the grid's fixed blocks::

    slices of one datatake ──► one pass ─┐
    slices of one datatake ──► one pass ─┼─► per relative orbit, over orbits ──► dB
    slices of one datatake ──► one pass ─┘         (engine.cube.sentinel1)
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from numpy.typing import NDArray

from engine.archive.grd import is_grd, read_sigma_nought
from engine.archive.items import ItemRecord, ItemTable
from engine.cube.masks import inside_outline
from engine.cube.plan import BLOCK_PX, CubePlan, Step, plan_cube, touches
from engine.cube.sentinel1 import composite_backscatter
from engine.values.errors import DataError, InputError
from engine.values.georef import georef_of
from engine.values.grid import Box
from engine.values.recipe import Sentinel1
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    from engine.archive.reader import Reader

_LEAST_POWER = -1.0  # subtracted noise leaves small negative powers; decibels of land lie well below

Edges = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""First time step, row and column of each chunk, and the end of the last."""


def with_backscatter(
    cube: xr.Dataset, radar: ItemTable, spec: Sentinel1, reader: Reader | None = None
) -> xr.Dataset:
    """Add Sentinel-1 backscatter to a cube, on its grid, time steps and chunks.

    Scenes of the other direction, and scenes without all the polarisations (HH and HV of the polar
    regions), are left out. Overlapping slices of one pass are one observation: the first by id that has data gives it.

    Args:
        cube: What `engine.open_cube` opened, or a part of it.
        radar: Scenes of linear power, searched over the cube's time: terrain-corrected
            (``sentinel-1-rtc``), or, where the land is flat, GRD (`engine.archive.grd`).
        spec: Polarisations, direction, reducer.
        reader: How pixels are read; default odc-stac.

    Returns:
        The cube with ``backscatter`` (time, polarisation, y, x) float32 in dB, NaN = no data, and
        ``radar_observations`` (time, y, x) uint8, the number of passes (at most 255).

    Raises:
        InputError: If the cube keeps its acquisition days, if the scenes do not cover its time, or if none is left.
        DataError: At compute time, if a file is broken or holds decibels; names the item.
    """
    cube_spec = _spec_of(cube)
    steps = _steps_of(cube)
    grid, box = georef_of(cube)
    chosen = _usable(_of_time(radar, steps), spec)
    seen = cube_spec.model_copy(update={"sentinel1": spec, "mask": ()})  # clouds do not hide the ground here
    whole = plan_cube(chosen, seen, grid, reader)
    plan = _only_steps(whole, steps)
    edges = _edges_of(cube, box)
    n = len(spec.polarisations)
    packed = _lazy(plan, edges)
    mapped = {"grid_mapping": "spatial_ref"}
    over = {"mean": "mean over relative orbits", "most": "relative orbit most observed"}[spec.combine]
    name = f"{_quantity(chosen)}, {spec.reducer} per relative orbit, {over}"
    power = {**mapped, "units": "dB", "long_name": name}
    counts = {**mapped, "long_name": "radar passes"}
    told = cube.assign(
        backscatter=(("time", "polarisation", "y", "x"), packed[:, :n], power),
        radar_observations=(("time", "y", "x"), packed[:, n].astype(np.uint8), counts),
    ).assign_coords(polarisation=list(spec.polarisations))
    told.attrs["landweave_radar"] = json.dumps({"digest": chosen.digest(), "count": len(chosen)})
    return told


def require_radar(spec: CubeSpec, radar: ItemTable | None) -> None:
    """Refuse a spec that wants backscatter without radar scenes, and radar scenes that no spec wants.

    Raises:
        InputError: In both cases.
    """
    if spec.sentinel1 is not None and radar is None:
        raise InputError(
            "the spec wants backscatter, and there are no radar scenes",
            where="cube.sentinel1",
            mend='search them (collection="sentinel-1-rtc") and pass them as open_cube(..., sentinel1=scenes)',
        )
    if spec.sentinel1 is None and radar is not None:
        raise InputError(
            "there are radar scenes, and the spec does not say what to make of them",
            where="cube.sentinel1",
            found=f"{len(radar)} scenes",
            mend="open_cube(..., CubeSpec(..., sentinel1=True)), or leave the scenes out",
        )


def _spec_of(cube: xr.Dataset) -> CubeSpec:
    """Read the cube's spec; backscatter needs its periods."""
    text = cube.attrs.get("landweave_spec")
    if text is None or "time_bnds" not in cube.variables:
        raise InputError(
            "the cube does not tell its time steps",
            where="landweave_spec, time_bnds",
            mend="open it with open_cube, and keep its attributes",
        )
    spec = CubeSpec.model_validate_json(text)
    if spec.period is None:
        raise InputError(
            "the cube keeps single acquisition days, on which no radar passes",
            where="cube.period",
            found="None",
            mend='give the cube a period such as "1MS"; radar days and optical days meet only within one',
        )
    return spec


def _steps_of(cube: xr.Dataset) -> list[tuple[dt.date, dt.date]]:
    """Return first day and day after the last of each time step."""
    bounds = cube["time_bnds"].values.astype("datetime64[D]")
    return [(a.item(), b.item()) for a, b in bounds]


def _of_time(radar: ItemTable, steps: list[tuple[dt.date, dt.date]]) -> ItemTable:
    """Keep the scenes of the cube's time; refuse a search that covers a part of it: that would be a hole."""
    start, end = min(a for a, _ in steps), max(b for _, b in steps)
    last = end - dt.timedelta(1)
    if radar.time_range[0] > start or radar.time_range[1] < last:
        raise InputError(
            "the radar scenes do not cover the cube's time",
            where="sentinel1",
            found="/".join(d.isoformat() for d in radar.time_range),
            limit=f"{start}/{last}",
            mend="search them over the same time as the cube's scenes",
        )
    return radar.in_time(start, end)


def _usable(radar: ItemTable, spec: Sentinel1) -> ItemTable:
    """Keep the scenes of the wanted direction that have all polarisations.

    Raises:
        InputError: If none is left, or one does not tell its orbit.
    """
    wanted = ("ascending", "descending") if spec.direction == "both" else (spec.direction,)
    able = [i for i in radar if set(spec.polarisations) <= set(i.bands)]
    kept = [i for i in able if spec.direction == "both" or i.orbit_state in wanted]
    if not kept:
        seen = sorted({f"{i.orbit_state or 'unknown'} {'+'.join(i.bands)}" for i in radar})
        raise InputError(
            "no radar scene of this direction and these polarisations",
            where="sentinel1",
            found=", ".join(seen) or f"{len(radar)} scenes",
            limit=f"{spec.direction}, {'+'.join(spec.polarisations)}",
            mend="search another collection or time, or ask for other polarisations or both directions",
        )
    lost = next((i for i in kept if i.relative_orbit is None), None)
    if lost is not None:
        raise InputError("a radar scene does not tell its relative orbit", where=f"item {lost.id}")
    return dataclasses.replace(radar, items=tuple(kept))


def _quantity(radar: ItemTable) -> str:
    """Name what the scenes hold; a mixture would be two quantities in one variable."""
    kinds = {is_grd(i) for i in radar}
    if len(kinds) > 1:
        names = ", ".join(sorted({i.collection for i in radar}))
        raise InputError("radar scenes with and without terrain correction do not mix", found=names)
    return "sigma nought on the ellipsoid, NOT terrain corrected" if True in kinds else "backscatter"


def _only_steps(plan: CubePlan, steps: list[tuple[dt.date, dt.date]]) -> CubePlan:
    """Keep the time steps that the cube has, which may be a slice of another one."""
    place = {(s.start, s.end): i for i, s in enumerate(plan.steps)}
    lost = [f"{a}/{b}" for a, b in steps if (a, b) not in place]
    if lost:
        raise InputError(
            "the cube's time steps are not those of its spec",
            where="time_bnds",
            found=", ".join(lost[:3]),
            mend="add the backscatter before the cube is cut in time",
        )
    picked = [place[s] for s in steps]
    regions = plan.regions and tuple(
        dataclasses.replace(r, steps=tuple(r.steps[i] for i in picked)) for r in plan.regions
    )
    return dataclasses.replace(plan, steps=tuple(plan.steps[i] for i in picked), regions=regions)


def _edges_of(cube: xr.Dataset, box: Box) -> Edges:
    """Return where the cube's chunks begin and end; a cube in memory is one chunk a time step."""
    chunked = cube["reflectance"].chunksizes if "reflectance" in cube else {}
    sizes = [chunked.get(d, (cube.sizes[d],)) for d in ("y", "x")]
    times = chunked.get("time", (1,) * cube.sizes["time"])
    return tuple(  # type: ignore[return-value]
        tuple(itertools.accumulate(lengths, initial=first))
        for lengths, first in zip((times, *sizes), (0, box.y0, box.x0), strict=True)
    )


def _lazy(plan: CubePlan, edges: Edges) -> da.Array:
    """Make (time, polarisation + 1, y, x) float32: decibels and, last, the count of passes."""
    times, rows, cols = (tuple(b - a for a, b in itertools.pairwise(axis)) for axis in edges)
    n = len(_wanted(plan).polarisations)
    token = tokenize(plan, edges)
    return da.map_blocks(
        _block,
        plan=delayed(plan, name=f"landweave-radar-plan-{token}", traverse=False),  # travels once to a worker
        edges=edges,
        chunks=(times, (n + 1,), rows, cols),
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        name=f"landweave-backscatter-{token}",
    )


def _block(plan: CubePlan, edges: Edges, block_id: tuple[int, ...] = (0, 0, 0, 0)) -> NDArray[np.float32]:
    time, _, row, col = block_id
    box = Box(edges[1][row], edges[2][col], edges[1][row + 1], edges[2][col + 1])
    made = [backscatter_block(plan, step, box) for step in range(edges[0][time], edges[0][time + 1])]
    return np.stack([np.concatenate([db, count[None].astype(np.float32)]) for db, count in made])


def backscatter_block(plan: CubePlan, step: int, box: Box) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read and reduce the passes of one block of one time step.

    Args:
        plan: The radar scenes in the time steps of a cube; ``plan.spec.sentinel1`` is set.
        step: Number of the time step.
        box: Global pixels.

    Returns:
        (polarisation, y, x) float32 dB, NaN = no data, and the (y, x) uint8 count of passes.
    """
    db = np.full((len(_wanted(plan).polarisations), *box.shape_yx), np.nan, np.float32)
    count = np.zeros(box.shape_yx, np.uint8)
    if plan.regions is None:
        _fill(plan, plan.steps[step], box, db, count)
        return db, count
    free = np.ones(box.shape_yx, np.bool_)
    for region in plan.regions:
        inside = free & inside_outline(region.outline, plan.grid, box)
        if inside.any():
            own_db, own_count = np.full_like(db, np.nan), np.zeros_like(count)
            _fill(plan, region.steps[step], box, own_db, own_count)
            np.copyto(db, own_db, where=inside)
            np.copyto(count, own_count, where=inside)
            free &= ~inside
    return db, count


def _fill(plan: CubePlan, step: Step, box: Box, db: NDArray[np.float32], count: NDArray[np.uint8]) -> None:
    """Fill decibels and counts of one step, in rows of the fixed blocks: memory for one row of all passes."""
    for strip in _block_rows(box):
        layers = [(g, layer) for g in step.groups if (layer := read_pass(plan, g, strip)) is not None]
        if layers:
            rows = strip.slices_in(box)[0]
            orbits = [_orbit(group[0]) for group, _ in layers]
            power = np.stack([layer for _, layer in layers])
            db[:, rows], count[rows] = composite_backscatter(power, orbits, _wanted(plan))


def _block_rows(box: Box) -> Iterator[Box]:
    """Cut a box at the rows of the grid's fixed blocks.

    >>> [(b.y0, b.y1) for b in _block_rows(Box(500, 0, 1100, 9))]
    [(500, 512), (512, 1024), (1024, 1100)]
    """
    for y in range(box.y0 // BLOCK_PX * BLOCK_PX, box.y1, BLOCK_PX):
        yield box & Box(y, box.x0, y + BLOCK_PX, box.x1)


def _orbit(item: ItemRecord) -> int:
    """Number a relative orbit and its direction; near the poles both of its branches see one place."""
    assert item.relative_orbit is not None
    return 2 * item.relative_orbit + (item.orbit_state == "descending")


def read_pass(plan: CubePlan, group: tuple[ItemRecord, ...], box: Box) -> NDArray[np.float32] | None:
    """Read one pass from its slices: (polarisation, y, x) float32 linear power, NaN = no data, or None.

    A pixel that lacks any polarisation is NaN in all.
    """
    merged: NDArray[np.float32] | None = None
    for item in group:
        power = _read_slice(plan, item, box)
        if power is None:
            continue
        if merged is None:
            merged = power
        else:
            np.copyto(merged, power, where=np.isnan(merged[0]))
        if not np.isnan(merged[0]).any():
            break
    return merged


def _read_slice(plan: CubePlan, item: ItemRecord, box: Box) -> NDArray[np.float32] | None:
    """Read one slice where its footprint says that it may have data; None where it has none."""
    reached = touches(item, plan.grid, box)
    if reached is False:
        return None
    spec = _wanted(plan)
    if is_grd(item):
        power = read_sigma_nought(item, spec.polarisations, plan.grid, box, spec.resampling)
    else:
        power = plan.reader.read_float(item, spec.polarisations, plan.grid, box, spec.resampling)
    if (power < _LEAST_POWER).any():
        raise DataError(
            "the radar scene holds no linear power; these are decibels",
            where=f"item {item.id}",
            found=float(np.nanmin(power)),
            limit=f">= {_LEAST_POWER:g}",
            mend="use a collection of linear power, such as sentinel-1-rtc",
        )
    valid = (np.isfinite(power) & (power > 0)).all(axis=0)
    if reached is not True:
        valid &= reached
    if not valid.any():
        return None
    return np.where(valid, power, np.float32(np.nan))


def _wanted(plan: CubePlan) -> Sentinel1:
    assert plan.spec.sentinel1 is not None
    return plan.spec.sentinel1
