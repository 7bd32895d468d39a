"""Workers over cuda."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from cluster.base import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client


class CudaSpec(ClusterSpec):
    """Workers over cuda."""

    kind: Literal["cuda"] = "cuda"


def start(spec: CudaSpec) -> AbstractContextManager[Client]:
    """Start the jobs, give a client, and end them."""
    raise NotImplementedError
