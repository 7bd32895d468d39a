"""The walk along the curve gives the tiles that a plain filter gives, in the same order."""

from __future__ import annotations

import pickle
import random
import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.grid import Grid, tiles_over
from engine.values.tiling import Reach, Tiling

GRID = Grid.make("EPSG:32633", 10)


def _plain(outline: shapely.Geometry, tile_px: int) -> list[object]:
    tiles = tiles_over(GRID.box_of_bounds(outline.bounds), tile_px)
    return [t for t in tiles if outline.intersects(shapely.box(*GRID.bounds_of_box(t.box(tile_px))))]


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 7, 16, 40]))
def test_a_walk_equals_a_filter(seed: int, tile_px: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1500, 1500, (6, 2)) + rng.uniform(-1e5, 1e5, 2)
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


def _islands(seed: int, count: int = 5) -> shapely.Geometry:
    """Rough polygons with many vertices, some of them with holes, over some hundred tiles."""
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
        radii = rng.uniform(200, 2500, 40)
        centre = rng.uniform(-4000, 4000, 2)
        ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None] + centre
        shapes.append(shapely.make_valid(shapely.Polygon(ring)))
    lakes = shapely.MultiPoint(rng.uniform(-4000, 4000, (6, 2))).buffer(300)
    return shapely.difference(shapely.union_all(shapes), lakes)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([7, 16, 40, 300]))
def test_parts_equal_a_direct_cut(seed: int, tile_px: int) -> None:
    outline = _islands(seed)
    tiling = Tiling(GRID, tile_px, outline)
    total = 0.0
    for tile in list(tiling)[:: max(1, len(tiling) // 150)]:
        part = tiling.part(tile)
        square = shapely.box(*GRID.bounds_of_box(tile.box(tile_px)))
        direct = shapely.intersection(outline, square)
        total += part.area
        assert part.geom_type in ("Polygon", "MultiPolygon")
        assert part.is_valid
        assert part.area == pytest.approx(direct.area, rel=1e-9, abs=1e-6)
        assert shapely.symmetric_difference(part, direct).area < 1e-5
        assert square.buffer(1e-6).covers(part)
        surface = [p for p in shapely.get_parts(direct) if p.geom_type == "Polygon" and p.area > 1e-3]
        found = [p for p in shapely.get_parts(part) if p.area > 1e-3]
        assert len(found) == len(surface)
        assert sum(len(p.interiors) for p in found) == sum(len(p.interiors) for p in surface)
    if len(tiling) <= 150:
        assert total == pytest.approx(outline.area)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_part_is_the_same_whoever_asks_and_in_whatever_order(seed: int, order: random.Random) -> None:
    outline = _islands(seed)
    walked, asked = Tiling(GRID, 40, outline), Tiling(GRID, 40, shapely.from_wkb(outline.wkb))
    tiles = list(walked)
    parts = {t: walked.part(t).wkb for t in tiles}
    order.shuffle(tiles)
    assert {t: asked.part(t).wkb for t in tiles} == parts
    for tile in tiles[:3]:
        assert Tiling(GRID, 40, outline).part(tile).wkb == parts[tile], "alone, nothing kept"


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_parts_far_from_a_new_province_stay_as_they_are(seed: int) -> None:
    outline = _islands(seed)
    province = shapely.transform(_islands(seed + 1), lambda xy: np.add(xy, [60_000.0, 31_000.0]))
    small, large = (Tiling(GRID, 40, o) for o in (outline, shapely.union_all([outline, province])))
    assert all(small.part(t).wkb == large.part(t).wkb for t in small)


def test_parts_kept_are_bounded() -> None:
    tiling = Tiling(GRID, 16, shapely.Point(5e5, 5e6).buffer(2e4))
    for tile in tiling:
        tiling.part(tile)
    kept = tiling._parts.cache_info()  # type: ignore[attr-defined]
    assert kept.currsize <= 512 < len(tiling)
    assert kept.misses < 1.5 * len(tiling)  # each square around a tile is clipped about once


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([24, 32, 50, 96]), st.integers(0, 40))
def test_blocks_around_an_outline_against_a_plain_filter(seed: int, tile_px: int, halo_px: int) -> None:
    outline = _islands(seed, 2)
    within = GRID.box_of_bounds(outline.bounds).pad(halo_px)
    wanted = {
        part
        for part in within.blocks(32)
        if outline.intersects(shapely.box(*GRID.bounds_of_box(part.snap_out(32).pad(halo_px))))
    }
    tiling = Tiling(GRID, tile_px, outline, Reach(within, 32, halo_px))
    tiles = list(tiling)
    assert len(tiles) == len(set(tiles)) == len(tiling)
    found = [b for t in tiles for b in tiling.blocks(t)]
    assert all(tiling.blocks(t) and t in tiling for t in tiles)
    around = tiles_over(within.pad(3 * tile_px), tile_px)
    assert {t for t in around if t in tiling} == set(tiles) == {t for t in around if tiling.blocks(t)}
    assert sum(b.area_px for b in found) == sum(b.area_px for b in wanted)
    assert all(any(w.holds(b) for w in wanted) for b in found)


def test_a_tiling_travels_without_what_it_keeps() -> None:
    tiling = Tiling(GRID, 40, _islands(7))
    parts = {t: tiling.part(t).wkb for t in tiling}
    copy = pickle.loads(pickle.dumps(tiling))
    assert {t: copy.part(t).wkb for t in copy} == parts
