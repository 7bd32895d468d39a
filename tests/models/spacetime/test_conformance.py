"""Networks over time and space keep what every network keeps."""

from __future__ import annotations

import pytest

from tests.models.conformance import Case, NetworkConformance


class TestUtae(NetworkConformance):
    @pytest.fixture(params=[{"depth": 2}, {"depth": 1, "heads": 2}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case(
            "utae", {"width": 8, "width_max": 16, "model": 16, "heads": 4, "dropout": 0.0} | request.param
        )


class TestConvLstm(NetworkConformance):
    @pytest.fixture(params=[{}, {"bidirectional": True, "layers": 2}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("convlstm", {"width": 8} | request.param, rate=3e-2)


class TestConvGru(NetworkConformance):
    @pytest.fixture(params=[{}, {"bidirectional": True, "layers": 2}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("convgru", {"width": 8} | request.param, rate=3e-2)


class TestConvStar(NetworkConformance):
    @pytest.fixture(params=[{}, {"bidirectional": True, "layers": 2}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("convstar", {"width": 8} | request.param, rate=3e-2)


class TestCnn3d(NetworkConformance):
    @pytest.fixture(params=[{}, {"steps": 10, "depth": 2, "years": 2}], ids=str)
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case("cnn3d", {"width": 4, "hidden": 8} | request.param)


class TestCnn3d2d(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("cnn3d2d", {"width": 4, "hidden": 8})


class TestAttentionUNet3d(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("unet3d", {"width": 8, "depth": 2})
