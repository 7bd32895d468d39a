"""Clusters that follow the work: they grow to it, shrink after it, and blame no tile for that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from cluster import scale
from cluster.base import Adapt
from cluster.launch import open_client
from cluster.local import LocalSpec
from cluster.scale import BusyStay, follow_work, kept_up
from engine.runs.driver import RunEvent, RunOptions, run_tiles
from engine.store.ledger import Ledger
from engine.values.grid import TileKey
from tests.faults.processes import wait_for
from tests.runs.fake_job import FakeJob


class OneLongTile(FakeJob):
    """The last tile takes much longer than the others."""

    def compute(self, tile: TileKey, threads: int) -> Any:
        time.sleep(3.0 if tile == TileKey(1, 2) else 0.2)
        return super().compute(tile, threads)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """No worker yet, and little patience with idle ones."""
    monkeypatch.setattr(scale, "INTERVAL", "100ms")
    monkeypatch.setattr(scale, "WAIT_COUNT", 3)
    monkeypatch.setattr(scale, "_KEEP_S", 0.1)
    settings = {
        "distributed.deploy.lost-worker-timeout": "100ms",
        "distributed.scheduler.allowed-failures": 0,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster


def test_a_cluster_grows_to_its_work_and_shrinks_without_losing_a_tile(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    job = OneLongTile(str(tmp_path), side=3).create()
    events: list[RunEvent] = []
    with Client(cluster, set_as_default=False) as client:
        client.register_plugin(BusyStay())
        follow_work(cluster, Adapt(minimum=0, maximum=3))
        summary = run_tiles(job, client, job.run_dir, RunOptions(grows_to=3), events.append)
        assert (summary.done, summary.exit_code) == (9, 0)
        workers = {record.worker for record in Ledger(job.run_dir, job.name).records()}
        assert len(workers) == 3, "three at once, though a run begins with none"
        wait_for(lambda: not client.nthreads(), "all idle workers leave")
    assert set(job.executions().values()) == {1}, "workers that leave had nothing in hand"
    assert not {e.kind for e in events} & {"worker-died", "error", "quarantined"}


def test_a_worker_that_is_taken_away_is_no_death(cluster: LocalCluster, tmp_path: Path) -> None:
    job = FakeJob(str(tmp_path), side=4, sleep_s=0.2).create()
    events: list[RunEvent] = []
    cluster.scale(2)
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)

        def take_away(event: RunEvent) -> None:
            events.append(event)
            if [e.kind for e in events].count("done") == 2 and event.kind == "done":
                client.retire_workers([min(client.nthreads())])

        summary = run_tiles(job, client, job.run_dir, None, take_away)
    assert (summary.done, summary.quarantined, summary.exit_code) == (16, 0, 0)
    assert "worker-died" not in {e.kind for e in events}
    assert sum(job.executions().values()) <= 16 + 1, "at most the tile in hand is begun anew"


def test_what_is_lost_of_a_cluster_comes_again(cluster: LocalCluster) -> None:
    cluster.scale(2)
    with Client(cluster, set_as_default=False) as client, kept_up(cluster):
        client.wait_for_workers(2, timeout=60)
        gone = min(client.nthreads())
        client.retire_workers([gone], close_workers=True)
        wait_for(lambda: len(client.nthreads()) == 2 and gone not in client.nthreads(), "two workers again")


def test_a_local_spec_adapts_between_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LocalSpec(adapt=Adapt(minimum=1, maximum=2), memory_limit="1GiB")
    with open_client(spec) as client:
        assert len(client.nthreads()) == 1
        assert client.cluster._adaptive.maximum == 2
        assert BusyStay.name in client.run_on_scheduler(_plugins)


def _plugins(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.plugins)
