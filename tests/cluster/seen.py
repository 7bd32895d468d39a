"""What tests ask workers and schedulers for; a module that is imported there in no time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def of_worker(dask_worker: Any) -> dict[str, Any]:
    """Return a worker's environment, folder, sizes, and the command lines of its process and those above it."""
    import psutil

    chain = [psutil.Process(), *psutil.Process().parents()]
    return {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "name": dask_worker.name,
        "threads": dask_worker.state.nthreads,
        "memory": dask_worker.memory_manager.memory_limit,
        "resources": dict(dask_worker.state.total_resources),
        "commands": [" ".join(process.cmdline()) for process in chain],
        "pid": os.getpid(),
    }


def of_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    """Return what a scheduler does about deaths, and its process."""
    return {"allowed_failures": dask_scheduler.allowed_failures, "pid": os.getpid()}
