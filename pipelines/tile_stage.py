"""What every stage of a run does around its tiles: hold the folder, remember the search, run, sum up."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from cluster.base import ClusterSpec
from cluster.launch import open_client
from cluster.versions import differences, worker_facts
from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry
from engine.runs.driver import RunEvent, RunOptions, RunSummary, TileJob, run_stages
from engine.runs.journal import Journal
from engine.runs.progress import StageFacts
from engine.runs.tile import TileList
from engine.store.lease import Lease
from engine.store.objects import absolute, local_path
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.redact import without_secrets
from pipelines.config import SourceConfig
from pipelines.run_facts import dashboard_of, memory_limit, run_facts
from pipelines.run_folder import ITEMS_KEY, PROJECTED_KEY, QUESTION_KEY, plans_in, read_plan, require_memory
from pipelines.tile_inputs import SHARD_MAX_PX, items_in

Listener = Callable[[RunEvent, float], None]


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        run: The run folder.
        km2: Surface of the outline in square kilometres.
        summaries: How the tiles of each stage ended; the last one is what was asked for.
    """

    run: str
    km2: float
    summaries: tuple[RunSummary, ...]

    @property
    def summary(self) -> RunSummary:
        """How the tiles of the last stage ended."""
        return self.summaries[-1]

    @property
    def exit_code(self) -> int:
        """0 done, 3 partial, 4 nothing but errors, 5 interrupted: the worst of all stages."""
        return max(s.exit_code for s in self.summaries)

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        s = self.summary
        earlier = {e.job: _told(e) for e in self.summaries[:-1]}
        made = self.km2 * s.done / max(1, s.total)
        speed = f"{made * 3600 / s.seconds:,.0f} km2/h" if s.done else "nothing new"
        return {
            "run": self.run,
            **earlier,
            "tiles": _told(s),
            "speed": f"{speed} ({s.seconds:.1f} s)",
            "memory": f"{max(e.peak_bytes for e in self.summaries) / 2**30:.2f} GiB a worker at most",
            "gaps": sum(e.gaps for e in self.summaries),
            **({"stopped": s.refused} if s.refused else {}),
        }


def _told(s: RunSummary) -> str:
    return f"{s.done} made, {s.reused} kept, {s.failed + s.quarantined} failed, {s.left} left of {s.total}"


@dataclass(frozen=True)
class Around:
    """What a stage runs in.

    Attributes:
        lease: The folder's lease, held.
        options: How to run.
        cluster: A `distributed.Client`, or what `cluster.launch.open_client` opens.
        listener: Called for each event of the run, with the mean square kilometres of one tile.
        only: Tiles of the last stage to make; None for all.
    """

    lease: Lease
    options: RunOptions
    cluster: Any
    listener: Listener | None
    only: TileList | None = None


def run_jobs(jobs: Sequence[TileJob], area: Area, around: Around) -> tuple[float, tuple[RunSummary, ...]]:
    """Run the tiles of jobs whose plans are frozen in the run folder, and keep the run's journal.

    Returns:
        Surface of the outline in square kilometres, and how each stage ended.

    Raises:
        BudgetError: If a tile would not fit into the smallest worker; before the first tile.
    """
    run_dir, km2 = around.lease.run_dir, surface_km2(area)
    options, only = around.options, around.only
    with _cluster_told(around.listener), open_client(around.cluster) as client:
        facts = [_facts(run_dir, job, km2, memory_limit(client)) for job in jobs]
        if only is not None:
            facts = [*(replace(f, total=0) for f in facts[:-1]), replace(facts[-1], total=len(only))]
        for stage in facts:
            require_memory(run_dir, stage.stage, stage.limit_bytes)
        with Journal(run_dir, around.lease.epoch, facts, run_facts(run_dir, client)) as journal:
            hear = _both(journal, around.listener, {stage.stage: stage.tile_km2 for stage in facts})
            for stage in facts:
                hear(RunEvent("begun", stage.stage, None, 0, stage.total, message=dashboard_of(client)))
            for told in differences(worker_facts(client).values()):
                hear(RunEvent("worker-differs", "", None, 0, 0, message=told))
            summaries = run_stages(jobs, client, run_dir, options, hear, lease=around.lease, only=only)
            journal.end(summaries)
    return km2, summaries


def run_options(cluster: ClusterSpec, *, resume: bool = True) -> RunOptions:
    """Return how a run runs on a cluster: what a tile takes there, and how far the cluster may grow."""
    on_gpu = cluster.gpus_per_worker > 0
    grown = (cluster.most_workers or 0) * cluster.tiles_at_once if cluster.adapt is not None else 0
    return RunOptions(
        resume=resume,
        resources={"GPU": 1} if on_gpu else None,
        threads_per_tile=cluster.threads_per_worker if on_gpu else 1,
        grows_to=grown,
        no_worker_timeout_s=cluster.wait_s,
    )


class _Told(logging.Handler):
    """Passes on what a cluster says while it is started."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self.listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        message = without_secrets(record.getMessage())
        self.listener(RunEvent("waiting", "", None, 0, 0, message=message), 0.0)


@contextmanager
def _cluster_told(listener: Listener | None) -> Iterator[None]:
    """Let a listener hear what is waited for."""
    if listener is None:
        yield
        return
    logger, handler = logging.getLogger("landweave.cluster"), _Told(listener)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _facts(run_dir: str, job: TileJob, km2: float, limit_bytes: int | None) -> StageFacts:
    total = len(job.tiles())
    projected = read_plan(run_dir, job.name)[PROJECTED_KEY]
    return StageFacts(job.name, total, km2 / max(1, total), projected, limit_bytes)


def _both(
    journal: Journal, listener: Listener | None, tile_km2: dict[str, float]
) -> Callable[[RunEvent], None]:
    """Let the journal hear each event, then whoever listens."""

    def hear(event: RunEvent) -> None:
        journal.hear(event)
        if listener is not None:
            listener(event, tile_km2.get(event.stage, 0.0))

    return hear


def surface_km2(area: Area) -> float:
    """Surface of the outline on the ellipsoid (Karney 2013, by pyproj)."""
    from pyproj import Geod

    square_metres, _ = Geod(ellps="WGS84").geometry_area_perimeter(area.geometry)
    return abs(float(square_metres)) / 1e6


def made_folder(out: str) -> str:
    """Return the run folder, a local path or a URL; a local one is made if missing."""
    run_dir = absolute(out)
    if (path := local_path(run_dir)) is not None:
        path.mkdir(parents=True, exist_ok=True)
    return run_dir


def check_sizes(tile_px: int) -> None:
    """Refuse a tile that is not whole shards.

    Raises:
        InputError: With the nearest size that is.
    """
    if tile_px > SHARD_MAX_PX and tile_px % SHARD_MAX_PX:
        raise InputError(
            "a large tile must be whole shards",
            where="tile_px",
            found=f"{tile_px} px",
            limit=f"a multiple of {SHARD_MAX_PX} px",
            mend=f"use {tile_px // SHARD_MAX_PX * SHARD_MAX_PX}",
        )


def question_of(config: SourceConfig, area: Area, pad_m: float) -> str:
    """Hash what the search is asked; the same question keeps the scenes that were found."""
    source = config.model_dump(mode="json", include=set(SourceConfig.model_fields) - {"area", "crs"})
    asked = [area.digest(), pad_m, source]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def known_scenes(run_dir: str, question: str, key: str = ITEMS_KEY) -> ItemTable | None:
    """Return the scenes that any stage of the folder found for the same question, None if there are none."""
    for plan in plans_in(run_dir):
        if plan.get(QUESTION_KEY) == question and plan.get(key):
            return items_in(run_dir, plan[key])
    return None


def radiometry_of(table: ItemTable) -> dict[str, Any]:
    """Return the decision about the radiometric offset of each scene, and what its pixels said of it."""
    return {i.id: {**asdict(radiometry(i)), "probe": i.probe} for i in table}


def versions(*names: str) -> dict[str, str]:
    """Return the versions of libraries that decide bytes."""
    return {n: version(n) for n in ("numpy", "rasterio", "zarr", "dask", *names)}
