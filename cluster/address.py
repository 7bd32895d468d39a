"""A scheduler that runs already: connect, and leave it running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cluster.base import ClusterSpec
from engine.values.errors import InputError, RetryableError

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_S = 30


class AddressSpec(ClusterSpec):
    """A scheduler at an address, or one that has written a scheduler file.

    Attributes:
        address: Such as ``tcp://10.0.0.1:8786``.
        scheduler_file: What ``dask scheduler --scheduler-file`` has written, on a disk that is seen from here.
    """

    kind: Literal["address"] = "address"
    address: str | None = Field(default=None, description="Such as tcp://10.0.0.1:8786.")
    scheduler_file: str | None = Field(
        default=None, description="What `dask scheduler --scheduler-file` has written."
    )

    @model_validator(mode="after")
    def _one_way(self) -> AddressSpec:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("kind: address needs an address or a scheduler_file, one of them")
        if self.address is not None and "://" not in self.address:
            raise ValueError(f"{self.address!r} is no address; write e.g. tcp://10.0.0.1:8786")
        return self

    def where(self) -> str:
        """Return the scheduler's address.

        Raises:
            InputError: If the scheduler file cannot be read.
        """
        if self.address is not None:
            return self.address
        path = Path(self.scheduler_file or "")
        try:
            return str(json.loads(path.read_text())["address"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                "cannot read the scheduler file",
                where=str(path),
                found=str(error),
                mend="start `dask scheduler --scheduler-file` first, on a disk that is seen from here",
            ) from error


@contextmanager
def start(spec: AddressSpec) -> Iterator[Client]:
    """Connect to the scheduler.

    Raises:
        RetryableError: If it does not answer.
    """
    from distributed import Client

    address = spec.where()
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise RetryableError(
            "the scheduler does not answer",
            where=address,
            found=str(error),
            limit=f"within {_CONNECT_S} s",
            mend="check the address, and that the scheduler runs",
        ) from error
    with client:
        yield client
