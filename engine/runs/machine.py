"""A run as a pure state machine: events in, instructions out. No Dask, no clock, no files.

::

    planned ──► ready ──► running ──► written ──► committed
    (skipped) ▲   ▲          │├─────► failed         a data error, retries ran out, or what it needs failed
     needs ───┘   ├─ retry ──┘│
                  └─ suspect ◄┤  its worker died
                              └─────► quarantined    killed `lone_deaths` workers while alone

Between running and committed a tile is *written*: its shards are there and were read back, its record is
not. That passes on the worker (`engine.runs.tile`); a worker that dies there leaves a tile that is not done.

A run may have several stages, such as a cube and the map of it. A unit is a tile of a stage; it is planned
with the units that it needs (a map tile: the cube tiles under its halo), never before these, and is ready
when they are committed. So a map begins while its cube is still being made.

A worker that dies takes the blame for everything that was on it, so a death proves nothing about one
tile of several. A tile whose worker died is tried again among the others; after `shared_deaths` such
deaths it is a suspect and waits until all other tiles have ended. Then suspects run one at a time, with
nothing else in flight in the whole run, and only deaths there count. So an innocent tile is never
quarantined, and the cluster is not held up while there is other work.

A worker that leaves in good order (the end of its walltime, a cluster that shrinks) is no death. It finishes
what it has in hand; what does not fit into its time is handed over to another by Dask's scheduler, and stays
in flight here. Only a tile that is handed over `handovers` times is given up: no worker lives long enough.

Memory grows with tiles in flight and tiles in trouble, not with the area: ended tiles are only counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from engine.values.errors import InputError
from engine.values.grid import TileKey

NEED_LOST = "need-lost"
"""Kind of a gap: the tile itself was not tried, because one that it needs was given up."""

OUT_OF_TIME = "out-of-time"
"""Kind of a gap: the tile takes longer than its workers may run."""


class Unit(NamedTuple):
    """One tile of one stage: what is handed out, fails, and is counted.

    >>> str(Unit("map", TileKey(3, -4)))
    'map r3_c-4'
    """

    stage: str
    tile: TileKey

    def __str__(self) -> str:
        return f"{self.stage} {self.tile}"


@dataclass(frozen=True)
class Limits:
    """How much a run bears.

    Attributes:
        in_flight: Tiles handed out at once.
        attempts: Tries of a tile that fails with a retryable error.
        lone_deaths: Worker deaths of a tile alone before it is quarantined.
        shared_deaths: Worker deaths in company before a tile must run alone.
        hopeless: Failed tiles without a single good one before the run stops.
        handovers: Workers that a tile outlasts before it is given up.
    """

    in_flight: int
    attempts: int = 3
    lone_deaths: int = 3
    shared_deaths: int = 2
    hopeless: int = 20
    handovers: int = 3

    def __post_init__(self) -> None:
        for name in ("in_flight", "attempts", "lone_deaths", "shared_deaths", "hopeless", "handovers"):
            if getattr(self, name) < 1:
                raise InputError("a run's limits must be at least 1", where=name, found=getattr(self, name))


@dataclass(frozen=True)
class Planned:
    """A tile that has to be made. Offer as many as `Machine.room` asks for.

    Attributes:
        unit: Which.
        needs: Units that must be committed before; planned or skipped already.
    """

    unit: Unit
    needs: frozenset[Unit] = frozenset()


@dataclass(frozen=True)
class Skipped:
    """A tile that is done already."""

    unit: Unit


@dataclass(frozen=True)
class NoMoreTiles:
    """All tiles were planned or skipped."""


@dataclass(frozen=True)
class TileDone:
    """A tile was written, read back and recorded."""

    unit: Unit


@dataclass(frozen=True)
class TileFailed:
    """A tile's attempt raised an error."""

    unit: Unit
    kind: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class WorkerDied:
    """A worker was lost with these tiles on it."""

    units: tuple[Unit, ...]


@dataclass(frozen=True)
class TileReturned:
    """A tile came back undone through no fault of its own: the scheduler was lost and found again."""

    unit: Unit


@dataclass(frozen=True)
class TileHandedOver:
    """The time of a tile's worker ended before the tile did; another one makes it, without being asked."""

    unit: Unit


@dataclass(frozen=True)
class StoreRefused:
    """A tile could not be written because nothing can: the disk is full or write-protected."""

    unit: Unit


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
    | TileHandedOver
    | StoreRefused
    | Resized
    | Drain
)


@dataclass(frozen=True)
class Submit:
    """Hand a tile out."""

    unit: Unit
    attempt: int


@dataclass(frozen=True)
class Fail:
    """A tile is given up; it belongs into the gap list."""

    unit: Unit
    kind: str
    message: str


@dataclass(frozen=True)
class Quarantine:
    """A tile kills workers; it belongs into the gap list."""

    unit: Unit
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

    >>> machine, first = Machine(Limits(in_flight=1)), Unit("map", TileKey(0, 0))
    >>> machine.handle(Planned(first)) == [Submit(first, attempt=1)]
    True
    >>> machine.handle(NoMoreTiles()), machine.handle(TileDone(first))
    ([], [Stop(reason='finished')])
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.committed = self.failed = self.quarantined = self.skipped = 0
        self._ready: deque[Unit] = deque()
        self._suspects: deque[Unit] = deque()
        self._running: set[Unit] = set()
        self._open: set[Unit] = set()  # planned and not ended
        self._needs: dict[Unit, set[Unit]] = {}  # of units that wait for others
        self._wanted_by: dict[Unit, list[Unit]] = {}
        self._lost: set[Unit] = set()  # gave up: what needs them must fail too
        self._alone: Unit | None = None
        self._attempts: Counter[Unit] = Counter()
        self._errors: Counter[Unit] = Counter()
        self._shared: Counter[Unit] = Counter()
        self._lone: Counter[Unit] = Counter()
        self._outlasted: Counter[Unit] = Counter()
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
        return len(self._ready) + len(self._suspects) + len(self._needs)

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
            case Planned(unit, needs):
                out += self._planned(unit, needs)
            case Skipped():
                self.skipped += 1
            case NoMoreTiles():
                self._all_planned = True
            case TileDone(unit):
                self._take_back(unit)
                self._tile_done(unit)
            case TileFailed():
                out += self._tile_failed(event)
            case WorkerDied(units):
                out += self._worker_died(units)
            case TileReturned(unit):
                self._give_back(unit)
            case TileHandedOver(unit):
                out += self._handed_over(unit)
            case StoreRefused(unit):
                self._give_back(unit)
                if not self.draining:
                    self._stop_reason = "refused"
            case Resized(in_flight):
                self.limits = replace(self.limits, in_flight=in_flight)
            case Drain():
                self._stop_reason = "drained"
        return out + self._next()

    def _planned(self, unit: Unit, needs: frozenset[Unit]) -> list[Instruction]:
        """Take a unit in: ready, waiting for others, or lost with what it needs."""
        self._open.add(unit)
        if lost := sorted(needs & self._lost):
            return self._give_up(unit, Fail(unit, *_without(lost[0])))
        missing = {n for n in needs if n in self._open}
        if not missing:
            self._ready.append(unit)
            return []
        self._needs[unit] = missing
        for need in missing:
            self._wanted_by.setdefault(need, []).append(unit)
        return []

    def _tile_done(self, unit: Unit) -> None:
        """Count a good tile; what waited for it alone is ready."""
        self._forget(unit)
        self.committed += 1
        for other in self._wanted_by.pop(unit, ()):
            if (needs := self._needs.get(other)) is not None:
                needs.discard(unit)
                if not needs:
                    del self._needs[other]
                    self._ready.append(other)

    def _give_up(self, unit: Unit, last: Fail | Quarantine) -> list[Instruction]:
        """End a unit badly, and with it what needs it."""
        self._forget(unit)
        self._lost.add(unit)
        if isinstance(last, Quarantine):
            self.quarantined += 1
        else:
            self.failed += 1
        out: list[Instruction] = [last]
        for other in self._wanted_by.pop(unit, ()):
            if self._needs.pop(other, None) is not None:
                out += self._give_up(other, Fail(other, *_without(unit)))
        return out

    def _tile_failed(self, event: TileFailed) -> list[Instruction]:
        unit = event.unit
        was_alone = self._take_back(unit)
        self._errors[unit] += 1
        if event.retryable and self._errors[unit] < self.limits.attempts:
            (self._suspects if was_alone else self._ready).append(unit)
            return []
        out = self._give_up(unit, Fail(unit, event.kind, event.message))
        if self.failed >= self.limits.hopeless and not self.committed + self.skipped:
            self._stop_reason = "hopeless"
        return out

    def _worker_died(self, units: Sequence[Unit]) -> list[Instruction]:
        out: list[Instruction] = []
        for unit in units:
            was_alone = self._take_back(unit)
            (self._lone if was_alone else self._shared)[unit] += 1
            if self._lone[unit] >= self.limits.lone_deaths:
                out += self._give_up(unit, Quarantine(unit, self._lone[unit] + self._shared[unit]))
            elif was_alone or self._shared[unit] >= self.limits.shared_deaths:
                self._suspects.append(unit)
            else:
                self._ready.append(unit)
        return out

    def _handed_over(self, unit: Unit) -> list[Instruction]:
        """Give up a tile that outlasts its workers; one that came back in the meantime is left alone."""
        if unit not in self._running:
            return []
        self._outlasted[unit] += 1
        if self._outlasted[unit] < self.limits.handovers:
            return []
        self._take_back(unit)
        return self._give_up(unit, Fail(unit, OUT_OF_TIME, _outlasts(self._outlasted[unit])))

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

    def _submit(self, unit: Unit) -> Submit:
        self._running.add(unit)
        self._attempts[unit] += 1
        return Submit(unit, self._attempts[unit])

    def _take_back(self, unit: Unit) -> bool:
        """Note that a tile is no longer in flight; tell whether it ran alone."""
        self._running.remove(unit)
        was_alone = self._alone == unit
        if was_alone:
            self._alone = None
        return was_alone

    def _give_back(self, unit: Unit) -> None:
        """Put a tile back without blaming it."""
        (self._suspects if self._take_back(unit) else self._ready).append(unit)

    def _forget(self, unit: Unit) -> None:
        self._open.discard(unit)
        for counter in (self._attempts, self._errors, self._shared, self._lone, self._outlasted):
            counter.pop(unit, None)


def _without(need: Unit) -> tuple[str, str]:
    """Return kind and message of a unit whose need was given up."""
    return NEED_LOST, f"it needs {need}, which could not be made"


def _outlasts(times: int) -> str:
    """Return the message of a tile that takes longer than its workers may run."""
    return (
        f"the time of its worker ended {times} times before it was made; "
        "to mend: a longer walltime or cluster.lifetime, or smaller tiles (tile_px)"
    )
