"""ClusterSpec: where a run runs, in a few lines of YAML.

::

    kind: local            # or: kind: address, address: tcp://scheduler:8786
    n_workers: 4
    memory_limit: 8GiB
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.values.errors import InputError

Kind = Literal["local", "address"]
KINDS: tuple[str, ...] = get_args(Kind)


class ClusterSpec(BaseModel):
    """A cluster to start, or one to connect to.

    Attributes:
        kind: ``local`` starts worker processes on this machine; ``address`` connects to a scheduler.
        address: Of the scheduler, such as ``tcp://10.0.0.1:8786`` (only for ``address``).
        n_workers: Worker processes; None for one per core.
        threads_per_worker: Tiles that one process makes at once. 1 keeps results and memory simple.
        memory_limit: Per worker, such as ``8GiB``; None shares out the machine's memory.
        price_per_worker_hour: In any currency; a plan then tells what a run costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind = Field(
        default="local", description="local starts workers here; address connects to a scheduler."
    )
    address: str | None = Field(
        default=None, description="The scheduler's address, such as tcp://10.0.0.1:8786."
    )
    n_workers: int | None = Field(default=None, ge=1, description="Worker processes; default one per core.")
    threads_per_worker: int = Field(default=1, ge=1, description="Tiles that one process makes at once.")
    memory_limit: str | None = Field(
        default=None, description="Per worker, such as 8GiB; default a fair share."
    )
    price_per_worker_hour: float | None = Field(
        default=None, ge=0, description="Price of a worker for an hour, in any currency; for `plan`."
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value not in KINDS:
            raise ValueError(f"unknown kind {value!r}; known kinds: {', '.join(KINDS)}")
        return value

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

    @model_validator(mode="after")
    def _address_fits(self) -> ClusterSpec:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("an address belongs to kind: address, and only to it")
        if self.address is not None and "://" not in self.address:
            raise ValueError(f"{self.address!r} is no address; write e.g. tcp://10.0.0.1:8786")
        return self

    @classmethod
    def parse(cls, raw: Any, where: str = "cluster") -> ClusterSpec:
        """Check a mapping.

        Raises:
            InputError: Naming every wrong field at once.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or 'cluster'}: {e['msg']}" for e in error.errors()]
            raise InputError(
                f"the cluster's settings are wrong: {'; '.join(lines)}",
                where=where,
                mend=f"known kinds: {', '.join(KINDS)}; see ClusterSpec for the fields",
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> ClusterSpec:
        """Read a YAML file.

        Raises:
            InputError: If it cannot be read or a field is wrong.
        """
        try:
            raw = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                "cannot read the cluster's YAML", where=str(path), found=str(error), mend="kind: local"
            ) from error
        return cls.parse(raw or {}, where=str(path))
