"""A run's log: JSON lines in the run folder, appended by the run, read by anybody.

::

    logs/map-000003.jsonl            a local folder: lines are appended
    logs/map-000003.00001.jsonl      an object store has no append: the object that is being filled is
    logs/map-000003.00002.jsonl      put again and again, and at 256 KiB the next one begins

The number is the lease's epoch: each holding of the folder has a log of its own, so no run ever writes
into that of another. A line that was torn by a kill is left out when reading.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.store.objects import Folder, join, local_path

LOGS = "logs"
SEGMENT_BYTES = 256 << 10

_NAME = re.compile(r"^(?P<stage>.+)-(?P<epoch>\d{6,})(?:\.(?P<segment>\d+))?\.jsonl$")

Line = dict[str, Any]


def log_name(stage: str, epoch: int) -> str:
    """Name a log without its ending.

    >>> log_name("cube-2024-03", 7)
    'cube-2024-03-000007'
    """
    return f"{stage}-{epoch:06d}"


class LogWriter:
    """Appends lines to one log; `write` is called every few seconds with what came together.

    Args:
        run_dir: The run's folder, local or any fsspec URL.
        stage: Stage of the run.
        epoch: The lease's epoch.
    """

    def __init__(self, run_dir: str, stage: str, epoch: int) -> None:
        self._folder, self._name = Folder(run_dir).child(LOGS), log_name(stage, epoch)
        self._path = local_path(join(self._folder.url, f"{self._name}.jsonl"))
        self._segment, self._held = 1, b""

    def write(self, lines: bytes) -> None:
        """Add whole lines; when it returns, a kill loses none of them.

        Raises:
            OSError: If the folder does not take them; the same lines may be given again.
        """
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _append(self._path, lines)
            return
        held = self._held + lines
        self._folder.replace(f"{self._name}.{self._segment:05d}.jsonl", held)
        full = len(held) >= SEGMENT_BYTES
        self._segment, self._held = (self._segment + 1, b"") if full else (self._segment, held)


def _append(path: Path, lines: bytes) -> None:
    """Append all or nothing, also when the disk gets full on the way."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(lines):
                written += file.write(lines[written:])
        except OSError:
            file.truncate(size)
            raise


@dataclass
class LogReader:
    """Reads the logs of a run folder, again and again where it is followed; holds a line of each stage.

    Attributes:
        run_dir: The run's folder, local or any fsspec URL.
    """

    run_dir: str
    _taken: dict[str, int] = field(default_factory=dict)  # bytes of each object that were read

    def lines(self) -> Iterator[Line]:
        """Yield all lines that were not yielded before: epoch by epoch, in the order of their times."""
        epochs: dict[int, dict[str, list[str]]] = {}
        for name in self._folder.names():
            if match := _NAME.match(name):
                stages = epochs.setdefault(int(match["epoch"]), {})
                stages.setdefault(match["stage"], []).append(name)
        for _, stages in sorted(epochs.items()):
            merged = heapq.merge(*(self._of(sorted(names)) for names in stages.values()), key=_time)
            yield from merged

    @property
    def _folder(self) -> Folder:
        return Folder(self.run_dir).child(LOGS)

    def _of(self, names: list[str]) -> Iterator[Line]:
        """Yield the new lines of a stage's objects; an object that is followed by another is never asked for again."""
        for name, following in zip(names, [*names[1:], None], strict=True):
            if self._taken.get(name) == _CLOSED:
                continue
            yield from self._new(name)
            if following is not None:
                self._taken[name] = _CLOSED

    def _new(self, name: str) -> Iterator[Line]:
        path, taken = local_path(join(self._folder.url, name)), self._taken.get(name, 0)
        if path is not None:
            with path.open("rb") as file:
                file.seek(taken)
                for raw in file:
                    if not raw.endswith(b"\n"):  # is being written
                        break
                    self._taken[name] = taken = taken + len(raw)
                    yield from _parsed(raw)
            return
        data = self._folder.read(name) or b""
        end = data.rfind(b"\n") + 1
        self._taken[name] = max(taken, end)
        for raw in data[taken:end].splitlines():
            yield from _parsed(raw)


_CLOSED = -1


def _parsed(raw: bytes) -> Iterator[Line]:
    try:
        line = json.loads(raw)
    except ValueError:  # torn by a kill
        return
    if isinstance(line, dict):
        yield line


def _time(line: Line) -> str:
    return str(line.get("time", ""))
