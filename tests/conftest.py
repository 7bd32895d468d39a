"""Shared fixtures: the folder of real data, and quiet torch threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services.require import require_service
from tests.services.s3 import bucket, folder_url, s3_folder, s3_server
from tests.services.slurm import slurm

# one S3 server and one Slurm for all tests
__all__ = ["bucket", "folder_url", "require_service", "s3_folder", "s3_server", "slurm"]

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


# Speed is measured in benchmarks/, never asserted in a test.
settings.register_profile("landweave", deadline=None)
settings.load_profile("landweave")
