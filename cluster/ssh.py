"""Workers over ssh."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from cluster.base import ClusterSpec

if TYPE_CHECKING:
    from distributed import Client


class SshSpec(ClusterSpec):
    """Workers over ssh."""

    kind: Literal["ssh"] = "ssh"


def start(spec: SshSpec) -> AbstractContextManager[Client]:
    """Start the jobs, give a client, and end them."""
    raise NotImplementedError
