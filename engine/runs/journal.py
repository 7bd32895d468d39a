"""The journal: what a run tells of itself in its folder, so that nobody has to ask the scheduler.

::

    logs/map-000003.jsonl     a line for each event that matters, of epoch 3 (see `engine.runs.logs`)
    status/map.json           how far the stage is, replaced every two seconds

Both are written by a thread of their own, so a slow object store never holds the run up, and a kill loses
a few seconds of them at most; what is done is in the ledger and loses nothing. A folder that takes no more
lines for a while (disk full, no network) does not end the run: lines are kept, up to a limit, and the log
says how many were lost.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from engine.runs.events import RunEvent, RunSummary
from engine.runs.logs import LogWriter, log_name
from engine.runs.progress import Progress, StageFacts
from engine.store.lease import beat
from engine.store.objects import Folder
from engine.values.redact import without_secrets

STATUS = "status"
EVERY_S = 2.0
"""How often the status is replaced and the log written."""

_LINES_KEPT = 20_000  # while the folder takes none
_MESSAGE = 4000  # characters


def status_name(stage: str) -> str:
    """Name a stage's status inside the run folder.

    >>> status_name("map")
    'status/map.json'
    """
    return f"{STATUS}/{stage}.json"


@dataclass
class _Book:
    """One stage: its progress, its log, and the lines that are not written yet."""

    progress: Progress
    log: LogWriter
    state: str = "running"
    ended: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)  # of tiles that are made again, until they end
    lines: deque[bytes] = field(default_factory=deque)
    lost: int = 0


class Journal:
    """Writes the log and the status of a run while it is entered.

    Args:
        run_dir: The run's folder, local or any fsspec URL.
        epoch: The lease's epoch under which the run holds it.
        stages: What the run makes.
        facts: What else is told at the beginning: versions, plan, cluster, dashboard (JSON values).
        every_s: How often to write.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run_dir: str,
        epoch: int,
        stages: Sequence[StageFacts],
        facts: Mapping[str, Any] | None = None,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run_dir, self.epoch, self.every_s = run_dir, epoch, every_s
        self.facts: dict[str, Any] = _clean(
            {**(facts or {}), "host": socket.gethostname(), "pid": os.getpid(), "begun_utc": _now()}
        )
        self._books = {
            facts.stage: _Book(Progress(facts, clock), LogWriter(run_dir, facts.stage, epoch))
            for facts in stages
        }
        self._guard = threading.Lock()  # of the books: the run's thread fills them, the journal's empties
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="landweave-journal", daemon=True)

    def __enter__(self) -> Journal:
        for stage, book in self._books.items():
            known = {**asdict(book.progress.facts), **self.facts}
            self._line(stage, "begun", **known)
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for stage, book in self._books.items():
            if error is not None and book.state != "ended":
                book.state = "broke off"
                book.ended = {"error": type(error).__name__, "message": _short(str(error))}
                self._line(stage, "broke off", **book.ended)
        self.write()

    def hear(self, event: RunEvent) -> None:
        """Take in one event of the run; costs some ten microseconds and waits for no file."""
        stages = [event.stage] if event.stage else list(self._books)
        with self._guard:
            for stage in stages:
                if (book := self._books.get(stage)) is not None:
                    book.progress.take(event)
                    self._note(stage, book, event)

    def end(self, summaries: Sequence[RunSummary]) -> None:
        """Say how each stage ended."""
        for summary in summaries:
            if (book := self._books.get(summary.job)) is not None:
                told = {k: v for k, v in asdict(summary).items() if k not in ("job", "epoch")}
                book.state, book.ended = "ended", _clean({**told, "exit_code": summary.exit_code})
                self._line(summary.job, "ended", **book.ended)

    def write(self) -> None:
        """Write the lines that came together and replace the status of each stage."""
        with self._writing:
            for stage, book in self._books.items():
                self._write_lines(stage, book)
                self._write_status(stage, book)

    def _note(self, stage: str, book: _Book, event: RunEvent) -> None:
        """Turn an event into a line; tiles that were only handed out, or kept, are counted and not told."""
        tile = str(event.tile)
        match event.kind:
            case "done" if event.record is not None:
                record = event.record
                told: dict[str, Any] = {
                    "tile": tile,
                    "seconds": record.seconds,
                    "peak_bytes": record.peak_bytes,
                    "counts": dict(record.counts),
                    "worker": record.worker,
                    "attempt": record.attempt,
                }
                if record.gaps:
                    told["gaps"] = len(record.gaps)
                if why := book.why.pop(tile, ""):
                    told["why"] = why
                self._line(stage, "done", **told)
            case "changed":
                book.why[tile] = event.message
            case "begun" | "submitted" | "reused" | "waiting":
                pass
            case "worker-left" | "worker-differs" | "worker-refused":
                self._line(stage, event.kind, worker=event.worker, message=_short(event.message))
            case "draining":
                self._line(stage, "draining", running=len(book.progress.running), left=book.progress.left)
            case kind:
                book.why.pop(tile, None) if kind in ("failed", "quarantined") else None
                told = {"error": event.error, "message": _short(event.message), "worker": event.worker}
                told["trace"] = without_secrets(event.trace[-_MESSAGE:])
                self._line(stage, kind, tile=tile, **{k: v for k, v in told.items() if v})

    def _line(self, stage: str, event: str, /, **told: Any) -> None:
        book = self._books[stage]
        book.lines.append(_encoded(event, stage, self.epoch, told))
        self._bound(book)

    def _bound(self, book: _Book) -> None:
        while len(book.lines) > _LINES_KEPT:
            book.lines.popleft()
            book.lost += 1

    def _keep_writing(self) -> None:
        while not self._stop.wait(self.every_s):
            self.write()

    def _write_lines(self, stage: str, book: _Book) -> None:
        with self._guard:
            lines, book.lines = book.lines, deque()
            lost, book.lost = book.lost, 0
        if not lines:
            return
        told = [_encoded("lines lost", stage, self.epoch, {"lines": lost})] if lost else []
        try:
            book.log.write(b"".join([*lines, *told]))
        except Exception:  # whatever the file system raises: a log must not end a run
            with self._guard:
                book.lines, book.lost = lines + book.lines, lost + book.lost
                self._bound(book)

    def _write_status(self, stage: str, book: _Book) -> None:
        with self._guard:
            figures = book.progress.figures()
            draining = book.state == "running" and book.progress.draining
            told = {
                "stage": stage,
                "state": "draining" if draining else book.state,
                "epoch": self.epoch,
                "written_utc": _now(),
                "log": f"logs/{log_name(stage, self.epoch)}",
                **figures,
                "ended": book.ended,
                "facts": self.facts,
            }
        try:
            told["beat"] = beat(self.run_dir, self.epoch)
            Folder(self.run_dir).replace(status_name(stage), json.dumps(told, indent=1, default=str).encode())
        except Exception:  # as above; the next one is two seconds away
            return


def _encoded(event: str, stage: str, epoch: int, told: Mapping[str, Any]) -> bytes:
    line = {"time": _now(), "event": event, **told, "stage": stage, "epoch": epoch}
    return json.dumps(line, default=str).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _short(message: str) -> str:
    return without_secrets(message)[:_MESSAGE]


def _clean(value: Any) -> Any:
    """Cut secrets out of all texts of a JSON value."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {k: _clean(v) for k, v in value.items()}
    return [_clean(v) for v in value] if isinstance(value, list | tuple) else value
