"""A job that strikes one process of its own run when one of its tiles passes a named point."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.runs.driver import TileOutput
from engine.store.layout import create
from engine.store.ledger import Ledger
from engine.values.grid import TileKey
from tests.faults.strike import arm
from tests.runs.fake_job import FakeJob

VICTIMS = ("worker", "nanny", "scheduler", "client")


@dataclass(frozen=True)
class StruckJob(FakeJob):
    """A `FakeJob` whose store may lie elsewhere, and in which something is killed, once.

    Attributes:
        base: Where store and run folder lie, any fsspec URL; empty for `folder`.
        point: Where to strike; empty for nowhere.
        victim: Which process is killed.
        target: The tile whose worker strikes.
        hungry: A tile that takes ever more memory.
    """

    base: str = ""
    point: str = ""
    victim: str = "worker"
    target: str = "r1_c1"
    hungry: str = ""

    @property
    def store_url(self) -> str:
        return f"{self.base or self.folder}/map.zarr"

    @property
    def run_dir(self) -> str:
        return f"{self.base or self.folder}/run"

    def create(self) -> StruckJob:
        create(self.store_url, self.spec())
        return self

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        output = super().compute(tile, threads)
        held = []
        while str(tile) == self.hungry and len(held) < 200:
            held.append(np.ones(10 << 20, np.uint8))
            time.sleep(0.02)
        if self.point and str(tile) == self.target and not Path(self.folder, "struck.json").exists():
            arm(self.point, self._strike)
        return output

    def in_flight(self) -> list[str]:
        """Return the tiles that were begun and are not on record."""
        recorded = {str(r.tile) for r in Ledger(self.run_dir, self.name).records()}
        return sorted(set(self.executions()) - recorded)

    def _strike(self) -> None:
        """Note what is in flight, then kill."""
        pids = json.loads(Path(self.folder, "pids.json").read_text())
        pids |= {"worker": os.getpid(), "nanny": os.getppid()}
        note = {"in_flight": self.in_flight(), "pid": pids[self.victim]}
        Path(self.folder, "struck.json").write_text(json.dumps(note))
        os.kill(pids[self.victim], signal.SIGKILL)
        # A nanny's worker dies a moment after it, and must not begin another tile meanwhile.
        if self.victim == "nanny":
            time.sleep(60)
