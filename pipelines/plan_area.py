"""What a run would do, said by the functions that do it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry
from engine.cube.plan import plan_cube
from engine.inference.bundle import Bundle, load_bundle
from engine.values.area import Area
from engine.values.budget import Reading, TileShape
from engine.values.grid import Box, Grid
from engine.values.spec import BestPixel, CubeSpec
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, find_scenes, grid_and_box, pad_of, refuse_radar, search_scenes
from pipelines.map_job import MapJob


def describe(config: RunConfig) -> dict[str, Any]:
    """Say what a configuration means, without searching."""
    bundle, area = load_bundle(config.bundle, trust_model=config.trust_model), area_of(config.area)
    spec = spec_of(config, bundle)
    grid, box = grid_and_box(area, config.crs, spec.resolution_m)
    tiles = box.snap_out(config.tile_px).area_px // config.tile_px**2
    return {
        "area": area.name,
        "grid": f"{grid.crs}, {spec.resolution_m:g} m, {box.shape_yx[1]} x {box.shape_yx[0]} pixels",
        "time": config.time,
        "catalogue": config.catalog,
        "tiles": f"at most {tiles} of {config.tile_px} x {config.tile_px} pixels",
        **describe_bundle(bundle),
        "run folder": config.out,
    }


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Say what a bundle needs and gives."""
    lattice = bundle.lattice
    return {
        "bands": ", ".join(bundle.spec.bands),
        "dates": f"{bundle.n_dates} x {bundle.spec.period or 'acquisitions'}, season {bundle.spec.season or 'any'}",
        "classes": ", ".join(bundle.classes.names),
        "window": f"{lattice.window_px} px, overlap {lattice.overlap_px} px, {lattice.kernel}",
        "model": bundle.digest()[:16],
    }


def spec_of(config: RunConfig, bundle: Bundle) -> CubeSpec:
    """Return the run's cube spec: its own, or the bundle's.

    Raises:
        InputError: If it wants radar, which no model reads yet.
    """
    spec = config.cube or bundle.spec.model_copy(update={"season": None})
    refuse_radar(spec, "cube")
    return spec


def scenes_of(config: RunConfig) -> tuple[ItemTable, dict[str, Any]]:
    """Search a run's scenes, and count them."""
    table = search_scenes(config, area_of(config.area))
    return table, summarise_scenes(table)


def summarise_scenes(table: ItemTable) -> dict[str, Any]:
    """Count scenes, overpasses, tiles, months and clouds."""
    clouds = sorted(i.cloud_cover for i in table if i.cloud_cover is not None)
    months = Counter(f"{i.datetime:%Y-%m}" for i in table)
    return {
        "scenes": len(table),
        "overpasses": len({i.datatake for i in table}),
        "first and last": f"{table.items[0].datetime:%Y-%m-%d} .. {table.items[-1].datetime:%Y-%m-%d}",
        "archive tiles": ", ".join(sorted({i.tile for i in table if i.tile})) or "none named",
        "CRS": ", ".join(sorted({i.crs for i in table})),
        "baselines": ", ".join(sorted({i.baseline or "none" for i in table})),
        "median cloud": f"{clouds[len(clouds) // 2]:.0f}%" if clouds else "not told",
        "per month": ", ".join(f"{m}: {n}" for m, n in sorted(months.items())),
        "superseded": len(table.superseded),
        "radiometry": describe_radiometry(table),
        "digest": table.digest()[:16],
    }


def describe_radiometry(table: ItemTable) -> str:
    """Count the decisions about the radiometric offset, and what the pixels said of them."""
    offsets = Counter(f"{radiometry(i).offset_dn:g} DN" for i in table)
    looked = Counter(i.probe.partition(":")[0] for i in table if i.probe)
    said = [f"pixels: {', '.join(f'{n} {k}' for k, n in sorted(looked.items()))}"] if looked else []
    return "; ".join([", ".join(f"{o}: {n}" for o, n in sorted(offsets.items())), *said])


def search_padded(config: RunConfig, area: Area, bundle: Bundle) -> ItemTable:
    """Search the scenes of an area and of the halo that its windows need, and look at their dark pixels."""
    return find_scenes(config, area, pad_m=pad_of(spec_of(config, bundle), bundle.lattice.window_px))


def check_fit(bundle: Bundle, table: ItemTable, spec: CubeSpec, grid: Grid) -> tuple[int, int]:
    """Refuse scenes that do not make the cube which the bundle was trained on.

    Returns:
        Time steps, and the largest number of overpasses in one of them.
    """
    plan = plan_cube(table, spec, grid)
    bundle.spec.require(plan.spec, n_dates=bundle.n_dates, other_n_dates=len(plan.steps))
    return len(plan.steps), max(len(s.groups) for s in plan.steps)


def tile_shape(job: MapJob, steps: tuple[int, int]) -> TileShape:
    """Gather what decides the memory of a tile; `steps` as of `check_fit`."""
    bundle, spec = job.bundle, job.spec
    layers = bundle.layers(job.layers)
    width = getattr(bundle.config, "width", None)
    return TileShape(
        core=job.fine(widest_core(job)),
        lattice=bundle.lattice,
        reading=reading_of(spec, steps[1], job.chunk_px),
        n_dates=steps[0],
        n_classes=len(bundle.classes.values),
        channels=_CHANNELS if width is None else int(width),
        filled=spec.gap_fill is not None,
        layer_bytes=1 + layers.n_planes * layers.dtype.itemsize,
        weights_bytes=bundle.weights_path.stat().st_size,
    )


_FEW_TILES = 64


def widest_core(job: MapJob) -> Box:
    """Return the part of a tile that takes most memory: of few tiles the widest one wanted, else a whole tile.

    A small area may lie across the lines between tiles and fill none of them. To look at all tiles of a
    country would take time, and some of them are full.
    """
    tiles, whole = job.tiles(), Box(0, 0, job.tile_px, job.tile_px)
    if len(tiles) > _FEW_TILES:
        return whole
    cores = [core for tile in tiles if (core := job.core(tile))]
    return max(cores, key=lambda core: job.outer(core).area_px, default=whole)


_CHANNELS = 64  # of a network that does not say: few have more on their finest level


def reading_of(spec: CubeSpec, overpasses: int, chunk_px: int) -> Reading:
    """Gather what decides the memory of making a piece of a cube."""
    best = spec.reducer if isinstance(spec.reducer, BestPixel) else None
    return Reading(
        n_bands=len(spec.bands),
        overpasses=overpasses,
        chunk_px=chunk_px,
        geomedian=spec.reducer == "geomedian",
        deviations=spec.variability,
        distances=best is not None and best.cloud_weight > 0,
        sharpened=spec.sharpen is not None,
    )
