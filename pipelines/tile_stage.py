"""What every stage of a run does around its tiles: hold the folder, remember the search, run, sum up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.launch import open_client
from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry
from engine.runs.driver import RunEvent, RunOptions, RunSummary, TileJob, run_tiles
from engine.runs.journal import Journal
from engine.runs.progress import StageFacts
from engine.store.lease import Lease
from engine.values.area import Area
from engine.values.budget import require_fit
from engine.values.errors import InputError
from pipelines.config import SourceConfig
from pipelines.run_facts import dashboard_of, memory_limit, run_facts
from pipelines.run_folder import ITEMS_KEY, PROJECTED_KEY, QUESTION_KEY, plans_in, read_plan
from pipelines.tile_inputs import SHARD_MAX_PX

Listener = Callable[[RunEvent, float], None]


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        run: The run folder.
        km2: Surface of the outline in square kilometres.
        summary: How the tiles ended.
    """

    run: str
    km2: float
    summary: RunSummary

    @property
    def exit_code(self) -> int:
        """0 done, 3 partial, 4 nothing but errors, 5 interrupted."""
        return self.summary.exit_code

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        s = self.summary
        made = self.km2 * s.done / max(1, s.total)
        speed = f"{made * 3600 / s.seconds:,.0f} km2/h" if s.done else "nothing new"
        return {
            "run": self.run,
            "tiles": f"{s.done} made, {s.reused} kept, {s.failed + s.quarantined} failed, {s.left} left of {s.total}",
            "speed": f"{speed} ({s.seconds:.1f} s)",
            "memory": f"{s.peak_bytes / 2**30:.2f} GiB a worker at most",
            "gaps": s.gaps,
        }


@dataclass(frozen=True)
class Around:
    """What a stage runs in.

    Attributes:
        lease: The folder's lease, held.
        options: How to run.
        cluster: A `distributed.Client`, or what `cluster.launch.open_client` opens.
        listener: Called for each event of the run, with the mean square kilometres of one tile.
    """

    lease: Lease
    options: RunOptions
    cluster: Any
    listener: Listener | None


def run_stage(job: TileJob, area: Area, around: Around) -> StageResult:
    """Run the tiles of a job whose plan is frozen in the run folder, and keep the run's journal.

    Raises:
        BudgetError: If a tile would not fit into the smallest worker; before the first tile.
    """
    run_dir, km2 = around.lease.run_dir, surface_km2(area)
    total = len(job.tiles())
    tile_km2 = km2 / max(1, total)
    with open_client(around.cluster) as client:
        projected = read_plan(run_dir, job.name)[PROJECTED_KEY]
        _require_memory(projected, client)
        facts = StageFacts(job.name, total, tile_km2, projected, memory_limit(client))
        with Journal(run_dir, around.lease.epoch, [facts], run_facts(run_dir, client)) as journal:
            hear = _both(journal, around.listener, tile_km2)
            hear(RunEvent("begun", job.name, None, 0, total, message=dashboard_of(client)))
            summary = run_tiles(job, client, run_dir, around.options, hear, lease=around.lease)
            journal.end([summary])
    return StageResult(run_dir, km2, summary)


def _both(journal: Journal, listener: Listener | None, tile_km2: float) -> Callable[[RunEvent], None]:
    """Let the journal hear each event, then whoever listens."""

    def hear(event: RunEvent) -> None:
        journal.hear(event)
        if listener is not None:
            listener(event, tile_km2)

    return hear


def _require_memory(projected_bytes: int, client: Any) -> None:
    """Refuse a plan whose tile does not fit into the smallest worker, before the first tile."""
    if limit := memory_limit(client):
        require_fit({"total": projected_bytes}, limit, "tile_px")


def surface_km2(area: Area) -> float:
    """Surface of the outline on the ellipsoid (Karney 2013, by pyproj)."""
    from pyproj import Geod

    square_metres, _ = Geod(ellps="WGS84").geometry_area_perimeter(area.geometry)
    return abs(float(square_metres)) / 1e6


def local_folder(out: str) -> Path:
    """Return the run folder, made if missing.

    Raises:
        InputError: If it is not local.
    """
    if "://" in out:
        raise InputError("run folders are local for now", where="out", found=out, mend="a local path")
    run_dir = Path(out).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
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


def known_scenes(run_dir: Path, question: str, key: str = ITEMS_KEY) -> ItemTable | None:
    """Return the scenes that any stage of the folder found for the same question, None if there are none."""
    for plan in plans_in(str(run_dir)):
        scenes = run_dir / str(plan.get(key))
        if plan.get(QUESTION_KEY) == question and scenes.exists():
            return ItemTable.from_parquet(scenes)
    return None


def radiometry_of(table: ItemTable) -> dict[str, Any]:
    """Return the decision about the radiometric offset of each scene, and what its pixels said of it."""
    return {i.id: {**asdict(radiometry(i)), "probe": i.probe} for i in table}


def versions(*names: str) -> dict[str, str]:
    """Return the versions of libraries that decide bytes."""
    return {n: version(n) for n in ("numpy", "rasterio", "zarr", "dask", *names)}
