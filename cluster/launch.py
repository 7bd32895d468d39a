"""One door to any cluster: a spec, an address, a YAML file, or a client that exists already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.local import local_client
from cluster.spec import ClusterSpec
from cluster.worker import WorkerSetup
from engine.values.errors import InputError, RetryableError

_CONNECT_S = 30


@contextmanager
def open_client(target: ClusterSpec | str | Path | Client | None = None) -> Iterator[Client]:
    """Give a Dask client whose workers are set up; end at the end only what was started here.

    Args:
        target: A `ClusterSpec`; an address (``tcp://...``); a YAML file with a spec; ``local`` or None
            for this machine; or any `distributed.Client`, which stays open.

    Raises:
        InputError: If the target is none of these.
        RetryableError: If the scheduler does not answer.
    """
    with _open(target) as client:
        own = not isinstance(target, Client) and client.cluster is not None
        client.register_plugin(WorkerSetup(ignore_interrupts=own))
        yield client


def _open(target: Any) -> Any:
    if isinstance(target, Client):
        return nullcontext(target)
    spec = _spec(target)
    return local_client(spec) if spec.address is None else _connect(spec.address)


def _spec(target: Any) -> ClusterSpec:
    if isinstance(target, ClusterSpec):
        return target
    if target is None or target == "local":
        return ClusterSpec()
    if isinstance(target, str) and "://" in target:
        return ClusterSpec.parse({"kind": "address", "address": target})
    if isinstance(target, str | Path):
        return ClusterSpec.load(target)
    raise InputError(
        "not a cluster",
        where="cluster",
        found=type(target).__name__,
        limit="ClusterSpec, address, YAML file or distributed.Client",
    )


@contextmanager
def _connect(address: str) -> Iterator[Client]:
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
