"""A run in a process of its own, for tests that kill it: ``python -m tests.runs.fault_run '{...}'``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from cluster.launch import open_client
from cluster.spec import ClusterSpec
from engine.runs.driver import RunOptions, run_tiles
from engine.values.errors import LandweaveError
from engine.values.grid import TileKey
from tests.runs.fake_job import FakeJob


def main(settings: dict) -> int:
    """Run the job and print the summary, or the error, as one line of JSON."""
    poison = tuple(TileKey.parse(t) for t in settings["job"].pop("poison", []))
    job = FakeJob(**settings["job"], poison=poison).create()
    spec = ClusterSpec(n_workers=settings.get("workers", 2), memory_limit="1GiB")
    with open_client(spec) as client:
        try:
            summary = run_tiles(job, client, job.run_dir, RunOptions(**settings.get("options", {})))
        except LandweaveError as error:
            print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
            return error.exit_code
        print(json.dumps(asdict(summary)), flush=True)
        return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
