"""Pixels and true hectares of classes: numpy's count and geodesic areas, for any blocks."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Geod

from engine.assessment.count import count_classes
from engine.assessment.maps import ClassMap
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid


def test_counts_and_areas_of_any_blocks() -> None:
    grid, box = Grid("EPSG:4326", (0.01, 0.01)), Box(-6000, 1000, -5900, 1130)
    labels = np.random.default_rng(1).integers(0, 3, box.shape_yx).astype(np.uint8)
    labels[:50] = 0
    source = ClassMap(
        "here", grid, box, ClassScheme.from_names(["a", "b"]), lambda _, b: labels[b.slices_in(box)]
    )
    found = [count_classes(source, size) for size in (512, 100, 64, 33, 16, 7)]
    assert all(f == found[0] for f in found)
    assert found[0].pixels == {1: int((labels == 1).sum()), 2: int((labels == 2).sum())}
    geod, expected = Geod(ellps="WGS84"), {1: 0.0, 2: 0.0}
    for row in range(50, 100):
        left, bottom, right, top = grid.bounds_of_box(Box(box.y0 + row, 1000, box.y0 + row + 1, 1001))
        edge = np.linspace(left, right, 20)  # the parallel, not the geodesic
        lon, lat = np.append(edge, edge[::-1]), np.append(np.full(20, bottom), np.full(20, top))
        pixel = abs(geod.polygon_area_perimeter(lon, lat)[0]) / 1e4
        for value in expected:
            expected[value] += pixel * (labels[row] == value).sum()
    assert found[0].hectares == pytest.approx(expected, rel=1e-6)
