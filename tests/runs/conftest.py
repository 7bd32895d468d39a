"""Two worker processes for the tests of a folder, and an in-process cluster that can be counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client

from cluster.launch import open_client
from cluster.local import LocalSpec


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two worker processes of one thread, as a run on this machine has them."""
    with open_client(LocalSpec(n_workers=2, memory_limit="1GiB")) as client:
        yield client
