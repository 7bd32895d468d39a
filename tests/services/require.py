"""What a test does when a real service is not there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def require_service(name: str, mend: str) -> NoReturn:
    """Say that a real service is missing: a failure in CI, a skip that names the mend elsewhere."""
    message = f"{name} is not installed; {mend}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
