"""Workers leave in good order: no tile is begun twice, none is blamed, and the run goes on with the next ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.core import Status

from cluster import lifetime, scale
from cluster.address import AddressSpec
from cluster.launch import open_client
from cluster.lifetime import Retirement
from cluster.local import LocalSpec
from engine.runs.driver import RunEvent, RunOptions, run_tiles
from engine.runs.gaps import read_gaps
from engine.runs.machine import OUT_OF_TIME
from engine.values.grid import TileKey
from tests.faults.processes import Cluster
from tests.runs.fake_job import FakeJob


class SlowTile(FakeJob):
    """One tile takes longer than any worker may run."""

    def compute(self, tile: TileKey, threads: int) -> Any:
        if tile == TileKey(0, 0):
            time.sleep(30)
        return super().compute(tile, threads)


@contextmanager
def _mortal(lifetime_s: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Two workers of this process, whose time begins when they join; those that left are replaced."""
    monkeypatch.setattr(scale, "_KEEP_S", 0.1)
    monkeypatch.setattr(lifetime, "_LOOK_S", 0.05)
    monkeypatch.setattr(lifetime, "_born", lambda worker, again: time.time())
    settings = {
        "distributed.deploy.lost-worker-timeout": "100ms",
        "distributed.scheduler.allowed-failures": 0,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        scale.kept_up(cluster),
    ):
        client.register_plugin(Retirement(lifetime_s, again=False, jitter=0.3))
        yield client


def test_a_run_outlives_its_workers_and_no_tile_is_begun_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = FakeJob(str(tmp_path), side=6, sleep_s=0.1).create()
    events: list[RunEvent] = []
    with _mortal(1.0, monkeypatch) as client:
        summary = run_tiles(job, client, job.run_dir, on_event=events.append)
    assert (summary.done, summary.exit_code) == (36, 0)
    assert len({e.worker for e in events if e.kind == "worker-left"}) >= 2
    _require_begun_once(job, events)
    assert not {e.kind for e in events} & {"worker-died", "error", "failed", "quarantined"}


def _require_begun_once(job: FakeJob, events: list[RunEvent]) -> None:
    """Tiles in hand are finished first; only one whose worker could not know how long it takes is begun again."""
    left = [e.message for e in events if e.kind == "worker-left"]
    handed = sum(int(told.rpartition(": ")[2]) for told in left if "handed over" in told)
    made = job.executions()
    assert sum(made.values()) - len(made) <= handed
    assert handed <= len(left), "a worker has one tile in hand"


@pytest.mark.parametrize(("tile_s", "handed"), [(0.2, False), (60.0, True)])
def test_a_leaving_worker_takes_nothing_more_and_finishes_what_fits(tile_s: float, handed: bool) -> None:
    """By itself, with a tile that ends after a while: what fits before the end is never handed over."""
    told: list[Any] = []
    worker = SimpleNamespace(
        status=Status.running, address="tcp://w:1", data={}, scheduler=mock.AsyncMock(), close=mock.AsyncMock(),
        state=SimpleNamespace(executing=[SimpleNamespace(key="tile")]), log_event=lambda topic, news: told.append(news),
    )  # fmt: skip
    leaving = Retirement(2.0, again=False, jitter=0.0)
    leaving.end = time.time() + 2.0

    async def leave() -> None:
        asyncio.get_running_loop().call_later(tile_s, worker.state.executing.clear)
        await leaving._leave(worker)

    asyncio.run(leave())
    assert worker.status is Status.closing_gracefully
    assert ("handed over" in str(told[0])) is handed
    worker.close.assert_awaited_once()
    assert worker.close.await_args.kwargs["executor_wait"] is not handed


def test_a_tile_that_no_worker_lives_long_enough_for_is_given_up_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SlowTile(str(tmp_path), side=3, sleep_s=0.01).create()
    with _mortal(0.5, monkeypatch) as client:
        summary = run_tiles(job, client, job.run_dir)
    assert (summary.done, summary.failed, summary.quarantined, summary.exit_code) == (8, 1, 0, 3)
    (gap,) = read_gaps(job.run_dir)
    assert (gap.tile, gap.kind) == ("r0_c0", OUT_OF_TIME)
    assert "longer walltime" in gap.message


@pytest.mark.long
def test_nannies_start_workers_again_where_the_machine_stays(tmp_path: Path) -> None:
    job = FakeJob(str(tmp_path), side=4, sleep_s=0.5).create()
    events: list[RunEvent] = []
    with open_client(LocalSpec(n_workers=1, memory_limit="1GiB", lifetime="4s")) as client:
        first = set(client.run(_pid).values())
        summary = run_tiles(job, client, job.run_dir, on_event=events.append)
        client.wait_for_workers(1, timeout=60)
        assert set(client.run(_pid).values()) != first
    assert (summary.done, summary.exit_code) == (16, 0)
    assert [e.kind for e in events if e.kind in ("worker-left", "worker-died")].count("worker-left") >= 1
    _require_begun_once(job, events)


@pytest.mark.long
def test_workers_of_jobs_end_with_their_nannies_and_the_next_ones_go_on(tmp_path: Path) -> None:
    job = FakeJob(str(tmp_path), side=4, sleep_s=0.5).create()
    cluster = Cluster(tmp_path / "cluster").heal()
    first, events, over = list(cluster.nannies), list[RunEvent](), threading.Event()

    def queue() -> None:  # the next job begins when one has ended
        while not over.wait(0.5):
            cluster.heal()

    try:
        with Client(cluster.address, set_as_default=False) as waiting:
            waiting.wait_for_workers(2, timeout=120)
        age = time.time() - min(psutil.Process(n.pid).create_time() for n in first)
        spec = AddressSpec(address=cluster.address, lifetime=f"{age + 4:.0f}s")
        batch = threading.Thread(target=queue)
        batch.start()
        with open_client(spec) as client:
            options = RunOptions(no_worker_timeout_s=120)
            summary = run_tiles(job, client, job.run_dir, options, events.append)
        assert (summary.done, summary.exit_code) == (16, 0)
        assert "worker-died" not in {e.kind for e in events}
        assert [n.wait(30) for n in first] == [0, 0], "nannies end in good order, and so do their jobs"
        _require_begun_once(job, events)
    finally:
        over.set()
        batch.join()
        cluster.close()


def _pid() -> int:
    import os

    return os.getpid()
