"""What `srun` starts in one allocation: task 0 becomes the scheduler, the others workers."""

from __future__ import annotations

import json
import sys
from typing import Any


def main(told: str) -> None:
    """Be what the number of this task says, until the scheduler closes.

    Args:
        told: JSON: the scheduler's file, and what each worker is started with.
    """
    from dask_jobqueue.slurm import SLURMRunner

    settings: dict[str, Any] = json.loads(told)
    worker = settings["worker"]
    SLURMRunner(
        client=False,  # the driver, beside this step
        scheduler_file=settings["scheduler_file"],
        scheduler_options={"dashboard_address": ":0", "interface": worker["interface"]},
        worker_class="distributed.Nanny",
        worker_options=worker,
    )


if __name__ == "__main__":
    main(sys.argv[1])
