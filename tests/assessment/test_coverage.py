"""Exact coverage: against exactextract, shapely, and invariants that hold to the last digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.assessment.coverage import FULL, SUB, add_edges, add_tally, add_whole, coverage, edges_of
from engine.values.grid import Box


def _edges(shape: Any) -> NDArray[Any]:
    """Edges of a shapely shape given in pixels, y downward."""
    found = []
    for part in shapely.get_parts(shape):
        found.append(edges_of(shapely.get_coordinates(part.exterior)))
        found += [edges_of(shapely.get_coordinates(ring), hole=True) for ring in part.interiors]
    return np.concatenate(found)


def _of(shape: Any, box: Box) -> NDArray[np.int32]:
    return coverage(_edges(shape), box.y0, box.x0, box.shape_yx)


def _by_shapely(shape: Any, box: Box) -> NDArray[np.float64]:
    """Part of each pixel by cutting, one pixel after the other."""
    ys, xs = np.mgrid[box.y0 : box.y1, box.x0 : box.x1]
    return np.asarray(shapely.area(shapely.intersection(shape, shapely.box(xs, ys, xs + 1, ys + 1))))


def _star(seed: int, corners: int = 40, size: float = 9.0) -> Any:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.2, 1, corners) * size
    outer = np.column_stack([12.3 + radius * np.cos(angle), 11.7 + radius * np.sin(angle)])
    hole = shapely.Point(12.3, 11.7).buffer(1.3, quad_segs=3)
    return shapely.Polygon(outer).difference(hole)


@pytest.mark.parametrize("seed", range(4))
def test_coverage_is_what_cutting_each_pixel_gives(seed: int) -> None:
    box = Box(0, 0, 24, 24)
    found = _of(_star(seed), box) / FULL
    np.testing.assert_allclose(found, _by_shapely(_star(seed), box), rtol=0, atol=8 / SUB)


def test_coverage_is_that_of_exactextract() -> None:
    from exactextract import exact_extract
    from exactextract.raster import NumPyRasterSource

    shape = shapely.union_all([_star(5), shapely.box(30.25, 2.5, 38.5, 20.125), shapely.box(24, 0, 30, 3)])
    flipped = shapely.transform(shape, lambda xy: xy * [1, -1])  # rasters begin at the upper edge
    raster = NumPyRasterSource(np.zeros((24, 40)), 0, -24, 40, 0)
    feature = {"type": "Feature", "geometry": shapely.geometry.mapping(flipped), "properties": {}}
    (found_there,) = exact_extract(raster, [feature], ["coverage", "cell_id"])
    told = found_there["properties"]
    wanted = np.zeros(24 * 40)
    wanted[np.asarray(told["cell_id"], int)] = told["coverage"]
    found = _of(shape, Box(0, 0, 24, 40)) / FULL
    np.testing.assert_allclose(found.ravel(), wanted, rtol=0, atol=8 / SUB)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 13), y0=st.integers(-3, 5), x0=st.integers(-3, 5))
def test_a_pixel_is_covered_alike_from_any_box(seed: int, size: int, y0: int, x0: int) -> None:
    box, edges = Box(y0, x0, y0 + 25, x0 + 23), _edges(_star(seed))
    whole = coverage(edges, box.y0, box.x0, box.shape_yx)
    for part in box.blocks(size):
        rows, cols = part.slices_in(box)
        np.testing.assert_array_equal(coverage(edges, part.y0, part.x0, part.shape_yx), whole[rows, cols])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_neighbours_share_each_pixel_without_gap_or_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    square = shapely.box(1.5, 2.25, 20.75, 21.5)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.MultiPoint(rng.uniform(2, 21, (12, 2)))))
    units = [shapely.intersection(cell, square) for cell in cells]
    # corners that a border meets have to be corners of both sides: that is what topology means
    corners = shapely.union_all(shapely.boundary(units))
    units = [shapely.snap(shapely.Polygon(_with_nodes(u, corners)), corners, 1e-9) for u in units]
    box = Box(0, 0, 24, 24)
    total = sum((_of(u, box).astype(np.int64) for u in units if not u.is_empty), np.zeros((24, 24), np.int64))
    assert set(np.unique(total[3:21, 2:20])) == {FULL}


def _with_nodes(unit: Any, lines: Any) -> NDArray[np.float64]:
    """Return a unit's ring with a corner wherever lines of others end on it."""
    ends = shapely.points(shapely.get_coordinates(lines))
    on = ends[shapely.distance(ends, unit.exterior) < 1e-9]
    along = np.concatenate([shapely.line_locate_point(unit.exterior, on), [0.0]])
    order = np.argsort(along)
    points = np.concatenate([shapely.get_coordinates(on), shapely.get_coordinates(unit.exterior)[:1]])[order]
    points = points[np.r_[True, np.abs(np.diff(points, axis=0)).sum(axis=1) > 1e-9]]
    return np.concatenate([points, points[:1]])


def test_rings_mean_the_same_walked_either_way() -> None:
    ring = shapely.get_coordinates(_star(7).exterior)
    box = Box(0, 0, 24, 24)
    forth = coverage(edges_of(ring), 0, 0, box.shape_yx)
    np.testing.assert_array_equal(coverage(edges_of(ring[::-1]), 0, 0, box.shape_yx), forth)
    assert forth.min() >= 0
    assert forth.max() == FULL


def test_the_whole_sum_is_the_polygons_area() -> None:
    shape = _star(11)
    total = int(_of(shape, Box(0, 0, 24, 24)).sum(dtype=np.int64))
    assert total / FULL == pytest.approx(shape.area, abs=40 * 10 / SUB)


def test_very_long_edges_are_halved_and_still_right() -> None:
    shape = shapely.Polygon([(-90_000, -50_000), (120_000, 70_000), (-90_000, 70_000)])  # x, y downward
    box = Box(1400, 0, 1420, 40)
    np.testing.assert_allclose(_of(shape, box) / FULL, _by_shapely(shape, box), rtol=0, atol=2 / SUB)
    assert len(_edges(shape)) > 60


def test_slivers_without_a_surface_cover_nothing() -> None:
    line = np.array([[2.0, 2.0], [7.5, 8.0], [2.0, 2.0]])
    assert len(edges_of(line)) == 0


def test_tallies_are_exact_where_floats_are_not() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (24, 24)).astype(np.uint8) * 100
    area = rng.integers(2**28, 2**30, (24, 24)).astype(np.int32)
    edges = np.concatenate([_edges(_star(2)), _edges(_star(3))])  # partly covered twice: more than FULL
    inside = np.zeros((24, 24), np.int32)
    add_edges(edges, 0, 0, inside)
    out = np.zeros((256, 2), np.int64)
    for _ in range(3):
        add_tally(labels, area, inside, out)
    parts = coverage(edges, 0, 0, (24, 24))
    for value in (0, 100, 200):
        wanted = sum(
            int(c) * int(a) for c, a in zip(parts[labels == value], area[labels == value], strict=True)
        )
        assert int(out[value, 0]) * 2**32 + int(out[value, 1]) == 3 * wanted
    assert out[:, 1].min() >= 0
    assert out[:, 1].max() < 2**32


def test_whole_pixels_count_in_full() -> None:
    labels = np.array([[1, 2], [1, 0]], np.uint8)
    area = np.array([[5, 7], [11, 2**30]], np.int32)
    out, pixels = np.zeros((256, 2), np.int64), np.zeros(256, np.int64)
    add_whole(labels, area, out, pixels)
    totals = [int(out[v, 0]) * 2**32 + int(out[v, 1]) for v in range(3)]
    assert totals == [2**30 * FULL, 16 * FULL, 7 * FULL]
    assert pixels[:4].tolist() == [1, 2, 1, 0]
