"""One tile in a process of its own that is killed at a given point: ``python -m ... folder point``."""

from __future__ import annotations

import sys

from engine.runs.tile import TileTask, execute_tile
from engine.store.lease import Lease
from engine.store.regions import open_epoch
from engine.values.grid import TileKey
from tests.faults.strike import arm, die
from tests.runs.fake_job import FakeJob

TILE = TileKey(0, 1)


def main(folder: str, point: str) -> None:
    job = FakeJob(folder).create()
    with Lease(job.run_dir) as lease:
        open_epoch(job.store_url, lease.epoch)
        if point != "nowhere":  # only now: the lease makes its own objects this way too
            arm(point, die)
        execute_tile(job, TileTask(TILE, 1, job.run_dir, lease.epoch))


if __name__ == "__main__":
    main(*sys.argv[1:])
