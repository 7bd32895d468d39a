from __future__ import annotations

import pytest
from distributed import Client, LocalCluster

from cluster.base import Adapt
from cluster.launch import open_client
from cluster.local import LocalSpec
from cluster.memory import free_memory, gpus, parse_gpus
from cluster.size import ClusterSize, size_of
from cluster.slurm import SlurmSpec
from cluster.spec import parse_spec
from cluster.worker import PRE_SPAWN, GpuOffer, forwarded, worker_environment
from engine.values.errors import InputError
from pipelines.tile_stage import run_options

_SMI = "0, GPU-aa, NVIDIA H200, 100, 200\n1, GPU-bb, NVIDIA H200, [N/A], 200\n"


def test_a_users_variables_go_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LocalSpec(environment={"GDAL_CACHEMAX": "512"}, instruction_set="avx2", forward=("LANDWEAVE_X",))
    made = worker_environment(spec)
    assert made["GDAL_CACHEMAX"] == "512"
    assert made["OMP_NUM_THREADS"] == PRE_SPAWN["OMP_NUM_THREADS"]
    assert made["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    monkeypatch.setenv("LANDWEAVE_X", "hush")
    assert "hush" not in worker_environment(spec).values()
    assert forwarded(spec) == {"LANDWEAVE_X": "hush"}
    monkeypatch.delenv("LANDWEAVE_X")
    with pytest.raises(InputError, match="LANDWEAVE_X"):
        forwarded(spec)


def test_gpus_are_those_that_the_process_may_use() -> None:
    assert [g["index"] for g in parse_gpus(_SMI, None)] == [0, 1]
    assert [g["index"] for g in parse_gpus(_SMI, "GPU-bb")] == [1]
    assert parse_gpus(_SMI, "") == []
    assert parse_gpus(_SMI, "1")[0]["free_bytes"] == 0, "the driver does not tell it of a slice"
    assert isinstance(gpus(), list)


def test_memory_is_told_by_machine() -> None:
    import psutil

    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        (host,) = free_memory(client)
    assert host["workers"] == 2
    assert host["total_bytes"] == psutil.virtual_memory().total
    assert 0 < host["free_bytes"] <= host["total_bytes"]


def test_a_tile_that_asks_for_a_gpu_waits_for_a_worker_that_offers_one() -> None:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        waiting = client.submit(_resources, resources={"GPU": 1}, pure=False)
        plain = client.submit(_resources, pure=False).result(timeout=60)
        assert plain == {}
        assert waiting.status == "pending"
        client.register_plugin(GpuOffer())
        assert waiting.result(timeout=60) == {"GPU": 1}


def _resources() -> dict[str, float]:
    from distributed import get_worker

    return dict(get_worker().state.total_resources)


def test_each_gpu_makes_one_tile_at_a_time_and_all_threads_read_for_it() -> None:
    spec = parse_spec({"kind": "local", "n_workers": 1, "gpus_per_worker": 1, "threads_per_worker": 8})
    options = run_options(spec)
    assert options.resources == {"GPU": 1}
    assert options.threads_per_tile == 8
    assert spec.tiles_at_once == 1
    assert run_options(LocalSpec(threads_per_worker=8)).resources is None
    assert run_options(LocalSpec(threads_per_worker=8)).threads_per_tile == 1


def test_workers_of_a_local_cluster_do_not_share_a_gpu() -> None:
    with pytest.raises(InputError, match="kind: cuda"):
        parse_spec({"kind": "local", "n_workers": 2, "gpus_per_worker": 1})


def test_a_run_is_told_how_far_its_cluster_may_grow() -> None:
    growing = LocalSpec(adapt=Adapt(minimum=0, maximum=10), threads_per_worker=2)
    assert run_options(growing).grows_to == 20
    assert run_options(LocalSpec(n_workers=10)).grows_to == 0


def test_a_size_is_told_before_the_start_where_the_spec_knows_it() -> None:
    growing = LocalSpec(adapt=Adapt(minimum=0, maximum=10), memory_limit="1GiB")
    assert size_of(growing) == ClusterSize(10, 10, 2**30)
    assert size_of(SlurmSpec(n_workers=3, memory_limit="2GiB", threads_per_worker=2)) == ClusterSize(
        3, 6, 2**31
    )
    assert size_of(parse_spec({"address": "tcp://x:1", "kind": "address", "n_workers": 3})) is None


def test_a_scheduler_forgets_what_one_client_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDWEAVE_X", "hush")
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        spec = parse_spec(
            {"kind": "address", "address": cluster.scheduler_address, "forward": ["LANDWEAVE_X"]}
        )
        with open_client(spec):
            held = [name for name in cluster.scheduler.worker_plugins if b"hush" in _pickle(cluster, name)]
            assert len(held) == 1
        assert not [name for name in cluster.scheduler.worker_plugins if b"hush" in _pickle(cluster, name)]


def _pickle(cluster: LocalCluster, name: str) -> bytes:
    return bytes(cluster.scheduler.worker_plugins[name])
