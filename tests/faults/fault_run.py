"""A run in a process of its own, for tests that kill it: ``python -m tests.faults.fault_run '{...}'``.

Settings: ``job`` (fields of `StruckJob`), and optionally ``cluster`` (fields of a `ClusterSpec`), ``options``
(of `RunOptions`), ``connect_s`` (how long a lost scheduler is looked for).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from cluster import address, launch
from cluster.spec import parse_spec
from engine.runs.driver import RunOptions, run_tiles
from engine.values.errors import LandweaveError
from engine.values.grid import TileKey
from tests.faults.struck_job import StruckJob

LOCAL = {"n_workers": 2, "memory_limit": "1GiB"}


def main(settings: dict) -> int:
    """Run the job and print the summary, or the error, as one line of JSON."""
    address._CONNECT_S = settings.get("connect_s", 3)
    poison = tuple(TileKey.parse(t) for t in settings["job"].pop("poison", []))
    try:
        job = StruckJob(**settings["job"], poison=poison).create()
        pids = {"client": os.getpid(), "scheduler": settings.get("scheduler_pid")}
        Path(job.folder, "pids.json").write_text(json.dumps(pids))
        with launch.open_client(parse_spec(settings.get("cluster", LOCAL))) as client:
            summary = run_tiles(job, client, job.run_dir, RunOptions(**settings.get("options", {})))
    except LandweaveError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
        return error.exit_code
    print(json.dumps(asdict(summary)), flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
