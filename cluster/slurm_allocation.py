"""All workers in the one Slurm job that the driver runs in: started by `srun`, roles by dask-jobqueue's runner."""

from __future__ import annotations

import logging
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import slurm
from engine.values.errors import InputError, RetryableError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("landweave.cluster")

_START_S, _END_S = 300.0, 20.0
_TAIL = 1500


@dataclass(frozen=True)
class Step:
    """What `srun` starts.

    Attributes:
        command: Its command line.
        environment: Of the tasks; secrets are here, and nowhere else.
        scheduler_file: Where task 0 tells its address.
        key_file: The keys of all; read by their owner alone.
        log: Output of all tasks.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    scheduler_file: Path
    key_file: Path
    log: Path


def workers_of(spec: slurm.SlurmSpec, environ: Mapping[str, str]) -> int:
    """Return how many workers the allocation has room for, or as many as are asked for.

    Raises:
        InputError: If this process is in no allocation, or in one that is too small.
    """
    script = (
        "#SBATCH lines and an example: docs/clusters/slurm.md, or `landweave submit`, which writes the script"
    )
    if "SLURM_JOB_ID" not in environ:
        raise InputError(
            "one_allocation works inside a Slurm job, and this is none",
            where="one_allocation",
            found="no SLURM_JOB_ID",
            mend=script,
        )
    tasks = int(environ.get("SLURM_NTASKS", "1"))
    wanted = spec.n_workers or max(tasks - 1, 1)
    if wanted + 1 > tasks:
        raise InputError(
            "the allocation is too small: a task for the scheduler, and one for each worker",
            where=f"job {environ['SLURM_JOB_ID']}",
            found=f"{tasks} tasks",
            limit=f"{wanted + 1} tasks for {wanted} workers",
            mend=f"#SBATCH --ntasks={wanted + 1}; {script}",
        )
    return wanted


@contextmanager
def start_tasks(spec: slurm.SlurmSpec) -> Iterator[Client]:
    """Start scheduler and workers as tasks of this allocation, give a client, and end them.

    Raises:
        InputError: If there is no allocation, it is too small, or `srun` is missing.
        RetryableError: If the scheduler does not come.
    """
    from distributed import Client

    step, keys = step_of(spec, dict(os.environ)), slurm.new_keys(spec)
    if keys is not None:
        _write_keys(keys, step.key_file)
    process = _begin(step)
    try:
        _await_scheduler(step, process)
        file = str(step.scheduler_file)
        with Client(scheduler_file=file, security=keys, set_as_default=False) as client:
            try:
                yield client
            finally:
                client.shutdown()
    finally:
        _end(process)
        step.scheduler_file.unlink(missing_ok=True)
        step.key_file.unlink(missing_ok=True)


def step_of(spec: slurm.SlurmSpec, environ: Mapping[str, str]) -> Step:
    """Return what `srun` is to start.

    Raises:
        InputError: As `workers_of`.
    """
    import json
    import sys

    tasks = workers_of(spec, environ) + 1
    folder = slurm.log_folder(spec)
    name = f"{environ['SLURM_JOB_ID']}-{uuid.uuid4().hex[:8]}"
    scheduler_file, key_file = folder / f"scheduler-{name}.json", folder / f"keys-{name}.pem"
    log = folder / f"{slurm.JOB_NAME}-{name}.out"
    told: dict[str, Any] = {"scheduler_file": str(scheduler_file), "worker": slurm.worker_options(spec)}
    told["key_file"] = str(key_file) if spec.tls else None
    # one step of all tasks that outlives any single worker, beside whatever step the driver may be in itself
    options = [
        "--overlap",
        "--mpi=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--export=ALL",
        f"--output={log}",
    ]
    options += [f"--ntasks={tasks}", f"--cpus-per-task={spec.job_cpus}"]
    options += [f"--gpus-per-task={spec.gpus_per_worker}"] if spec.gpus_per_worker else []
    command = ("srun", *options, spec.python or sys.executable, "-m", "cluster.slurm_task", json.dumps(told))
    failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    return Step(
        command, {**environ, **slurm.job_environment(spec), **failures}, scheduler_file, key_file, log
    )


def _write_keys(keys: Any, path: Path) -> None:
    """Write key and certificate into one file, as TLS libraries read them; nobody else may read it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(keys.tls_worker_key + keys.tls_worker_cert)


def _begin(step: Step) -> subprocess.Popen[bytes]:
    try:
        # in a session of its own: Ctrl-C drains the driver, while its workers finish their tiles
        return subprocess.Popen(
            step.command, env=dict(step.environment), stdin=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError as error:
        raise InputError(
            "srun is not on this machine",
            where="one_allocation",
            found="no Slurm in PATH",
            mend="module load slurm",
        ) from error


def _await_scheduler(step: Step, process: subprocess.Popen[bytes]) -> None:
    """Wait for the scheduler's file; say what srun says when it ends before."""
    begun = time.monotonic()
    while not step.scheduler_file.exists():
        if process.poll() is not None or time.monotonic() - begun > _START_S:
            text = step.log.read_text(errors="replace").strip()[-_TAIL:] if step.log.exists() else ""
            ended = "is still waiting" if process.returncode is None else f"ended with {process.returncode}"
            raise RetryableError(
                "the scheduler does not start in the allocation",
                where=str(step.log),
                found=f"srun {ended}: {text}",
                limit=f"within {_START_S:.0f} s",
                mend="see that nothing else of the job holds its tasks, and the output above",
            )
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the tasks end by themselves; then end them."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()  # srun cannot then hold the driver; Slurm ends the tasks with the job
        process.wait()
