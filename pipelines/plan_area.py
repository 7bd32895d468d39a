"""What a run would do, said by the functions that do it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from cluster.base import ClusterSpec
from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry
from engine.cube.plan import plan_cube
from engine.inference.augment import views_of
from engine.inference.bundle import Bundle
from engine.inference.ensemble import Ensemble, Model, bundles_of, halo_px, load_model
from engine.store.objects import absolute
from engine.values.area import Area
from engine.values.budget import Reading, TileShape
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.spec import BestPixel, CubeSpec
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, find_scenes, grid_and_box, pad_of, search_scenes
from pipelines.map_job import MapJob
from pipelines.run_folder import read_plan


def describe(config: RunConfig) -> dict[str, Any]:
    """Say what a configuration means, without searching."""
    bundle, area = bundle_of(config), area_of(config.area)
    spec = spec_of(config, bundle)
    grid, box = grid_and_box(area, config.crs, spec.resolution_m)
    side = frozen_tile_px(config)
    tiles = "as plan chooses"
    if side is not None:
        tiles = f"at most {box.snap_out(side).area_px // side**2} of {side} x {side} pixels"
    return {
        "area": area.name,
        "grid": f"{grid.crs}, {spec.resolution_m:g} m, {box.shape_yx[1]} x {box.shape_yx[0]} pixels",
        "time": config.time,
        "catalogue": config.catalog,
        "tiles": tiles,
        **describe_bundle(bundle),
        "run folder": config.out,
    }


def describe_bundle(bundle: Model) -> dict[str, Any]:
    """Say what a bundle, or an ensemble with its members, needs and gives."""
    return {
        "bands": _seen(bundle),
        "dates": f"{bundle.n_dates} x {bundle.spec.period or 'acquisitions'}, season {bundle.spec.season or 'any'}",
        "classes": ", ".join(bundle.classes.names),
        **({"members": _describe_members(bundle)} if isinstance(bundle, Ensemble) else _window(bundle)),
        "model": bundle.digest()[:16],
    }


def _seen(model: Model) -> str:
    """Name all that a network sees of a date."""
    return ", ".join(plane.name for plane in model.planes)


def _window(bundle: Bundle) -> dict[str, str]:
    lattice = bundle.lattice
    return {"window": f"{lattice.window_px} px, overlap {lattice.overlap_px} px, {lattice.kernel}"}


def _describe_members(ensemble: Ensemble) -> str:
    told = (
        f"{m.bundle.name} (weight {m.weight}, {_seen(m.bundle)}, {_window(m.bundle)['window']})"
        for m in ensemble.members
    )
    return "; ".join(told)


def stage_of(config: RunConfig) -> str:
    """Name the stage of a map: ``map``, or ``map-<version>``."""
    return "map" if config.version is None else f"map-{config.version}"


def bundle_of(config: RunConfig) -> Model:
    """Open a run's model, with the windows that the run asks for: under ``auto`` those that its plan froze.

    Raises:
        InputError: If another window than the trained one is asked for, and the network may not take it.
    """
    bundle = load_model(config.bundle, trust_model=config.trust_model)
    window = config.window
    if window == "auto":
        window = frozen_window(config) or "trained"
    return bundle if window == "trained" else windowed(require_bundle(bundle), window)


def frozen_tile_px(config: RunConfig) -> int | None:
    """Return the side of a map's tiles as asked for, else as its plan froze it; None before there is one."""
    if config.tile_px != "auto":
        return config.tile_px
    try:
        frozen = read_plan(absolute(config.out), stage_of(config)).get("tile_px")
    except InputError:  # no plan yet
        return None
    return frozen if isinstance(frozen, int) else None


def frozen_window(config: RunConfig) -> int | None:
    """Return the window that a run's plan froze; None before there is one."""
    try:
        frozen = read_plan(absolute(config.out), stage_of(config)).get("window")
    except InputError:  # no plan yet
        return None
    return frozen if isinstance(frozen, int) else None


def windowed(bundle: Bundle, window_px: int) -> Bundle:
    """Return a bundle with windows of another side: the same overlap, trimmed.

    Where windows are large, their rims are a small part of the map, and blending them would make every tile
    evaluate the windows of its neighbours. The trained window keeps the bundle's own blending.

    Raises:
        InputError: If the network may not take such a window.
        BudgetError: If too many windows would cover a pixel.
    """
    if window_px == bundle.lattice.window_px:
        return bundle
    require_free(bundle)
    step = window_step(bundle)
    if bundle.pixelwise or window_px % step:
        raise InputError(
            "the network does not take such a window",
            where="window",
            found=f"{window_px} px",
            limit="single pixels" if bundle.pixelwise else f"a multiple of {step} px",
        )
    return replace(bundle, lattice=Lattice(window_px, trimmed_overlap(bundle), "trim"))


def require_bundle(model: Model) -> Bundle:
    """Refuse an ensemble where windows are to be chosen: each member has its own.

    Raises:
        InputError: If it is an ensemble.
    """
    if isinstance(model, Ensemble):
        raise InputError(
            "the members of an ensemble keep the windows that they were trained on",
            where="window",
            found=model.name or str(model.path),
            mend="window: trained",
        )
    return model


def require_free(bundle: Bundle) -> None:
    """Refuse a network that may answer otherwise in another window.

    Raises:
        InputError: If the bundle does not say that it is free of the size.
    """
    if not bundle.size_free:
        raise InputError(
            "the bundle does not say that its network gives the same answers in another window",
            where="window",
            found=bundle.name or str(bundle.path),
            mend="window: trained; or `size_free: true` in the bundle's YAML, if `landweave bundle check` agrees",
        )


def window_step(bundle: Bundle) -> int:
    """Return what a window must be a multiple of: what the network's layers ask for, and whole output pixels.

    A foreign network does not tell: it takes multiples of the powers of two in its trained window, up to 64.
    """
    own = bundle.config.window_multiple if bundle.config else math.gcd(bundle.lattice.window_px, 64)
    return math.lcm(own, bundle.layout.stride)


def trimmed_overlap(bundle: Bundle) -> int:
    """Return the trained overlap, rounded up so that half of it is whole output pixels and windows fit."""
    step = math.lcm(window_step(bundle), 2 * bundle.layout.stride)
    return -(-bundle.lattice.overlap_px // step) * step


def spec_of(config: RunConfig, bundle: Model) -> CubeSpec:
    """Return the run's cube spec: its own, or the bundle's.

    Raises:
        InputError: If its own has radar, and the model would not see it.
    """
    spec = config.cube or bundle.spec.model_copy(update={"season": None})
    if spec.sentinel1 is not None and not any(plane.kind == "backscatter" for plane in bundle.planes):
        raise InputError(
            "the model does not see backscatter",
            where="cube.sentinel1",
            found=_seen(bundle),
            mend="leave `sentinel1` out of the cube, or train a model with it",
        )
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


def search_padded(config: RunConfig, area: Area, bundle: Model) -> ItemTable:
    """Search the scenes of an area and of the halo that its windows need, and look at their dark pixels."""
    return find_scenes(config, area, pad_m=pad_of(spec_of(config, bundle), halo_px(bundle)))


def check_fit(bundle: Model, table: ItemTable, spec: CubeSpec, grid: Grid) -> tuple[int, int]:
    """Refuse scenes that do not make the cube which the bundle was trained on.

    Returns:
        Time steps, and the largest number of overpasses in one of them.
    """
    plan = plan_cube(table, spec, grid)
    bundle.spec.require(plan.spec, n_dates=bundle.n_dates, other_n_dates=len(plan.steps))
    return len(plan.steps), max(len(s.groups) for s in plan.steps)


def tile_shape(job: MapJob, steps: tuple[int, int], at_once: int = 1) -> TileShape:
    """Gather what decides the memory of a worker; `steps` as of `check_fit`, `at_once` tiles at a time."""
    bundle, spec = job.bundle, job.spec
    layers = bundle.layers(job.layers)
    members = sorted(bundles_of(bundle), key=lambda b: -b.lattice.window_px)
    return TileShape(
        core=job.fine(widest_core(job)),
        tile_px=job.tile_px * job.stride,
        lattice=members[0].lattice,
        others=tuple(b.lattice for b in members[1:]),
        views=max(len(views_of(b, job.augment)) for b in members),
        reading=reading_of(spec, steps[1], job.chunk_px),
        n_dates=steps[0],
        more_planes=len(bundle.planes) - len(spec.bands),
        n_classes=len(bundle.classes.values),
        channels=max(finest_channels(b, steps[0]) for b in members),
        filled=spec.gap_fill is not None,
        layer_bytes=1 + layers.n_planes * layers.dtype.itemsize,
        at_once=at_once,
        weights_bytes=sum(b.weights_path.stat().st_size for b in members),
    )


def tiles_at_once(cluster: ClusterSpec) -> int:
    """Return how many tiles a worker makes at the same time; 1 where only its scheduler knows."""
    return 1 if cluster.kind == "address" else cluster.tiles_at_once


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


def finest_channels(bundle: Bundle, n_dates: int) -> int:
    """Return the channels of a network's finest level, by what they need; a wide first layer counts a fifth."""
    known = bundle.config.channels_at_once(n_dates) if bundle.config else None
    if known is not None:
        return known
    width, stem = (getattr(bundle.config, name, None) for name in ("width", "stem"))
    return _CHANNELS if width is None else max(int(width), -(-int(stem or 0) // 5))


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
