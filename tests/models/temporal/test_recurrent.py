"""Recurrent networks, against the written-out recurrences in numpy."""

from __future__ import annotations

import pytest

from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture(
        params=[("lstm", {}), ("gru", {"bidirectional": True, "layers": 2}), ("atlstm", {})],
        ids=lambda p: p[0],
    )
    def case(self, request: pytest.FixtureRequest) -> Case:
        name, more = request.param
        return Case(name, {"width": 16, **more}, rate=2e-2)
