"""Units from vector files: names, repairs, other CRSs, and errors that say what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import Geod

from engine.assessment.coverage import FULL, coverage
from engine.assessment.zones import Unit, read_units, zones_on
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

UTM = Grid("EPSG:32633", (10.0, 10.0))
BOX = UTM.box_of_bounds((500_000, 5_000_000, 502_000, 5_002_000))
SQUARE = shapely.box(500_100, 5_000_100, 500_900, 5_000_900)


def _file(path: Path, crs: str | None = "EPSG:32633", layer: str | None = None, **columns: Any) -> Path:
    n = len(next(iter(columns.values())))
    shapes = [shapely.transform(SQUARE, lambda xy, i=i: xy + np.array([0, 100 * i])) for i in range(n)]
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, layer=layer)
    return path


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "parquet"])
def test_units_are_read_from_any_vector_file(tmp_path: Path, ending: str) -> None:
    path = _file(tmp_path / f"units.{ending}", population=[3, 4], NAME=["Nord", "Süd"])
    found = read_units(path)
    assert [u.name for u in found] == ["Nord", "Süd"]
    assert found[0].geometry.area == pytest.approx(640_000)


def test_names_come_from_the_column_that_was_asked_for(tmp_path: Path) -> None:
    path = _file(tmp_path / "units.gpkg", code=[7.0, 8.0], name=["a", "b"])
    assert [u.name for u in read_units(path, name_column="code")] == ["7", "8"]
    with pytest.raises(InputError, match=r"no such column.*expected code, name"):
        read_units(path, name_column="nam")


def test_which_column_names_the_units_is_asked_where_none_is_plain(tmp_path: Path) -> None:
    path = _file(tmp_path / "units.gpkg", kreis=["a", "b"], amt=["c", "d"])
    with pytest.raises(InputError, match="--name-column"):
        read_units(path)
    assert [u.name for u in read_units(_file(tmp_path / "one.gpkg", kreis=["a", "b"]))] == ["a", "b"]


def test_units_of_one_name_are_joined_where_that_is_wished(tmp_path: Path) -> None:
    path = _file(tmp_path / "units.gpkg", name=["isles", "land", "isles"])
    assert len(read_units(path)) == 3
    joined = read_units(path, dissolve=True)
    assert [u.name for u in joined] == ["isles", "land"]
    assert joined[0].geometry.area == pytest.approx(640_000 + 200 * 800)  # they overlap


def test_layers_and_filters_choose_units(tmp_path: Path) -> None:
    path = _file(tmp_path / "units.gpkg", layer="first", name=["a", "b"])
    _file(path, layer="second", name=["c"])
    assert [u.name for u in read_units(path)] == ["a", "b"]
    assert [u.name for u in read_units(path, layer="second")] == ["c"]
    assert [u.name for u in read_units(path, where="name = 'b'")] == ["b"]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("no vector file")
    with pytest.raises(InputError, match="cannot read the zones"):
        read_units(tmp_path / "text.gpkg")
    with pytest.raises(InputError, match="no such file"):
        read_units(tmp_path / "none.gpkg")
    with pytest.raises(InputError, match="no CRS"):
        read_units(_file(tmp_path / "bare.parquet", crs=None, name=["a"]))
    points = gpd.GeoDataFrame({"name": ["a"]}, geometry=[shapely.Point(0, 0)], crs="EPSG:4326")
    points.to_file(tmp_path / "points.gpkg")
    with pytest.raises(InputError, match="no polygon"):
        read_units(tmp_path / "points.gpkg")


def test_a_bow_tie_is_mended(tmp_path: Path) -> None:
    tie = shapely.Polygon(
        [(500_000, 5_000_000), (500_200, 5_000_200), (500_200, 5_000_000), (500_000, 5_000_200)]
    )
    gpd.GeoDataFrame({"name": ["tie"]}, geometry=[tie], crs=UTM.crs).to_file(tmp_path / "tie.gpkg")
    (unit,) = read_units(tmp_path / "tie.gpkg")
    (zone,) = zones_on([unit], UTM, BOX)
    covered = coverage(zone.edges, BOX.y0, BOX.x0, BOX.shape_yx)
    assert covered.sum(dtype=np.int64) / FULL == pytest.approx(200)  # two triangles of 100 m by 200 m
    assert unit.hectares == pytest.approx(2.0, rel=1e-3)


def test_hectares_are_geodesic(real_data: Path) -> None:
    units = read_units(real_data / "boundaries" / "lithuania.geojson")
    told = sum(u.hectares for u in units) / 100
    assert told == pytest.approx(65_300, rel=0.01)  # km2 by Statistics Lithuania: 65,286
    geod = Geod(ellps="WGS84")
    plain = sum(abs(geod.geometry_area_perimeter(u.geometry)[0]) for u in units) / 1e6
    assert told == pytest.approx(plain, rel=1e-4)  # there the long edges of the file are geodesics


def test_a_country_far_larger_than_the_map_is_cut_and_still_right() -> None:
    """Only what lies near the map is looked at: the rest may be where the map's CRS has no place."""
    world = shapely.box(-180, -80, 180, 80).difference(shapely.box(14.99, 45.16, 15.01, 45.17))
    (zone,) = zones_on([Unit("world", world, "EPSG:4326")], UTM, BOX)
    assert zone.cut
    covered = coverage(zone.edges, BOX.y0, BOX.x0, BOX.shape_yx)
    (hole,) = zones_on([Unit("hole", shapely.box(14.99, 45.16, 15.01, 45.17), "EPSG:4326")], UTM, BOX)
    lacking = coverage(hole.edges, BOX.y0, BOX.x0, BOX.shape_yx)
    np.testing.assert_array_equal(covered + lacking, FULL)


def test_a_unit_across_180_degrees_lies_on_a_map_there() -> None:
    fiji = Grid("EPSG:32760", (100.0, 100.0))
    box = Box(-79_010, 7_200, -78_810, 7_500)
    parts = shapely.MultiPolygon([shapely.box(178, -20, 180, -18), shapely.box(-180, -20, -178, -18)])
    (zone,) = zones_on([Unit("both sides", parts, "EPSG:4326")], fiji, box)
    covered = coverage(zone.edges, box.y0, box.x0, box.shape_yx)
    np.testing.assert_array_equal(covered, FULL)  # no gap where the file is cut


def test_a_unit_elsewhere_has_no_edges() -> None:
    (zone,) = zones_on([Unit("far", shapely.box(100, 10, 101, 11), "EPSG:4326")], UTM, BOX)
    assert len(zone.edges) == 0
    assert not zone.box


def test_neighbours_in_degrees_share_pixels_exactly() -> None:
    """A border that both have, walked in opposite ways, moved to another CRS: nothing is lost or counted twice."""
    line = [(15.0, 45.15), (15.012, 45.1561), (15.0042, 45.163), (15.02, 45.18)]
    west = shapely.Polygon([*line, (14.95, 45.18), (14.95, 45.15)])
    east = shapely.Polygon([*line[::-1], (15.07, 45.15), (15.07, 45.18)])
    box = UTM.box_of_bounds((499_500, 5_000_500, 502_000, 5_002_000))
    zones = zones_on([Unit("west", west, "EPSG:4326"), Unit("east", east, "EPSG:4326")], UTM, box)
    both = sum(coverage(z.edges, box.y0, box.x0, box.shape_yx).astype(np.int64) for z in zones)
    np.testing.assert_array_equal(both, FULL)
