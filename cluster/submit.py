"""Let the driver of a run live on its own: a process, a Slurm job or a Kubernetes Job, each asked for later.

::

    kind of cluster                            the driver is
    local, address, ssh, gateway, cuda         a process of this machine, in a session of its own
    slurm                                      a Slurm job
    kubernetes                                 a Kubernetes Job

What is started here knows nothing of maps: it is a command line, a name and a file for its output. Each place
is a module (`cluster.submit_process`, ...) with the same four functions: ``written``, ``start``, ``look``
and ``stop``.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, cast

from cluster.base import ClusterSpec

Place = Literal["process", "slurm", "kubernetes"]

State = Literal["pending", "running", "gone", "unknown"]


@dataclass(frozen=True)
class Order:
    """What is to be started.

    Attributes:
        name: Tells it from all others, so that a number that was given twice is found out.
        argv: The command line.
        output: File on this machine's disk that its output is appended to.
        after: Number of the job that must have ended before, empty for none.
    """

    name: str
    argv: tuple[str, ...]
    output: str
    after: str = ""


@dataclass(frozen=True)
class Job:
    """What was started, as it is written down: JSON values.

    Attributes:
        place: Where it lives.
        id: Its number or name there.
        name: As in the order.
        host: The machine that started it.
        output: Where its output goes.
        facts: What else the place needs to find it again.
    """

    place: Place
    id: str
    name: str
    host: str
    output: str
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, told: dict[str, Any] | None) -> Job | None:
        """Return what `as_dict` wrote."""
        return None if told is None else cls(**told)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @property
    def called(self) -> str:
        """Name it for people."""
        match self.place:
            case "process":
                return f"process {self.id} on {self.host}"
            case "slurm":
                return f"Slurm job {self.id}"
            case _:
                return f"Kubernetes Job {self.id}"


@dataclass(frozen=True)
class Look:
    """What a place says of a job.

    Attributes:
        state: ``gone``: it has ended, one way or another; ``unknown``: cannot be asked from here.
        said: In the words of the place: the reason, the node, or why it cannot be asked.
    """

    state: State
    said: str = ""


class _Backend(Protocol):
    def written(self, spec: ClusterSpec, order: Order) -> str: ...
    def start(self, spec: ClusterSpec, order: Order) -> Job: ...
    def look(self, job: Job) -> Look: ...
    def stop(self, job: Job) -> str: ...


class _Talking(Protocol):
    def printed(self, job: Job) -> bytes | None: ...


def place_of(spec: ClusterSpec) -> Place:
    """Return where the driver of a kind of cluster lives.

    >>> from cluster.local import LocalSpec
    >>> place_of(LocalSpec())
    'process'
    """
    return cast("Place", spec.kind) if spec.kind in ("slurm", "kubernetes") else "process"


def written(place: Place, spec: ClusterSpec, order: Order) -> str:
    """Return what would be handed over: a command line, a batch script, a manifest."""
    return _at(place).written(spec, order)


def start(place: Place, spec: ClusterSpec, order: Order) -> Job:
    """Start it; when this returns it lives, or waits for its turn, whatever becomes of this process.

    Raises:
        InputError: If the place refuses it, or cannot be reached from here.
    """
    return _at(place).start(spec, order)


def look(job: Job) -> Look:
    """Ask the place how a job is; never raises because it cannot be asked."""
    return _at(job.place).look(job)


def stop(job: Job) -> str:
    """Take a job out of the queue that has not begun; one that runs is left alone.

    Returns:
        What went wrong, in the words of the place; empty when nothing did.
    """
    return _at(job.place).stop(job)


def printed(job: Job) -> bytes | None:
    """Return what a driver without a file printed so far, None where it cannot be had from here."""
    return cast("_Talking", _at(job.place)).printed(job)


def _at(place: Place) -> _Backend:
    return cast("_Backend", importlib.import_module(f"cluster.submit_{place}"))
