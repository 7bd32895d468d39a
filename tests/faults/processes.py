"""The processes of a run, each of its own, so that each can be killed alone.

::

    fault_run (client) ──► dask scheduler ◄── dask worker (the nanny) ──► worker
                                          ◄── dask worker (the nanny) ──► worker
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
_ENV = {
    "PYTHONPATH": str(ROOT),
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER": "0s",
}


def start(*command: str, **settings: Any) -> subprocess.Popen[str]:
    """Start a Python module in a session of its own, so that a signal to its group reaches all of it."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=settings.get("stdout", subprocess.PIPE),
        stderr=settings.get("stderr", subprocess.PIPE),
        text=True,
        cwd=ROOT,
        env=os.environ | _ENV | settings.get("env", {}),
        start_new_session=True,
    )


@contextmanager
def running(**settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a run; end it and all its workers in the end."""
    process = start("tests.faults.fault_run", json.dumps(settings))
    try:
        yield process
    finally:
        for child in family(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.communicate()


def end(process: subprocess.Popen[str], timeout: float = 60) -> dict[str, Any]:
    """Wait for the end of a run; return its summary or error, and its exit code."""
    out, err = process.communicate(timeout=timeout)
    told = json.loads(out.splitlines()[-1]) if out else {"stderr": err}
    return told | {"exit": process.returncode}


def run(**settings: Any) -> dict[str, Any]:
    """Run to the end."""
    with running(**settings) as process:
        return end(process)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the worker processes below a process."""
    return [p for p in family(pid)[1:] if _is_worker(p)]


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 40) -> None:
    """Wait until something is so; fail when it never is."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, f"never: {what}"
        time.sleep(0.02)


class Cluster:
    """A scheduler and two nannies with a worker each, all separate processes.

    Args:
        folder: For their logs.
        env: More environment for all of them.
        preload: A module that each worker loads first.
    """

    def __init__(self, folder: Path, env: dict[str, str] | None = None, preload: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.env, self.port = folder, env or {}, free_port()
        self.preload = ["--preload", preload] if preload else []
        self.scheduler: subprocess.Popen[str] | None = None
        self.nannies: list[subprocess.Popen[str]] = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def heal(self, contact: str | None = None) -> Cluster:
        """Start whatever is not running; workers may reach the scheduler by another address."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            place = ["--host", "127.0.0.1", "--port", str(self.port)]
            self.scheduler = self._start("scheduler", *place, "--dashboard-address", "127.0.0.1:0")
            wait_for(lambda: listens(self.port), "the scheduler")
        self.nannies = [n for n in self.nannies if n.poll() is None]
        while len(self.nannies) < 2:
            small = ["--nthreads", "1", "--memory-limit", "1GiB", "--no-dashboard"]
            where = ["--local-directory", str(self.folder), "--host", "127.0.0.1"]
            self.nannies.append(self._start("worker", contact or self.address, *small, *where, *self.preload))
        return self

    def workers(self) -> list[psutil.Process]:
        return [w for n in self.nannies for w in workers_of(n.pid)]

    def close(self) -> None:
        for process in [*self.nannies, *([self.scheduler] if self.scheduler else [])]:
            for member in family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / f"{what}.log").open("a") as log:
            return start(f"distributed.cli.dask_{what}", *arguments, stdout=log, stderr=log, env=self.env)


def listens(port: int) -> bool:
    """Tell whether somebody takes connections at a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
