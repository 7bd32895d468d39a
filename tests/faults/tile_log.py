"""A preload for Dask workers: log each tile of a map that they begin. Also ``python -m ... map ...``, the command."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's process."""
    from pipelines.map_job import MapJob

    plain, path = MapJob.compute, os.environ["LANDWEAVE_TILE_LOG"]

    def compute(self: Any, tile: Any, threads: int) -> Any:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{tile}\n".encode())  # atomic
        os.close(handle)
        return plain(self, tile, threads)

    patch.object(MapJob, "compute", compute).start()


if __name__ == "__main__":
    from cluster import launch
    from pipelines.cli import main

    launch._CONNECT_S = 5  # a scheduler that is killed here does not come back
    main()
