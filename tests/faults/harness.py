"""Kill something in a run, give the same command again, and see what it cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.processes import Cluster, end, running
from tests.faults.struck_job import StruckJob

SIDE = 5


def bytes_under(url: str) -> dict[str, bytes]:
    """Return all files of a store by name."""
    import fsspec

    fs, base = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {str(path).removeprefix(base): bytes(fs.cat_file(path)) for path in sorted(fs.find(base))}


@dataclass
class Harness:
    """Runs of one job on one cluster that is healed between them.

    Attributes:
        cluster: Where it runs.
        job: What is made.
        options: How to run.
        connect_s: How long a lost scheduler is looked for.
        ends: What each run told in the end.
    """

    cluster: Cluster
    job: StruckJob
    options: dict[str, Any] = field(default_factory=lambda: {"no_worker_timeout_s": 30})
    connect_s: float = 3
    ends: list[dict[str, Any]] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        """Return what the command is told; the same each time."""
        self.cluster.heal()
        assert self.cluster.scheduler is not None
        return {
            "job": {k: v for k, v in asdict(self.job).items() if v != ()},
            "cluster": {"kind": "address", "address": self.cluster.address},
            "options": self.options,
            "connect_s": self.connect_s,
            "scheduler_pid": self.cluster.scheduler.pid,
        }

    def run(self, timeout: float = 60) -> dict[str, Any]:
        """Give the command and wait for its end."""
        with running(**self.settings()) as process:
            self.ends.append(end(process, timeout))
        return self.ends[-1]

    def struck(self) -> dict[str, Any]:
        """Return what the strike noted: the tiles in flight, and whom it killed."""
        note: dict[str, Any] = json.loads(Path(self.job.folder, "struck.json").read_text())
        return note

    def recomputed(self) -> Counter[str]:
        """Return the tiles that were begun more than once, and how often too often."""
        return Counter({tile: n - 1 for tile, n in self.job.executions().items() if n > 1})
