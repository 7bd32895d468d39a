"""Progress on the console: bars on a terminal, plain lines elsewhere, nothing for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from engine.cube.spectral import Index
    from engine.runs.events import RunEvent
    from engine.runs.progress import Progress

MapListener = Callable[["RunEvent", float], None]
"""Gets each event of a run and the square kilometres of one tile."""

PLAIN_S = 30.0
"""How often a line is printed where there is no terminal."""

_REDRAW_S = 0.2
_TROUBLE = ("error", "failed", "quarantined", "worker-died", "worker-refused", "worker-differs", "refused")


@contextmanager
def map_progress(*, quiet: bool = False) -> Iterator[MapListener]:
    """Show a run's progress: one bar for each stage, and each error on a line of its own.

    Where stderr is no terminal, a line every half minute instead of bars that are drawn again and again.
    """
    if quiet:
        yield lambda event, km2: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines(console).hear
        return
    with _run_bars(console) as progress:
        yield _Bars(progress).hear


class _Lines:
    """Follows the stages of a run and prints what needs a line of its own."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.stages: dict[str, Progress] = {}
        self._links: set[str] = set()

    def hear(self, event: RunEvent, km2: float) -> None:
        """Take in an event; `km2` is the surface of one tile."""
        if event.kind == "draining":
            self.say("stopping: tiles in flight end, no more begin; again Ctrl-C stops at once")
        for name in [event.stage] if event.stage else list(self.stages):
            stage = self._stage(name, event.total, km2)
            stage.take(event)
            self.show(name, stage, event)
        if event.kind == "begun" and event.message and event.message not in self._links:
            self._links.add(event.message)
            self.say(f"dashboard {event.message}")
        elif event.kind == "waiting":
            self.say(event.message)
        elif event.kind in _TROUBLE:
            self.say(_trouble(event))

    def show(self, name: str, stage: Progress, event: RunEvent) -> None:
        """Show how far a stage is."""

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _stage(self, name: str, total: int, km2: float) -> Progress:
        from engine.runs.progress import Progress, StageFacts

        return self.stages.setdefault(name, Progress(StageFacts(name, total, km2), self.clock))


def _trouble(event: RunEvent) -> str:
    from engine.values.redact import without_secrets

    where = " ".join(filter(None, (event.stage, str(event.tile or ""))))
    message = "given up" if event.kind == "failed" else without_secrets(event.message)  # its error was told
    what = ": ".join(filter(None, (event.error, message)))
    return " ".join(f"{event.kind:<11}  {where}  {what}".splitlines())[:500]


class _Bars(_Lines):
    """A bar for each stage on a terminal."""

    def __init__(self, progress: Bars) -> None:
        super().__init__(progress.console)
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}
        self._shown = 0.0

    def show(self, name: str, stage: Progress, event: RunEvent) -> None:
        """Move the bar; figures of a stage that is fast are not made for each tile."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=None, note="")
        if self.clock() - self._shown > _REDRAW_S or not stage.left or event.kind == "draining":
            self._shown = self.clock()
            ended = stage.total - stage.left
            self.progress.update(self.tasks[name], total=stage.total, completed=ended, note=_note(stage))


class _PlainLines(_Lines):
    """A line now and then, for logs of batch systems."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._said: dict[str, float] = {}

    def show(self, name: str, stage: Progress, event: RunEvent) -> None:
        """Print a line every half minute, and one at the end of the stage."""
        now = self.clock()
        ended = not stage.left and event.kind != "begun"
        if ended or now - self._said.setdefault(name, now) > PLAIN_S:
            self._said[name] = now
            self.say(f"{name}  {stage.total - stage.left}/{stage.total} tiles  {_note(stage)}")


def _note(stage: Progress) -> str:
    """Say how fast a stage is, when it will end, and what is in flight or went wrong."""
    from pipelines.run_view import interval

    figures = stage.figures()
    parts = [f"{figures['rate']['km2_h_mean']:,.0f} km2/h"] if figures["counts"]["done"] else []
    if stage.left:
        left = figures["time_left_s"]
        parts += [f"{interval(left)} left"] if left is not None else []
        parts += [f"{len(stage.running)} in flight"]
    bad = stage.counts["failed"] + stage.counts["quarantined"]
    return ", ".join(parts + ([f"{bad} failed"] if bad else []))


@contextmanager
def steps_progress(title: str, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of counted steps: call it with (done, total, what)."""
    with _progress(unit, "{task.fields[note]}") as progress:
        task = progress.add_task(title, total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield show


def _run_bars(console: Console) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    return Progress(*columns, console=console, refresh_per_second=4)


def _progress(unit: str, last: str) -> Bars:
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
