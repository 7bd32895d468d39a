from __future__ import annotations

import os

import pytest

from cluster.launch import open_client
from cluster.local import LocalSpec
from tests.cluster.conformance import ClusterConformance


class TestLocal(ClusterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> LocalSpec:
        return LocalSpec(n_workers=1, memory_limit="1GiB")


def test_what_workers_get_stays_with_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's nannies set the environment of their workers in their own process, which here is the user's."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    spec = LocalSpec(
        n_workers=1, memory_limit="1GiB", instruction_set="avx2", environment={"LANDWEAVE_TEST_OF": "it"}
    )
    with open_client(spec) as client:
        assert dict(os.environ) == before
        client.restart(timeout=60)
        assert client.submit(os.environ.get, "LANDWEAVE_TEST_OF", pure=False).result(timeout=60) == "it"
        assert client.submit(os.environ.get, "OMP_NUM_THREADS", pure=False).result(timeout=60) == "7", (
            "a user's value stays"
        )
    assert dict(os.environ) == before
