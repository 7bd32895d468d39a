"""One tile in a process of its own that is killed at a given point: ``python -m ... folder point``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from engine.runs import tile as tile_module
from engine.runs.tile import TileTask, execute_tile
from engine.store import regions
from engine.store.lease import Lease
from engine.store.ledger import Ledger
from engine.store.regions import open_epoch
from engine.values.grid import TileKey
from tests.runs.fake_job import FakeJob

TILE = TileKey(0, 1)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _then_die(function: Any) -> Any:
    return lambda *args: (function(*args), _die())


def main(folder: str, point: str) -> None:
    job = FakeJob(folder).create()
    match point:
        case "before-write":
            tile_module.write_region = _die
        case "staged":
            regions._publish = _die
        case "half-published":  # one variable is in place, the other is not
            regions._publish = _then_die(regions._publish)
        case "after-write":
            tile_module.write_region = _then_die(tile_module.write_region)
        case "after-read-back":
            tile_module.read_back = _then_die(tile_module.read_back)
        case "before-record":
            Ledger.commit = _die
        case "after-record":
            Ledger.commit = _then_die(Ledger.commit)
    with Lease(job.run_dir) as lease:
        open_epoch(job.store_url, lease.epoch)
        if point == "inside-record":  # only now: the lease makes its own objects this way too
            os.link = _die
        execute_tile(job, TileTask(TILE, 1, job.run_dir, lease.epoch))


if __name__ == "__main__":
    main(*sys.argv[1:])
