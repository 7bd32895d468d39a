"""What a Slurm job that drives a submitted run asks for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.base import seconds_of


class SlurmDriver(BaseModel):
    """The job that drives a submitted run.

    It hands out tiles and makes the products; the pixels are made by the workers.

    Attributes:
        queue: Partition; None for that of the workers.
        walltime: ``[days-]HH:MM:SS`` or ``12h``; None for the queue's own limit. A run that needs longer goes on
            in a next job by itself.
        memory: Such as ``4GiB``.
        cores: For the products.
        drain: How long before the end of its walltime the driver begins nothing more: longer than a tile takes.
        directives: Further ``#SBATCH`` options, such as ``--qos=long``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    queue: str | None = Field(default=None, description="Partition; default that of the workers.")
    walltime: str | None = Field(default=None, description="Such as 12h; default the queue's own limit.")
    memory: str = Field(default="4GiB", description="Such as 4GiB.")
    cores: int = Field(default=1, ge=1, description="For the products.")
    drain: str = Field(default="5m", description="How long before its walltime it begins nothing more.")
    directives: tuple[str, ...] = Field(default=(), description="Further #SBATCH options.")

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str) -> str:
        from dask.utils import parse_bytes

        try:
            parse_bytes(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is no amount of memory; write e.g. 4GiB") from error
        return value

    @model_validator(mode="after")
    def _in_time(self) -> SlurmDriver:
        drain_s = seconds_of(self.drain)
        if self.walltime is not None and drain_s >= seconds_of(self.walltime):
            raise ValueError(f"drain {self.drain} is not shorter than the walltime {self.walltime}")
        return self
