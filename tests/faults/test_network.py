"""The network is lost for a while: between client and scheduler, between worker and scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import SIDE, Harness, bytes_under
from tests.faults.processes import Cluster, end, running, wait_for
from tests.faults.proxy import Proxy
from tests.faults.struck_job import StruckJob

pytestmark = pytest.mark.slow

ALL = SIDE * SIDE
SILENT_S = 8  # longer than every limit below: as a minute is beside those of a real run


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    cluster.heal()
    proxy = Proxy(cluster.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("how", ["silent", "cut"])
def test_a_client_that_loses_its_scheduler_for_a_while_goes_on(
    tmp_path: Path, cluster: Cluster, proxy: Proxy, undisturbed: dict[str, bytes], how: str
) -> None:
    """Tiles that are in flight finish on their workers meanwhile; at most those are asked for again."""
    job = StruckJob(str(tmp_path), side=SIDE, sleep_s=0.2)
    harness = Harness(cluster, job, connect_s=20)
    settings = harness.settings()
    settings["cluster"]["address"] = proxy.address
    with running(**settings) as process:
        wait_for(lambda: job.executions().total() >= 6, "six tiles")
        with proxy.cut() if how == "cut" else proxy.silent():
            before = job.in_flight()
            time.sleep(SILENT_S)
        told = end(process)
    assert (told["exit"], told["done"], told["failed"]) == (0, ALL, 0), told
    assert harness.recomputed().total() <= len(before) + 3
    assert bytes_under(job.store_url) == undisturbed


def test_a_client_whose_scheduler_stays_away_ends_and_the_next_goes_on(
    tmp_path: Path, cluster: Cluster, proxy: Proxy, undisturbed: dict[str, bytes]
) -> None:
    job = StruckJob(str(tmp_path), side=SIDE, sleep_s=0.2)
    harness = Harness(cluster, job, connect_s=2)
    settings = harness.settings()
    settings["cluster"]["address"] = proxy.address
    with running(**settings) as process:
        wait_for(lambda: job.executions().total() >= 6, "six tiles")
        with proxy.cut():
            told = end(process, timeout=30)
    assert (told["exit"], told["error"]) == (3, "RetryableError"), told
    assert "scheduler is lost" in told["text"]
    again = harness.run()
    assert (again["exit"], again["done"] + again["reused"]) == (0, ALL)
    assert bytes_under(job.store_url) == undisturbed


def test_a_worker_that_loses_its_scheduler_costs_its_tiles_at_most(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The scheduler takes a silent worker for dead after its time to live, here four seconds; the run waits."""
    quick = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s"}
    cluster = Cluster(tmp_path / "cluster", env=quick)
    proxy = Proxy(cluster.port)
    job = StruckJob(str(tmp_path), side=SIDE, sleep_s=0.3)
    try:
        harness = Harness(cluster.heal(contact=proxy.address), job)
        with running(**harness.settings()) as process:
            wait_for(lambda: job.executions().total() >= 6, "six tiles")
            with proxy.silent():
                time.sleep(SILENT_S)
                allowed = len(job.executions())
            while process.poll() is None:  # a batch system starts again the workers that gave up
                cluster.heal(contact=proxy.address)
                time.sleep(0.1)
            told = end(process)
    finally:
        proxy.close()
        cluster.close()
    assert (told["exit"], told["done"]) == (0, ALL), told
    assert harness.recomputed().total() <= allowed
    assert bytes_under(job.store_url) == undisturbed


def test_a_scheduler_that_is_started_again_is_found_again(
    tmp_path: Path, cluster: Cluster, undisturbed: dict[str, bytes]
) -> None:
    """The new one knows nothing; its workers are new as well. No tile is blamed for that."""
    job = StruckJob(str(tmp_path), side=SIDE, sleep_s=0.2, point="half-published", victim="scheduler")
    harness = Harness(cluster, job, connect_s=30)
    with running(**harness.settings()) as process:
        wait_for(lambda: (tmp_path / "struck.json").exists(), "the kill")
        while process.poll() is None:
            cluster.heal()
            time.sleep(0.1)
        told = end(process)
    assert (told["exit"], told["done"], told["failed"]) == (0, ALL, 0), told
    assert set(harness.recomputed()) <= set(harness.struck()["in_flight"])
    assert bytes_under(job.store_url) == undisturbed
