"""Hectares per class and zone: against exactextract and geodesic areas, and the same for any tiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from engine.assessment.areas import AreaSums, ZoneArea, measure
from engine.assessment.coverage import SUB
from engine.assessment.surface import Surface
from engine.assessment.zones import Unit, zones_on
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

UTM = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_150, 49_950, -499_750, 50_450)


def _labels(box: Box, seed: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (box.shape_yx[0] // 10 + 1, box.shape_yx[1] // 10 + 1))
    return np.kron(coarse, np.ones((10, 10)))[: box.shape_yx[0], : box.shape_yx[1]].astype(np.uint8) * 60


def _reader(labels: NDArray[np.uint8], box: Box) -> Any:
    return lambda part: np.ascontiguousarray(labels[part.slices_in(box)])


def _units(box: Box, grid: Grid = UTM, n: int = 7, reach: float = 0.7) -> list[Unit]:
    """Units that fill the map and reach beyond it: cells around random points, one with a hole and an island."""
    left, bottom, right, top = grid.bounds_of_box(box)
    rng, ends = np.random.default_rng(n), np.array([[left, bottom], [right, top]])
    inner = np.array([0.6, 0.4]), np.array([0.4, 0.6])  # so that each point has a cell in the frame
    points = shapely.MultiPoint(rng.uniform(inner[0] @ ends, inner[1] @ ends, (n, 2)))
    wide, high = (right - left) * reach, (top - bottom) * reach
    middle = shapely.Point((left + right) / 2, (bottom + top) / 2)
    frame = shapely.box(middle.x - wide, middle.y - high, middle.x + wide, middle.y + high)
    cells = [
        shapely.intersection(c, frame)
        for c in shapely.get_parts(shapely.voronoi_polygons(points, extend_to=frame))
    ]
    lake = shapely.Point(cells[0].representative_point()).buffer(11 * grid.resolution_yx[0], quad_segs=20)
    holed = [c.difference(lake) for c in cells]
    return [
        Unit(f"unit {i}", c, grid.crs)
        for i, c in enumerate([*holed[:-1], shapely.union_all([holed[-1], lake])])
    ]


def _measure(units: list[Unit], grid: Grid = UTM, box: Box = BOX, **options: Any) -> AreaSums:
    return measure(_reader(_labels(box), box), grid, box, zones_on(units, grid, box), **options)


def test_hectares_are_those_of_exactextract_weighted_with_true_area() -> None:
    units, labels = _units(BOX), _labels(BOX)
    left, bottom, right, top = UTM.bounds_of_box(BOX)
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(u.geometry), "properties": {}} for u in units
    ]
    raster = NumPyRasterSource(labels, left, bottom, right, top)
    surface = Surface(UTM)
    area = (surface.units(BOX) * surface.unit_m2 / 1e4).ravel()
    for told, found in zip(
        exact_extract(raster, features, ["coverage", "cell_id"]), _measure(units).each(), strict=True
    ):
        cell, part = np.asarray(told["properties"]["cell_id"], int), told["properties"]["coverage"]
        wanted = np.bincount(labels.ravel()[cell], weights=area[cell] * part, minlength=256)
        assert found.no_data == pytest.approx(wanted[0], abs=1e-3)  # coverage there is a float32
        assert set(found.classes) == set(np.flatnonzero(wanted[1:]) + 1)
        for value, hectares in found.classes.items():
            assert hectares == pytest.approx(wanted[value], abs=1e-3)


@pytest.mark.parametrize("block_px", [37, 64, 100, 256, 333, 1024])
def test_sums_are_equal_to_the_last_digit_for_any_tiling(block_px: int) -> None:
    units = _units(BOX)
    whole, tiled = _measure(units, block_px=2048, workers=1), _measure(units, block_px=block_px)
    np.testing.assert_array_equal(tiled.sums, whole.sums)
    np.testing.assert_array_equal(tiled.total, whole.total)
    np.testing.assert_array_equal(tiled.pixels, whole.pixels)


def test_units_that_fill_the_map_add_up_to_it_exactly() -> None:
    found = _measure(_units(BOX))
    high, low = found.sums.sum(axis=0).T
    together = {v: int(high[v]) * 2**32 + int(low[v]) for v in range(256)}
    whole = {v: int(found.total[v, 0]) * 2**32 + int(found.total[v, 1]) for v in range(256)}
    # corners that one side does not have cost no more than a part of a pixel each
    for value, wanted in whole.items():
        assert together[value] == pytest.approx(wanted, rel=1e-9)
    assert sum(found.whole_map().values()) == pytest.approx(400 * 500 / 100, rel=1e-3)
    assert found.pixels.sum() == 400 * 500


PLACES = {
    "utm": (UTM, BOX),
    "laea": (Grid("EPSG:3035", (20.0, 20.0)), Box(-140_200, 229_900, -139_900, 230_300)),
    "degrees": (
        Grid("EPSG:4326", (1 / 9000, 1 / 9000)),
        Box(-46 * 9000, 14 * 9000, -46 * 9000 + 300, 14 * 9000 + 400),
    ),
    "mercator": (Grid("EPSG:3857", (30.0, 30.0)), Box(-200_300, 53_000, -200_000, 53_300)),
    "polar": (Grid("EPSG:3995", (300.0, 300.0)), Box(-150, -170, 150, 190)),
    "across 180 degrees": (Grid("EPSG:32760", (10.0, 10.0)), Box(-790_100, 72_800, -789_800, 73_200)),
}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_classes_and_no_data_add_up_to_the_geodesic_area(place: str) -> None:
    grid, box = PLACES[place]
    units = _units(box, grid, n=4, reach=0.35)
    back = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    metres = 111_000 if grid.crs == "EPSG:4326" else 1
    for unit, found in zip(units, _measure(units, grid, box).each(), strict=True):
        fine = shapely.segmentize(unit.geometry, 100 if grid.crs != "EPSG:4326" else 0.001)
        lonlat = shapely.transform(fine, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
        area, around = map(abs, Geod(ellps="WGS84").geometry_area_perimeter(lonlat))
        wanted = area / 1e4  # off by 1 mm along its border, and the lattice of vertices
        off = 1e-7 * wanted + around * (1e-3 + max(grid.resolution_yx) * metres / SUB) / 1e4
        assert found.mapped + found.no_data == pytest.approx(wanted, abs=off)
        assert found.hectares == pytest.approx(wanted, abs=off)
        assert found.off == pytest.approx(0, abs=off / wanted)
        assert found.outside == 0


def test_a_unit_of_another_crs_is_brought_onto_the_map() -> None:
    west, south, east, north = 14.995, 45.14, 15.01, 45.16
    unit = Unit("a box of degrees", shapely.box(west, south, east, north), "EPSG:4326")
    box = UTM.box_of_bounds((499_000, 4_998_000, 502_000, 5_002_000))
    (found,) = _measure([unit], box=box).each()
    geod = Geod(ellps="WGS84")  # parallels are no geodesics: M N cos(lat) between them, by Simpson's rule
    lat = np.radians(np.linspace(south, north, 101))
    weight = np.r_[1, np.tile([4, 2], 50)[:-1], 1] * (lat[1] - lat[0]) / 3
    element = geod.a**2 * (1 - geod.es) * np.cos(lat) / (1 - geod.es * np.sin(lat) ** 2) ** 2
    wanted = float(weight @ element) * np.radians(east - west) / 1e4
    assert found.mapped + found.no_data == pytest.approx(wanted, rel=2e-7)


def test_what_lies_beyond_the_map_is_told() -> None:
    left, bottom, _, top = UTM.bounds_of_box(BOX)
    half = Unit("half outside", shapely.box(left - 1000, bottom, left + 1000, bottom + 1000), UTM.crs)
    far = Unit("far away", shapely.box(left + 1e6, bottom, left + 1.1e6, bottom + 1000), UTM.crs)
    apart = Unit(
        "in two parts", shapely.union_all([far.geometry, shapely.box(left, bottom, left + 500, top)]), UTM.crs
    )
    found = {area.name: area for area in _measure([half, far, apart]).each()}
    assert found["half outside"].outside == pytest.approx(found["half outside"].hectares / 2, rel=1e-4)
    assert found["half outside"].off is None
    assert found["half outside"].covered < 0.5
    assert (found["far away"].mapped, found["far away"].covered) == (0.0, 0.0)
    assert found["far away"].outside == found["far away"].hectares
    assert found["in two parts"].outside == pytest.approx(found["far away"].hectares, rel=1e-6)


def test_every_pixel_is_read_once_and_never_more_than_a_block() -> None:
    seen: list[Box] = []

    def read(box: Box) -> NDArray[np.uint8]:
        seen.append(box)
        return np.ones(box.shape_yx, np.uint8)

    box = Box(-500_000, 50_000, -498_000, 52_500)
    found = measure(read, UTM, box, [], block_px=512, progress=lambda done, total: None)
    assert max(b.area_px for b in seen) == 512 * 512
    assert sum(b.area_px for b in seen) == box.area_px == found.pixels[1]


def test_progress_counts_all_blocks() -> None:
    told: list[tuple[int, int]] = []
    _measure([], block_px=128, progress=lambda done, total: told.append((done, total)))
    assert told == [(n + 1, len(told)) for n in range(len(told))]


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        measure(lambda box: np.zeros(box.shape_yx, np.int16), UTM, BOX, [])
    with pytest.raises(InputError, match="no pixel"):
        measure(_reader(_labels(BOX), BOX), UTM, Box(0, 0, 0, 4), [])


def test_an_empty_unit_covers_nothing() -> None:
    assert ZoneArea("nowhere", 0.0, {}, 0.0, 0.0, 0.0).covered == 0.0


def test_real_provinces_on_a_real_tiles_mask(real_data: Path) -> None:
    """A corner of a real mask, with the states that it lies in: the same for six tilings, and geodesic in sum."""
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        size = 1200
        labels = file.read(1, window=Window(4000, 4000, size, size)).astype(np.uint8)
        transform = file.window_transform(Window(4000, 4000, size, size))
        grid, box = Grid.of_transform(file.crs, transform, (size, size))
    world = gpd.read_file(real_data / "boundaries" / "world_states_provinces.gpkg")
    units = [Unit(str(n), g, "EPSG:4326") for n, g in zip(world["name"], world.geometry, strict=True)]
    zones = [z for z in zones_on(units, grid, box) if len(z.edges)]
    assert 1 <= len(zones) < 5
    first = measure(_reader(labels, box), grid, box, zones)
    for block_px in (150, 256, 400, 512, 777, 2048):
        again = measure(_reader(labels, box), grid, box, zones, block_px=block_px)
        np.testing.assert_array_equal(again.sums, first.sums)
    on_land = sum(a.mapped + a.no_data for a in first.each())
    whole = sum(first.whole_map().values())
    assert 0 < on_land <= whole * (1 + 1e-9)
    assert whole == pytest.approx(size * size / 100, rel=2e-3)


@pytest.mark.long
def test_a_whole_tiles_mask_measures_the_same_for_any_tiling(real_data: Path) -> None:
    """10980 x 10980 pixels in 41 units that reach across all blocks."""
    from engine.archive.class_raster import open_class_raster

    opened = open_class_raster(str(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif"))
    units = _units(opened.box, opened.grid, n=41, reach=0.55)
    zones = zones_on(units, opened.grid, opened.box)
    first = measure(opened.read, opened.grid, opened.box, zones)
    assert first.pixels.sum() == opened.box.area_px
    for block_px in (500, 640, 999, 2048, 4096, 10980):
        again = measure(opened.read, opened.grid, opened.box, zones, block_px=block_px)
        np.testing.assert_array_equal(again.sums, first.sums)
        np.testing.assert_array_equal(again.total, first.total)
    together = sum(a.mapped + a.no_data for a in first.each())
    assert together == pytest.approx(sum(first.whole_map().values()), rel=1e-9)
