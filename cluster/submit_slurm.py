"""A driver as a Slurm job.

Slurm tells it by SIGUSR1 some minutes before its walltime ends; the driver drains and submits the next job
itself. A job whose node is lost is put into the queue again by Slurm (``--requeue``) and goes on.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import socket
import subprocess
from typing import cast

from cluster.base import ClusterSpec, seconds_of
from cluster.slurm import SlurmSpec, allocation_script, clean_environment, clock, exported
from cluster.submit import Job, Look, Order
from engine.values.errors import InputError, RetryableError

_ASK_S = 30.0
_FIELDS = "%j|%T|%r|%N"


def written(spec: ClusterSpec, order: Order) -> str:
    """Return the batch script: of a job that starts its workers as jobs, or of one allocation for all."""
    own = cast("SlurmSpec", spec)
    if own.one_allocation:
        return allocation_script(own, shlex.join(order.argv), (*_shared(own, order), *own.driver.directives))
    options = [*_alone(own), *_shared(own, order), *own.driver.directives]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
    return "\n".join([*lines, *own.prologue, f"exec {shlex.join(order.argv)}"]) + "\n"


def start(spec: ClusterSpec, order: Order) -> Job:
    """Hand the script to ``sbatch``.

    Raises:
        InputError: If Slurm refuses it, in Slurm's words; if a variable that is to be forwarded is not set.
        RetryableError: If Slurm does not answer.
    """
    export = f"--export={exported(cast('SlurmSpec', spec), os.environ)}"
    after = [f"--dependency=afterany:{order.after}"] if order.after else []
    done = _ask("sbatch", "--parsable", export, *after, text=written(spec, order))
    if done.returncode:
        raise InputError(
            "Slurm refuses the driver's job",
            where="sbatch",
            found="; ".join(done.stderr.strip().splitlines()),
            mend="see queue, account and driver in the cluster's YAML; --here drives from a process of this machine",
        )
    number, _, cluster = done.stdout.strip().partition(";")
    facts = {"cluster": cluster} if cluster else {}
    return Job("slurm", number, order.name, socket.gethostname(), order.output, facts)


def look(job: Job) -> Look:
    """Ask ``squeue``; a job of another cluster with the same number is not taken for this one."""
    try:
        done = _ask(
            "squeue", "--noheader", "--states=all", f"--jobs={job.id}", f"--format={_FIELDS}", *_at(job)
        )
    except (InputError, RetryableError) as error:
        return Look("unknown", f"{error.what}: {error.found}")
    if done.returncode and "invalid job id" not in done.stderr.lower():
        return Look("unknown", done.stderr.strip().rpartition("\n")[2])
    for line in done.stdout.splitlines():
        name, state, reason, node = line.strip().rsplit("|", 3)
        if name == job.name:
            return _judged(state, reason, node)
    return Look("gone", "Slurm's queue does not know it any more")


def stop(job: Job) -> str:
    """Cancel the job if it still waits."""
    try:
        done = _ask("scancel", "--state=PENDING", *_at(job), job.id)
    except (InputError, RetryableError) as error:
        return f"{error.what}: {error.found}"
    return done.stderr.strip() if done.returncode else ""


def _shared(spec: SlurmSpec, order: Order) -> list[str]:
    """Return the options of every driver.

    ``B:`` sends the signal to the batch process, which the driver becomes by ``exec``.
    """
    told = {
        "job-name": order.name,
        "output": shlex.quote(order.output.replace("%", "%%")),
        "open-mode": "append",
        "signal": f"B:USR1@{math.ceil(seconds_of(spec.driver.drain))}",
    }
    return [*(f"--{name}={value}" for name, value in told.items()), "--requeue"]


def _alone(spec: SlurmSpec) -> list[str]:
    """Return the options of a driver whose workers are jobs of their own."""
    from dask.utils import parse_bytes

    driver = spec.driver
    told = {
        "partition": driver.queue or spec.queue,
        "account": spec.account,
        "time": None if driver.walltime is None else clock(seconds_of(driver.walltime)),
        "ntasks": 1,
        "cpus-per-task": driver.cores,
        "mem": f"{math.ceil(parse_bytes(driver.memory) / 2**20)}M",
    }
    return [f"--{name}={value}" for name, value in told.items() if value is not None]


def _judged(state: str, reason: str, node: str) -> Look:
    """Sort Slurm's many states into ours.

    >>> _judged("PENDING", "Priority", ""), _judged("TIMEOUT", "TimeLimit", "n1").state
    (Look(state='pending', said='Priority'), 'gone')
    """
    if state in ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"):
        waits = "" if reason in ("None", "") else reason
        return Look("pending", waits if state == "PENDING" else f"{state}, {reason}")
    if state in (
        "RUNNING",
        "COMPLETING",
        "CONFIGURING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "RESIZING",
    ):
        return Look("running", f"on {node}" if state == "RUNNING" else f"{state} on {node}")
    return Look("gone", state if reason in ("None", "") else f"{state}, {reason}")


def _at(job: Job) -> list[str]:
    return [f"--clusters={job.facts['cluster']}"] if job.facts.get("cluster") else []


def _ask(command: str, *options: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands.

    What a job's own environment says of that job must not become the next one's.
    """
    program = shutil.which(command)
    if program is None:
        raise InputError(
            f"{command} is not on this machine",
            where="slurm",
            found=f"no {command} in PATH",
            mend="use a machine from which jobs are submitted, such as a login node",
        )
    try:
        return subprocess.run(
            [program, *options],
            input=text,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise RetryableError("Slurm does not answer", where=command, found=str(error)) from error
