"""Workers on the GPUs of this machine: one process a GPU, through dask-cuda."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from cluster.base import ClusterSpec
from cluster.worker import worker_environment
from engine.values.errors import InputError

if TYPE_CHECKING:
    from distributed import Client


class CudaSpec(ClusterSpec):
    """Workers on this machine's GPUs; without `n_workers` one for each GPU.

    Attributes:
        gpus_per_worker: Always 1.
        gpus: Which GPUs, by number or by UUID (``GPU-...``, ``MIG-...``); default those of
            ``CUDA_VISIBLE_DEVICES``, else all.
        local_directory: Where workers keep their files; default a folder of the system.
    """

    kind: Literal["cuda"] = "cuda"
    gpus_per_worker: Literal[1] = Field(default=1, description="Always 1.")
    gpus: tuple[int | str, ...] | None = Field(
        default=None, min_length=1, description="Which GPUs; default all."
    )
    local_directory: str | None = Field(default=None, description="Where workers keep their files.")

    @model_validator(mode="after")
    def _a_gpu_each(self) -> CudaSpec:
        if self.adapt is not None:
            raise ValueError("kind: cuda has one worker for each GPU of this machine; leave adapt out")
        if self.gpus is not None and len(self.gpus) < (self.n_workers or 1):
            raise ValueError(f"{self.n_workers} workers want as many GPUs, and gpus names {len(self.gpus)}")
        return self

    @property
    def most_workers(self) -> int | None:
        """Return how many workers there will be; None where the GPUs tell."""
        return self.n_workers or (len(self.gpus) if self.gpus is not None else None)


@contextmanager
def start(spec: CudaSpec) -> Iterator[Client]:
    """Start a worker on each GPU, give the cluster's client, and end it.

    Raises:
        InputError: If there is no GPU, no driver, no torch that can use them, or no dask-cuda.
    """
    import dask
    from distributed import Client

    from cluster.scale import kept_up

    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": worker_environment(spec),
    }
    with (
        dask.config.set(settings),
        _cluster(spec) as cluster,
        Client(cluster, set_as_default=False) as client,
        kept_up(cluster),
    ):
        yield client


def _cluster(spec: CudaSpec) -> Any:
    require_gpus(spec)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError(
            "kind: cuda needs the package dask-cuda",
            where="cluster.kind",
            found=str(error),
            mend='pip install "dask-cuda[cu13]", which asks for a Dask of its own, so into an environment of its own '
            "(docs/clusters/cuda.md)",
        ) from error
    return LocalCUDACluster(**arguments(spec))


def arguments(spec: CudaSpec) -> dict[str, Any]:
    """Return what `dask_cuda.LocalCUDACluster` is called with.

    Tiles leave no arrays with Dask, so nothing has to be moved off the GPU: neither Dask's spilling of GPU memory
    nor an RMM pool, which would take memory from torch.
    """
    return {
        "CUDA_VISIBLE_DEVICES": None if spec.gpus is None else list(spec.gpus),
        "n_workers": spec.n_workers,
        "threads_per_worker": spec.threads_per_worker,
        "memory_limit": spec.memory_limit or "auto",
        "device_memory_limit": None,
        "local_directory": spec.local_directory,
        "protocol": "tcp",
        "resources": {"GPU": 1},
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.ERROR,
    }


def require_gpus(spec: CudaSpec) -> None:
    """Say what is missing for GPUs, before anything is started.

    Raises:
        InputError: If there is no driver, there are too few GPUs, or torch was built without CUDA.
    """
    import torch

    from cluster.memory import gpus

    found = gpus()
    if not found:
        raise InputError(
            "kind: cuda finds no GPU",
            where="cluster.kind",
            found="no answer from nvidia-smi for the devices in CUDA_VISIBLE_DEVICES, or for any",
            mend="run on a machine with an NVIDIA GPU and driver (in a container: --gpus all), or take kind: local",
        )
    if spec.n_workers is not None and spec.n_workers > len(found):
        raise InputError(
            "more workers than GPUs",
            where="cluster.n_workers",
            found=spec.n_workers,
            limit=f"{len(found)} GPUs",
        )
    if torch.version.cuda is None:
        raise InputError(
            "this torch was built without CUDA",
            where="torch",
            found=torch.__version__,
            mend="install a CUDA build of torch (docs/clusters/cuda.md)",
        )
