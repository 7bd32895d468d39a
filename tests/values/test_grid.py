"""Grid arithmetic against brute force and against rasterio."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from engine.values.errors import InputError
from engine.values.georef import georef_coords, georef_of
from engine.values.grid import Box, Grid, TileKey, tiles_over

corner = st.integers(-10_000, 10_000)
boxes = st.builds(
    lambda y, x, h, w: Box(y, x, y + h, x + w), corner, corner, st.integers(0, 90), st.integers(0, 90)
)
grids = st.builds(
    lambda res, ax, ay: Grid("EPSG:32633", res, (ax, ay)),
    st.sampled_from([(10.0, 10.0), (20.0, 20.0), (64.0, 64.0), (19.985, 20.0), (0.1, 0.3)]),
    st.sampled_from([0.0, 3.25, -7.5]),
    st.sampled_from([0.0, 4.75]),
)


@given(grids, boxes)
def test_bounds_and_box_are_inverse(grid: Grid, box: Box) -> None:
    assert grid.box_of_bounds(grid.bounds_of_box(box)) == box


@given(grids, boxes.filter(bool))
def test_transform_round_trip_keeps_every_pixel(grid: Grid, box: Box) -> None:
    found, at = Grid.of_transform(grid.crs, Affine(*grid.transform_of(box)), box.shape_yx)
    np.testing.assert_allclose(found.bounds_of_box(at), grid.bounds_of_box(box), atol=1e-4)
    assert at.shape_yx == box.shape_yx


@given(grids, boxes.filter(bool))
def test_georef_of_reads_what_georef_coords_wrote(grid: Grid, box: Box) -> None:
    cube = xr.Dataset(coords=georef_coords(grid, box))
    found, at = georef_of(cube)
    assert found.crs == grid.crs
    np.testing.assert_allclose(found.resolution_yx, grid.resolution_yx, rtol=1e-9)
    np.testing.assert_allclose(found.bounds_of_box(at), grid.bounds_of_box(box), atol=1e-4)
    if grid.anchor_xy == (0.0, 0.0) and grid.resolution_yx[0] >= 10:
        assert at == box


def test_a_slice_of_a_cube_keeps_its_place() -> None:
    grid, box = Grid.make(32633, 10), Box(-530_000, 50_000, -529_900, 50_080)
    cube = xr.Dataset(coords=georef_coords(grid, box)).isel(y=slice(7, 9), x=slice(3, 4))
    assert georef_of(cube) == (grid, Box(-529_993, 50_003, -529_991, 50_004))


def test_rasterio_and_rioxarray_see_the_same_place() -> None:
    import rioxarray  # noqa: F401

    grid, box = Grid.make(32633, 10), Box(-530_000, 50_000, -529_900, 50_080)
    data = xr.DataArray(np.zeros((100, 80), np.uint8), dims=("y", "x"), coords=georef_coords(grid, box))
    assert data.rio.crs.to_epsg() == 32633
    assert data.rio.transform() == Affine(10, 0, 500_000, 0, -10, 5_300_000)
    assert data.rio.bounds() == (500_000, 5_299_000, 500_800, 5_300_000)


@given(boxes, st.integers(1, 40))
def test_blocks_and_tiles_partition_a_box(box: Box, size: int) -> None:
    seen = np.zeros(box.shape_yx, int)
    for block in box.blocks(size):
        seen[block.slices_in(box)] += 1
        assert block.y0 // size == (block.y1 - 1) // size
    assert (seen == 1).all()
    tiles = tiles_over(box, size)
    assert len(set(tiles)) == len(tiles)
    if box:
        assert sum((t.box(size) & box).area_px for t in tiles) == box.area_px
        assert all(TileKey.parse(str(t)) == t for t in tiles)


@given(boxes, st.integers(1, 40))
def test_snap_out_is_the_smallest_whole_box(box: Box, size: int) -> None:
    snapped = box.snap_out(size)
    assert snapped.holds(box)
    assert all(v % size == 0 for v in (snapped.y0, snapped.x0, snapped.y1, snapped.x1))
    assert box.y0 - snapped.y0 < size
    assert snapped.y1 - box.y1 < size


def test_tiles_follow_a_curve_that_keeps_neighbours_together() -> None:
    tiles = tiles_over(Box(0, 0, 8, 8), 1)
    assert {(t.row, t.col) for t in tiles[:16]} == {(r, c) for r in range(4) for c in range(4)}


def test_a_custom_crs_survives_as_wkt() -> None:
    wkt = "+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m"
    grid = Grid.make(wkt, 10)
    assert grid.crs.startswith("PROJCRS")
    assert Grid.make(grid.crs, 10) == grid


def test_rotated_rasters_and_bad_boxes_are_refused() -> None:
    with pytest.raises(InputError, match="rotated"):
        Grid.of_transform(32633, Affine(10, 1, 0, 0, -10, 0), (4, 4))
    with pytest.raises(InputError, match="outside"):
        Box(0, 0, 5, 5).slices_in(Box(1, 0, 5, 5))
    with pytest.raises(InputError, match="CRS"):
        Grid.make("EPSG:999999", 10)
    with pytest.raises(InputError, match="positive"):
        Grid.make(32633, 0)
