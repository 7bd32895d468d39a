"""One door to any cluster: a spec, an address, a YAML file, or a client that exists already."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.base import ClusterSpec
from cluster.local import LocalSpec
from cluster.spec import load_spec, parse_spec
from engine.values.errors import InputError

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def open_client(target: ClusterSpec | str | Path | Client | None = None) -> Iterator[Client]:
    """Give a Dask client whose workers are set up; end at the end only what was started here.

    Args:
        target: A `ClusterSpec`; an address (``tcp://...``); a YAML file with a spec; ``local`` or None
            for this machine; or any `distributed.Client`, which stays open.

    Raises:
        InputError: If the target is none of these, or the package that its kind needs is missing.
        RetryableError: If the scheduler does not answer.
    """
    from distributed import Client

    from cluster.worker import WorkerSetup

    with _open(target) as client:
        own = not isinstance(target, Client) and client.cluster is not None
        client.register_plugin(WorkerSetup(ignore_interrupts=own))
        yield client


def _open(target: Any) -> AbstractContextManager[Client]:
    from distributed import Client

    if isinstance(target, Client):
        return nullcontext(target)
    spec = spec_of(target)
    kind = importlib.import_module(f"cluster.{spec.kind}")
    started: AbstractContextManager[Client] = kind.start(spec)
    return started


def spec_of(target: Any) -> ClusterSpec:
    """Return the spec that a user's word for a cluster means.

    Args:
        target: A spec; None or ``local``; an address; the path of a YAML file.

    Raises:
        InputError: If it is none of these.
    """
    if isinstance(target, ClusterSpec):
        return target
    if target is None or target == "local":
        return LocalSpec()
    if isinstance(target, str) and "://" in target:
        return parse_spec({"kind": "address", "address": target})
    if isinstance(target, str | Path):
        return load_spec(target)
    raise InputError(
        "not a cluster",
        where="cluster",
        found=type(target).__name__,
        limit="ClusterSpec, address, YAML file or distributed.Client",
    )
