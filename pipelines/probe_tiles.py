"""A probe: a few tiles of a run, made as the run will make them, and kept.

Startup is measured apart. The first tile of each process also pays for libraries, compiled kernels and the
network's weights: such tiles are made beside those that are timed, and what they take longer than the others
would tell is startup.
"""

from __future__ import annotations

import datetime as dt
import math
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
from engine.values.errors import DataError, LandweaveError
from engine.values.grid import TileKey
from pipelines.map_job import MapJob
from pipelines.run_folder import require_memory
from pipelines.survey import Step, Survey

if TYPE_CHECKING:
    from distributed import Client

PROBE_TILES = 6
"""Tiles that are timed; more where more run at once, for reading together is slower than alone."""

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
    job: MapJob, seen: Survey, around: tuple[Lease, Any], options: RunOptions, wanted: int | None, step: Step
) -> Probe:
    """Make some tiles of a job, on the cluster and as many at once as the run will.

    Args:
        job: The run's job; its store and its plan exist.
        seen: What its tiles have to do.
        around: The folder's lease, held, and the cluster.
        options: How the run will run there.
        wanted: How many tiles to time; None for `PROBE_TILES`, or as many as run at once. One more for each
            place where a tile can run is made first.
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
        require_memory(lease.run_dir, job.name, limit)
        slots = max(1, sum(threads.values()) // options.threads_per_tile)
        picked = _pick(seen, (max(PROBE_TILES, slots) if wanted is None else wanted), slots)
        tiles = [seen.sample[i] for i in picked]
        run_stages(
            [job], client, lease.run_dir, options, _listener(step, len(tiles)), lease=lease, only=tiles
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
    times, longer = _fitted(records, loads)
    return Probe(
        records=tuple(records),
        loads=tuple(loads),
        times=times,
        cluster=ClusterSize(len(threads), slots, limit),
        startup_s=opened + longer,
        pixel_bytes=_stored_bytes(job) / sum(job.box(r.tile).area_px for r in _all_records(job)),
    )


def _pick(seen: Survey, timed: int, cold: int) -> list[int]:
    """Choose tiles over the range of costs, bytes and windows counting alike; first those for cold processes.

    Those are the ones in the middle of the range, which tell least about it.
    """
    most = max(load.read_bytes for load in seen.loads) or 1.0, max(load.windows for load in seen.loads) or 1.0
    costs = [load.read_bytes / most[0] + load.windows / most[1] for load in seen.loads]
    picked = sorted(spread(costs, timed + cold), key=lambda i: costs[i])
    start = max(0, (len(picked) - cold) // 2)
    return picked[start : start + cold] + sorted(picked[:start] + picked[start + cold :])


def _threads(client: Client) -> dict[str, int]:
    """Return the threads of each worker, as soon as there is one."""
    client.wait_for_workers(1, timeout=RunOptions.no_worker_timeout_s)
    return dict(client.nthreads())


def _memory_limit(client: Client) -> int | None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((w["memory_limit"] for w in workers if w.get("memory_limit")), default=None)


def _fitted(records: Sequence[TileRecord], loads: Sequence[Load]) -> tuple[TileTimes, float]:
    """Fit the model to the tiles of warm processes; return it, and what the others took longer, on average."""
    cold = cold_tiles(records)
    warm = [i for i, record in enumerate(records) if record.tile not in cold]
    chosen = warm or list(range(len(records)))
    times = fit([loads[i] for i in chosen], [records[i].seconds for i in chosen])
    expected = times.seconds(loads)
    longer = [r.seconds - e for r, e in zip(records, expected, strict=True) if r.tile in cold]
    return times, max(0.0, sum(longer) / max(1, len(longer)))


def cold_tiles(records: Sequence[TileRecord]) -> set[TileKey]:
    """Find the tiles that were begun before their process had ended one; times are told to the second."""
    ended = {r.tile: dt.datetime.fromisoformat(r.finished_utc).timestamp() for r in records}
    first: dict[str, float] = {}
    for r in records:
        first[r.worker] = min(ended[r.tile], first.get(r.worker, math.inf))
    return {
        r.tile
        for r in records
        if ended[r.tile] - r.seconds < first[r.worker] - 1.0 or ended[r.tile] == first[r.worker]
    }


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
