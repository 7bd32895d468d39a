"""What every kind of cluster is told: the common part of a spec, with nothing but pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

InstructionSet = Literal["avx2", "avx512"]

_WAIT_S = 300.0
_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)


class Adapt(BaseModel):
    """Let the number of workers follow the work.

    Attributes:
        minimum: Workers that always run.
        maximum: Workers at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    minimum: int = Field(default=0, ge=0, description="Workers that always run.")
    maximum: int = Field(ge=1, description="Workers at most.")

    @model_validator(mode="after")
    def _ordered(self) -> Adapt:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class ClusterSpec(BaseModel):
    """Where a run runs. The kinds are `cluster.spec.KINDS`; each adds its own fields to these.

    Attributes:
        kind: Which kind of cluster.
        n_workers: Worker processes; None for what the kind takes as usual.
        threads_per_worker: Tiles that one process makes at once. 1 keeps results and memory simple. With a GPU
            one tile at a time, and so many threads that read and composite for it.
        memory_limit: Per worker, such as ``8GiB``; None for what the kind takes as usual.
        gpus_per_worker: 1 gives each worker process a GPU of its own; a tile then waits for a worker with one.
        adapt: Let the number of workers follow the work, between two bounds; instead of `n_workers`.
        lifetime: A worker takes no more tiles and leaves in good order by then, such as ``55m``. Kinds with a
            walltime set it themselves.
        environment: Variables of the worker processes. Not for secrets: a spec is written into the run folder.
        forward: Names of variables whose values the workers get from the client's environment, secrets among
            them; only the names are written down.
        code: Python files that workers import, such as a masker of one's own.
        instruction_set: Pins the CPU instructions on machines of several generations, so that all make the same
            bytes; None takes the best of each.
        price_per_worker_hour: In any currency; a plan then tells what a run costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str = Field(description="Which kind of cluster.")
    n_workers: int | None = Field(default=None, ge=1, description="Worker processes.")
    threads_per_worker: int = Field(default=1, ge=1, description="Tiles that one process makes at once.")
    memory_limit: str | None = Field(default=None, description="Per worker, such as 8GiB.")
    gpus_per_worker: Literal[0, 1] = Field(default=0, description="1 gives each worker a GPU of its own.")
    adapt: Adapt | None = Field(default=None, description="Let the number of workers follow the work.")
    lifetime: str | None = Field(
        default=None, description="Workers leave in good order by then, such as 55m; default never."
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables of the worker processes; not for secrets."
    )
    forward: tuple[str, ...] = Field(
        default=(), description="Names of variables whose values workers get from here; secrets among them."
    )
    code: tuple[str, ...] = Field(default=(), description="Python files that workers import.")
    instruction_set: InstructionSet | None = Field(
        default=None, description="Pins CPU instructions where machines differ: avx2 or avx512."
    )
    price_per_worker_hour: float | None = Field(
        default=None, ge=0, description="Price of a worker for an hour, in any currency; for `plan`."
    )

    @field_validator("memory_limit")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        from dask.utils import parse_bytes

        if value is not None:
            try:
                parse_bytes(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is no amount of memory; write e.g. 8GiB") from error
        return value

    @field_validator("lifetime")
    @classmethod
    def _duration(cls, value: str | None) -> str | None:
        if value is not None:
            seconds_of(value)
        return value

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        refuse_secrets(value, "name them under forward: their values then come from the environment")
        return value

    @field_validator("code")
    @classmethod
    def _python(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if PurePath(path).suffix not in (".py", ".zip", ".egg"):
                raise ValueError(f"{path!r} is no Python file; give .py files, or a .zip of a package")
        return value

    @model_validator(mode="after")
    def _one_size(self) -> ClusterSpec:
        if self.adapt is not None and self.n_workers is not None:
            raise ValueError("n_workers and adapt say the same thing in two ways; keep one")
        return self

    @property
    def lifetime_s(self) -> float | None:
        """Return after how many seconds a worker leaves in good order; None for never."""
        return None if self.lifetime is None else seconds_of(self.lifetime)

    @property
    def wait_s(self) -> float:
        """Return how many seconds a first worker is waited for, and a new one when all have left."""
        return _WAIT_S

    @property
    def most_workers(self) -> int | None:
        """Return how many workers there may be at once, None where the spec does not tell."""
        return self.n_workers if self.adapt is None else self.adapt.maximum

    @property
    def tiles_at_once(self) -> int:
        """Return how many tiles one worker makes at a time; on a GPU one, with all threads reading for it."""
        return 1 if self.gpus_per_worker else self.threads_per_worker


def refuse_secrets(names: Iterable[str], mend: str) -> None:
    """Refuse settings that by their names hold secrets: a spec is written into the run folder.

    Raises:
        ValueError: Naming them, with what to do instead.

    >>> refuse_secrets(["AWS_REGION"], "")
    """
    told = sorted(name for name in names if _SECRET.search(name))
    if told:
        raise ValueError(f"{', '.join(told)} look like secrets, and a spec is written down; {mend}")


def seconds_of(text: str) -> float:
    """Return a duration in seconds.

    Args:
        text: Such as ``55m``, ``2h``, ``90s``, or Slurm's ``[days-]HH:MM:SS``.

    Raises:
        ValueError: If it is none, or not above zero.

    >>> seconds_of("55m"), seconds_of("1-02:00:00"), seconds_of("00:30:00")
    (3300.0, 93600.0, 1800.0)
    """
    from dask.utils import parse_timedelta

    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip())
    if clock:
        days, *parts = clock.groups(default="0")
        hours, minutes, seconds = map(int, parts)
        if clock.group(4) is None and clock.group(1) is None:  # Slurm reads MM:SS
            hours, minutes, seconds = 0, hours, minutes
        total = float(((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds)
    else:
        try:
            total = float(parse_timedelta(text))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{text!r} is no duration; write e.g. 55m or 2h") from error
    if total <= 0:
        raise ValueError(f"{text!r} is no time at all; write e.g. 55m or 2h")
    return total
