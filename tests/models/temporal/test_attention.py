"""Networks that attend to dates."""

from __future__ import annotations

import pytest

from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture(params=[("transformer", {"hidden": 16}), ("ltae", {})], ids=lambda p: p[0])
    def case(self, request: pytest.FixtureRequest) -> Case:
        name, more = request.param
        return Case(name, {"width": 16, "heads": 2, "dropout": 0.0, **more})
