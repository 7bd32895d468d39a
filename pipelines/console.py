"""Progress on the console: tiles, square kilometres an hour, time left; or nothing for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from engine.cube.spectral import Index
    from engine.runs.driver import RunEvent

MapListener = Callable[["RunEvent", float], None]
"""Gets each event of a run and the square kilometres of one tile."""


@contextmanager
def map_progress(*, quiet: bool = False, title: str = "map") -> Iterator[MapListener]:
    """Show a run's progress: tiles done, km2/h, time left, and each error on a line of its own."""
    if quiet:
        yield lambda event, km2: None
        return
    with _progress("tiles", "{task.fields[speed]}") as progress:
        yield _MapLines(progress, title)


class _MapLines:
    """Turns a run's events into a bar and lines."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress = progress
        self.task = progress.add_task(title, total=None, speed="")
        self.begun: float | None = None
        self.made = 0

    def __call__(self, event: RunEvent, km2: float) -> None:
        if event.kind == "submitted" and self.begun is None:
            self.begun = time.monotonic()
        if event.kind == "done":
            self.made += 1
        elif event.kind not in ("submitted", "reused"):
            self.progress.console.print(f"{event.kind} {event.tile or ''} {event.message}", markup=False)
        speed = ""
        if self.begun is not None and self.made:
            speed = f"{km2 * self.made * 3600 / (time.monotonic() - self.begun):,.0f} km2/h"
        self.progress.update(self.task, total=event.total, completed=event.ended, speed=speed)


@contextmanager
def steps_progress(title: str, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of counted steps: call it with (done, total, what)."""
    with _progress(unit, "{task.fields[note]}") as progress:
        task = progress.add_task(title, total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield show


def _progress(unit: str, last: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn(last),
    ]
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=4)


def indices_table(indices: list[Index]) -> None:
    """Print spectral indices as a table, one line each."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "bands", box=None, pad_edge=False)
    table.add_column("formula", overflow="fold")
    for index in indices:
        table.add_row(index.name, index.long_name, " ".join(index.bands), index.formula)
    Console().print(table, markup=False)
