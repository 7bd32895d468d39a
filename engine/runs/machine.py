"""A run as a pure state machine: events in, instructions out. No Dask, no clock, no files.

::

    planned ──► ready ──► running ──► committed
    (skipped)     ▲          │├─────► failed         a data error, or retries ran out
                  ├─ retry ──┘│
                  └─ suspect ◄┤  its worker died
                              └─────► quarantined    killed `lone_deaths` workers while alone

A worker that dies takes the blame for everything that was on it, so a death proves nothing about one
tile of several. A tile whose worker died is tried again among the others; after `shared_deaths` such
deaths it is a suspect and waits until all other tiles have ended. Then suspects run one at a time, with
nothing else in flight in the whole run, and only deaths there count. So an innocent tile is never
quarantined, and the cluster is not held up while there is other work.

Memory grows with tiles in flight and tiles in trouble, not with the area: ended tiles are only counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.values.errors import InputError
from engine.values.grid import TileKey


@dataclass(frozen=True)
class Limits:
    """How much a run bears.

    Attributes:
        in_flight: Tiles handed out at once.
        attempts: Tries of a tile that fails with a retryable error.
        lone_deaths: Worker deaths of a tile alone before it is quarantined.
        shared_deaths: Worker deaths in company before a tile must run alone.
        hopeless: Failed tiles without a single good one before the run stops.
    """

    in_flight: int
    attempts: int = 3
    lone_deaths: int = 3
    shared_deaths: int = 2
    hopeless: int = 20

    def __post_init__(self) -> None:
        for name in ("in_flight", "attempts", "lone_deaths", "shared_deaths", "hopeless"):
            if getattr(self, name) < 1:
                raise InputError("a run's limits must be at least 1", where=name, found=getattr(self, name))


@dataclass(frozen=True)
class Planned:
    """A tile that has to be made. Offer as many as `Machine.room` asks for."""

    tile: TileKey


@dataclass(frozen=True)
class Skipped:
    """A tile that is done already."""

    tile: TileKey


@dataclass(frozen=True)
class NoMoreTiles:
    """All tiles were planned or skipped."""


@dataclass(frozen=True)
class TileDone:
    """A tile was written, read back and recorded."""

    tile: TileKey


@dataclass(frozen=True)
class TileFailed:
    """A tile's attempt raised an error."""

    tile: TileKey
    kind: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class WorkerDied:
    """A worker was lost with these tiles on it."""

    tiles: tuple[TileKey, ...]


@dataclass(frozen=True)
class TileReturned:
    """A tile came back undone through no fault of its own: the scheduler was lost and found again."""

    tile: TileKey


@dataclass(frozen=True)
class StoreRefused:
    """A tile could not be written because nothing can: the disk is full or write-protected."""

    tile: TileKey


@dataclass(frozen=True)
class Resized:
    """The cluster grew or shrank."""

    in_flight: int


@dataclass(frozen=True)
class Drain:
    """Finish what is in flight, begin nothing more."""


Event = (
    Planned
    | Skipped
    | NoMoreTiles
    | TileDone
    | TileFailed
    | WorkerDied
    | TileReturned
    | StoreRefused
    | Resized
    | Drain
)


@dataclass(frozen=True)
class Submit:
    """Hand a tile out."""

    tile: TileKey
    attempt: int


@dataclass(frozen=True)
class Fail:
    """A tile is given up; it belongs into the gap list."""

    tile: TileKey
    kind: str
    message: str


@dataclass(frozen=True)
class Quarantine:
    """A tile kills workers; it belongs into the gap list."""

    tile: TileKey
    deaths: int


@dataclass(frozen=True)
class Stop:
    """Nothing is in flight and nothing will be: ``finished``, ``drained``, ``hopeless`` or ``refused``."""

    reason: str


Instruction = Submit | Fail | Quarantine | Stop


class Machine:
    """The state of one run.

    Args:
        limits: How much the run bears.

    Attributes:
        committed, failed, quarantined, skipped: Tiles that ended so.

    >>> machine = Machine(Limits(in_flight=1))
    >>> machine.handle(Planned(TileKey(0, 0)))
    [Submit(tile=TileKey(row=0, col=0), attempt=1)]
    >>> machine.handle(NoMoreTiles()), machine.handle(TileDone(TileKey(0, 0)))
    ([], [Stop(reason='finished')])
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.committed = self.failed = self.quarantined = self.skipped = 0
        self._ready: deque[TileKey] = deque()
        self._suspects: deque[TileKey] = deque()
        self._running: set[TileKey] = set()
        self._alone: TileKey | None = None
        self._attempts: Counter[TileKey] = Counter()
        self._errors: Counter[TileKey] = Counter()
        self._shared: Counter[TileKey] = Counter()
        self._lone: Counter[TileKey] = Counter()
        self._all_planned = False
        self._stop_reason = "finished"
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """Tiles handed out and not back."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Planned tiles that are not handed out, suspects included."""
        return len(self._ready) + len(self._suspects)

    @property
    def draining(self) -> bool:
        """Whether nothing more is begun."""
        return self._stop_reason != "finished"

    @property
    def room(self) -> int:
        """How many more tiles should be planned now."""
        if self.draining or self._all_planned:
            return 0
        return max(0, self.limits.in_flight - len(self._running) - len(self._ready))

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event and say what to do.

        Raises:
            KeyError: If a tile comes back that was not handed out: a fault of the driver.
        """
        out: list[Instruction] = []
        match event:
            case Planned(tile):
                self._ready.append(tile)
            case Skipped():
                self.skipped += 1
            case NoMoreTiles():
                self._all_planned = True
            case TileDone(tile):
                self._take_back(tile)
                self._forget(tile)
                self.committed += 1
            case TileFailed():
                out += self._tile_failed(event)
            case WorkerDied(tiles):
                out += self._worker_died(tiles)
            case TileReturned(tile):
                self._give_back(tile)
            case StoreRefused(tile):
                self._give_back(tile)
                if not self.draining:
                    self._stop_reason = "refused"
            case Resized(in_flight):
                self.limits = replace(self.limits, in_flight=in_flight)
            case Drain():
                self._stop_reason = "drained"
        return out + self._next()

    def _tile_failed(self, event: TileFailed) -> list[Instruction]:
        tile = event.tile
        was_alone = self._take_back(tile)
        self._errors[tile] += 1
        if event.retryable and self._errors[tile] < self.limits.attempts:
            (self._suspects if was_alone else self._ready).append(tile)
            return []
        self._forget(tile)
        self.failed += 1
        if self.failed >= self.limits.hopeless and not self.committed + self.skipped:
            self._stop_reason = "hopeless"
        return [Fail(tile, event.kind, event.message)]

    def _worker_died(self, tiles: Sequence[TileKey]) -> list[Instruction]:
        out: list[Instruction] = []
        for tile in tiles:
            was_alone = self._take_back(tile)
            (self._lone if was_alone else self._shared)[tile] += 1
            if self._lone[tile] >= self.limits.lone_deaths:
                out.append(Quarantine(tile, self._lone[tile] + self._shared[tile]))
                self._forget(tile)
                self.quarantined += 1
            elif was_alone or self._shared[tile] >= self.limits.shared_deaths:
                self._suspects.append(tile)
            else:
                self._ready.append(tile)
        return out

    def _next(self) -> list[Instruction]:
        """Hand out what may be handed out; stop when nothing is left to wait for."""
        out: list[Instruction] = []
        while not self.draining and self._ready and self._alone is None and self._has_room():
            out.append(self._submit(self._ready.popleft()))
        calm = self._all_planned and not self._ready and not self._running
        if not self.draining and calm and self._suspects:
            self._alone = self._suspects.popleft()
            out.append(self._submit(self._alone))
        ended = self.draining or (self._all_planned and not self.waiting)
        if ended and not self._running and not self._stopped:
            self._stopped = True
            out.append(Stop(self._stop_reason))
        return out

    def _has_room(self) -> bool:
        return len(self._running) < self.limits.in_flight

    def _submit(self, tile: TileKey) -> Submit:
        self._running.add(tile)
        self._attempts[tile] += 1
        return Submit(tile, self._attempts[tile])

    def _take_back(self, tile: TileKey) -> bool:
        """Note that a tile is no longer in flight; tell whether it ran alone."""
        self._running.remove(tile)
        was_alone = self._alone == tile
        if was_alone:
            self._alone = None
        return was_alone

    def _give_back(self, tile: TileKey) -> None:
        """Put a tile back without blaming it."""
        (self._suspects if self._take_back(tile) else self._ready).append(tile)

    def _forget(self, tile: TileKey) -> None:
        for counter in (self._attempts, self._errors, self._shared, self._lone):
            counter.pop(tile, None)
