from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster, Nanny

import cluster.memory
from cluster.cuda import CudaSpec, arguments, require_gpus, start
from cluster.spec import parse_spec
from engine.values.errors import InputError
from pipelines.map_area import map_area
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import TILES, SampleRun, checksums
from tests.services.require import require_service

FULL = {
    "kind": "cuda",
    "gpus": [0, "GPU-9baca7f5-0f2f-01ac-6b05-8da14d6e9005"],
    "n_workers": 2,
    "threads_per_worker": 4,
    "memory_limit": "16GiB",
    "local_directory": "/scratch",
}


def _spec(**changes: Any) -> CudaSpec:
    spec = parse_spec({"kind": "cuda", **changes})
    assert isinstance(spec, CudaSpec)
    return spec


def _source(module: str) -> str:
    """Return the source of a module of dask-cuda, from the package or, where Dask is too new for it, its wheel."""
    spec = importlib.util.find_spec("dask_cuda")
    if spec is not None and spec.submodule_search_locations:
        return (Path(spec.submodule_search_locations[0]) / f"{module}.py").read_text()
    wheels = sorted((Path(sys.prefix) / "wheels").glob("dask_cuda-*.whl"))
    if not wheels:
        require_service("dask-cuda's wheel", "`make venv` fetches it")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return wheel.read(f"dask_cuda/{module}.py").decode()


def _parameters(source: str, name: str) -> set[str]:
    """Return the names of what a class of a source is made with; nothing is imported."""
    (cls,) = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == name]
    (init,) = [n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    assert init.args.kwarg is not None, "what it does not name it hands on to LocalCluster"
    return {arg.arg for arg in (*init.args.args, *init.args.kwonlyargs)} - {"self"}


def _unknown(given: dict[str, Any]) -> set[str]:
    """Return the arguments that neither dask-cuda's cluster nor Dask's cluster or nanny, in this order, names."""
    named = _parameters(_source("local_cuda_cluster"), "LocalCUDACluster")
    handed = set(inspect.signature(LocalCluster).parameters) | set(inspect.signature(Nanny).parameters)
    return set(given) - named - handed


@pytest.mark.parametrize("raw", [{}, FULL], ids=["lean", "full"])
def test_dask_cuda_names_every_argument(raw: dict[str, Any]) -> None:
    given = arguments(_spec(**raw))
    assert _unknown(given) == set()
    assert _unknown(given | {"planted_by_the_test": 1}) == {"planted_by_the_test"}
    own = {"CUDA_VISIBLE_DEVICES", "n_workers", "threads_per_worker", "memory_limit", "device_memory_limit"}
    assert own <= _parameters(_source("local_cuda_cluster"), "LocalCUDACluster")


def test_a_spec_becomes_arguments() -> None:
    given = arguments(_spec(**FULL))
    assert given["CUDA_VISIBLE_DEVICES"] == [0, "GPU-9baca7f5-0f2f-01ac-6b05-8da14d6e9005"]
    assert (given["n_workers"], given["threads_per_worker"], given["memory_limit"]) == (2, 4, "16GiB")
    assert given["resources"] == {"GPU": 1}
    assert given["local_directory"] == "/scratch"
    assert _spec(**FULL).tiles_at_once == 1, "the threads read for the one tile that has the GPU"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gpus_per_worker": 0}, "gpus_per_worker"),
        ({"adapt": {"maximum": 2}}, "leave adapt out"),
        ({"gpus": [0], "n_workers": 2}, "gpus names 1"),
        ({"gpus": []}, "gpus"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        _spec(**change)
    assert says in str(refused.value)


def _found(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    told = [{"index": i, "name": "GPU", "free_bytes": 1, "total_bytes": 1} for i in range(many)]
    monkeypatch.setattr(cluster.memory, "gpus", lambda: told)


def test_no_gpu_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, 0)
    with pytest.raises(InputError, match="finds no GPU"), start(_spec()):
        pass


def test_too_few_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, 1)
    with pytest.raises(InputError, match="more workers than GPUs"):
        require_gpus(_spec(n_workers=2))


def test_a_torch_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, 1)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match="built without CUDA"):
        require_gpus(_spec())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, 1)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(InputError, match="dask-cuda"), start(_spec()):
        pass


def _device(dask_worker: Any) -> tuple[str, int, float, str]:
    resources = dask_worker.state.total_resources["GPU"]
    return (
        os.environ["CUDA_VISIBLE_DEVICES"],
        torch.cuda.device_count(),
        resources,
        torch.cuda.get_device_name(0),
    )


@pytest.mark.gpu
class TestCuda(ClusterConformance):
    """On real GPUs. `tests.services.gpu` says at the end of a session that these were not run, where none is."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> CudaSpec:
        spec = _spec(threads_per_worker=2, memory_limit="8GiB")
        require_gpus(spec)
        return spec

    def test_each_worker_has_a_gpu_of_its_own(self, client: Client) -> None:
        seen = list(client.run(_device).values())
        assert len(seen) == len(cluster.memory.gpus())
        assert len({visible.split(",")[0] for visible, *_ in seen}) == len(seen)
        assert {resources for _, _, resources, _ in seen} == {1.0}

    def test_the_sample_map_is_the_same_to_the_byte(
        self, client: Client, sample_run: SampleRun, tmp_path: Path
    ) -> None:
        """A GPU adds up in another order than a CPU: the map is the same twice here, and nearly that of a CPU."""
        for name in ("once", "again"):
            made = map_area(sample_run.config(tmp_path / name), client=client)
            assert (made.exit_code, made.summary.done, made.summary.failed) == (0, TILES, 0)
        assert checksums(tmp_path / "once") == checksums(tmp_path / "again")
        labels = [
            xr.open_zarr(run / "map.zarr")["label"].to_numpy()
            for run in (tmp_path / "once", sample_run.folder / "reference")
        ]
        assert np.mean(labels[0] != labels[1]) < 1e-3
