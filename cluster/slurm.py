"""Workers as Slurm jobs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cluster.base import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client


class SlurmSpec(ClusterSpec):
    """Workers as Slurm jobs, each with a worker of its own; or all in one allocation.

    Attributes:
        queue: Partition.
        account: Whom the time is charged to.
        walltime: Of a worker's job, ``[days-]HH:MM:SS`` or ``55m``.
        one_allocation: One job of several tasks instead of a job per worker.
        directives: Further ``#SBATCH`` lines, such as ``--constraint=icelake``.
        prologue: Shell lines before the worker, such as ``module load python``.
    """

    kind: Literal["slurm"] = "slurm"
    queue: str | None = Field(default=None, description="Partition.")
    account: str | None = Field(default=None, description="Whom the time is charged to.")
    walltime: str = Field(default="01:00:00", description="Of a worker's job.")
    one_allocation: bool = Field(default=False, description="One job of several tasks, not a job per worker.")
    directives: tuple[str, ...] = Field(default=(), description="Further #SBATCH options.")
    prologue: tuple[str, ...] = Field(default=(), description="Shell lines before the worker.")


def start(spec: SlurmSpec) -> AbstractContextManager[Client]:
    """Start the jobs, give a client, and end them."""
    raise NotImplementedError
