"""The fake reader of these tests does what every reader must."""

from __future__ import annotations

import datetime as dt

import pytest

from engine.values.grid import Box
from tests.archive.conformance import ReaderConformance, Shot
from tests.cube.fakes import GRID, FakeReader, scene


class TestFakeReader(ReaderConformance):
    """What applies without files."""

    @pytest.fixture
    def reader(self) -> FakeReader:
        return FakeReader()

    @pytest.fixture
    def shot(self) -> Shot:
        box = Box(-529900, 50100, -529500, 50600)
        return Shot(scene("s", dt.date(2023, 5, 1), "take"), ("nir", "scl", "red"), GRID, box)
