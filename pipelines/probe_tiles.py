"""A probe: a few tiles of a run, made as the run will make them, and kept.

Startup is measured apart: on each worker one window of a tile is made twice, and what the first time takes
longer (libraries, compiled kernels, the network's weights) is no part of a tile's time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec

from cluster.launch import open_client
from cluster.size import ClusterSize
from engine.archive.items import ItemTable
from engine.runs.driver import RunEvent, RunOptions, run_stages
from engine.runs.estimate import Load, TileTimes, fit, spread
from engine.runs.tile import key_of
from engine.store.lease import Lease
from engine.store.ledger import Ledger, TileRecord
from engine.values.budget import require_fit
from engine.values.errors import DataError, LandweaveError
from engine.values.grid import Box, TileKey
from pipelines.map_job import MapJob
from pipelines.survey import Step, Survey, core_of, scenes_near

if TYPE_CHECKING:
    from distributed import Client

PROBE_TILES = 6
"""Tiles of a probe; more where more run at once, for reading together is slower than alone."""

ANSWER_S = 20.0
"""How long the archive is waited for before it counts as out of reach."""


def unreachable(table: ItemTable, answer_s: float = ANSWER_S) -> str:
    """Look at one scene, and say why the archive cannot be read; empty if it can.

    A look may wait for a network that swallows everything, so it is left alone after `answer_s`.
    """
    from engine.archive.look import look

    item, said = table.items[len(table) // 2], ["no answer"]

    def ask() -> None:
        try:
            look(item, item.bands[0], max_px=16)
            said[0] = ""
        except LandweaveError as error:
            said[0] = str(error)

    asking = threading.Thread(target=ask, daemon=True, name="landweave-look")
    asking.start()
    asking.join(answer_s)
    return said[0] and f"item {item.id}: {said[0]}"


@dataclass(frozen=True)
class Probe:
    """What a probe measured.

    Attributes:
        records: Its tiles' records.
        loads: What each of them had to do.
        times: The model of a tile's seconds.
        cluster: What the run will run on.
        startup_s: From asking for workers until they are warm.
        pixel_bytes: Bytes of a pixel of the map, compressed.
    """

    records: tuple[TileRecord, ...]
    loads: tuple[Load, ...]
    times: TileTimes
    cluster: ClusterSize
    startup_s: float
    pixel_bytes: float

    @property
    def peak_bytes(self) -> int:
        """Highest memory of a worker during a tile."""
        return max(r.peak_bytes for r in self.records)


def run_probe(
    job: MapJob, seen: Survey, around: tuple[Lease, Any], wanted: int | None, memory: int, step: Step
) -> Probe:
    """Make some tiles of a job, on the cluster and as many at once as the run will.

    Args:
        job: The run's job; its store exists.
        seen: What its tiles have to do.
        around: The folder's lease, held, and the cluster.
        wanted: How many tiles; None for `PROBE_TILES`, or as many as run at once.
        memory: Projected bytes of a worker.
        step: Told each tile.

    Raises:
        BudgetError: If a tile would not fit into the smallest worker.
        DataError: If no tile of the probe could be made.
    """
    lease, cluster = around
    begun = time.monotonic()
    with open_client(cluster) as client:
        threads = _threads(client)
        opened = time.monotonic() - begun
        limit = _memory_limit(client)
        if limit is not None:
            require_fit({"total": memory}, limit, "tile_px")
        slots = sum(threads.values())
        picked = _pick(seen, max(PROBE_TILES, slots) if wanted is None else wanted)
        tiles = [seen.sample[i] for i in picked]
        startup = opened + _warm_up(job, client, list(threads), tiles[len(tiles) // 2])
        run_stages(
            [job], client, lease.run_dir, RunOptions(), _listener(step, len(tiles)), lease=lease, only=tiles
        )
    found = _records(job, tiles)
    loads = [seen.loads[i] for i, tile in zip(picked, tiles, strict=True) if tile in found]
    records = [found[tile] for tile in tiles if tile in found]
    if not records:
        raise DataError(
            "no tile of the probe could be made",
            where=lease.run_dir,
            found=f"{len(tiles)} tiles tried",
            mend="read gaps.json in the run folder; plan --probe 0 reads nothing",
        )
    return Probe(
        records=tuple(records),
        loads=tuple(loads),
        times=fit(loads, [r.seconds for r in records]),
        cluster=ClusterSize(len(threads), slots, limit),
        startup_s=startup,
        pixel_bytes=_stored_bytes(job) / sum(job.box(r.tile).area_px for r in _all_records(job)),
    )


def _pick(seen: Survey, count: int) -> list[int]:
    """Choose tiles over the range of costs, bytes and windows counting alike."""
    most = max(load.read_bytes for load in seen.loads) or 1.0, max(load.windows for load in seen.loads) or 1.0
    return spread([load.read_bytes / most[0] + load.windows / most[1] for load in seen.loads], count)


def _threads(client: Client) -> dict[str, int]:
    """Return the threads of each worker, as soon as there is one."""
    client.wait_for_workers(1, timeout=RunOptions.no_worker_timeout_s)
    return dict(client.nthreads())


def _memory_limit(client: Client) -> int | None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((w["memory_limit"] for w in workers if w.get("memory_limit")), default=None)


def _warm_up(job: MapJob, client: Client, workers: Sequence[str], tile: TileKey) -> float:
    """Warm every worker up, and return how long the slowest took."""
    asked = [
        client.submit(_make_a_window_twice, job, tile, workers=[w], allow_other_workers=False, pure=False)
        for w in workers
    ]
    return max(client.gather(asked))


def _make_a_window_twice(job: MapJob, tile: TileKey) -> float:
    """Make a window of a tile twice; return how much longer it took the first time."""
    core, size = core_of(job, tile), job.bundle.lattice.stride_px
    y, x = (core.y0 + core.y1) // 2, (core.x0 + core.x1) // 2
    small = Box(y, x, min(y + size, core.y1), min(x + size, core.x1))
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        job._made(tile, small, scenes_near(job, small), 1)
        seconds.append(time.monotonic() - begun)
    return max(0.0, seconds[0] - seconds[1])


def _listener(step: Step, total: int) -> Any:
    ended = [0]

    def heard(event: RunEvent) -> None:
        if event.kind in ("done", "reused", "failed", "quarantined"):
            ended[0] += 1
            seconds = f"{event.record.seconds:.1f} s" if event.record else event.message
            step(ended[0], total, f"{event.tile} {seconds}")

    return heard


def _records(job: MapJob, tiles: Sequence[TileKey]) -> dict[TileKey, TileRecord]:
    """Return the records of tiles that were made from what would make them now."""
    ledger = Ledger(job.run_dir, job.name)
    standing = {tile: ledger.done(tile, key_of(job.inputs(tile))) for tile in tiles}
    return {tile: record for tile, record in standing.items() if record is not None}


def _all_records(job: MapJob) -> list[TileRecord]:
    return list(Ledger(job.run_dir, job.name).records())


def _stored_bytes(job: MapJob) -> float:
    """Return the size of the store on its disk."""
    files, path = fsspec.core.url_to_fs(job.store_url)
    return float(files.du(path))
