"""Regions on a grid: shapely's own test of pixel centres, the same for any boxes, the first of two that overlap."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.regions import open_regions

GRID, BOX = Grid("EPSG:32633", (10.0, 10.0)), Box(-530100, 50010, -530000, 50130)


def write(path: Path) -> list[shapely.Polygon]:
    left, _, right, top = GRID.bounds_of_box(BOX)
    shapes = [
        shapely.Point(left + 401.3, top - 377.1).buffer(311.7),
        shapely.Point(left + 603.9, top - 507.7).buffer(288.3),
        shapely.box(right - 207.0, top - 903.0, right + 500.0, top + 100.0),
    ]
    names = ["round", "other", "round"]
    gpd.GeoDataFrame({"NAME": names}, geometry=shapes, crs="EPSG:32633").to_file(path)
    return shapes


def test_pixels_and_points_fall_into_the_first_region_that_holds_them(tmp_path: Path) -> None:
    shapes = write(tmp_path / "r.gpkg")
    regions = open_regions(tmp_path / "r.gpkg", GRID)
    assert regions.names == ("round", "other")
    y, x = GRID.centres(BOX)
    inside = [shapely.contains_xy(s, *np.meshgrid(x, y)) for s in shapes]
    expected = np.select([inside[0], inside[1], inside[2]], [1, 2, 1], 0)
    assert (inside[0] & inside[1]).sum() > 100
    assert np.array_equal(regions.burn(BOX), expected)
    whole = np.zeros(BOX.shape_yx, np.uint16)
    for part in BOX.blocks(37):
        whole[part.slices_in(BOX)] = regions.burn(part)
    assert np.array_equal(whole, expected)
    xx, yy = np.meshgrid(x, y)
    assert np.array_equal(regions.at(xx.ravel(), yy.ravel()), expected.ravel())


def test_files_without_polygons_or_crs_are_refused(tmp_path: Path) -> None:
    points = gpd.GeoDataFrame({"name": ["a"]}, geometry=[shapely.Point(14, 47)], crs="EPSG:4326")
    points.to_file(tmp_path / "p.geojson")
    with pytest.raises(InputError, match="no polygon among the regions"):
        open_regions(tmp_path / "p.geojson", GRID)
    with pytest.raises(InputError, match="no such file"):
        open_regions(tmp_path / "q.geojson", GRID)
