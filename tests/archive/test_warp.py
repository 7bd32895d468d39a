"""Index arithmetic between files and grids, and the check of transformations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.warp import Raster, coincides, require_transform, same_crs, source_index
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid

BALLPARK = """GEOGCRS["none",DATUM["unknown",ELLIPSOID["x",6377000,299,LENGTHUNIT["metre",1]]],
PRIMEM["Greenwich",0],CS[ellipsoidal,2],AXIS["latitude",north],AXIS["longitude",east],
ANGLEUNIT["degree",0.0174532925199433]]"""

SIZES = [(10, 10), (20, 10), (60, 10), (10, 20), (10, 60)]


@given(st.integers(-(10**6), 10**6), st.integers(1, 50), st.sampled_from(SIZES))
def test_source_index_against_integers(first: int, n: int, sizes: tuple[int, int]) -> None:
    file_m, grid_m = sizes
    raster = Raster("EPSG:32633", (file_m, 0, 300000, 0, -file_m, 5900040), (9, 9), "uint16", 0)
    rows, cols = source_index(raster, Grid.make(32633, grid_m), Box(first, first, first + n, first + n))
    index = range(first, first + n)
    assert cols.tolist() == [((2 * i + 1) * grid_m - 600000) // (2 * file_m) for i in index]
    assert rows.tolist() == [((2 * i + 1) * grid_m + 2 * 5900040) // (2 * file_m) for i in index]


@given(st.integers(-1000, 1000), st.integers(1, 40), st.integers(1, 40), st.floats(5, 70))
def test_the_index_does_not_depend_on_the_box(first: int, n: int, skip: int, file_m: float) -> None:
    raster = Raster("EPSG:32633", (file_m, 0, 31.7, 0, -file_m, 5.3), (9, 9), "uint16", 0)
    grid = Grid.make(32633, 10)
    whole = source_index(raster, grid, Box(first, first, first + n + skip, first + n + skip))
    part = source_index(raster, grid, Box(first + skip, first + skip, first + n + skip, first + n + skip))
    assert all((w[skip:] == p).all() for w, p in zip(whole, part, strict=True))


def test_coincidence_needs_the_same_size_and_edges() -> None:
    raster = Raster("EPSG:32633", (10, 0, 300000, 0, -10, 5900040), (9, 9), "uint16", 0)
    assert coincides(raster, Grid("EPSG:32633", (10.0, 10.0), (-50.0, 20.0)))
    assert not coincides(raster, Grid("EPSG:32633", (10.0, 10.0), (5.0, 0.0)))
    assert not coincides(raster, Grid("EPSG:32633", (10.0, 10.01)))


def test_crs_are_compared_by_meaning() -> None:
    from pyproj import CRS

    assert same_crs("EPSG:4326", "OGC:CRS84")
    assert same_crs(CRS(32633).to_wkt("WKT1_GDAL"), "EPSG:32633")
    assert not same_crs("EPSG:32633", "EPSG:32632")
    with pytest.raises(DataError):
        same_crs("EPSG:32633", "nonsense")


def test_transforms_that_are_known_pass_and_a_ballpark_is_refused() -> None:
    require_transform("EPSG:32633", "EPSG:3035")
    require_transform("EPSG:32633", "EPSG:32632")
    with pytest.raises(InputError, match="ballpark"):
        require_transform("EPSG:32633", BALLPARK)
