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
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.runs.gaps import Gap, write_gaps
from engine.runs.machine import (
    Drain,
    Event,
    Fail,
    Instruction,
    Limits,
    Machine,
    NoMoreTiles,
    Planned,
    Quarantine,
    Resized,
    Skipped,
    Stop,
    StoreRefused,
    Submit,
    TileDone,
    TileFailed,
    TileReturned,
    WorkerDied,
)
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
from engine.runs.signals import TERM_S, Interrupts
from engine.runs.tile import TileJob, TileOutput, TileTask, execute_tile
from engine.store.layout import open_spec
from engine.store.lease import Lease
from engine.store.ledger import Ledger, TileRecord
from engine.store.objects import local_path
from engine.store.refusals import refusals
from engine.store.regions import close_epoch, open_epoch
from engine.values.errors import (
    BudgetError,
    ConflictError,
    InputError,
    LandweaveError,
    RefusedError,
    RetryableError,
)
from engine.values.grid import TileKey

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
    "run_tiles",
]

JOB_LIMIT_BYTES = 1 << 20
"""A job travels with each tile, so it must be small: names and numbers, no pixels, no item tables."""

_TICK_S = 0.2
_FETCH_S = 5.0
_LOOK_S = 5.0


@dataclass(frozen=True)
class RunOptions:
    """How to run; what comes out does not depend on it.

    Attributes:
        in_flight: Tiles handed out at once; None for all threads of the cluster plus one.
        attempts: Tries of a tile that fails with a retryable error.
        deaths_limit: Workers that a tile must kill alone to be quarantined.
        threads_per_tile: Threads that one tile may use; divides the default of `in_flight`.
        resources: Dask worker resources that a tile takes, e.g. ``{"GPU": 1}``.
        resume: False makes all tiles again, even those on record.
        redo_gaps: Make tiles again whose record lists gaps: what was missing may be there now.
        patience_s: How long a silent holder of the run's folder is waited for.
        beat_s: How often this run shows that it is alive.
        no_worker_timeout_s: How long to wait for a first or new worker.
        term_s: How long a drain may take after SIGTERM; what is still running then is left.
    """

    in_flight: int | None = None
    attempts: int = 3
    deaths_limit: int = 3
    threads_per_tile: int = 1
    resources: dict[str, float] | None = None
    resume: bool = True
    redo_gaps: bool = True
    patience_s: float = 60.0
    beat_s: float = 2.0
    no_worker_timeout_s: float = 300.0
    term_s: float = TERM_S


EventKind = Literal[
    "reused", "submitted", "done", "error", "failed", "quarantined", "worker-died", "refused", "draining"
]


@dataclass(frozen=True)
class RunEvent:
    """Something that happened, for progress bars and logs.

    Attributes:
        kind: What.
        tile: Where, None for ``draining``.
        ended: Tiles that ended so far, one way or another.
        total: All tiles of the run.
        record: The tile's record (``done``, ``reused``).
        message: The error in full.
    """

    kind: EventKind
    tile: TileKey | None
    ended: int
    total: int
    record: TileRecord | None = None
    message: str = ""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        job: Name of the job.
        total: Tiles of the job.
        done: Tiles made by this run.
        reused: Tiles that were on record.
        failed: Tiles given up after an error.
        quarantined: Tiles that kill workers.
        left: Tiles not begun or not finished, because the run was stopped.
        gaps: Entries of the gap list.
        interrupted: Whether it was drained by a signal.
        hopeless: Whether it stopped because nothing but errors came back.
        refused: Why nothing could be written any more, with the mend; empty when all could.
        seconds: Wall-clock time.
        tile_seconds: Sum of the tiles' times on their workers.
        peak_bytes: Highest memory of a worker during a tile.
        epoch: How many runs held this folder, this one included.
    """

    job: str
    total: int
    done: int
    reused: int
    failed: int
    quarantined: int
    left: int
    gaps: int
    interrupted: bool
    hopeless: bool
    refused: str
    seconds: float
    tile_seconds: float
    peak_bytes: int
    epoch: int

    @property
    def exit_code(self) -> int:
        """Process exit code: 5 interrupted, 4 nothing but errors, 3 partial, 0 done."""
        if self.interrupted:
            return 5
        return 4 if self.hopeless else 3 if self.gaps or self.left else 0


def run_tiles(
    job: TileJob,
    client: Client,
    run_dir: str,
    options: RunOptions | None = None,
    on_event: Callable[[RunEvent], None] | None = None,
    *,
    lease: Lease | None = None,
) -> RunSummary:
    """Make all tiles of a job that are not on record yet.

    The first Ctrl-C or SIGTERM drains: what is in flight ends, nothing more begins. The second stops.
    A store that cannot be written to, because the disk is full or it is write-protected, drains too.

    Args:
        job: What to make; its store must exist.
        client: Any `distributed.Client`.
        run_dir: The run's folder, local or any fsspec URL that all workers reach.
        options: How to run.
        on_event: Called in this thread for each thing that happens.
        lease: The folder's lease, if the caller holds it already; it stays held.

    Returns:
        How it ended; failed and quarantined tiles are in the gap list, not raised.

    Raises:
        InputError: If the job's store does not exist.
        BudgetError: If the job is too big to travel with each tile.
        ConflictError: If another run holds the folder, or took it over.
        RetryableError: If the scheduler is lost or no worker comes.
    """
    options = options or RunOptions()
    run_dir = _absolute(run_dir)
    open_spec(job.store_url)
    _require_small(job)
    own = Lease(run_dir, patience_s=options.patience_s, beat_s=options.beat_s)
    with (
        refusals(run_dir),
        own if lease is None else contextlib.nullcontext(lease) as lease,
        Interrupts(options.term_s) as interrupts,
    ):
        open_epoch(job.store_url, lease.epoch)
        try:
            return _Drive(job, client, lease, options, on_event or (lambda event: None)).run(interrupts)
        finally:
            close_epoch(job.store_url, lease.epoch)


class _Drive:
    """One run in progress: the machine, its futures and what came back."""

    def __init__(
        self,
        job: TileJob,
        client: Client,
        lease: Lease,
        options: RunOptions,
        on_event: Callable[[RunEvent], None],
    ):
        self.job, self.client, self.lease, self.options, self.on_event = job, client, lease, options, on_event
        self.begun = time.monotonic()
        self.tiles = job.tiles()
        self.ledger = Ledger(lease.run_dir, job.name)
        self.machine = Machine(
            Limits(_in_flight(client, options), options.attempts, lone_deaths=options.deaths_limit)
        )
        self.keys: dict[TileKey, str] = {}  # of planned tiles that have not ended
        self.again: set[TileKey] = set()  # those on record with gaps
        self.futures: dict[TileKey, Future[TileRecord]] = {}
        self.back: queue.SimpleQueue[tuple[TileKey, Future[TileRecord]]] = queue.SimpleQueue()
        self.gaps: list[Gap] = []
        self.tile_seconds, self.peak_bytes = 0.0, 0
        self.stopped = self.refused = ""
        self.killers: dict[TileKey, list[str]] = {}  # the workers that were lost under a tile
        self.looked = self.seen_worker = time.monotonic()
        self.token = uuid.uuid4().hex[:8]  # so that two runs on one scheduler never share a key

    def run(self, interrupts: Interrupts) -> RunSummary:
        planned = self._plan()
        try:
            while not self.stopped:
                if interrupts.asked and not self.machine.draining:
                    self._emit("draining")
                    self._handle(Drain())
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
            write_gaps(self.lease.run_dir, self.job.name, self.gaps)
        return self._summary()

    def _plan(self) -> Iterator[Event]:
        """Yield each tile as planned or skipped, reading the ledger only as far as tiles are wanted."""
        wanted = ((tile, self.job.key(tile)) for tile in self.tiles)
        looked_up = self.ledger.finished(wanted) if self.options.resume else ((t, k, None) for t, k in wanted)
        for tile, key, record in looked_up:
            if record is None or (record.gaps and self.options.redo_gaps):
                self.keys[tile] = key
                if record is not None:
                    self.again.add(tile)
                yield Planned(tile)
            else:
                self.gaps += record.gaps
                yield Skipped(tile)
                self._emit("reused", tile, record)

    def _handle(self, event: Event) -> None:
        for instruction in self.machine.handle(event):
            self._obey(instruction)

    def _obey(self, instruction: Instruction) -> None:
        match instruction:
            case Submit(tile, attempt):
                self._submit(tile, attempt)
            case Fail(tile, kind, message):
                self._give_up(tile, kind, message)
                self._emit("failed", tile, message=message)
            case Quarantine(tile):
                lost = self.killers.get(tile, [])
                message = why_quarantined(self.client, lost, self.options.deaths_limit, self.peak_bytes)
                self._give_up(tile, "quarantined", message)
                self._emit("quarantined", tile, message=message)
            case Stop(reason):
                self.stopped = reason

    def _submit(self, tile: TileKey, attempt: int) -> None:
        self._require_scheduler()
        task = TileTask(
            tile=tile,
            key=self.keys[tile],
            attempt=attempt,
            run_dir=self.lease.run_dir,
            epoch=self.lease.epoch,
            threads=self.options.threads_per_tile,
            redo=not self.options.resume or tile in self.again,
        )
        future = self.client.submit(
            execute_tile,
            self.job,
            task,
            key=f"{self.job.name}-{tile}-{attempt}-{self.token}",
            pure=False,
            retries=0,
            resources=self.options.resources,
        )
        self.futures[tile] = future
        future.add_done_callback(lambda f, tile=tile: self.back.put((tile, f)))
        self._emit("submitted", tile)

    def _wait(self) -> None:
        """Take in what came back, all at once, so that tiles of one dead worker are seen together."""
        came = []
        with contextlib.suppress(queue.Empty):
            came.append(self.back.get(timeout=_TICK_S))
            while True:
                came.append(self.back.get_nowait())
        dead: dict[str, list[TileKey]] = {}
        for tile, future in came:
            if self.futures.get(tile) is future:
                self._take(tile, self.futures.pop(tile), dead)
        for worker, tiles in dead.items():
            for tile in tiles:
                self.killers.setdefault(tile, []).append(worker)
                self._emit("worker-died", tile, message=f"worker {worker} was lost")
            self._handle(WorkerDied(tuple(tiles)))
        if time.monotonic() - self.looked > _LOOK_S:
            self._look_at_cluster()

    def _take(self, tile: TileKey, future: Future[TileRecord], dead: dict[str, list[TileKey]]) -> None:
        """Turn what became of a tile's future into an event."""
        try:
            record, error = self._outcome(tile, future)
        finally:
            future.release()
        if record is not None:
            self.gaps += record.gaps
            self.tile_seconds += record.seconds
            self.peak_bytes = max(self.peak_bytes, record.peak_bytes)
            self.keys.pop(tile)
            self.killers.pop(tile, None)
            self.again.discard(tile)
            self._handle(TileDone(tile))
            self._emit("done", tile, record)
        elif (worker := died_on(error)) is not None:
            dead.setdefault(worker, []).append(tile)
        elif isinstance(error, ConflictError):
            self.lease.check()  # says who took over
            raise error
        elif isinstance(error, RefusedError):
            self.refused = self.refused or str(error)
            self._emit("refused", tile, message=str(error))
            self._handle(StoreRefused(tile))
        elif came_back(error):
            self._handle(TileReturned(tile))
        else:
            self._require_scheduler()  # else every tile would take the blame for it
            self._emit("error", tile, message=str(error))
            self._handle(TileFailed(tile, type(error).__name__, str(error), _retryable(error)))

    def _outcome(
        self, tile: TileKey, future: Future[TileRecord]
    ) -> tuple[TileRecord | None, BaseException | None]:
        """Return the record or the error of a tile that came back.

        A finished tile's worker may be gone before its answer is fetched, and Dask would wait for another
        one to do it again; but its record is in the ledger.
        """
        if future.status == "error":
            return None, future.exception()
        if future.status == "finished":
            with contextlib.suppress(Exception, CancelledError):
                return future.result(timeout=_FETCH_S), None
        record = self.ledger.done(tile, self.keys[tile])
        return record, None if record else cancellation(future, str(tile))

    def _look_at_cluster(self) -> None:
        """Follow a cluster that grows or shrinks; do not wait for ever for one that is gone."""
        self.looked = time.monotonic()
        self._require_scheduler()
        threads = thread_count(self.client)
        if threads:
            self.seen_worker = self.looked
            if self.options.in_flight is None:
                self._handle(Resized(threads // self.options.threads_per_tile + 1))
        elif self.looked - self.seen_worker > self.options.no_worker_timeout_s:
            raise no_worker(self.options.no_worker_timeout_s)

    def _require_scheduler(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise lost_scheduler(self.client)

    def _give_up(self, tile: TileKey, kind: str, message: str) -> None:
        self.keys.pop(tile)
        self.killers.pop(tile, None)
        self.gaps.append(Gap(str(tile), "", "", kind, message))

    def _let_go(self) -> None:
        """Cancel what is still out there (nothing, unless the run broke off)."""
        if self.futures:
            with contextlib.suppress(Exception):
                self.client.cancel(list(self.futures.values()), force=True)
            self.futures.clear()

    def _emit(
        self,
        kind: EventKind,
        tile: TileKey | None = None,
        record: TileRecord | None = None,
        message: str = "",
    ) -> None:
        self.on_event(RunEvent(kind, tile, self._ended(), len(self.tiles), record, message))

    def _ended(self) -> int:
        m = self.machine
        return m.committed + m.skipped + m.failed + m.quarantined

    def _summary(self) -> RunSummary:
        return RunSummary(
            job=self.job.name,
            total=len(self.tiles),
            done=self.machine.committed,
            reused=self.machine.skipped,
            failed=self.machine.failed,
            quarantined=self.machine.quarantined,
            left=len(self.tiles) - self._ended(),
            gaps=len(self.gaps),
            interrupted=self.stopped == "drained",
            hopeless=self.stopped == "hopeless",
            refused=self.refused,
            seconds=time.monotonic() - self.begun,
            tile_seconds=self.tile_seconds,
            peak_bytes=self.peak_bytes,
            epoch=self.lease.epoch,
        )


def _in_flight(client: Client, options: RunOptions) -> int:
    if options.in_flight is not None:
        return options.in_flight
    threads = first_thread_count(client, options.no_worker_timeout_s)
    return max(1, threads // options.threads_per_tile + 1)


def _retryable(error: BaseException | None) -> bool:
    """Tell whether trying again may help: the network, the disk, memory, a cancelled task."""
    if isinstance(error, LandweaveError):
        return isinstance(error, RetryableError)
    return isinstance(error, OSError | MemoryError | CancelledError)


def _absolute(run_dir: str) -> str:
    path = local_path(run_dir)
    return run_dir if path is None else str(Path(path).resolve())


def _require_small(job: TileJob) -> None:
    from distributed.protocol.pickle import dumps

    try:
        size = len(dumps(job))
    except Exception as error:
        raise InputError("the job cannot be sent to workers", where=job.name, found=repr(error)) from error
    if size > JOB_LIMIT_BYTES:
        raise BudgetError(
            "the job is too big to travel with each tile",
            where=job.name,
            found=f"{size} bytes",
            limit=f"at most {JOB_LIMIT_BYTES} bytes",
            mend="let it carry the path of its tables, not the tables",
        )
