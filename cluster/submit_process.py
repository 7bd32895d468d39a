"""A driver as a process of this machine that outlives the shell, the terminal and the login.

It leads a session of its own, so no terminal's hang-up and no Ctrl-C reaches it; its input is empty and its
output a file. Who looks later knows it by its number together with host, boot and start time, so that
another process with the same number is never taken for it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path

from cluster.base import ClusterSpec
from cluster.submit import Job, Look, Order
from engine.store.lease import Holder
from engine.values.errors import InputError


def written(spec: ClusterSpec, order: Order) -> str:
    """Return the command as a shell would be told it."""
    return f"setsid nohup {shlex.join(order.argv)} </dev/null >>{shlex.quote(order.output)} 2>&1 &\n"


def start(spec: ClusterSpec, order: Order) -> Job:
    """Start the process.

    Raises:
        InputError: If its output cannot be written.
    """
    output = Path(order.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(
            "the driver's output cannot be written", where=order.output, found=str(error)
        ) from error
    try:
        pid = os.posix_spawn(
            order.argv[0],
            order.argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, handle, 1),
                (os.POSIX_SPAWN_DUP2, handle, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(handle)
    who = Holder.of(pid)
    return Job("process", str(pid), order.name, who.host, order.output, {"holder": asdict(who)})


def look(job: Job) -> Look:
    """Look for the process; only its own machine can."""
    holder = Holder(**job.facts["holder"])
    if not holder.is_here():
        return Look("unknown", f"processes of {holder.host} cannot be looked at from here")
    return Look("gone", "the process is gone") if holder.is_dead() else Look("running")


def stop(job: Job) -> str:
    """Do nothing: a process never waits for its turn."""
    return ""
