"""What a run is told and what it tells: options, events, summaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.runs.machine import Unit
from engine.runs.signals import TERM_S
from engine.store.ledger import Gap, TileRecord
from engine.values.grid import TileKey


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
        grows_to: Tiles that the cluster can make at once when it has grown as far as it may: one that follows
            the work grows only when more is asked of it than it can do, and may have no worker at first.
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
    grows_to: int = 0


EventKind = Literal[
    "begun",
    "reused",
    "changed",
    "submitted",
    "done",
    "error",
    "failed",
    "quarantined",
    "worker-died",
    "refused",
    "draining",
    "worker-left",
    "worker-differs",
    "worker-refused",
    "waiting",
]


@dataclass(frozen=True)
class RunEvent:
    """Something that happened, for progress bars and logs.

    Attributes:
        kind: What. ``begun``: the stage, before its first tile; `message` is the link of Dask's dashboard.
            ``changed``: a tile on record is made again; `message` says why. ``worker-left``: in good order.
            ``worker-differs``: from the client or from other workers, in what may decide the last bits.
            ``worker-refused``: it got no tile. ``waiting``: for a first worker.
        stage: Which stage, empty for what concerns all.
        tile: Where, None for what concerns no tile.
        ended: Tiles of the stage that ended so far, one way or another.
        total: All tiles of the stage.
        record: The tile's record (``done``, ``reused``), or the one that no longer holds (``changed``).
        message: The error in full, or the reason.
        error: Class of the error (``error``, ``failed``).
        worker: Address of the worker it happened on, where that is known.
        trace: Where an error that nobody foresaw came from (``error``).
    """

    kind: EventKind
    stage: str
    tile: TileKey | None
    ended: int
    total: int
    record: TileRecord | None = None
    message: str = ""
    error: str = ""
    worker: str = ""
    trace: str = ""


@dataclass(frozen=True)
class RunSummary:
    """How a stage of a run ended.

    Attributes:
        job: Name of the stage.
        total: Tiles of the stage.
        done: Tiles made by this run.
        reused: Tiles that were on record.
        failed: Tiles given up after an error.
        quarantined: Tiles that kill workers.
        left: Tiles not begun or not finished, because the run was stopped.
        gaps: Entries of the gap list.
        interrupted: Whether it was drained by a signal.
        hopeless: Whether it stopped because nothing but errors came back.
        refused: Why nothing could be written any more, with the mend; empty when all could.
        seconds: Wall-clock time of the run.
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


@dataclass
class Tally:
    """What a stage has come to so far."""

    done: int = 0
    reused: int = 0
    failed: int = 0
    quarantined: int = 0
    tile_seconds: float = 0.0
    peak_bytes: int = 0
    gaps: list[Gap] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Tiles that ended, one way or another."""
        return self.done + self.reused + self.failed + self.quarantined

    def count(self, record: TileRecord) -> None:
        """Count a tile that was made."""
        self.done += 1
        self.gaps += record.gaps
        self.tile_seconds += record.seconds
        self.peak_bytes = max(self.peak_bytes, record.peak_bytes)

    def give_up(self, unit: Unit, kind: str, message: str) -> None:
        """Count a tile that was given up."""
        self.quarantined += kind == QUARANTINED
        self.failed += kind != QUARANTINED
        self.gaps.append(Gap(str(unit.tile), "", "", kind, message))


QUARANTINED = "quarantined"
