"""Workers on this machine: one process per core, one thread each, the memory shared out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from cluster.base import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client


class LocalSpec(ClusterSpec):
    """Workers on this machine; without `n_workers` one per core, without `memory_limit` a fair share."""

    kind: Literal["local"] = "local"

    @model_validator(mode="after")
    def _one_gpu(self) -> LocalSpec:
        if self.gpus_per_worker and (self.most_workers or 1) > 1:
            raise ValueError("kind: local gives all workers the same GPU; take n_workers: 1, or kind: cuda")
        return self


@contextmanager
def start(spec: LocalSpec) -> Iterator[Client]:
    """Start a cluster, give its client, and end it.

    A task whose worker dies is not tried again by the scheduler but reported at once
    (``allowed-failures: 0``): who is tried again, and when alone, is for the run to decide.
    """
    import dask
    from distributed import Client

    from cluster.scale import follow_work, kept_up
    from cluster.worker import worker_environment

    given = worker_environment(spec)
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": given,  # also of workers that come later
    }
    with (
        dask.config.set(settings),
        _put_back(given),
        _started(spec, given) as cluster,
        Client(cluster, set_as_default=False) as client,
        kept_up(cluster),
    ):
        if spec.adapt is not None:
            follow_work(cluster, spec.adapt)
        yield client


def _started(spec: LocalSpec, given: Mapping[str, str]) -> Any:
    with _put_back(given):
        return _cluster(spec)


@contextmanager
def _put_back(names: Iterable[str]) -> Iterator[None]:
    """Undo what nannies do to this process: they set the environment of their workers here too, and leave it."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cluster(spec: LocalSpec) -> Any:
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    many = 1 if spec.gpus_per_worker else CPU_COUNT
    return LocalCluster(
        n_workers=max(1, spec.adapt.minimum) if spec.adapt else spec.n_workers or many,
        threads_per_worker=spec.threads_per_worker,
        memory_limit=spec.memory_limit or "auto",
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # any free port
        silence_logs=logging.ERROR,
    )
