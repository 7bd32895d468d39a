"""What a run costs the client does not depend on how many tiles there are: counted, not timed."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import shapely

from engine.runs.driver import RunEvent, RunOptions, TileOutput, TileTask, run_tiles
from engine.runs.machine import Unit
from engine.store.layout import StoreSpec, Variable, create
from engine.store.ledger import TileRecord
from engine.values.grid import Box, Grid, TileKey
from engine.values.tiling import Tiling

GRID = Grid.make("EPSG:32633", 10)


@dataclass(frozen=True)
class ManyTiles:
    """A job of about so many tiles over one disc; nobody makes them."""

    folder: str
    count: int
    walked: list[TileKey] = field(default_factory=list)
    name: str = "many"

    @property
    def store_url(self) -> str:
        return f"{self.folder}/map.zarr"

    def tiles(self) -> Tiling:
        tiling = Tiling(
            GRID, max(1, round((31400**2 / 3.14 / self.count) ** 0.5)), shapely.Point(5e5, 5e6).buffer(1e5)
        )
        walked = self.walked

        class Watched(Tiling):
            def __iter__(self) -> Any:
                for tile in super().__iter__():
                    walked[:] = [tile] if len(walked) > 50 else [*walked, tile]
                    yield tile

        return Watched(tiling.grid, tiling.tile_px, tiling.outline)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        raise AssertionError("the client computes the key of tiles on record only")

    def needs(self, tile: TileKey) -> Iterable[Unit]:
        return ()

    def box(self, tile: TileKey) -> Box:
        return tile.box(1)

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        raise AssertionError("nobody makes these tiles")


class Done:
    """A future whose tile has been made already."""

    status = "finished"

    def __init__(self, key: str, record: TileRecord):
        self.key, self._record = key, record

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        call(self)

    def result(self, timeout: float | None = None) -> TileRecord:
        return self._record

    def release(self) -> None:
        pass


class Instant:
    """Stands for a `distributed.Client` whose workers need no time."""

    status = "running"

    def __init__(self) -> None:
        self.submitted = 0

    def wait_for_workers(self, n_workers: int, timeout: float) -> None:
        pass

    def nthreads(self) -> dict[str, int]:
        return {"tcp://nowhere:1": 7}

    def submit(self, call: Any, job: Any, task: TileTask, *args: Any, key: str, **how: Any) -> Done:
        self.submitted += 1
        record = TileRecord(
            task.tile, "0" * 64, 1, {"a": "b"}, 0.1, 1, {"pixels": 1}, "", "w", "e", task.epoch
        )
        return Done(key, record)

    def subscribe_topic(self, topic: str, handler: Any) -> None:
        pass

    def unsubscribe_topic(self, topic: str) -> None:
        pass

    def sync(self, call: Any, *args: Any) -> Any:
        return asyncio.run(call(*args))


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[[int], ManyTiles]:
    def make(count: int) -> ManyTiles:
        folder = str(tmp_path / str(count))
        spec = StoreSpec(GRID, Box(0, 0, 32, 32), 32, (Variable("a", "uint8", 0),), chunk_px=16)
        create(f"{folder}/map.zarr", spec)
        return ManyTiles(folder, count)

    return make


def test_the_client_holds_no_more_for_more_tiles(job_of: Callable[[int], ManyTiles]) -> None:
    peaks, totals = [], []
    for count in (100, 100, 10_000):  # the first run loads what is loaded once
        job, client = job_of(count), Instant()
        gc.collect()
        tracemalloc.start()
        summary = run_tiles(job, client, f"{job.folder}/run", RunOptions())  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        totals.append(summary.total)
        assert summary.done == summary.total == client.submitted
    assert totals[2] > 9_000
    assert peaks[2] < peaks[1] + 500_000, "a hundred bytes a tile would be a million"


@pytest.mark.parametrize("count", [100, 10_000])
def test_the_first_tile_is_handed_out_before_the_walk_is_over(
    job_of: Callable[[int], ManyTiles], count: int
) -> None:
    job, client, walked = job_of(count), Instant(), []

    def listen(event: RunEvent) -> None:
        if event.kind == "submitted" and not walked:
            walked.append(len(job.walked))

    run_tiles(job, client, f"{job.folder}/run", RunOptions(), listen)  # type: ignore[arg-type]
    assert walked == [1]
