"""Map an area: find the scenes, freeze the plan, run the tiles, make the products.

Running it again goes on: the scenes of the first run are kept while the question (area, time, catalogue)
is the same, and tiles whose key is on record are not made again. With other scenes, another model or a
bigger area, exactly the tiles concerned are made again; `explain_tile` tells why.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cluster.size import size_of
from engine.archive.items import ItemTable
from engine.inference.bundle import Bundle
from engine.inference.ensemble import halo_px, layers_for, load_model
from engine.inference.lane import instruction_set
from engine.runs.driver import TileJob
from engine.runs.estimate import Way, Workers, propose_size
from engine.store.lease import Lease
from engine.store.objects import absolute
from engine.store.widen import fit
from engine.values.area import Area
from engine.values.budget import smaller_settings, tile_bytes
from engine.values.errors import ConflictError, InputError
from engine.values.tiling import Tiling
from pipelines.config import DEFAULT_TILE_PX, AreaConfig, RunConfig
from pipelines.cube_area import area_of, find_radar, grid_and_box, pad_of
from pipelines.cube_job import CubeJob
from pipelines.make_cube import close_stage, prepare_cubes
from pipelines.map_job import MapJob
from pipelines.plan_area import (
    bundle_of,
    check_fit,
    frozen_tile_px,
    frozen_window,
    require_bundle,
    require_free,
    search_padded,
    spec_of,
    stage_of,
    tile_shape,
    tiles_at_once,
)
from pipelines.plan_cube import cube_config_of
from pipelines.plan_tiles import walk_of
from pipelines.products import Products, make_products
from pipelines.propose_window import WindowChoice, candidates, propose_window
from pipelines.refine_job import RefineJob
from pipelines.refine_plan import CLASSES_KEY, Refining, prepare_refined
from pipelines.refine_sieve import run_refined
from pipelines.run_folder import PROJECTED_KEY, RADAR_KEY, SMALLER_KEY, read_plan, write_plan
from pipelines.seam_check import frozen_lattices
from pipelines.survey import Bounds, cheaper_way, compare_sizes
from pipelines.tile_inputs import area_in, put_area, put_items, show_items
from pipelines.tile_stage import (
    Around,
    Listener,
    StageResult,
    check_sizes,
    known_scenes,
    made_folder,
    question_of,
    radiometry_of,
    run_jobs,
    run_options,
    versions,
)

EXIT_PARTIAL = 3


@dataclass(frozen=True)
class MapResult(StageResult):
    """What a run did.

    Attributes:
        products: What was made of the tiles; None after an interruption or when not wanted.
    """

    products: Products | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        return {**super().as_dict(), **(self.products.as_dict() if self.products else {})}


def map_area(
    config: RunConfig,
    *,
    resume: bool = True,
    refresh: bool = False,
    only: AreaConfig | None = None,
    client: Any = None,
    listener: Listener | None = None,
) -> MapResult:
    """Make the map that a configuration asks for.

    Args:
        config: The run.
        resume: False searches again and makes every tile again.
        refresh: Search again and make again the tiles that other scenes touch now.
        only: Make only the tiles that touch this part of the area.
        client: A `distributed.Client` to run on; default what ``config.cluster`` says.
        listener: Called for each event of the run, with the mean square kilometres of one tile.

    Raises:
        InputError: If area, scenes, bundle or sizes do not fit together.
        ConflictError: If another run holds the folder, or it holds another map.
    """
    run_dir, known = made_folder(config.out), resume and not refresh
    options = run_options(config.cluster, resume=resume)
    window, windows = window_of(config)
    config = config.model_copy(update={"window": window})
    config = config.model_copy(update={"tile_px": tile_px_of(config)})
    config = config.model_copy(update={"through": way_of(config)})
    with Lease(run_dir, patience_s=options.patience_s, beat_s=options.beat_s) as lease:
        cubes: list[CubeJob] = []
        if config.through == "staged":
            cubes = prepare_cubes(cube_config_of(config), lease, known=known)
        made = prepare(config, known=known, cubes=tuple(cubes), windows=windows)
        job, part = made.job, None if only is None else part_of(made.job, only)
        refined = None if config.refine is None or config.refine.sieve else _refined(made, lease)
        around = Around(lease, options, client or config.cluster, listener, part)
        stages: list[TileJob] = [*cubes, job, *([] if refined is None else [refined])]
        km2, summaries = run_jobs(stages, made.area, around)
        if config.refine is not None and config.refine.sieve and summaries[-1].exit_code in (0, EXIT_PARTIAL):
            refined = _refined(made, lease)  # it needs the whole map
            summaries = (*summaries, run_refined(refined, made.area, around)[1])
        for cube, summary in zip(cubes, summaries, strict=False):
            close_stage(cube, complete=summary.exit_code == 0)
        products, summary = None, summaries[-1]
        if config.products and not (summary.interrupted or summary.refused) and summary.done + summary.reused:
            products = make_products(job, made.area, made.table, refined, config.publish)
    return MapResult(config.out, km2, summaries, products)


def _refined(made: Design, lease: Lease) -> RefineJob:
    """Prepare the stage that refines the map: by steps tile by tile with it, by a sieve after it."""
    job, cluster, spec = made.job, made.config.cluster, made.config.refine
    assert spec is not None  # who calls has looked
    how = Refining(spec, lease.epoch, None, tiles_at_once(cluster), run_options(cluster).threads_per_tile)
    making = None if spec.sieve else job
    return prepare_refined(job.run_dir, read_plan(job.run_dir, job.name), how, making)


def way_of(config: RunConfig) -> Way:
    """Return the way that a map goes: as asked for, else as its plan froze it, else the one that moves less."""
    if config.through != "auto":
        return config.through
    try:
        frozen = read_plan(absolute(config.out), stage_of(config))
    except InputError:  # no plan yet
        frozen = {}
    if frozen.get("through") in get_args(Way):
        way: Way = frozen["through"]
        return way
    with tempfile.TemporaryDirectory(prefix="landweave-plan-") as folder:
        made = design(config, inputs_dir=folder)
        return cheaper_way(made.job, made.table, made.steps)


def window_of(config: RunConfig) -> tuple[Literal["trained"] | int, WindowChoice | None]:
    """Return the window of a map: as asked for, else as its plan froze it, else the fastest, with how it was found.

    Raises:
        InputError: If windows are to be tried, and the bundle is not free of the input size.
    """
    if config.window != "auto":
        return config.window, None
    frozen = frozen_window(config)
    if frozen is not None:
        return frozen, None
    require_free(require_bundle(bundle_of(config)))
    with tempfile.TemporaryDirectory(prefix="landweave-plan-") as folder:
        made = design(config, inputs_dir=folder)
        choice = propose_window(made.job, made.steps, size_of(config.cluster))
    return choice.window_px, choice


def tile_px_of(config: RunConfig) -> int:
    """Return the side of a map's tiles: as asked for, else as its plan froze it, else the one that `plan` proposes.

    Nothing is measured: of the sizes that fit into a worker and keep all busy, the smallest that reads nearly
    the least.
    """
    if (known := frozen_tile_px(config)) is not None:
        return known
    with tempfile.TemporaryDirectory(prefix="landweave-plan-") as folder:
        made = design(config, inputs_dir=folder)
        archive = made.job.archive(made.table)
        cluster = size_of(config.cluster)
        at_once = tiles_at_once(config.cluster)
        sizes = compare_sizes(made.job, archive, Bounds(Workers(1), None, made.steps, at_once))
    limit, slots = (cluster.memory_limit, cluster.slots) if cluster else (None, 1)
    return propose_size(sizes, limit, slots)[0].tile_px


def part_of(job: MapJob | RefineJob, only: AreaConfig) -> Tiling:
    """Return the tiles of a job that touch a part of its area.

    Raises:
        InputError: If the part lies outside.
    """
    part = area_of(only)
    outline = area_in(job.run_dir, job.outline).to_crs(job.grid.crs)
    inside = outline.intersection(part.to_crs(job.grid.crs))
    tiles = Tiling(job.grid, job.tile_px, inside)
    if inside.is_empty or not len(tiles):
        raise InputError(
            "the part to make again lies outside the area", where="--only", found=part.name, limit=job.outline
        )
    return tiles


@dataclass(frozen=True)
class Design:
    """A configuration with what follows from it, before anything but its inputs is written.

    Attributes:
        config: The settings.
        job: What is made tile by tile.
        area: Outline.
        table: Scenes.
        question: Hash of what the search was asked.
        steps: Time steps of the cube, and the largest number of overpasses in one.
    """

    config: RunConfig
    job: MapJob
    area: Area
    table: ItemTable
    question: str
    steps: tuple[int, int]


def design(
    config: RunConfig,
    *,
    known: bool = True,
    cubes: tuple[CubeJob, ...] = (),
    inputs_dir: str | None = None,
    table: ItemTable | None = None,
) -> Design:
    """Read the bundle and the area, find the scenes, and say what the tiles are made of.

    Args:
        config: The run.
        known: Keep the scenes that the run folder knows for the same question; False searches again.
        cubes: Stages of a cube to read instead of the archive.
        inputs_dir: Where the inputs are written; default the run folder.
        table: The scenes, where the caller has searched already.
    """
    tile_px = frozen_tile_px(config) or DEFAULT_TILE_PX
    check_sizes(tile_px)
    run_dir = absolute(config.out)
    bundle, area = bundle_of(config), area_of(config.area)
    layers_for(bundle, config.layers, config.augment)  # refuses before anything is searched
    spec = spec_of(config, bundle)
    grid, _ = grid_and_box(area, config.crs, spec.resolution_m)
    question = question_of(config, area, pad_of(spec, halo_px(bundle)))
    if table is None and known:
        table = known_scenes(run_dir, question)
    if table is None:
        table = search_padded(config, area, bundle)
    radar = known_scenes(run_dir, question, RADAR_KEY) if known and spec.sentinel1 is not None else None
    if radar is None:
        radar = find_radar(config, area, spec, pad_m=pad_of(spec, halo_px(bundle)))
    steps = check_fit(bundle, table, spec, grid)
    home = inputs_dir or run_dir
    job = MapJob(
        run_dir=home,
        grid=grid.coarser(bundle.stride),
        tile_px=tile_px,
        chunk_px=config.chunk_px,
        spec=spec,
        bundle=bundle,
        items=put_items(home, table),
        outline=put_area(home, area),
        radar="" if radar is None else put_items(home, radar, "radar"),
        layers=config.layers,
        augment=config.augment,
        cubes=cubes,
        name=stage_of(config),
        device="cuda" if config.cluster.gpus_per_worker else "cpu",
    )
    return Design(config, job, area, table, question, steps)


def prepare(
    config: RunConfig,
    *,
    known: bool = True,
    cubes: tuple[CubeJob, ...] = (),
    table: ItemTable | None = None,
    windows: WindowChoice | None = None,
) -> Design:
    """Do all that comes before the first tile: read, search, check, freeze, and make the empty store.

    The caller holds the folder's lease, so that two runs cannot freeze two plans.
    """
    made_folder(config.out)
    made = design(config, known=known, cubes=cubes, table=table)
    job = made.job
    _require_covered(job, made.area)
    layout = job.store_spec(made.area, f"{made.area.name}, {config.time}")
    fit(job.store_url, layout)  # refuses before anything is changed
    if config.version is None:
        show_items(job.run_dir, made.table)
    tried = windows.as_dict() if windows else _tried_before(job)
    write_plan(job.run_dir, _plan(made) | {"windows": tried})
    return made


def _tried_before(job: MapJob) -> Any:
    """Return what an earlier plan told of the windows that it tried, if it is about the same window."""
    try:
        before = read_plan(job.run_dir, job.name)
    except InputError:  # the first run
        return None
    return before.get("windows") if before.get("window") == halo_px(job.bundle) else None


def _require_covered(job: MapJob, area: Area) -> None:
    """Refuse an area that leaves out a part of what the map covers already.

    Its tiles would stay, and those at its border would lose what lies outside: a map of two minds.
    """
    try:
        before = area_in(job.run_dir, read_plan(job.run_dir, job.name)["outline"])
    except InputError:  # the first run
        return
    if before.digest() != area.digest() and not area.geometry.buffer(1e-9).covers(before.geometry):
        raise ConflictError(
            "the map covers a larger or another area already",
            where="area",
            found=area.name,
            limit=f"an area that holds all of {before.name}",
            mend="--only AREA makes a part again; another version or out folder holds another map",
        )


def _plan(made: Design) -> dict[str, Any]:
    """Freeze what was decided, with the versions and the instruction set that make the bytes."""
    config, job, table = made.config, made.job, made.table
    shape = tile_shape(job, made.steps, tiles_at_once(config.cluster))
    trained = load_model(config.bundle, trust_model=config.trust_model)
    windowed = isinstance(trained, Bundle) and trained.size_free
    other = candidates(require_bundle(trained), job.tile_px * job.stride) if windowed else []
    return {
        "stage": job.name,
        "store": job.store_url.rpartition("/")[2],
        "area": made.area.name,
        "config": config.model_dump(mode="json"),
        **walk_of(job.tiles(), job.outline),
        "through": config.through,
        "window": halo_px(job.bundle),
        "bundle": job.bundle.digest(),
        CLASSES_KEY: job.bundle.classes.model_dump(mode="json"),
        **frozen_lattices(job.bundle),
        "question": made.question,
        "items": job.items,
        "radar": job.radar or None,
        "scenes": table.digest(),
        "superseded": list(table.superseded),
        "radiometry": radiometry_of(table),
        PROJECTED_KEY: tile_bytes(shape)["total"],
        SMALLER_KEY: [asdict(s) for s in smaller_settings(shape, job.tile_px, job.stride, other)],
        "versions": versions("torch", "onnxruntime"),
        "instruction_set": instruction_set(),
        "planned_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
