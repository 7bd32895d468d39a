"""What runs on a machine that was reached over ssh: Dask's processes, for as long as the connection lasts.

The order comes in one line on standard input, so that neither a secret nor a certificate is ever on a command
line; an answer of one line goes back on standard output. Standard input then stays open: when it ends, because
the run ended or the connection or the client died, everything here ends too::

    client ── ssh ──► python -m cluster.remote ──► Nanny ──► worker
       order: {folder, environment, servers, ...} ──►
                                                 ◄──  {"ready": [addresses]}
       end of input  ──►  close, and leave at the latest after `_CLOSE_S`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

MARK = "landweave-remote:"
"""Begins a line that is meant for the client; a login shell may print others."""

_CLOSE_S = 20.0


def look() -> dict[str, Any]:
    """Return what a client wants to know of this machine before it starts workers here.

    Returns:
        The versions of Python and landweave, the cores and the bytes of memory that a process may use, and the
        number of GPUs.
    """
    from importlib.metadata import PackageNotFoundError, version

    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    try:
        landweave = version("landweave")
    except PackageNotFoundError:
        landweave = "not installed, found by PYTHONPATH"
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "landweave": landweave,
        "cores": CPU_COUNT,
        "memory_bytes": MEMORY_LIMIT,
        "gpus": _gpus(),
    }


def _gpus() -> int:
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


async def serve(order: dict[str, Any], wait_for_end: Callable[[], object]) -> None:
    """Start the servers of an order, say that they are ready, and run them until the input ends.

    Args:
        order: ``servers``: name to ``{"cls": dotted name, "opts": keywords}``; ``arguments``: before the keywords;
            ``security``: keywords of Dask's `Security`, or None.
        wait_for_end: Returns when the input has ended.
    """
    from distributed import Security
    from distributed.deploy.spec import init_spec

    if order["security"] is not None:
        security = Security(**order["security"])
        for server in order["servers"].values():
            server["opts"]["security"] = security
    servers = init_spec(order["servers"], *order["arguments"])
    ended = asyncio.create_task(_ended(wait_for_end))
    running = asyncio.create_task(_run(list(servers.values())))
    await asyncio.wait([ended, running], return_when=asyncio.FIRST_COMPLETED)
    _leave_later()
    if running.done():
        running.result()  # raises what kept a server from starting
    await asyncio.gather(*(server.close() for server in servers.values()))


async def _run(servers: list[Any]) -> None:
    await asyncio.gather(*servers)
    tell({"ready": [server.address for server in servers]})
    await asyncio.gather(*(server.finished() for server in servers))


async def _ended(wait: Callable[[], object]) -> None:
    """Wait in a thread of its own, which never keeps the process from ending."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def watch() -> None:
        wait()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, daemon=True).start()
    await ended.wait()


def _leave_later() -> None:
    timer = threading.Timer(_CLOSE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def tell(answer: dict[str, Any]) -> None:
    """Send a line to the client."""
    sys.stdout.write(f"{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Look around, or take an order from standard input and carry it out."""
    if arguments == ["look"]:
        tell(look())
        return
    order = json.loads(sys.stdin.buffer.readline())
    with contextlib.suppress(
        OSError
    ):  # a machine that does not see the client's disks is given absolute addresses
        os.chdir(order["folder"])
    os.environ.update(order["environment"])  # before Dask or a library that counts cores is imported
    asyncio.run(serve(order, sys.stdin.buffer.read))
    sys.stdout.flush()
    os._exit(0)  # the thread that watches the input still holds it


if __name__ == "__main__":
    main(sys.argv[1:])
