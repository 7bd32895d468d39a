"""Workers under Slurm: each a job of its own, or all in one allocation.

::

    a job per worker                             one allocation
    driver, with the scheduler                   job of n + 1 tasks
      └─ sbatch ─► job ─► nanny ─► worker          batch step: driver
      └─ sbatch ─► job ─► nanny ─► worker          srun ─► task 0: scheduler
      (queue gives them one after another)              └─► task 1..n: nanny ─► worker

Jobs come as the queue lets them, leave before their walltime and are followed by new ones
(`cluster.slurm_jobs`). An allocation starts as a whole and ends as a whole (`cluster.slurm_allocation`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.base import ClusterSpec, seconds_of
from cluster.slurm_driver import SlurmDriver
from cluster.worker import worker_environment

if TYPE_CHECKING:
    from distributed import Client, Security

WORKERS = 4
MEMORY = "8GiB"
JOB_NAME = "landweave-worker"

_NANNY_MIB = 300  # the nanny takes 60 MiB; the rest is for what a worker grows between two looks of the nanny
_LEAVE_S, _LEAVE_SHARE = 120.0, 0.1


class SlurmSpec(ClusterSpec):
    """Workers as Slurm jobs, each with a worker of its own; or all in one allocation.

    Without `n_workers` and `adapt` there are 4 workers, or as many as the allocation holds; without
    `memory_limit` each has 8 GiB. A worker of a job leaves in good order before the walltime ends, also
    without `lifetime`.

    Attributes:
        queue: Partition.
        account: Whom the time is charged to.
        walltime: Of a worker's job, or of the allocation: ``[days-]HH:MM:SS`` or ``55m``.
        cpus: Per worker; without it `threads_per_worker`. More of them where a partition gives memory by CPU.
        one_allocation: One job of several tasks instead of a job per worker.
        directives: Further options of ``sbatch``, such as ``--constraint=icelake``.
        prologue: Shell lines before the worker, such as ``module load python``.
        python: Interpreter on the nodes; the one that runs here unless told.
        interface: Network interface that scheduler and workers talk over, such as ``ib0``.
        local_directory: Fast disk of a node for Dask's own files; ``$TMPDIR`` or ``/tmp`` unless told.
        log_directory: Where the output of the jobs goes, on a disk that all nodes see.
        tls: Encrypt what scheduler and workers say, with keys made for this run: others on the cluster's network
            can then neither read it nor run code in your name.
        queue_wait: How long a worker may wait in the queue while there is no other.
        driver: The job that drives a submitted run.
    """

    kind: Literal["slurm"] = "slurm"
    queue: str | None = Field(default=None, description="Partition.")
    account: str | None = Field(default=None, description="Whom the time is charged to.")
    walltime: str = Field(default="01:00:00", description="Of a worker's job, or of the one allocation.")
    cpus: int | None = Field(default=None, ge=1, description="CPUs per worker; default threads_per_worker.")
    one_allocation: bool = Field(default=False, description="One job of several tasks, not a job per worker.")
    directives: tuple[str, ...] = Field(default=(), description="Further options of sbatch.")
    prologue: tuple[str, ...] = Field(default=(), description="Shell lines before the worker.")
    python: str | None = Field(
        default=None, description="Interpreter on the nodes; default the one used here."
    )
    interface: str | None = Field(default=None, description="Network interface, such as ib0.")
    local_directory: str | None = Field(default=None, description="Fast disk of a node; default $TMPDIR.")
    log_directory: str = Field(default="slurm-logs", description="Where the output of the jobs goes.")
    tls: bool = Field(default=True, description="Encrypt and authenticate, with keys made for the run.")
    queue_wait: str = Field(default="1 day", description="How long a worker may wait in the queue.")
    driver: SlurmDriver = Field(
        default_factory=SlurmDriver, description="The job that drives a submitted run."
    )

    @field_validator("walltime", "queue_wait")
    @classmethod
    def _durations(cls, value: str) -> str:
        seconds_of(value)
        return value

    @field_validator("directives")
    @classmethod
    def _options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if not option.startswith("-") or "\n" in option:
                raise ValueError(f"{option!r} is no option of sbatch; write e.g. --constraint=icelake")
        return value

    @model_validator(mode="after")
    def _fits(self) -> SlurmSpec:
        if self.one_allocation and self.adapt is not None:
            raise ValueError("one_allocation has all its workers at once: n_workers instead of adapt")
        if self.one_allocation and self.lifetime is not None:
            raise ValueError("one_allocation ends as a whole: walltime instead of lifetime")
        if self.lifetime and seconds_of(self.lifetime) >= seconds_of(self.walltime):
            raise ValueError(f"lifetime {self.lifetime} must be below walltime {self.walltime}")
        return self

    @property
    def lifetime_s(self) -> float | None:
        """Return after how many seconds a worker leaves: before the walltime; None in one allocation.

        Two minutes are kept for what comes before and after the worker, a tenth of a short walltime.
        """
        if self.lifetime is not None:
            return seconds_of(self.lifetime)
        if self.one_allocation:
            return None  # workers end with the driver, which Slurm tells in time
        whole_s = seconds_of(self.walltime)
        return whole_s - min(_LEAVE_S, _LEAVE_SHARE * whole_s)

    @property
    def wait_s(self) -> float:
        """Return how many seconds a worker is waited for: in the queue, or for tasks that begin at once."""
        return super().wait_s if self.one_allocation else seconds_of(self.queue_wait)

    @property
    def most_workers(self) -> int | None:
        """Return how many workers there may be at once; None for as many as an allocation has room for."""
        return super().most_workers or (None if self.one_allocation else WORKERS)

    @property
    def limit_bytes(self) -> int:
        """Return the memory limit of a worker."""
        from dask.utils import parse_bytes

        return int(parse_bytes(self.memory_limit or MEMORY))

    @property
    def job_mib(self) -> int:
        """Return the memory that is asked of Slurm for a worker: its limit, and what guards it."""
        return -(-self.limit_bytes // 2**20) + _NANNY_MIB

    @property
    def job_cpus(self) -> int:
        """Return the CPUs that are asked of Slurm for a worker."""
        return self.cpus or self.threads_per_worker


@contextmanager
def start(spec: SlurmSpec) -> Iterator[Client]:
    """Start the jobs, or the tasks of the allocation that this process runs in; give a client; end them.

    Raises:
        InputError: If Slurm is not here or refuses the jobs; if there is no allocation, or it is too small.
        RetryableError: If no worker comes.
    """
    if spec.one_allocation:
        from cluster.slurm_allocation import start_tasks as begin
    else:
        from cluster.slurm_jobs import start_jobs as begin
    with begin(spec) as client:
        yield client


def allocation_script(spec: SlurmSpec, command: str, options: tuple[str, ...] = ()) -> str:
    """Return a batch script for ``sbatch`` that runs a command in one allocation with room for the workers.

    The first task is the scheduler's; its share of memory is the driver's too.

    Args:
        spec: With ``one_allocation: true``.
        command: Shell line of the driver, such as ``landweave map run.yaml --cluster slurm.yaml``.
        options: Further options of ``sbatch``, such as ``--output=run/driver.log``.

    >>> print(allocation_script(SlurmSpec(one_allocation=True, n_workers=8, queue="main"), "landweave map run.yaml"))
    #!/bin/bash
    #SBATCH --job-name=landweave
    #SBATCH --ntasks=9
    #SBATCH --cpus-per-task=1
    #SBATCH --mem-per-cpu=8492M
    #SBATCH --time=01:00:00
    #SBATCH --signal=B:USR1@180
    #SBATCH --partition=main
    exec landweave map run.yaml
    <BLANKLINE>
    """
    told = {
        "job-name": "landweave",
        "ntasks": (spec.n_workers or WORKERS) + 1,
        "cpus-per-task": spec.job_cpus,
        "mem-per-cpu": f"{-(-spec.job_mib // spec.job_cpus)}M",
        "time": clock(seconds_of(spec.walltime)),
        "signal": "B:USR1@180",
        "partition": spec.queue,
        "account": spec.account,
        "gpus-per-task": spec.gpus_per_worker or None,
    }
    own = [f"--{name}={value}" for name, value in told.items() if value is not None]
    lines = [f"#SBATCH {option}" for option in (*own, *spec.directives, *options)]
    return "\n".join(["#!/bin/bash", *lines, *spec.prologue, f"exec {command}", ""])


def clock(seconds: float) -> str:
    """Return a duration as Slurm writes it, in whole minutes upwards: Slurm counts no smaller ones.

    >>> clock(5400), clock(90), clock(93600)
    ('01:30:00', '00:02:00', '1-02:00:00')
    """
    days, minutes = divmod(-(-int(seconds) // 60), 24 * 60)
    return (f"{days}-" if days else "") + f"{minutes // 60:02}:{minutes % 60:02}:00"


def job_environment(spec: SlurmSpec) -> dict[str, str]:
    """Return what a worker process must have from its first instruction, without secrets.

    Folders of ``PYTHONPATH`` are made absolute: a job may start elsewhere.
    """
    paths = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    own = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**own, **worker_environment(spec)}


def exports(environment: dict[str, str]) -> list[str]:
    """Return shell lines that set variables.

    >>> exports({"A": "b c"})
    ["export A='b c'"]
    """
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def exported(spec: SlurmSpec, environ: Mapping[str, str]) -> str:
    """Return the value of ``--export`` by which forwarded variables reach a job, none of them in its script.

    What the site or the user has set stays: only the names are added where not everything is exported.

    >>> exported(SlurmSpec(forward=("TOKEN",)), {})
    'ALL,TOKEN'
    >>> exported(SlurmSpec(forward=("TOKEN",)), {"SBATCH_EXPORT": "NONE"})
    'TOKEN'
    """
    found = re.findall(r"--export[= ](\S+)", "\n".join(spec.directives))
    told = found[-1] if found else environ.get("SBATCH_EXPORT", "ALL")
    names = [n for n in (*told.split(","), *spec.forward) if n not in ("NONE", "NIL", "")]
    return ",".join(dict.fromkeys(names)) or "NONE"


def clean_environment() -> dict[str, str]:
    """Return the environment for Slurm's commands, without what describes the job that this process is in."""
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("SLURM_") or k in ("SLURM_CONF", "SLURM_CLUSTERS")
    }


def log_folder(spec: SlurmSpec) -> Path:
    """Make the folder of the jobs' output and return it: Slurm ends a job at once whose output has no place.

    Raises:
        InputError: If it cannot be made.
    """
    from engine.values.errors import InputError

    folder = Path(os.path.expandvars(spec.log_directory)).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "cannot make the folder for the jobs' output",
            where="log_directory",
            found=str(error),
            mend="log_directory: a folder on a disk that all nodes see",
        ) from error
    return folder


def new_keys(spec: SlurmSpec) -> Security | None:
    """Return keys that only this run has, None without ``tls``.

    Raises:
        InputError: If what makes them is missing.
    """
    from distributed import Security

    from engine.values.errors import InputError

    if not spec.tls:
        return None
    try:
        return Security.temporary()
    except ImportError as error:
        raise InputError(
            "keys cannot be made",
            where="tls",
            found=str(error),
            mend='pip install "landweave[slurm]"; or tls: false on a network that only you reach',
        ) from error


def worker_options(spec: SlurmSpec) -> dict[str, Any]:
    """Return what a worker of either way is started with, in the words of `distributed.Nanny`."""
    resources = {"GPU": 1} if spec.gpus_per_worker else None
    return {
        "nthreads": spec.threads_per_worker,
        "memory_limit": spec.limit_bytes,
        "local_directory": spec.local_directory,
        "interface": spec.interface,
        "resources": resources,
        "dashboard": False,  # it would be open to all who reach the node
    }
