"""True pixel areas against PROJ's own factors, geodesic polygons and closed formulas."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod, Proj

from engine.assessment.surface import Surface, ellipsoid_of
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

PLACES = {
    "utm": ("EPSG:32633", (10.0, 10.0), (500_000.0, 5_100_000.0)),
    "utm, far from its middle": ("EPSG:32633", (10.0, 10.0), (850_000.0, 5_100_000.0)),
    "laea": ("EPSG:3035", (10.0, 10.0), (4_600_000.0, 2_800_000.0)),
    "conic": ("EPSG:2154", (10.0, 20.0), (700_000.0, 6_600_000.0)),
    "polar": ("EPSG:3413", (30.0, 30.0), (10.0, 10.0)),
    "across 180 degrees": ("EPSG:32760", (10.0, 10.0), (729_000.0, 7_900_000.0)),
    "mercator": ("EPSG:3857", (20.0, 20.0), (1_600_000.0, 6_000_000.0)),
    "feet": ("EPSG:2263", (30.0, 30.0), (980_000.0, 190_000.0)),
    "kilometres": ("EPSG:3035", (1000.0, 1000.0), (4_600_000.0, 2_800_000.0)),
}


def _box(grid: Grid, x: float, y: float, size: int = 200) -> Box:
    row, col = round((grid.anchor_xy[1] - y) / grid.resolution_yx[0]), round(x / grid.resolution_yx[1])
    return Box(row - size // 2, col - size // 2, row + size // 2, col + size // 2)


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"mercator"}))  # there PROJ's factors are a sphere's
def test_a_pixel_has_the_nominal_area_over_projs_areal_scale(place: str) -> None:
    crs, resolution, (x, y) = PLACES[place]
    surface = Surface(Grid(crs, resolution))
    box = _box(surface.grid, x, y)
    found = surface.units(box) * surface.unit_m2
    ys, xs = surface.grid.centres(box)
    proj, metres = Proj(crs), CRS(crs).axis_info[0].unit_conversion_factor
    for row, col in ((0, 0), (57, 101), (199, 198)):
        lon, lat = proj(xs[col], ys[row], inverse=True)
        wanted = resolution[0] * resolution[1] * metres**2 / proj.get_factors(lon, lat).areal_scale
        # PROJ differentiates numerically itself where it has no formula: its own error is some 1e-7
        assert found[row, col] == pytest.approx(wanted, rel=5e-7)


@pytest.mark.parametrize("place", sorted(PLACES))
def test_pixels_of_a_box_add_up_to_its_geodesic_area(place: str) -> None:
    crs, resolution, (x, y) = PLACES[place]
    surface = Surface(Grid(crs, resolution))
    box = _box(surface.grid, x, y)
    found = int(surface.units(box).sum(dtype=np.int64)) * surface.unit_m2
    edge = shapely.segmentize(shapely.box(*surface.grid.bounds_of_box(box)), 4 * resolution[0])
    lonlat = shapely.transform(edge, lambda xy: np.column_stack(Proj(crs)(*xy.T, inverse=True)))
    wanted = abs(ellipsoid_of(crs).geometry_area_perimeter(lonlat)[0])
    assert found == pytest.approx(wanted, rel=1e-7)


def test_degrees_have_the_area_of_the_formula() -> None:
    surface = Surface(Grid("EPSG:4326", (1 / 8192, 1 / 8192)))
    box = Box(-46 * 8192 - 100, 14 * 8192, -46 * 8192 + 100, 14 * 8192 + 30)
    lat = np.radians(surface.grid.centres(box)[0])
    geod = Geod(ellps="WGS84")  # area element M N cos(lat): Snyder 1987, equations 4-18 to 4-20
    element = geod.a**2 * (1 - geod.es) * np.cos(lat) / (1 - geod.es * np.sin(lat) ** 2) ** 2
    wanted = element * np.radians(1 / 8192) ** 2
    found = surface.units(box) * surface.unit_m2
    np.testing.assert_allclose(found, np.broadcast_to(wanted[:, None], found.shape), rtol=3e-8)


def test_a_pixel_has_one_area_whoever_asks() -> None:
    surface = Surface(Grid("EPSG:32633", (10.0, 10.0)))
    box = Box(-500_130, 50_077, -499_870, 50_400)
    whole = surface.units(box)
    for size in (1, 7, 64, 100, 128, 513):
        again = np.zeros_like(whole)
        for part in (p for p in box.blocks(size) if size > 1 or p.y0 == box.y0):
            rows, cols = part.slices_in(box)
            again[rows, cols] = Surface(surface.grid).units(part) if size > 64 else surface.units(part)
        np.testing.assert_array_equal(again if size > 1 else again[:1], whole if size > 1 else whole[:1])


def test_a_crs_that_ends_here_is_refused() -> None:
    beyond = Surface(Grid("EPSG:3035", (10.0, 10.0)))  # a Lambert azimuthal map of the globe is a disc
    with pytest.raises(InputError, match="no true area"):
        beyond.units(Box(0, 3_000_000, 4, 3_000_004))
