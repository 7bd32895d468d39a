"""A scheduler and workers that somebody else has started, as processes of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from cluster.address import AddressSpec
from cluster.launch import open_client
from cluster.worker import PRE_SPAWN
from engine.values.errors import InputError
from tests.cluster.conformance import ClusterConformance
from tests.faults.processes import Cluster


class TestAddress(ClusterConformance):
    """The environment is what the guide says for workers that one starts by hand."""

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
        cluster = Cluster(tmp_path_factory.mktemp("by-hand"), env=dict(PRE_SPAWN))
        yield cluster.heal()
        cluster.close()

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, started: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AddressSpec:
        path = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
        path.write_text(json.dumps({"address": started.address}))
        return AddressSpec(scheduler_file=str(path))


def test_a_scheduler_file_that_is_not_there_yet_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dask scheduler --scheduler-file"):
        AddressSpec(scheduler_file=str(tmp_path / "none.json")).where()
    torn = tmp_path / "torn.json"
    torn.write_text('{"id": 1}')
    with pytest.raises(InputError, match="cannot read the scheduler file"):
        AddressSpec(scheduler_file=str(torn)).where()


def test_workers_without_landweave_are_told_in_plain_words(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, env={"PYTHONPATH": str(_blocked(tmp_path)), "PYTHONSAFEPATH": "1"})
    try:
        cluster.heal()
        with Client(cluster.address, set_as_default=False) as waiting:
            waiting.wait_for_workers(2, timeout=120)
        with pytest.raises(InputError) as refused, open_client(cluster.address):
            pass
        assert "landweave cannot be imported by a worker" in str(refused.value)
        assert "one container image" in str(refused.value)
    finally:
        cluster.close()


def _blocked(folder: Path) -> Path:
    """Make a place for PYTHONPATH where `cluster` is something else, as where landweave is not installed."""
    place = folder / "elsewhere"
    place.mkdir()
    (place / "cluster.py").write_text("raise ModuleNotFoundError(\"No module named 'cluster'\")\n")
    return place
