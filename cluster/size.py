"""How large a cluster will be, from its settings alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cluster.base import ClusterSpec


@dataclass(frozen=True)
class ClusterSize:
    """How many tiles run at once, and where.

    Attributes:
        workers: Worker processes.
        slots: Tiles made at once.
        memory_limit: Bytes of the smallest worker, None without a limit.
    """

    workers: int
    slots: int
    memory_limit: int | None


def size_of(spec: ClusterSpec) -> ClusterSize | None:
    """Return the size that a cluster will have once it is started; None where only its scheduler knows.

    A cluster that follows the work is taken at its largest.

    >>> from cluster.local import LocalSpec
    >>> size_of(LocalSpec(n_workers=4, memory_limit="1GiB"))
    ClusterSize(workers=4, slots=4, memory_limit=1073741824)
    """
    if spec.kind == "local":
        return _local_size(spec)
    limit = getattr(spec, "limit_bytes", None) or _bytes(spec.memory_limit)
    if spec.kind == "address" or spec.most_workers is None or limit is None:
        return None
    return ClusterSize(spec.most_workers, spec.most_workers * spec.tiles_at_once, limit)


def _local_size(spec: ClusterSpec) -> ClusterSize:
    from dask.system import CPU_COUNT
    from distributed.worker_memory import parse_memory_limit

    workers = spec.most_workers or (1 if spec.gpus_per_worker else CPU_COUNT)
    logger = logging.getLogger(__name__)
    limit = parse_memory_limit(spec.memory_limit or "auto", spec.threads_per_worker, CPU_COUNT, logger=logger)
    return ClusterSize(workers, workers * spec.tiles_at_once, limit)


def _bytes(text: str | None) -> int | None:
    from dask.utils import parse_bytes

    return None if text is None else int(parse_bytes(text))
