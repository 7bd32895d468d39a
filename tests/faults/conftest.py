"""A cluster of separate processes, two workers of this process's own, and the map that nothing happened to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client

from cluster.launch import open_client
from cluster.local import LocalSpec
from engine.runs.driver import run_tiles
from tests.faults.harness import SIDE, bytes_under
from tests.faults.processes import Cluster
from tests.runs.fake_job import FakeJob


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two worker processes of one thread, as a run on this machine has them."""
    with open_client(LocalSpec(n_workers=2, memory_limit="1GiB")) as client:
        yield client


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, client: Client) -> dict[str, bytes]:
    """The files of a store that nothing happened to."""
    job = FakeJob(str(tmp_path_factory.mktemp("undisturbed")), side=SIDE).create()
    assert run_tiles(job, client, job.run_dir).done == SIDE * SIDE
    return bytes_under(job.store_url)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two nannies, each a process."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster.heal()
    cluster.close()
