"""One door to any cluster: a spec, an address, a YAML file, or a client that exists already."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.base import ClusterSpec
from cluster.local import LocalSpec
from cluster.spec import load_spec, parse_spec
from engine.values.errors import InputError, RetryableError

if TYPE_CHECKING:
    from distributed import Client, WorkerPlugin

logger = logging.getLogger("landweave.cluster")

STAYS = ("local", "ssh", "cuda")
"""Kinds whose machines stay when a worker leaves, so that its nanny starts it again."""

_TELL_S = 15.0


@contextmanager
def open_client(target: ClusterSpec | str | Path | Client | None = None) -> Iterator[Client]:
    """Give a Dask client whose workers are set up; end at the end only what was started here.

    Waits for a first worker; what it waits for is told to the logger ``landweave.cluster``.

    Args:
        target: A `ClusterSpec`; an address (``tcp://...``); a YAML file with a spec; ``local`` or None
            for this machine; or any `distributed.Client`, which stays open.

    Raises:
        InputError: If the target is none of these, the package that its kind needs is missing, or a worker has
            another version of landweave.
        RetryableError: If the scheduler does not answer, or no worker comes in time.
    """
    from distributed import Client

    from cluster.worker import forwarded

    if isinstance(target, Client):
        with _ready(target, ClusterSpec(kind="address"), own=False):
            yield target
        return
    spec = spec_of(target)
    given = forwarded(spec)
    with _started(spec) as client, _ready(client, spec, own=client.cluster is not None, given=given):
        yield client


def _started(spec: ClusterSpec) -> AbstractContextManager[Client]:
    kind = importlib.import_module(f"cluster.{spec.kind}")
    started: AbstractContextManager[Client] = kind.start(spec)
    return started


@contextmanager
def _ready(
    client: Client, spec: ClusterSpec, *, own: bool, given: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Set up the workers that are there and those that come; take back what is only this client's."""
    from cluster.scale import BusyStay
    from cluster.versions import check_workers, imported_there
    from cluster.worker import WorkerSetup

    with imported_there(client):
        client.register_plugin(WorkerSetup(ignore_interrupts=own))
        if spec.adapt is not None and own:
            client.register_plugin(BusyStay())
    wait_for_worker(client, spec)
    check_workers(client, spec.instruction_set)
    ours = _plugins(client, spec, given or {})
    for name, plugin in ours.items():
        client.register_plugin(plugin, name=name)
    try:
        yield
    finally:
        if not own:  # the scheduler goes on, and should forget what it was given
            with contextlib.suppress(Exception):
                for name in ours:
                    client.unregister_worker_plugin(name)


def _plugins(client: Client, spec: ClusterSpec, given: Mapping[str, str]) -> dict[str, WorkerPlugin]:
    """Return what each worker gets, those too that come later."""
    from cluster.lifetime import Retirement
    from cluster.versions import LaterWorkers, own_facts, worker_facts
    from cluster.worker import GpuOffer, shipped

    first = next(iter(worker_facts(client).values()), own_facts())
    later = LaterWorkers(own_facts(), first, spec.instruction_set, {**spec.environment, **given})
    found: dict[str, WorkerPlugin] = {f"landweave-{client.id}": later}
    for path in spec.code:
        found[f"landweave-code-{Path(path).name}"] = shipped(path)
    if spec.lifetime_s is not None:
        found[Retirement.name] = Retirement(spec.lifetime_s, again=spec.kind in STAYS)
    if spec.gpus_per_worker:
        found[GpuOffer.name] = GpuOffer()
    return found


def wait_for_worker(client: Client, spec: ClusterSpec) -> None:
    """Wait for a first worker, and tell every now and then for how long.

    Raises:
        RetryableError: If none comes within the spec's `wait_s`.
    """
    begun = time.monotonic()
    while True:
        waited = time.monotonic() - begun
        if waited > spec.wait_s:
            raise RetryableError(
                "the cluster has no worker",
                where=f"kind: {spec.kind}",
                found=f"none after {waited:.0f} s",
                limit=f"{spec.wait_s:.0f} s",
                mend="look at the workers' logs, or at the queue",
            )
        try:
            client.wait_for_workers(1, timeout=min(_TELL_S, max(0.1, spec.wait_s - waited)))
            return
        except TimeoutError:
            waited = time.monotonic() - begun
            logger.info("waiting for the first worker, %.0f s of at most %.0f s", waited, spec.wait_s)


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
