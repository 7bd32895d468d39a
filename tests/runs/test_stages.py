"""Several stages as one run: a tile waits for what it needs, and a run of some tiles leaves the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from engine.runs.driver import RunEvent, RunOptions, run_stages, run_tiles
from engine.runs.gaps import read_gaps
from engine.runs.machine import NEED_LOST, Unit
from engine.runs.tile import TileOutput, key_of
from engine.store.ledger import Ledger
from engine.store.regions import read_region
from engine.values.grid import TileKey
from tests.runs.fake_job import TILE_PX, FakeJob, tree_bytes


@dataclass(frozen=True)
class Means(FakeJob):
    """A second stage: each tile sums the first stage's label over itself and one pixel around it."""

    first: FakeJob | None = None
    name: str = "means"

    def needs(self, tile: TileKey) -> Iterable[Unit]:
        around = [TileKey(tile.row + r, tile.col + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        there = set(self.first.tiles())
        return [Unit(self.first.name, t) for t in around if t in there]

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        needs = {str(u.tile): self.first.key(u.tile) for u in self.needs(tile)}
        return {**super().inputs(tile), "first": needs}

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        self.log(tile)
        whole = self.first.spec().box
        outer = self.box(tile).pad(1) & whole
        around = read_region(self.first.store_url, outer, ["label"])["label"].astype(np.int64)
        total = np.full((TILE_PX, TILE_PX), int(around.sum()) % 199 + 1)
        return TileOutput({"label": total.astype(np.uint8), "value": total.astype(np.int16)}, {"pixels": 1})

    def expected_label(self, tile: TileKey) -> int:
        first, total = self.first, 0
        outer = self.box(tile).pad(1) & first.spec().box
        for other in first.tiles():
            part = first.box(other) & outer
            if part:
                total += int(first.expected(other)["label"][part.slices_in(first.box(other))].sum())
        return total % 199 + 1


@pytest.fixture
def two(tmp_path: Path) -> tuple[FakeJob, Means]:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = FakeJob(str(tmp_path / "a"), name="first").create()
    return first, Means(str(tmp_path / "b"), first=first).create()


def _assert_means(second: Means) -> None:
    for tile in second.tiles():
        got = read_region(second.store_url, second.box(tile))["label"]
        assert (got == second.expected_label(tile)).all(), tile


def test_a_tile_waits_for_its_neighbours_and_not_for_the_stage(
    two: tuple[FakeJob, Means], client: Client
) -> None:
    events: list[RunEvent] = []
    summaries = run_stages(list(two), client, two[1].run_dir, on_event=events.append)
    assert [(s.job, s.done, s.total, s.exit_code) for s in summaries] == [
        ("first", 16, 16, 0),
        ("means", 16, 16, 0),
    ]
    _assert_means(two[1])
    done = [Unit(e.stage, e.tile) for e in events if e.kind == "done"]
    begun = [Unit(e.stage, e.tile) for e in events if e.kind == "submitted"]
    first_map = next(i for i, u in enumerate(begun) if u.stage == "means")
    assert first_map < 16, "the second stage begins before the first one ends"
    for unit in done:
        if unit.stage == "means":
            assert all(done.index(need) < done.index(unit) for need in two[1].needs(unit.tile))
    again = run_stages(list(two), client, two[1].run_dir)
    assert [(s.done, s.reused) for s in again] == [(0, 16), (0, 16)]


def test_what_changed_in_one_stage_is_made_again_where_it_matters(
    two: tuple[FakeJob, Means], client: Client
) -> None:
    first, second = two
    run_stages([first, second], client, second.run_dir)
    before = tree_bytes(second.store_url)
    old = Ledger(second.run_dir, "first").done(TileKey(-1, 0), first.key(TileKey(-1, 0)))
    Path(second.run_dir, "ledger/first").joinpath(
        next(n for n in _names(second.run_dir, "first") if str(old.tile) in n)
    ).unlink()
    events: list[RunEvent] = []
    made = run_stages([first, second], client, second.run_dir, on_event=events.append)
    assert [(s.done, s.reused) for s in made] == [(1, 15), (0, 16)], "same bytes, so nothing else follows"
    newer = replace(first, version=2)
    later = replace(second, first=newer)
    events.clear()
    made = run_stages([newer, later], client, second.run_dir, on_event=events.append)
    assert [(s.done, s.reused) for s in made] == [(16, 0), (16, 0)]
    why = {(e.stage, e.message) for e in events if e.kind == "changed"}
    assert why == {("first", "version"), ("means", "first")}
    _assert_means(later)
    assert tree_bytes(second.store_url) != before


def _names(run_dir: str, stage: str) -> list[str]:
    root = Path(run_dir, "ledger", stage)
    return [str(p.relative_to(root)) for p in root.rglob("*.json")]


def test_a_lost_tile_takes_only_what_needs_it(two: tuple[FakeJob, Means], client: Client) -> None:
    bad = TileKey(-1, 0)  # a corner: four tiles look at it
    first = replace(two[0], bad=(bad,))
    second = replace(two[1], first=first)
    made = run_stages([first, second], client, second.run_dir)
    assert [(s.done, s.failed, s.exit_code) for s in made] == [(15, 1, 3), (12, 4, 3)]
    kinds = {g.kind for g in read_gaps(second.run_dir, "means")}
    assert kinds == {NEED_LOST}
    healed = run_stages(list(two), client, second.run_dir)
    assert [(s.done, s.reused, s.gaps) for s in healed] == [(1, 15, 0), (4, 12, 0)]
    _assert_means(two[1])


def test_only_some_tiles_and_what_they_need(two: tuple[FakeJob, Means], client: Client) -> None:
    first, second = two
    wanted = [TileKey(-1, 0), TileKey(-1, 1)]
    made = run_stages([first, second], client, second.run_dir, only=wanted)
    assert [(s.total, s.done, s.left) for s in made] == [(6, 6, 0), (2, 2, 0)]
    rest = run_stages([first, second], client, second.run_dir)
    assert [(s.done, s.reused) for s in rest] == [(10, 6), (14, 2)]
    again = run_stages([first, second], client, second.run_dir, RunOptions(resume=False), only=wanted[:1])
    assert [(s.total, s.done) for s in again] == [(4, 4), (1, 1)]
    _assert_means(second)


def test_gaps_of_tiles_that_were_not_asked_for_stay(tmp_path: Path, client: Client) -> None:
    bad = TileKey(0, 1), TileKey(2, 3)
    job = FakeJob(str(tmp_path), bad=bad).create()
    assert run_tiles(job, client, job.run_dir).failed == 2
    mended = replace(job, bad=())
    run_stages([mended], client, job.run_dir, only=[bad[0]])
    assert [g.tile for g in read_gaps(job.run_dir)] == [str(bad[1])]
    assert run_tiles(mended, client, job.run_dir).gaps == 0
    assert read_gaps(job.run_dir) == []


def test_the_key_covers_every_component() -> None:
    job = FakeJob("nowhere")
    assert key_of(job.inputs(TileKey(0, 0))) != key_of(replace(job, version=2).inputs(TileKey(0, 0)))
