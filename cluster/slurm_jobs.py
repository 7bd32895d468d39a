"""A Slurm job per worker, through dask-jobqueue; this module is loaded only where such jobs are wanted.

dask-jobqueue submits and cancels jobs, but does not see that one has ended: a worker that left before its
walltime, was cancelled or preempted would be missed for ever. `Jobs` looks at the queue while workers are
missing, and submits again what is gone::

    worker missing ──► squeue ──┬─ pending, running     wait
                                ├─ gone, had a worker   submit again at once
                                └─ gone, never had one  submit again after a pause, tell the end of its output
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cluster import slurm
from cluster.base import seconds_of
from engine.values.errors import InputError, LandweaveError, RetryableError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("landweave.cluster")

_LOOK_S = 10.0  # between two looks at the queue, and only while workers are missing
_PAUSE_S = 300.0  # at most, between two tries where jobs end before their worker comes
_TAIL = 1500


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo what importing dask-jobqueue does to Ctrl-C: a run drains on it."""
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "dask-jobqueue can only be loaded in the main thread",
            where="kind: slurm",
            mend="open the cluster, or `import dask_jobqueue`, in the main thread",
        )
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


with _own_signals():
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    from distributed.deploy.spec import ProcessInterface, SpecCluster


class WorkerJob(SLURMJob):
    """A job whose worker gets secrets through Slurm's export, and whose refusal is told in Slurm's words."""

    def __init__(self, *args: Any, export: str = "ALL", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.export = export
        self.refused: LandweaveError | None = None

    async def start(self) -> None:
        """Submit the job; a refusal is kept for `Jobs`: raised here, it would be lost in a callback."""
        try:
            await super().start()
        except LandweaveError as error:
            self.refused = error
            await ProcessInterface.start(self)

    async def _submit_job(self, script_filename: str) -> str:
        command = [self.submit_command, "--parsable", f"--export={self.export}", script_filename]
        code, out, err = await _ask(*command)
        if code:
            raise _refused(err.strip(), str(self.job_header))
        return out

    async def close(self) -> None:
        """Cancel the job, if Slurm has it still."""
        if self.job_id:
            await _ask(self.cancel_command, self.job_id)
        await ProcessInterface.close(self)


class Jobs(SLURMCluster):
    """Workers as jobs; those whose job is gone are submitted again.

    Attributes:
        error: Why a worker did not come, the last time that happened.
        failed: How many did not come, one after another.
    """

    job_cls = WorkerJob
    scheduler: Any

    def __init__(self, **kwargs: Any) -> None:
        self.error: LandweaveError | None = None
        self.failed = 0
        self._pause_until = 0.0
        self._arrived: set[str] = set()  # workers that their job has brought
        self._queue: dict[str, str] = {}
        super().__init__(**kwargs)

    async def _close(self) -> None:
        await super()._close()
        for name, value in vars(self).items():
            if name.startswith("_job_") and hasattr(value, "close"):
                value.close()  # the files of the keys: dask-jobqueue would leave them until they are collected

    async def keep(self) -> None:
        """Look after the jobs until the cluster closes."""
        while self.status.name in ("created", "starting", "running"):
            try:
                await self._look()
            except Exception as error:  # whatever it is: without these looks no worker is ever replaced
                logger.warning("cannot look after the workers' jobs: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        present = {str(worker.name) for worker in self.scheduler.workers.values()}
        if present:
            self.failed = 0
        missing = {name: job for name, job in self.workers.items() if name not in present}
        for name, job in missing.items():
            if job.refused:
                await self._lost(name, job, job.refused)
        waiting = {name: job for name, job in missing.items() if job.job_id}
        if waiting:
            self._queue = await queue()
        for name, job in waiting.items():
            if job.job_id not in self._queue:
                await self._gone(name, job)
        if set(self.worker_spec) - set(self.workers) and time.monotonic() >= self._pause_until:
            await self._correct_state()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """Remember who has come, also for less than the time between two looks.

        Dask would cancel the job of a worker that is missing for 15 s: by then it is the next one's, which waits.
        """
        if op == "add":
            self._arrived |= {str(worker["name"]) for worker in msg["workers"].values()}
        super(SpecCluster, self)._update_worker_status(op, msg)

    async def _gone(self, name: str, job: WorkerJob) -> None:
        if name not in self._arrived:
            await self._lost(name, job, _ended(job))
            return
        logger.info("job %s has ended; another one follows", job.job_id)
        self._arrived.discard(name)
        await self._drop(name, job)

    async def _drop(self, name: str, job: WorkerJob) -> None:
        """Forget a job, so that another one is submitted in its place."""
        if self.workers.get(name) is job:  # the cluster may have shrunk in the meantime
            del self.workers[name]
        await ProcessInterface.close(job)

    async def _lost(self, name: str, job: WorkerJob, error: LandweaveError) -> None:
        """Note that a worker does not come; it will hardly be the last, so the next try waits longer."""
        self.failed += 1
        self._pause_until = time.monotonic() + min(_PAUSE_S, _LOOK_S * 2 ** min(self.failed, 10))
        if str(error) != str(self.error):
            logger.warning("%s", error)
        self.error = error
        await self._drop(name, job)

    def waiting(self) -> str:
        """Tell what the jobs without a worker wait for, in Slurm's words."""
        own = {str(job.job_id) for job in self.workers.values()}
        return (
            ", ".join(f"{n} {said}" for n, said in self._queue.items() if n in own) or "no job in the queue"
        )


@contextmanager
def start_jobs(spec: slurm.SlurmSpec) -> Iterator[Client]:
    """Submit a job per worker, give a client when the first worker is there, and cancel the jobs.

    Raises:
        InputError: If Slurm is not here, refuses the jobs, or they end before a worker comes.
        RetryableError: If no job begins within ``queue_wait``.
    """
    import dask
    from distributed import Client

    from cluster.scale import follow_work

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        jobs = Jobs(**_settings(spec))
    with jobs, Client(jobs, set_as_default=False) as client:
        if spec.adapt is not None:
            # one at least is in the queue: a job may wait there for longer than an idle worker stays
            least = max(1, spec.adapt.minimum)
            follow_work(jobs, spec.adapt.model_copy(update={"minimum": least}))
        else:
            jobs.scale(spec.n_workers or slurm.WORKERS)
        keeper = asyncio.run_coroutine_threadsafe(jobs.keep(), cast("Any", jobs.loop).asyncio_loop)
        try:
            _first(jobs, client, spec.wait_s)
            yield client
        finally:
            keeper.cancel()


def job_script(spec: slurm.SlurmSpec) -> str:
    """Return the script of a worker's job, but for the scheduler's address."""
    job = WorkerJob("SCHEDULER", name="NAME", **_job_settings(spec))
    return str(job.job_script())


def _settings(spec: slurm.SlurmSpec) -> dict[str, Any]:
    return {
        "name": slurm.JOB_NAME,
        "silence_logs": logging.ERROR,
        "interface": spec.interface,
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},  # any free port; not open to the network
        "security": slurm.new_keys(spec),
        "shared_temp_directory": str(slurm.log_folder(spec)),  # of the keys, which only their owner can read
        **_job_settings(spec),
    }


def _job_settings(spec: slurm.SlurmSpec) -> dict[str, Any]:
    gpu = [f"--gres=gpu:{spec.gpus_per_worker}"] if spec.gpus_per_worker else []
    resources = ["--resources", f"GPU={spec.gpus_per_worker}"] if spec.gpus_per_worker else []
    return {
        "job_name": slurm.JOB_NAME,
        "queue": spec.queue,
        "account": spec.account,
        "walltime": slurm.clock(seconds_of(spec.walltime)),
        "cores": spec.threads_per_worker,
        "processes": 1,
        "memory": f"{spec.limit_bytes}B",
        "job_cpu": spec.job_cpus,
        "job_mem": f"{spec.job_mib}M",
        "job_directives_skip": ["SBATCH -e "],  # one file per job
        "job_extra_directives": [*gpu, *spec.directives],
        "job_script_prologue": [*slurm.exports(slurm.job_environment(spec)), *spec.prologue],
        "worker_extra_args": ["--no-dashboard", *resources],
        "python": spec.python,
        "local_directory": spec.local_directory,
        "log_directory": str(slurm.log_folder(spec)),
        "shebang": "#!/bin/bash",
        "export": slurm.exported(spec, os.environ),
    }


def _first(jobs: Jobs, client: Client, limit_s: float) -> None:
    """Wait until a worker is there, and tell in between what the queue says."""
    begun, said = time.monotonic(), ""
    while not jobs.scheduler.workers:
        if jobs.error is not None and not jobs.workers:
            raise jobs.error
        if time.monotonic() - begun > limit_s:
            raise RetryableError(
                "no worker's job has begun",
                where="slurm",
                found=jobs.waiting(),
                limit=f"within {limit_s:.0f} s",
                mend="ask for less (walltime, memory_limit, queue), or wait longer: queue_wait",
            )
        if jobs.waiting() != said:
            said = jobs.waiting()
            logger.info("waiting for the first worker: %s", said)
        time.sleep(0.1)


async def queue() -> dict[str, str]:
    """Return state and reason of each of one's own jobs in the queue, by its number.

    Raises:
        RetryableError: If Slurm does not answer.
    """
    code, out, err = await _ask("squeue", "--noheader", "--format=%i %T %r", f"--user={os.getuid()}")
    if code:
        raise RetryableError("Slurm does not tell its queue", where="squeue", found=err.strip())
    rows = [line.split(maxsplit=2) for line in out.splitlines() if line.strip()]
    return {number: f"{state} ({reason})" for number, state, reason in rows if state != "COMPLETING"}


async def _ask(*command: str) -> tuple[int, str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=slurm.clean_environment(),
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not on this machine",
            where="kind: slurm",
            found="no Slurm in PATH",
            mend="use a machine from which jobs are submitted, such as a login node, or `module load slurm`",
        ) from error
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


def _refused(said: str, header: str) -> LandweaveError:
    """Say why sbatch refuses a worker's job, and what was asked for."""
    options = " ".join(line.removeprefix("#SBATCH ") for line in header.splitlines())
    away = any(text in said.lower() for text in ("unable to contact", "timed out", "connection"))
    kind = RetryableError if away else InputError
    mend = "try again later" if away else "see queue, account, walltime, memory_limit and directives"
    return kind(
        "Slurm refuses a worker's job", where="sbatch", found=f"{said} (asked for: {options})", mend=mend
    )


def _ended(job: WorkerJob) -> LandweaveError:
    """Say that a job ended before its worker came, with the end of its output."""
    found = sorted(Path(job.log_directory).glob(f"*-{job.job_id}.out"))
    text = found[-1].read_text(errors="replace").strip()[-_TAIL:] if found else ""
    return InputError(
        "a worker's job ended before its worker came",
        where=f"job {job.job_id}",
        found=text or f"no output in {job.log_directory}; `scontrol show job {job.job_id}` may tell more",
        mend="see prologue, python, interface and memory_limit in the cluster's YAML",
    )
