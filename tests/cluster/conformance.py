"""What holds on every kind of cluster; each kind inherits it and says how it is opened.

::

    class TestSlurm(ClusterConformance):
        @pytest.fixture(scope="class")
        def target(self, slurm, tmp_path_factory) -> ClusterSpec:
            return SlurmSpec(n_workers=2, ...)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from cluster.launch import open_client
from cluster.worker import GDAL, PRE_SPAWN, THREADS
from pipelines.map_area import map_area
from tests.cluster.sample import TILES, SampleRun


def _seen(dask_worker: Any) -> dict[str, Any]:
    """Tell the environment now, and the one that the process was born with."""
    born = Path("/proc/self/environ").read_bytes().split(b"\0")
    return {
        "now": dict(os.environ),
        "born": dict(pair.decode(errors="replace").split("=", 1) for pair in born if b"=" in pair),
        "plugins": list(dask_worker.plugins),
        "pid": os.getpid(),
    }


def _threads() -> dict[str, int]:
    import torch

    torch.ones(256, 256) @ torch.ones(256, 256)
    return {"torch": torch.get_num_threads()}


class ClusterConformance:
    """The suite. Override `target`; set `started_here` to False for workers that somebody else has started."""

    started_here = True
    wait_s = 120

    @pytest.fixture(scope="class")
    def target(self) -> Any:
        """Return what `open_client` takes: a spec, an address, a file, or a client."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def client(self, target: Any) -> Iterator[Client]:
        with open_client(target) as client:
            client.wait_for_workers(1, timeout=self.wait_s)
            yield client

    def test_workers_are_set_up(self, client: Client) -> None:
        for worker in client.run(_seen).values():
            assert "landweave-worker-setup" in worker["plugins"]
            assert worker["pid"] != os.getpid()
            for name in (*THREADS, *GDAL):
                assert worker["now"][name] == PRE_SPAWN[name], name
            if self.started_here:
                for name, value in PRE_SPAWN.items():
                    assert worker["born"][name] == value, f"{name} from the first instruction"

    def test_libraries_use_one_thread(self, client: Client) -> None:
        assert client.submit(_threads, pure=False).result(timeout=self.wait_s) == {"torch": 1}

    def test_the_sample_map_is_the_same_to_the_byte(
        self, client: Client, sample_run: SampleRun, tmp_path: Path
    ) -> None:
        made = map_area(sample_run.config(tmp_path / "run"), client=client)
        assert (made.exit_code, made.summary.done, made.summary.failed) == (0, TILES, 0)
        assert made.summary.quarantined == 0
        sample_run.assert_same(tmp_path / "run")
