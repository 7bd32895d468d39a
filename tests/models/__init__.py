"""Tests of the network architectures."""

import pytest

pytest.register_assert_rewrite("tests.models.conformance")
