"""Shared fixtures: the folder of real data, and quiet torch threads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services.gpu import pytest_collection_modifyitems, pytest_configure, pytest_terminal_summary
from tests.services.require import require_service
from tests.services.s3 import bucket, folder_url, s3_folder, s3_server
from tests.services.slurm import slurm

# one S3 server and one Slurm for all tests; and what is done with tests that need a GPU
__all__ = [
    "bucket",
    "folder_url",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_terminal_summary",
    "require_service",
    "s3_folder",
    "s3_server",
    "slurm",
]

_DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real test data; fail in CI when it is absent, skip on a user's machine."""
    if (_DATA / "README.md").exists():
        return _DATA
    message = f"real test data not found at {_DATA}; set LANDWEAVE_TEST_DATA"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    return pytest.skip(message)


@pytest.fixture(autouse=True, scope="session")
def _hear_interrupts() -> None:
    """Let SIGINT interrupt as in a terminal: a shell that starts the tests in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Speed is measured in benchmarks/, never asserted in a test.
settings.register_profile("landweave", deadline=None)
settings.load_profile("landweave")
