"""The thin Dask driver of a run: one task per tile, a bounded number in flight, records coming back.

What to do is decided by `engine.runs.machine`; what is done is known by the ledger alone. The driver
carries instructions to a `distributed.Client` and brings back what became of them::

    ledger ──► Planned | Skipped ──►┌─────────┐──► Submit ──► client.submit(execute_tile)
    futures ─► TileDone | Failed ──►│ Machine │──► Fail, Quarantine ──► gaps.json
    signals ─► Drain ──────────────►└─────────┘──► Stop
"""

from __future__ import annotations

import contextlib
import queue
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs.cancel import cancel_asked
from engine.runs.events import QUARANTINED, EventKind, RunEvent, RunOptions, RunSummary, Tally
from engine.runs.gaps import gaps_by_tile, write_gaps
from engine.runs.machine import (
    Drain,
    Event,
    Fail,
    Instruction,
    Limits,
    Machine,
    NoMoreTiles,
    Quarantine,
    Resized,
    Skipped,
    Stop,
    StoreRefused,
    Submit,
    TileDone,
    TileFailed,
    TileHandedOver,
    TileReturned,
    Unit,
    WorkerDied,
)
from engine.runs.news import News, NewsRoom
from engine.runs.post import JOB_LIMIT_BYTES, Post, execute_and_tell, pack
from engine.runs.scheduler import (
    came_back,
    cancellation,
    died_on,
    first_thread_count,
    lost_scheduler,
    no_worker,
    thread_count,
    why_quarantined,
)
from engine.runs.signals import Interrupts
from engine.runs.tile import TileJob, TileList, TileOutput, TileTask, execute_tile, key_of, worker_of
from engine.runs.walk import Walk
from engine.store.layout import open_spec
from engine.store.lease import Lease
from engine.store.ledger import Ledger, TileRecord
from engine.store.objects import local_path
from engine.store.refusals import refusals
from engine.store.regions import close_epoch, open_epoch
from engine.values.errors import ConflictError, LandweaveError, RefusedError, RetryableError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "JOB_LIMIT_BYTES",
    "RunEvent",
    "RunOptions",
    "RunSummary",
    "TileJob",
    "TileOutput",
    "TileTask",
    "execute_tile",
    "run_stages",
    "run_tiles",
]

_TICK_S = 0.2
_FETCH_S = 5.0
_LOOK_S = 5.0


def run_tiles(
    job: TileJob,
    client: Client,
    run_dir: str,
    options: RunOptions | None = None,
    on_event: Callable[[RunEvent], None] | None = None,
    *,
    lease: Lease | None = None,
) -> RunSummary:
    """Make all tiles of one job that are not on record yet: `run_stages` of a single stage."""
    return run_stages([job], client, run_dir, options, on_event, lease=lease)[0]


def run_stages(
    jobs: Sequence[TileJob],
    client: Client,
    run_dir: str,
    options: RunOptions | None = None,
    on_event: Callable[[RunEvent], None] | None = None,
    *,
    lease: Lease | None = None,
    only: TileList | None = None,
) -> tuple[RunSummary, ...]:
    """Make the tiles of some stages as one run; a tile waits for those that it needs, not for their stage.

    The first Ctrl-C or SIGTERM drains: what is in flight ends, nothing more begins. The second stops.
    A store that cannot be written to, because the disk is full or it is write-protected, drains too.

    Args:
        jobs: What to make, what is needed first; their stores must exist.
        client: Any `distributed.Client`.
        run_dir: The run's folder, local or any fsspec URL that all workers reach.
        options: How to run.
        on_event: Called in this thread for each thing that happens.
        lease: The folder's lease, if the caller holds it already; it stays held.
        only: Tiles of the last stage to make, with what they need; None for all tiles of all stages.

    Returns:
        How each stage ended; failed and quarantined tiles are in the gap list, not raised.

    Raises:
        InputError: If a job's store does not exist.
        BudgetError: If a job is too big to travel with each tile.
        ConflictError: If another run holds the folder, or took it over.
        RetryableError: If the scheduler is lost or no worker comes.
    """
    options = options or RunOptions()
    run_dir = _absolute(run_dir)
    for job in jobs:
        open_spec(job.store_url)
    parcels = {job.name: pack(job) for job in jobs}
    own = Lease(run_dir, patience_s=options.patience_s, beat_s=options.beat_s)
    stores = {job.store_url for job in jobs}
    with (
        refusals(run_dir),
        own if lease is None else contextlib.nullcontext(lease) as lease,
        Interrupts(options.term_s) as interrupts,
    ):
        for url in stores:
            open_epoch(url, lease.epoch)
        try:
            walk = Walk(jobs, run_dir, options, only)
            return _Drive(walk, parcels, client, lease, options, on_event or (lambda event: None)).run(
                interrupts
            )
        finally:
            for url in stores:
                close_epoch(url, lease.epoch)


class _Drive:
    """One run in progress: the machine, its futures and what came back."""

    def __init__(
        self,
        walk: Walk,
        parcels: Mapping[str, bytes],
        client: Client,
        lease: Lease,
        options: RunOptions,
        on_event: Callable[[RunEvent], None],
    ):
        self.walk, self.client, self.lease, self.options, self.on_event = (
            walk,
            client,
            lease,
            options,
            on_event,
        )
        self.parcels, self.begun = parcels, time.monotonic()
        self.tallies = {stage: Tally() for stage in walk.jobs}
        self.old_gaps = {stage: gaps_by_tile(lease.run_dir, stage) for stage in walk.jobs}
        self.machine = Machine(
            Limits(_in_flight(client, options), options.attempts, lone_deaths=options.deaths_limit)
        )
        self.again: set[Unit] = set()  # on record with gaps: to be made although their key is the same
        self.futures: dict[Unit, Future[TileRecord]] = {}
        self.post = Post(client, lease.run_dir)
        self.news, self.refusal = NewsRoom(client), ""  # why the last worker was refused
        self.back: queue.SimpleQueue[tuple[Unit, Future[TileRecord]]] = queue.SimpleQueue()
        self.stopped = self.refused = ""
        self.killers: dict[Unit, list[str]] = {}  # the workers that were lost under a tile
        self.looked = self.seen_worker = time.monotonic()
        self.token = uuid.uuid4().hex[:8]  # so that two runs on one scheduler never share a key

    def run(self, interrupts: Interrupts) -> tuple[RunSummary, ...]:
        planned = self._plan()
        try:
            while not self.stopped:
                if interrupts.asked:
                    self._drain()
                while self.machine.room and not self.stopped and not interrupts.asked:
                    self._handle(next(planned, NoMoreTiles()))
                if interrupts.overdue and not self.stopped:
                    self.stopped = "drained"  # what still runs is left, before the batch system kills
                if not self.stopped:
                    self._wait()
        finally:
            self._let_go()
        self.lease.check()
        with contextlib.suppress(OSError) if self.refused else contextlib.nullcontext():
            self._write_gaps()
        return tuple(self._summary(stage) for stage in self.walk.jobs)

    def _plan(self) -> Iterator[Event]:
        """Yield each tile as planned or skipped, walking only as far as tiles are wanted."""
        for step in self.walk:
            unit = step.event.unit
            self.old_gaps[unit.stage].pop(str(unit.tile), None)
            if isinstance(step.event, Skipped):
                self.tallies[unit.stage].reused += 1
            elif step.record is not None:
                if step.record.gaps:
                    self.again.add(unit)
                self._emit("changed", unit, step.record, step.why)
            yield step.event
            if isinstance(step.event, Skipped):
                self._emit("reused", unit, step.record)

    def _drain(self) -> None:
        if not self.machine.draining:
            self.on_event(RunEvent("draining", "", None, 0, 0))
            self._handle(Drain())

    def _handle(self, event: Event) -> None:
        for instruction in self.machine.handle(event):
            self._obey(instruction)

    def _obey(self, instruction: Instruction) -> None:
        match instruction:
            case Submit(unit, attempt):
                self._submit(unit, attempt)
            case Fail(unit, kind, message):
                self._call_off(unit)
                self.tallies[unit.stage].give_up(unit, kind, message)
                self._emit("failed", unit, message=message, error=kind)
            case Quarantine(unit):
                lost, peak = self.killers.pop(unit, []), self.tallies[unit.stage].peak_bytes
                message = why_quarantined(self.client, lost, self.options.deaths_limit, peak)
                self.tallies[unit.stage].give_up(unit, QUARANTINED, message)
                self._emit("quarantined", unit, message=message)
            case Stop(reason):
                self.stopped = reason

    def _submit(self, unit: Unit, attempt: int) -> None:
        self._require_scheduler()
        task = TileTask(
            tile=unit.tile,
            attempt=attempt,
            run_dir=self.lease.run_dir,
            epoch=self.lease.epoch,
            threads=self.options.threads_per_tile,
            redo=not self.options.resume or unit in self.again,
        )
        name = f"{unit.stage}-{unit.tile}-{attempt}-{self.token}"
        self.post.expect(name)
        future = self.client.submit(
            execute_and_tell,
            self.parcels[unit.stage],
            task,
            name,
            key=name,
            pure=False,
            retries=0,
            resources=self.options.resources,
        )
        self.futures[unit] = future
        future.add_done_callback(lambda f, unit=unit: self.back.put((unit, f)))
        self._emit("submitted", unit)

    def _wait(self) -> None:
        """Take in what came back, all at once, so that tiles of one dead worker are seen together."""
        came = []
        with contextlib.suppress(queue.Empty):
            came.append(self.back.get(timeout=_TICK_S))
            while True:
                came.append(self.back.get_nowait())
        for news in self.news.collect():
            self._hear(news)
        dead: dict[str, list[Unit]] = {}
        for unit, future in came:
            if self.futures.get(unit) is future:
                self._take(unit, self.futures.pop(unit), dead)
        for worker, units in dead.items():
            for unit in units:
                self.killers.setdefault(unit, []).append(worker)
                self._emit("worker-died", unit, message=f"worker {worker} was lost", worker=worker)
            self._handle(WorkerDied(tuple(units)))
        if time.monotonic() - self.looked > _LOOK_S:
            self._look_at_cluster()

    def _hear(self, news: News) -> None:
        """Pass on what a worker tells; its unfinished tiles are with another one already."""
        self.on_event(RunEvent(news.kind, "", None, 0, 0, message=news.message, worker=news.worker))
        if news.kind == "worker-refused":
            self.refusal = news.message
        left = set(news.tasks)
        for unit in [
            u for u, future in self.futures.items() if str(future.key) in left and not future.done()
        ]:
            self._handle(TileHandedOver(unit))

    def _call_off(self, unit: Unit) -> None:
        """Cancel a tile that is given up while it runs."""
        if (future := self.futures.pop(unit, None)) is not None:
            with contextlib.suppress(Exception):
                self.client.cancel([future], force=True)

    def _take(self, unit: Unit, future: Future[TileRecord], dead: dict[str, list[Unit]]) -> None:
        """Turn what became of a tile's future into an event."""
        try:
            record, error = self._outcome(unit, future)
        finally:
            future.release()
        if record is not None:
            self.tallies[unit.stage].count(record)
            self.again.discard(unit)
            self.killers.pop(unit, None)
            self._handle(TileDone(unit))
            self._emit("done", unit, record)
        elif (worker := died_on(error)) is not None:
            dead.setdefault(worker, []).append(unit)
        elif isinstance(error, ConflictError):
            self.lease.check()  # says who took over
            raise error
        elif isinstance(error, RefusedError):
            self.refused = self.refused or str(error)
            self._emit("refused", unit, message=str(error), error=type(error).__name__)
            self._handle(StoreRefused(unit))
        elif came_back(error):
            self._handle(TileReturned(unit))
        else:
            self._require_scheduler()  # else every tile would take the blame for it
            kind = type(error).__name__
            self._emit(
                "error", unit, None, str(error), error=kind, worker=worker_of(error), trace=_trace(error)
            )
            self._handle(TileFailed(unit, kind, str(error), _retryable(error)))

    def _outcome(
        self, unit: Unit, future: Future[TileRecord]
    ) -> tuple[TileRecord | None, BaseException | None]:
        """Return the record or the error of a tile that came back.

        A finished tile's worker may be gone before its answer is fetched, and Dask would wait for another
        one to do it again; but its record is in the ledger.
        """
        told = self.post.collect(str(future.key))
        if future.status == "error":
            return None, future.exception()
        if told is not None:
            return told, None
        if future.status == "finished":
            with contextlib.suppress(Exception, CancelledError):
                return future.result(timeout=_FETCH_S), None
        job = self.walk.jobs[unit.stage]
        record = Ledger(self.lease.run_dir, unit.stage).done(unit.tile, key_of(job.inputs(unit.tile)))
        if record is not None and record.epoch == self.lease.epoch:
            return record, None
        return None, cancellation(future, str(unit))

    def _look_at_cluster(self) -> None:
        """Follow a cluster that grows or shrinks; do not wait for ever for one that is gone."""
        self.looked = time.monotonic()
        self._require_scheduler()
        if cancel_asked(self.lease.run_dir, self.lease.epoch):
            self._drain()
        threads = thread_count(self.client)
        if threads:
            self.seen_worker = self.looked
            if self.options.in_flight is None:
                self._handle(Resized(_room_for(threads, self.options)))
        elif self.looked - self.seen_worker > self.options.no_worker_timeout_s:
            raise no_worker(self.options.no_worker_timeout_s, self.refusal)

    def _require_scheduler(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise lost_scheduler(self.client)

    def _let_go(self) -> None:
        """Cancel what is still out there (nothing, unless the run broke off)."""
        with contextlib.suppress(Exception):
            self.post.close()
            self.news.close()
        if self.futures:
            with contextlib.suppress(Exception):
                self.client.cancel(list(self.futures.values()), force=True)
            self.futures.clear()

    def _emit(
        self,
        kind: EventKind,
        unit: Unit,
        record: TileRecord | None = None,
        message: str = "",
        **more: str,
    ) -> None:
        stage, tile = unit
        ended, total = self.tallies[stage].ended, self.walk.total(stage)
        self.on_event(RunEvent(kind, stage, tile, ended, total, record, message, **more))

    def _write_gaps(self) -> None:
        """Write each stage's gap list; gaps of tiles that this run did not come to still stand."""
        partial = self.walk.only is not None or self.stopped != "finished"
        for stage, tally in self.tallies.items():
            kept = [g for gaps in self.old_gaps[stage].values() for g in gaps] if partial else []
            write_gaps(self.lease.run_dir, stage, [*tally.gaps, *kept])

    def _summary(self, stage: str) -> RunSummary:
        tally, total = self.tallies[stage], self.walk.total(stage)
        return RunSummary(
            job=stage,
            total=total,
            done=tally.done,
            reused=tally.reused,
            failed=tally.failed,
            quarantined=tally.quarantined,
            left=total - tally.ended,
            gaps=len(tally.gaps),
            interrupted=self.stopped == "drained",
            hopeless=self.stopped == "hopeless",
            refused=self.refused,
            seconds=time.monotonic() - self.begun,
            tile_seconds=tally.tile_seconds,
            peak_bytes=tally.peak_bytes,
            epoch=self.lease.epoch,
        )


def _in_flight(client: Client, options: RunOptions) -> int:
    if options.in_flight is not None:
        return options.in_flight
    threads = 0 if options.grows_to else first_thread_count(client, options.no_worker_timeout_s)
    return _room_for(threads, options)


def _room_for(threads: int, options: RunOptions) -> int:
    """Return how many tiles to hand out: one more than can be made at once, by the cluster as it is or may be."""
    return max(threads // options.threads_per_tile, options.grows_to) + 1


def _retryable(error: BaseException | None) -> bool:
    """Tell whether trying again may help: the network, the disk, memory, a cancelled task."""
    if isinstance(error, LandweaveError):
        return isinstance(error, RetryableError)
    return isinstance(error, OSError | MemoryError | CancelledError)


def _trace(error: BaseException | None) -> str:
    """Return where an error that nobody foresaw came from; empty for our own, which say what to do."""
    if error is None or isinstance(error, LandweaveError):
        return ""
    return "".join(traceback.format_exception(error, limit=-10))


def _absolute(run_dir: str) -> str:
    path = local_path(run_dir)
    return run_dir if path is None else str(Path(path).resolve())
