"""The machine against a random world: workers die, tiles fail, signals come, in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runs.machine import (
    NEED_LOST,
    OUT_OF_TIME,
    Drain,
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
    TileHandedOver,
    TileReturned,
    Unit,
    WorkerDied,
)
from engine.values.errors import InputError
from engine.values.grid import TileKey

A, B, C = (Unit("map", TileKey(0, c)) for c in range(3))


def _machine(**limits: int) -> Machine:
    return Machine(Limits(**{"in_flight": 2, **limits}))


def _plan(machine: Machine, *tiles: Unit) -> list[Instruction]:
    out = [i for t in tiles for i in machine.handle(Planned(t))]
    return out + machine.handle(NoMoreTiles())


def test_tiles_are_handed_out_up_to_the_limit() -> None:
    machine = _machine()
    assert _plan(machine, A, B, C) == [Submit(A, 1), Submit(B, 1)]
    assert machine.handle(TileDone(A)) == [Submit(C, 1)]
    assert machine.handle(TileDone(C)) == []
    assert machine.handle(TileDone(B)) == [Stop("finished")]
    assert machine.committed == 3


def test_an_empty_run_stops_at_once() -> None:
    assert _machine().handle(NoMoreTiles()) == [Stop("finished")]


def test_tiles_on_record_are_counted_only() -> None:
    machine = _machine()
    assert machine.handle(Skipped(A)) == []
    assert machine.handle(NoMoreTiles()) == [Stop("finished")]
    assert machine.skipped == 1


def test_retryable_errors_are_tried_again_and_then_given_up() -> None:
    machine = _machine(attempts=3)
    _plan(machine, A)
    error = TileFailed(A, "RetryableError", "throttled", retryable=True)
    assert machine.handle(error) == [Submit(A, 2)]
    assert machine.handle(error) == [Submit(A, 3)]
    assert machine.handle(error) == [Fail(A, "RetryableError", "throttled"), Stop("finished")]


def test_data_errors_are_given_up_at_once() -> None:
    machine = _machine()
    _plan(machine, A, B)
    failed = machine.handle(TileFailed(A, "DataError", "truncated", retryable=False))
    assert failed == [Fail(A, "DataError", "truncated")]
    assert machine.handle(TileDone(B)) == [Stop("finished")]


def test_a_run_of_nothing_but_errors_stops() -> None:
    machine = _machine(hopeless=2)
    _plan(machine, A, B, C)
    machine.handle(TileFailed(A, "E", "", retryable=False))
    assert machine.handle(TileFailed(B, "E", "", retryable=False)) == [Fail(B, "E", "")]
    assert machine.handle(TileFailed(C, "E", "", retryable=False)) == [Fail(C, "E", ""), Stop("hopeless")]


def test_suspects_wait_for_the_others_and_then_run_alone() -> None:
    machine = _machine(shared_deaths=1, lone_deaths=2)
    _plan(machine, A, B, C)
    assert machine.handle(WorkerDied((A, B))) == [Submit(C, 1)]
    assert machine.handle(TileDone(C)) == [Submit(A, 2)]
    assert machine.in_flight == 1
    assert machine.handle(WorkerDied((A,))) == [Submit(B, 2)], "another suspect has its turn"
    assert machine.handle(TileDone(B)) == [Submit(A, 3)]
    assert machine.handle(WorkerDied((A,))) == [Quarantine(A, 3), Stop("finished")]
    assert (machine.committed, machine.quarantined) == (2, 1)


def test_one_death_in_company_is_forgiven() -> None:
    machine = _machine(shared_deaths=2)
    _plan(machine, A, B)
    assert machine.handle(WorkerDied((A, B))) == [Submit(A, 2), Submit(B, 2)]


def test_draining_hands_out_nothing_more() -> None:
    machine = _machine()
    _plan(machine, A, B, C)
    assert machine.handle(Drain()) == []
    assert machine.room == 0
    assert machine.handle(TileFailed(A, "RetryableError", "", retryable=True)) == []
    assert machine.handle(TileDone(B)) == [Stop("drained")]
    assert machine.waiting == 2


def test_draining_an_idle_run_stops_it() -> None:
    assert _machine().handle(Drain()) == [Stop("drained")]


def test_a_store_that_refuses_ends_the_run_and_blames_no_tile() -> None:
    machine = _machine()
    _plan(machine, A, B, C)
    assert machine.handle(StoreRefused(A)) == []
    assert machine.room == 0
    assert machine.handle(TileDone(B)) == [Stop("refused")], "what was in flight may still end well"
    assert (machine.committed, machine.failed, machine.waiting) == (1, 0, 2)


def test_a_drain_stays_a_drain_when_the_store_refuses_too() -> None:
    machine = _machine()
    _plan(machine, A)
    machine.handle(Drain())
    assert machine.handle(StoreRefused(A)) == [Stop("drained")]


def test_tiles_that_come_back_with_a_lost_connection_are_not_blamed() -> None:
    machine = _machine(attempts=1)
    _plan(machine, A)
    for attempt in range(2, 9):
        assert machine.handle(TileReturned(A)) == [Submit(A, attempt)]
    assert machine.handle(TileDone(A)) == [Stop("finished")]


def test_a_suspect_that_comes_back_still_runs_alone() -> None:
    machine = _machine(shared_deaths=1)
    _plan(machine, A, B)
    assert machine.handle(WorkerDied((A, B))) == [Submit(A, 2)]
    assert machine.handle(TileReturned(A)) == [Submit(B, 2)]
    assert machine.handle(TileDone(B)) == [Submit(A, 3)]


def test_a_larger_cluster_gets_more() -> None:
    machine = _machine(in_flight=1)
    assert _plan(machine, A, B, C) == [Submit(A, 1)]
    assert machine.handle(Resized(3)) == [Submit(B, 1), Submit(C, 1)]


def test_room_asks_for_what_can_run() -> None:
    machine = _machine(in_flight=3)
    assert machine.room == 3
    machine.handle(Planned(A))
    assert machine.room == 2


def test_a_tile_that_was_not_handed_out_cannot_come_back() -> None:
    with pytest.raises(KeyError):
        _machine().handle(TileDone(A))


def _cube(unit: Unit) -> Unit:
    return unit._replace(stage="cube")


def test_a_tile_waits_for_what_it_needs_and_not_for_the_stage() -> None:
    machine, need = _machine(in_flight=3), _cube(A)
    assert machine.handle(Planned(need)) == [Submit(need, 1)]
    assert machine.handle(Planned(A, frozenset({need}))) == []
    assert machine.handle(Planned(_cube(B))) == [Submit(_cube(B), 1)]
    assert machine.waiting == 1
    assert machine.handle(TileDone(need)) == [Submit(A, 1)], "cube B is still running"
    machine.handle(NoMoreTiles())
    assert machine.handle(TileDone(A)) == []
    assert machine.handle(TileDone(_cube(B))) == [Stop("finished")]


def test_what_was_done_before_is_not_waited_for() -> None:
    machine = _machine()
    machine.handle(Skipped(_cube(A)))
    assert machine.handle(Planned(B, frozenset({_cube(A), _cube(C)}))) == [Submit(B, 1)]


def test_what_needs_a_lost_tile_is_lost_with_it_before_and_after() -> None:
    machine = _machine()
    machine.handle(Planned(_cube(A)))
    machine.handle(Planned(_cube(B)))
    machine.handle(Planned(A, frozenset({_cube(A), _cube(B)})))
    lost = machine.handle(TileFailed(_cube(A), "DataError", "", retryable=False))
    because = "it needs cube r0_c0, which could not be made"
    assert lost == [Fail(_cube(A), "DataError", ""), Fail(A, NEED_LOST, because)]
    machine.handle(TileDone(_cube(B)))
    late = machine.handle(Planned(B, frozenset({_cube(A), _cube(B)})))
    assert late == [Fail(B, NEED_LOST, because)]
    assert machine.handle(NoMoreTiles()) == [Stop("finished")]
    assert (machine.committed, machine.failed, machine.waiting) == (1, 3, 0)


def test_a_tile_that_outlasts_its_workers_is_given_up_and_others_are_not() -> None:
    machine = _machine()
    _plan(machine, A, B)
    assert machine.handle(TileHandedOver(A)) == machine.handle(TileHandedOver(A)) == []
    assert machine.in_flight == 2, "another worker has it"
    (gone,) = machine.handle(TileHandedOver(A))
    assert isinstance(gone, Fail)
    assert (gone.unit, gone.kind) == (A, OUT_OF_TIME)
    assert machine.handle(TileHandedOver(A)) == [], "news that come late change nothing"
    assert machine.handle(TileDone(B)) == [Stop("finished")]
    assert (machine.committed, machine.failed) == (1, 1)


def test_a_suspect_that_outlasts_its_workers_does_not_hold_the_run_up() -> None:
    machine = _machine(shared_deaths=1)
    _plan(machine, A, B)
    assert machine.handle(WorkerDied((A,))) == []
    assert machine.handle(TileDone(B)) == [Submit(A, 2)], "alone"
    assert [machine.handle(TileHandedOver(A)) for _ in range(2)] == [[], []]
    gone, stop = machine.handle(TileHandedOver(A))
    assert isinstance(gone, Fail)
    assert stop == Stop("finished")


@pytest.mark.parametrize(
    "name", ["in_flight", "attempts", "lone_deaths", "shared_deaths", "hopeless", "handovers"]
)
def test_limits_are_at_least_one(name: str) -> None:
    with pytest.raises(InputError):
        Limits(**{"in_flight": 1, name: 0})


@dataclass
class World:
    """Carries out instructions on imaginary workers and checks every promise on the way."""

    tiles: list[Unit]
    poison: set[Unit]
    bad: set[Unit]
    flaky: dict[Unit, int]
    limit: int
    drain_at: int | None
    workers: int
    needs: dict[Unit, frozenset[Unit]]
    full_at: int | None = None
    steps: int = 0
    cuts: int = 5
    outlasted: Counter[Unit] = field(default_factory=Counter)
    machine: Machine = field(init=False)
    running: dict[Unit, int] = field(default_factory=dict)
    ended: Counter[Unit] = field(default_factory=Counter)
    how: dict[Unit, str] = field(default_factory=dict)
    lone_kills: Counter[Unit] = field(default_factory=Counter)
    drained: bool = False
    stop: str = ""

    def obey(self, out: list[Instruction]) -> None:
        for order in out:
            assert not self.stop, "nothing comes after the end"
            match order:
                case Submit(tile, _):
                    assert not self.drained
                    assert tile not in self.running
                    assert all(self.how.get(n) == "committed" for n in self.needs.get(tile, ()))
                    assert not self.ended[tile]
                    self.running[tile] = len(self.running) % self.workers
                    assert len(self.running) <= self.limit
                case Fail(tile, kind):
                    if kind == OUT_OF_TIME:
                        assert self.outlasted[tile] == 3
                        del self.running[tile]
                    self.end(tile, "failed")
                case Quarantine(tile):
                    assert tile in self.poison, "an innocent tile is never quarantined"
                    assert self.lone_kills[tile] >= 3
                    self.end(tile, "quarantined")
                case Stop(reason):
                    assert not self.running
                    self.stop = reason

    def end(self, tile: Unit, how: str) -> None:
        self.ended[tile] += 1
        self.how[tile] = how

    def step(self, choose: st.DataObject) -> None:
        """Let one running tile end, or the worker under it die with all that is on it."""
        tile = choose.draw(st.sampled_from(sorted(self.running)))
        if choose.draw(st.integers(0, 9)) == 0:
            self.outlasted[tile] += 1
            self.obey(self.machine.handle(TileHandedOver(tile)))
            return
        spot_loss = len(self.running) > 1 and choose.draw(st.integers(0, 9)) == 0
        if tile in self.poison or spot_loss:
            lost = tuple(t for t, w in self.running.items() if w == self.running[tile])
            if len(self.running) == 1:
                self.lone_kills[tile] += 1
            for other in lost:
                del self.running[other]
            self.obey(self.machine.handle(WorkerDied(lost)))
            return
        del self.running[tile]
        if self.cuts and choose.draw(st.integers(0, 4)) == 0:
            self.cuts -= 1
            self.obey(self.machine.handle(TileReturned(tile)))
        elif tile in self.bad:
            self.obey(self.machine.handle(TileFailed(tile, "DataError", "", retryable=False)))
        elif self.flaky.get(tile, 0) > 0:
            self.flaky[tile] -= 1
            self.obey(self.machine.handle(TileFailed(tile, "RetryableError", "", retryable=True)))
        elif self.full_at is not None and self.steps >= self.full_at:
            self.drained = True
            self.obey(self.machine.handle(StoreRefused(tile)))
        else:
            self.end(tile, "committed")
            self.obey(self.machine.handle(TileDone(tile)))

    def run(self, choose: st.DataObject) -> None:
        self.machine = Machine(Limits(in_flight=self.limit, hopeless=10**6))
        source, planned = iter(self.tiles), 0
        while not self.stop:
            while self.machine.room and not self.stop:
                tile = next(source, None)
                needs = self.needs.get(tile, frozenset())
                self.obey(self.machine.handle(NoMoreTiles() if tile is None else Planned(tile, needs)))
                planned += tile is not None
                assert self.machine.in_flight == len(self.running)
                assert self.machine.waiting + self.machine.in_flight <= planned - sum(self.ended.values())
            if self.steps == self.drain_at and not self.stop:
                self.drained = True
                self.obey(self.machine.handle(Drain()))
            if not self.stop:
                self.step(choose)
            self.steps += 1
            assert self.steps < 100 * (len(self.tiles) + 1), "every run ends"


TILES = [Unit("map", TileKey(r, c)) for r in range(4) for c in range(4)]
SOME = st.sets(st.sampled_from(TILES), max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(0, 16),
    poison=SOME,
    bad=SOME,
    flaky=st.dictionaries(st.sampled_from(TILES), st.integers(1, 4), max_size=4),
    limit=st.integers(1, 6),
    workers=st.integers(1, 3),
    drain_at=st.none() | st.integers(0, 20),
    full_at=st.none() | st.integers(0, 20),
    staged=st.booleans(),
    choose=st.data(),
)
def test_every_tile_ends_exactly_once_whatever_happens(
    count: int,
    poison: set[Unit],
    bad: set[Unit],
    flaky: dict[Unit, int],
    limit: int,
    workers: int,
    drain_at: int | None,
    full_at: int | None,
    staged: bool,
    choose: st.DataObject,
) -> None:
    tiles, needs = TILES[:count], {}
    if staged:  # the first half is the cube, and each tile of the second half needs two of them
        half = count // 2
        needs = {t: frozenset(tiles[max(0, i - 1) : i + 1]) for i, t in enumerate(tiles[half : 2 * half])}
    fails = dict(flaky)
    world = World(tiles, poison, bad - poison, flaky, limit, drain_at, workers, needs, full_at)
    world.run(choose)
    assert all(n == 1 for n in world.ended.values())
    machine = world.machine
    assert Counter(world.how.values()) == Counter(
        {k: n for k in ("committed", "failed", "quarantined") if (n := getattr(machine, k))}
    )
    if world.stop in ("drained", "refused"):
        assert world.drained
        assert world.stop == "drained" or full_at is not None
        return
    assert set(world.ended) == set(tiles), "none is lost"
    for tile, how in world.how.items():
        if any(world.how[n] != "committed" for n in needs.get(tile, ())):
            assert how == "failed", "it cannot be made without what it needs"
        elif world.outlasted[tile] >= 3:
            assert how in ("failed", "quarantined")
        elif tile in poison:
            assert how == "quarantined"
        elif tile in bad or fails.get(tile, 0) >= 3:
            assert how == "failed"
        else:
            assert how == "committed"
    assert not machine._attempts, "what ended is forgotten"
    assert not machine._shared
    assert not machine._open
    assert not machine._needs
    assert not machine._wanted_by
    assert not machine._outlasted
