"""What memory the machines of a cluster have free, and their GPUs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

_SMI_S = 10.0


def free_memory(client: Client) -> list[dict[str, Any]]:
    """Return what each machine has free now.

    Returns:
        For each machine ``host``, ``workers``, ``free_bytes`` and ``total_bytes`` of its memory, and ``gpus``: name,
        ``free_bytes`` and ``total_bytes`` of each that its workers may use.
    """
    hosts: dict[str, dict[str, Any]] = {}
    for told in client.run(_there).values():
        host = hosts.setdefault(told["host"], {**told, "workers": 0, "gpus": []})
        host["workers"] += 1
        host["gpus"] += [gpu for gpu in told["gpus"] if gpu not in host["gpus"]]
    return [hosts[name] for name in sorted(hosts)]


async def _there() -> dict[str, Any]:
    """Ask beside a worker's event loop: a driver may take seconds to answer."""
    return await asyncio.to_thread(_here)


def _here() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    host = socket.gethostname()
    return {"host": host, "free_bytes": memory.available, "total_bytes": memory.total, "gpus": gpus()}


def gpus() -> list[dict[str, Any]]:
    """Return the NVIDIA GPUs that this process may use, asked of their driver; [] without one.

    No CUDA context is made for that: it would take some hundred MB of each GPU for each worker.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    asked = [command, "--query-gpu=index,uuid,name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(said, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(said: str, visible: str | None) -> list[dict[str, Any]]:
    r"""Read the answer of ``nvidia-smi``; `visible` is ``CUDA_VISIBLE_DEVICES``.

    >>> parse_gpus("0, GPU-a, NVIDIA H200, 100, 200\n1, GPU-b, NVIDIA H200, 150, 200\n", "1")
    [{'index': 1, 'name': 'NVIDIA H200', 'free_bytes': 157286400, 'total_bytes': 209715200}]
    """
    wanted = None if visible is None else [v.strip() for v in visible.split(",")]
    found = []
    for line in said.strip().splitlines():
        index, uuid, name, free, total = (part.strip() for part in line.split(","))
        if wanted is None or index in wanted or uuid in wanted:
            sizes = {"free_bytes": _mib(free), "total_bytes": _mib(total)}
            found.append({"index": int(index), "name": name, **sizes})
    return found


def _mib(text: str) -> int:
    """Return bytes; 0 where the driver does not tell, as in a slice of a GPU."""
    return int(text) * 2**20 if text.isdigit() else 0
