"""Workers over gateway."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from cluster.base import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client


class GatewaySpec(ClusterSpec):
    """Workers over gateway."""

    kind: Literal["gateway"] = "gateway"


def start(spec: GatewaySpec) -> AbstractContextManager[Client]:
    """Start the jobs, give a client, and end them."""
    raise NotImplementedError
