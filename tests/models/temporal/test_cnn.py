"""Dilated convolutions over a pixel's valid dates."""

from __future__ import annotations

import pytest

from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("cnn1d", {"width": 16, "depth": 2})
