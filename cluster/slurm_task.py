"""What `srun` starts in one allocation: task 0 becomes the scheduler, the others workers."""

from __future__ import annotations

import json
import sys
from typing import Any


def main(told: str) -> None:
    """Be what the number of this task says, until the scheduler closes.

    Args:
        told: JSON: the scheduler's file, that of the keys if there are any, and what each worker is started with.
    """
    from dask_jobqueue.slurm import SLURMRunner

    settings: dict[str, Any] = json.loads(told)
    worker, secured = settings["worker"], _secured(settings["key_file"])
    SLURMRunner(
        client=False,  # the driver, beside this step
        scheduler_file=settings["scheduler_file"],
        scheduler_options={"dashboard_address": "127.0.0.1:0", "interface": worker["interface"], **secured},
        worker_class="distributed.Nanny",
        worker_options={**worker, **secured},
    )


def _secured(key_file: str | None) -> dict[str, Any]:
    if key_file is None:
        return {}
    from distributed import Security

    roles = ("scheduler", "worker", "client")
    files = {f"tls_{role}_{what}": key_file for role in roles for what in ("key", "cert")}
    return {
        "protocol": "tls://",
        "security": Security(require_encryption=True, tls_ca_file=key_file, **files),
    }


if __name__ == "__main__":
    main(sys.argv[1])
