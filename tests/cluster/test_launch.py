from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import cluster.address as address
import cluster.launch as launch
from cluster.launch import open_client
from cluster.local import LocalSpec
from cluster.worker import GDAL, THREADS, WorkerSetup
from engine.values.errors import InputError, RetryableError


def _seen(dask_worker: Any) -> dict[str, Any]:
    import signal

    names = [*THREADS, *GDAL]
    return {
        "env": {n: os.environ.get(n) for n in names},
        "threads": dask_worker.state.nthreads,
        "memory": dask_worker.memory_manager.memory_limit,
        "torch": "torch" in sys.modules,
        "interrupts": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
        "pid": os.getpid(),
    }


def _allowed_failures(dask_scheduler: Any) -> int:
    return dask_scheduler.allowed_failures


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def test_local_workers_are_set_up_before_they_start() -> None:
    spec = LocalSpec(n_workers=2, threads_per_worker=1, memory_limit="700MiB")
    with open_client(spec) as client:
        assert len(client.nthreads()) == 2
        seen = list(client.run(_seen).values())
        for worker in seen:
            assert worker["env"] == {**THREADS, **GDAL}
            assert (worker["threads"], worker["memory"]) == (1, 700 * 2**20)
            assert not worker["torch"], "torch is loaded only where it is needed"
            assert not worker["interrupts"]
        assert len({w["pid"] for w in seen} | {os.getpid()}) == 3
        assert client.run_on_scheduler(_allowed_failures) == 0
        assert client.submit(_torch_threads).result() == 1
    assert client.status == "closed"


def test_an_address_or_a_client_is_used_and_left_open(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as mine,
    ):
        with open_client(mine) as client:
            assert client is mine
        assert mine.status == "running"
        with open_client(cluster.scheduler_address) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        path = tmp_path / "cluster.yaml"
        path.write_text(f"kind: address\naddress: {cluster.scheduler_address}\n")
        with open_client(path) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        assert mine.submit(sum, [1, 2]).result() == 3


def test_nothing_and_local_mean_this_machine() -> None:
    assert launch.spec_of(None) == launch.spec_of("local") == LocalSpec()


def test_other_things_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not a cluster"), open_client(3):  # type: ignore[arg-type]
        pass
    monkeypatch.setattr(address, "_CONNECT_S", 0.5)
    with pytest.raises(RetryableError, match="does not answer"), open_client("tcp://127.0.0.1:9"):
        pass


def test_a_users_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*THREADS, *GDAL]:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("GDAL_CACHEMAX", "999")
    monkeypatch.delenv("GDAL_NUM_THREADS")
    WorkerSetup().setup(worker=None)
    assert os.environ["GDAL_CACHEMAX"] == "999"
    assert os.environ["GDAL_NUM_THREADS"] == "1"


def test_torch_that_is_loaded_already_gets_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in [*THREADS, *GDAL]:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    WorkerSetup().setup(worker=None)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
