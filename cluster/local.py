"""Workers on this machine: one process per core, one thread each, the memory shared out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from cluster.base import ClusterSpec
from cluster.worker import PRE_SPAWN

if TYPE_CHECKING:
    from distributed import Client


class LocalSpec(ClusterSpec):
    """Workers on this machine; without `n_workers` one per core, without `memory_limit` a fair share."""

    kind: Literal["local"] = "local"


@contextmanager
def start(spec: LocalSpec) -> Iterator[Client]:
    """Start a cluster, give its client, and end it.

    A task whose worker dies is not tried again by the scheduler but reported at once
    (``allowed-failures: 0``): who is tried again, and when alone, is for the run to decide.
    """
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": dict(PRE_SPAWN) | spec.environment,
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=spec.n_workers or CPU_COUNT,
            threads_per_worker=spec.threads_per_worker,
            memory_limit=spec.memory_limit or "auto",
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port
            silence_logs=logging.ERROR,
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client
