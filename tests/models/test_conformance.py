"""The conformance class, on networks that are there, and on ones that are wrong in a known way."""

from __future__ import annotations

import pytest

from tests.models.conformance import Case, NetworkConformance


class TestMlp(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("mlp", {"n_dates": 5, "width": 16}, any_dates=True)


class TestTempCnn(NetworkConformance):
    @pytest.fixture(params=[{}, {"kernel": 3}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("tempcnn", {"width": 16, **request.param})
