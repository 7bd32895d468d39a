"""The walk along the curve gives the tiles that a plain filter gives, in the same order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from engine.values.grid import Grid, tiles_over
from engine.values.tiling import Tiling

GRID = Grid.make("EPSG:32633", 10)


def _plain(outline: shapely.Geometry, tile_px: int) -> list[object]:
    tiles = tiles_over(GRID.box_of_bounds(outline.bounds), tile_px)
    return [t for t in tiles if outline.intersects(shapely.box(*GRID.bounds_of_box(t.box(tile_px))))]


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 7, 16, 40]))
def test_a_walk_equals_a_filter(seed: int, tile_px: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3000, 3000, (6, 2)) + rng.uniform(-1e5, 1e5, 2)
    outline = shapely.union_all(
        [shapely.convex_hull(shapely.MultiPoint(p)) for p in (points[:3], points[3:])]
    )
    tiling = Tiling(GRID, tile_px, outline)
    assert list(tiling) == _plain(outline, tile_px)
    assert len(tiling) == len(list(tiling))


def test_memory_does_not_grow_with_the_number_of_tiles() -> None:
    peaks: list[int] = []
    for tile_px in (256, 256, 16):  # the first walk only loads what is loaded once
        tiling = Tiling(GRID, tile_px, shapely.Point(5e5, 5e6).buffer(2e4))
        tracemalloc.start()
        count = sum(1 for _ in tiling)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == len(tiling)
    assert count > 40_000
    assert peaks[2] < peaks[1] + 1_000_000  # as a list they would take more than 4 MB


@pytest.mark.parametrize("outline", [shapely.Polygon(), shapely.box(0, 0, 1e-3, 1e-3)])
def test_an_empty_or_tiny_outline(outline: shapely.Geometry) -> None:
    assert len(Tiling(GRID, 64, outline)) == (0 if outline.is_empty else len(_plain(outline, 64)))
