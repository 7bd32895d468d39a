"""Whether workers are what the client is: the same landweave, and libraries that make the same bytes.

Another landweave is refused: tiles travel as its own classes, and its format decides keys and bytes. Other
libraries or CPU instructions may only move last bits: that is told, by name, and the run goes on. Workers that
come later are judged as they come: one that is refused gets no tile and leaves.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin
from distributed.core import Status

from cluster.base import InstructionSet
from cluster.instructions import own_instruction_set
from engine.runs.news import TOPIC, News
from engine.runs.tile import engine_version
from engine.values.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

LIBRARIES = (
    "torch",
    "onnxruntime",
    "numpy",
    "numba",
    "scipy",
    "rasterio",
    "pyproj",
    "zarr",
    "dask",
    "distributed",
)
_CLOSE_S = 1.0
_NOT_THERE = ("No module named 'cluster", "No module named 'engine", "ImportError", "Can't get attribute")


@dataclass(frozen=True)
class Facts:
    """What a process is made of, as far as it decides bytes.

    Attributes:
        landweave: Version and format.
        instruction_set: Such as ``x86_64 AVX512``; as pinned, where it is.
        libraries: Version by name; ``none`` where one is missing.
        host: The machine.
        cpu: Its processor.
    """

    landweave: str
    instruction_set: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    cpu: str = ""

    @property
    def decides(self) -> dict[str, str]:
        """Return what may move last bits."""
        return {**self.libraries, "instruction set": self.instruction_set}


@functools.cache
def own_facts() -> Facts:
    """Return the facts of this process; loads GDAL, but not torch."""
    import rasterio

    libraries = {name: _version(name) for name in LIBRARIES}
    libraries |= {"python": platform.python_version(), "GDAL": str(rasterio.__gdal_version__)}
    return Facts(engine_version(), own_instruction_set(), libraries, socket.gethostname(), _cpu())


def differing(ours: Facts, theirs: Facts) -> dict[str, tuple[str, str]]:
    """Return what may move last bits and is not the same: name to (here, there)."""
    here, there = ours.decides, theirs.decides
    names = sorted(set(here) | set(there))
    return {n: (a, b) for n in names if (a := here.get(n, "none")) != (b := there.get(n, "none"))}


def refusal(client: Facts, worker: Facts, pinned: InstructionSet | None = None) -> InputError | None:
    """Return why a worker may get no tile; None if it may."""
    if worker.landweave != client.landweave:
        return InputError(
            "a worker has another version of landweave",
            where=f"worker on {worker.host}",
            found=f"landweave {worker.landweave}",
            limit=f"landweave {client.landweave}, as here",
            mend="start workers and client from the same environment, such as one container image, or install "
            f"that version there: pip install landweave=={client.landweave.partition(',')[0]}",
        )
    if pinned is not None and not worker.instruction_set.lower().endswith(pinned):
        return InputError(
            "a worker does not use the CPU instructions that are pinned",
            where=f"worker on {worker.host}",
            found=f"{worker.instruction_set} ({worker.cpu})",
            limit=f"instruction_set: {pinned}",
            mend="pin what its CPU can (avx2); workers that somebody else starts need the environment of "
            f"`cluster.instructions.pins({pinned!r})` before their first instruction",
        )
    return None


def worker_facts(client: Client) -> dict[str, Facts]:
    """Return the facts of all workers by address.

    Raises:
        InputError: If landweave cannot be imported there.
    """
    with imported_there(client):
        found: dict[str, Facts] = client.run(_facts_there)
    return found


async def _facts_there() -> Facts:
    """Find out the facts beside a worker's event loop: loading GDAL may take seconds from a cold disk."""
    return await asyncio.to_thread(own_facts)


@contextmanager
def imported_there(client: Client) -> Iterator[None]:
    """Say it plainly where what is sent to workers cannot be imported there; Dask passes on no more than the text.

    Raises:
        InputError: If landweave, or this version's part of it, is not there.
    """
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if not any(text in told for text in _NOT_THERE):
            raise
        raise InputError(
            "landweave cannot be imported by a worker",
            where=str(getattr(client.scheduler, "address", "cluster")),
            found=str(error),
            limit=f"landweave {engine_version()}, as here",
            mend="start scheduler and workers from an environment that has it installed, such as one container image",
        ) from error


def check_workers(client: Client, pinned: InstructionSet | None = None) -> None:
    """Refuse a cluster with a worker of another landweave, or without the instructions that are pinned.

    Raises:
        InputError: Naming both versions and what to do.
    """
    for facts in worker_facts(client).values():
        if (refused := refusal(own_facts(), facts, pinned)) is not None:
            raise refused


def differences(workers: Iterable[Facts]) -> list[str]:
    """Say in words how workers differ from the client, and, what weighs more, from each other; [] if in nothing."""
    ours, known = own_facts(), list(workers)
    told = []
    for name in sorted({name for facts in known for name in differing(ours, facts)}):
        values = Counter(facts.decides.get(name, "none") for facts in known)
        here = ours.decides.get(name, "none")
        if len(values) > 1:
            listed = ", ".join(f"{value} on {n}" for value, n in values.most_common())
            told.append(f"workers differ in {name}: {listed} (here {here}); last bits of tiles may differ")
        else:
            told.append(f"all workers have {name} {next(iter(values))}, here it is {here}")
    return told


class LaterWorkers(WorkerPlugin):
    """Judges the workers that join while a run is under way.

    Args:
        client: The facts of the client.
        first: The facts of a worker that was there before.
        pinned: The instruction set that all must use.
        forwarded: Variables that each worker gets; they are in no file.
    """

    def __init__(
        self,
        client: Facts,
        first: Facts,
        pinned: InstructionSet | None = None,
        forwarded: Mapping[str, str] | None = None,
    ) -> None:
        self.client, self.first, self.pinned, self.forwarded = client, first, pinned, forwarded or {}

    async def setup(self, worker: Any) -> None:
        """Tell how this worker differs; keep one of another landweave from taking tiles."""
        os.environ.update(self.forwarded)
        own = await _facts_there()
        refused = refusal(self.client, own, self.pinned)
        if refused is not None:
            worker.status = Status.closing_gracefully
            worker.log_event(TOPIC, News("worker-refused", worker.address, str(refused)).told())
            worker.loop.call_later(_CLOSE_S, worker.close, nanny=True, reason="landweave-refused")
        elif found := differing(self.first, own):
            listed = ", ".join(f"{name} {there}, others {here}" for name, (here, there) in found.items())
            told = f"{own.host} differs from the workers before it: {listed}; last bits of tiles may differ"
            worker.log_event(TOPIC, News("worker-differs", worker.address, told).told())


def as_json(facts: Facts) -> dict[str, Any]:
    """Return facts as JSON values."""
    return asdict(facts)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _cpu() -> str:
    """Return the name of the processor, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
