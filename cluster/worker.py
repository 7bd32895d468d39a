"""What every worker is told before it touches a tile.

Thread pools read their size from the environment when their library is loaded, so `PRE_SPAWN` must be
there before the worker process starts; clusters that are started here do that. A cluster that a user
brings gets `WorkerSetup`, which sets what can still be set.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from distributed import WorkerPlugin

from cluster.base import ClusterSpec
from cluster.instructions import pins
from engine.values.errors import InputError

THREADS: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""One thread per library: the pixels then do not depend on the machine's cores."""

GDAL: Mapping[str, str] = {
    "GDAL_CACHEMAX": "128",  # MB; the default is 5% of the machine's memory for each worker
    "GDAL_NUM_THREADS": "1",
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "5000000",  # bytes per open file
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "PROJ_NETWORK": "OFF",  # a transformation must not depend on what can be downloaded
}
"""Bounded caches, few requests, and one answer per coordinate. What only reading scenes needs is set around each
read (`engine.archive.reader`): a worker may live in the process of a user who has other files to open."""

PRE_SPAWN: Mapping[str, str] = {**THREADS, **GDAL, "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""Environment of a worker process from its first instruction. A process that predicts raises the first threshold
again (`engine.inference.allocator`): it would give back, and be lent anew, all memory of each layer."""


def worker_environment(spec: ClusterSpec) -> dict[str, str]:
    """Return the environment of a worker process from its first instruction, without secrets: it may be written down.

    What a spec names under ``environment`` goes before everything else.
    """
    return {**PRE_SPAWN, **pins(spec.instruction_set), **spec.environment}


def forwarded(spec: ClusterSpec) -> dict[str, str]:
    """Return the variables that workers get from the environment here, secrets among them: not to be written down.

    Raises:
        InputError: If one is not set here.
    """
    missing = [name for name in spec.forward if name not in os.environ]
    if missing:
        raise InputError(
            "variables that workers should get are not set here",
            where="cluster.forward",
            found=", ".join(missing),
            mend="set them before the run, or leave them out of forward",
        )
    return {name: os.environ[name] for name in spec.forward}


class WorkerSetup(WorkerPlugin):
    """Set a worker up; values that a user has set in the environment stay.

    Args:
        ignore_interrupts: Leave Ctrl-C, SIGTERM and SIGUSR1, which a terminal or a batch system sends to
            every process, to the client, so that workers can finish their tiles. Only for worker processes
            that end with their nanny.
    """

    name = "landweave-worker-setup"
    idempotent = True

    def __init__(self, ignore_interrupts: bool = False):
        self.ignore_interrupts = ignore_interrupts

    def setup(self, worker: Any) -> None:
        """Set the environment, torch's threads (if torch is loaded already), logging and signal handling."""
        for name, value in {**THREADS, **GDAL}.items():
            os.environ.setdefault(name, value)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        logging.getLogger("distributed.worker").addFilter(_not_of_a_tile)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self.ignore_interrupts and worker.nanny is not None and in_main_thread:
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _end_later)


_TERM_S = 30.0


def _end_later(number: int, frame: Any) -> None:
    """Go on for as long as the client may drain, then end; Dask kills a worker that is over its memory anyway."""
    timer = threading.Timer(_TERM_S, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()


def _not_of_a_tile(record: logging.LogRecord) -> bool:
    """Leave out Dask's many lines about a tile that failed: the run tells them in one, without secrets."""
    return not (str(record.msg).startswith("Compute Failed") and "execute_tile" in str(record.args))


class GpuOffer(WorkerPlugin):
    """Offer a worker's GPU to tiles that ask for one, as ``dask worker --resources GPU=1`` does."""

    name = "landweave-gpu"

    async def setup(self, worker: Any) -> None:
        """Tell worker and scheduler of the GPU, unless they know.

        The scheduler looks for tiles that wait for one only when a worker begins to run.
        """
        from distributed.core import Status

        if "GPU" not in worker.state.total_resources:
            await worker.set_resources(GPU=1)
            worker.status = Status.paused
            worker.status = Status.running


def shipped(path: str) -> WorkerPlugin:
    """Return the plug-in that brings a Python file to each worker and imports it there.

    Raises:
        InputError: If it cannot be read here.
    """
    from distributed.diagnostics.plugin import UploadFile

    try:
        return UploadFile(path)
    except OSError as error:
        raise InputError(
            "cannot read a file that workers should import",
            where="cluster.code",
            found=str(error),
            mend="give its path as seen from here",
        ) from error
