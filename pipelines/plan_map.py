"""What a map will cost, said by the functions that make it: a dry run, and a probe of a few real tiles.

::

    scenes ──► prepare ──► survey: every tile's scenes, windows, bytes ──► probe: some tiles, kept ──► plan
                                                                           (left out: bytes and memory alone)

Without a probe no pixel is read and nothing is left behind. With one, the run folder holds what a run begins
with, and the probe's tiles are tiles of that run: `map` does not make them again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import Any

from cluster.size import size_of
from engine.archive.items import ItemTable
from engine.archive.probe import probe as look_at_pixels
from engine.cube.reading import Archive
from engine.inference.bundle import load_bundle
from engine.inference.ensemble import halo_px
from engine.runs.estimate import Interval, Workers, choose_way, propose_size, reason_of, run_seconds
from engine.store.lease import Lease
from engine.store.objects import absolute
from engine.values.budget import tile_bytes
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, pad_of, search_scenes
from pipelines.explain_tile import count_changes, with_cubes
from pipelines.map_area import Design, design, prepare, tile_px_of, window_of
from pipelines.map_job import MapJob
from pipelines.plan_area import bundle_of, spec_of, summarise_scenes, tile_shape, tiles_at_once
from pipelines.plan_view import MapPlan
from pipelines.probe_tiles import Probe, run_probe, unreachable
from pipelines.propose_window import label_difference
from pipelines.refine_plan import foreseen
from pipelines.run_folder import read_plan, write_plan
from pipelines.survey import Bounds, Step, Survey, compare_sizes, compare_ways, survey
from pipelines.tile_stage import known_scenes, made_folder, question_of, run_options


@dataclass(frozen=True)
class PlanOptions:
    """How to plan.

    Attributes:
        probe: Tiles to make for the estimate; 0 reads nothing; None as many as are needed, if the archive
            answers.
        price: Of a worker for an hour, in any currency; None as the cluster's settings say.
        client: A `distributed.Client` to run the probe on; default what the settings say.
        refresh: Search again, as ``map --refresh`` would.
    """

    probe: int | None = None
    price: float | None = None
    client: Any = None
    refresh: bool = False


def plan_map(config: RunConfig, options: PlanOptions | None = None, step: Step | None = None) -> MapPlan:
    """Say what a map needs before it runs.

    Args:
        config: The run.
        options: How to plan.
        step: Told how far survey and probe are.

    Raises:
        InputError: If area, scenes, bundle or sizes do not fit together.
        BudgetError: If a tile would not fit into a worker, before the probe's first one.
        ConflictError: If another run holds the folder.
    """
    options, step = options or PlanOptions(), step or _silent
    window, windows = window_of(config)
    config = config.model_copy(update={"window": window})
    config = config.model_copy(update={"tile_px": tile_px_of(config)})
    table = _scenes(config, known=not options.refresh)
    reason = "no probe was asked for" if options.probe == 0 else unreachable(table)
    if reason:
        with tempfile.TemporaryDirectory(prefix="landweave-plan-") as folder:
            seen = _Surveyed.of(design(config, inputs_dir=folder, table=table), step)
            return replace(_plan(config, options, seen, None, reason), windows=windows)
    if config.probe != "off":
        table = look_at_pixels(table, config.probe)
    run = run_options(config.cluster)
    with Lease(made_folder(config.out), patience_s=run.patience_s, beat_s=run.beat_s) as lease:
        seen = _Surveyed.of(prepare(config, table=table, windows=windows), step)
        around = lease, options.client or config.cluster
        made = run_probe(seen.job, seen.survey, around, run, options.probe, step)
        if windows is not None:
            trained = load_bundle(config.bundle, trust_model=config.trust_model).lattice
            windows = replace(windows, difference=label_difference(seen.job, trained))
        plan = replace(_plan(config, options, seen, made, ""), windows=windows)
        frozen = read_plan(lease.run_dir, seen.job.name)
        tried = {"windows": windows.as_dict()} if windows else {}
        write_plan(lease.run_dir, frozen | tried | {"through": plan.through, "estimate": plan.as_dict()})
    return plan


def _scenes(config: RunConfig, *, known: bool) -> ItemTable:
    """Return the scenes that the run folder knows, or search; no pixel is looked at."""
    bundle, area = bundle_of(config), area_of(config.area)
    pad_m = pad_of(spec_of(config, bundle), halo_px(bundle))
    table = known_scenes(absolute(config.out), question_of(config, area, pad_m)) if known else None
    return search_scenes(config, area, pad_m=pad_m) if table is None else table


@dataclass(frozen=True)
class _Surveyed:
    """A job that was walked.

    Attributes:
        job: The run's job.
        table: Its scenes.
        archive: Their footprints and sizes.
        survey: What its tiles have to do.
        steps: Time steps of the cube, and most overpasses in one.
        at_once: Tiles that a worker makes at the same time.
    """

    job: MapJob
    table: ItemTable
    archive: Archive
    survey: Survey
    steps: tuple[int, int]
    at_once: int

    @classmethod
    def of(cls, made: Design, step: Step) -> _Surveyed:
        archive = made.job.archive(made.table)
        return cls(
            made.job,
            made.table,
            archive,
            survey(made.job, archive, step),
            made.steps,
            tiles_at_once(made.config.cluster),
        )

    def memory(self) -> dict[str, int]:
        """Return the projected bytes of a worker by part."""
        parts = tile_bytes(tile_shape(self.job, self.steps, self.at_once))
        return {name: size for name, size in parts.items() if name != "total"}


def _plan(
    config: RunConfig, options: PlanOptions, seen: _Surveyed, made: Probe | None, reason: str
) -> MapPlan:
    """Put together what follows from the survey and, if there was one, the probe."""
    job, cluster = seen.job, size_of(config.cluster) if made is None else made.cluster
    slots = 1 if cluster is None else cluster.slots
    workers = Workers(slots, 0.0 if made is None else made.startup_s)
    bounds = Bounds(workers, None if made is None else made.times, seen.steps, seen.at_once)
    ways, sizes = (
        compare_ways(job, seen.survey, seen.archive, bounds),
        compare_sizes(job, seen.archive, bounds),
    )
    way = choose_way(ways.fused, ways.staged)
    through = way if config.through == "auto" else config.through
    run_s, left_s = _seconds(seen.survey, made, workers)
    price = config.cluster.price_per_worker_hour if options.price is None else options.price
    return MapPlan(
        scenes=summarise_scenes(seen.table),
        looked_at=describe_looks(seen.table, reason),
        tile_px=job.tile_px,
        window_px=halo_px(job.bundle),
        survey=seen.survey,
        record=count_changes(config, job if through == "fused" else with_cubes(config, job)),
        memory=seen.memory(),
        map_bytes=seen.survey.tiles * job.tile_px**2 * _pixel_bytes(job),
        ways=ways,
        through=through,
        proposal=(way, reason_of(ways.fused, ways.staged)),
        sizes=sizes,
        size=propose_size(sizes, cluster.memory_limit if cluster else None, slots),
        cluster=cluster,
        probe=made,
        no_probe=reason,
        run_s=run_s,
        left_s=left_s,
        price=price,
        refine=None if config.refine is None else foreseen(job, config.refine, seen.at_once),
    )


def _seconds(seen: Survey, made: Probe | None, workers: Workers) -> tuple[Interval | None, Interval | None]:
    """Estimate the whole run, and what is left of it after the probe."""
    if made is None:
        return None, None
    whole = run_seconds(made.times, seen.loads, workers, tiles=seen.tiles)
    probed = {record.tile for record in made.records}
    left = [load for tile, load in zip(seen.sample, seen.loads, strict=True) if tile not in probed]
    return whole, run_seconds(made.times, left, workers, tiles=seen.tiles - len(probed))


def _pixel_bytes(job: MapJob) -> int:
    """Return the bytes of a pixel in all variables of the map."""
    layers = job.bundle.layers(job.layers)
    return 1 + layers.n_planes * layers.dtype.itemsize


def describe_looks(table: ItemTable, reason: str) -> str:
    """Say what the scenes' pixels said of their offsets, or that nobody looked."""
    looked = sum(bool(item.probe) for item in table)
    if looked < len(table):
        return f"{len(table) - looked} of {len(table)} scenes not looked at" + (
            f": {reason}" if reason else ""
        )
    return f"{looked} scenes looked at"


def _silent(done: int, total: int, what: str) -> None:
    """Tell nobody."""
