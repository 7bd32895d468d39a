"""Coverage against point-in-polygon counts, and on a thousand real items of three UTM zones."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rustac
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.archive.coverage import cell_size_m, count_cover, coverage, equal_area_crs
from engine.archive.items import ItemTable, drop_superseded
from engine.archive.search import search
from engine.archive.stac import from_stac
from engine.archive.summary import summarise
from engine.cube.plan import plan_cube, touches
from engine.values.area import Area
from engine.values.grid import Grid
from engine.values.spec import CubeSpec
from tests.archive.samples import at, record

COLORADO = "pc_s2l2a_1000_colorado_2024.parquet"
SUMMER = (dt.date(2024, 7, 1), dt.date(2024, 8, 31))


@pytest.fixture(scope="module")
def frame(real_data: Path) -> pd.DataFrame:
    """The same items read by geopandas, with nothing of ours."""
    found = geopandas.read_parquet(real_data / "stac" / COLORADO)
    found["take"] = found["s2:datatake_id"].str.replace(r"_N.*", "", regex=True)
    found["strip"] = found["s2:datastrip_id"].str.extract(r"_S(\d{8}T\d{6})")[0]
    return found


@pytest.fixture(scope="module")
def colorado(real_data: Path) -> ItemTable:
    found = rustac.read_sync(str(real_data / "stac" / COLORADO))["features"]
    kept, dropped = drop_superseded(from_stac(found))
    return ItemTable(tuple(kept), SUMMER, dropped)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0, 8), st.floats(0, 8), st.floats(0.5, 6), st.integers(0, 2)), max_size=6)
)
def test_counts_against_points_in_polygons(boxes: list[tuple[float, float, float, int]]) -> None:
    shapes = [(shapely.box(x, y, x + side, y + side), group) for x, y, side, group in boxes]
    groups = [[s for s, g in shapes if g == wanted] for wanted in range(3)]
    got = count_cover(groups, (1, 0, 0.01, 0, -1, 10.013), (10, 10))
    y, x = 10.013 - 0.5 - np.arange(10), 0.51 + np.arange(10)
    for row in range(10):
        for col in range(10):
            point = shapely.Point(x[col], y[row])
            inside = [any(s.contains(point) for s in group) for group in groups]
            edge = any(s.boundary.distance(point) < 1e-9 for s, _ in shapes)
            assert edge or got[row, col] == sum(inside)


def test_cells_are_of_equal_area() -> None:
    area = Area.from_bbox((10.0, 40.0, 30.0, 70.0))
    seen = coverage(ItemTable((record(geometry_wkb=at(10, 40, 30, 55)),), SUMMER), area)
    sphere = (np.sin(np.radians(55)) - np.sin(np.radians(40))) / (
        np.sin(np.radians(70)) - np.sin(np.radians(40))
    )
    assert abs(seen.share(1) - sphere) < 0.01
    assert "Azimuthal" in equal_area_crs(area)
    assert cell_size_m(1.0, 160) <= 0.01


def test_tiles_of_one_overpass_are_one_observation() -> None:
    area = Area.from_bbox((13.0, 52.0, 14.0, 53.0))
    pair = (record("a", tile="33UUU"), record("b", tile="33UVU"), record("c", datatake="other"))
    seen = coverage(ItemTable(pair, SUMMER), area)
    assert seen.percentiles((0, 100)) == [2, 2]
    small = coverage(ItemTable(pair, SUMMER), Area.from_bbox((13.5, 52.5, 13.5001, 52.5001)))
    assert small.share(2) == 1.0


def test_real_items_against_pandas(frame: pd.DataFrame, colorado: ItemTable) -> None:
    newest = frame.sort_values("s2:processing_baseline").drop_duplicates(
        ["s2:mgrs_tile", "take", "strip"], keep="last"
    )
    assert {i.id for i in colorado} == set(newest["id"])
    assert set(colorado.superseded) == set(frame["id"]) - set(newest["id"])
    assert len(colorado) + len(colorado.superseded) == len(frame) == 1000
    said = pd.DataFrame([vars(i) for i in colorado])
    for ours, theirs in {
        "tile": "s2:mgrs_tile",
        "datatake": "take",
        "baseline": "s2:processing_baseline",
    }.items():
        assert said[ours].value_counts().to_dict() == newest[theirs].value_counts().to_dict()
    assert (
        said["crs"].value_counts().to_dict()
        == ("EPSG:" + newest["proj:epsg"].astype(int).astype(str)).value_counts().to_dict()
    )
    assert said["tile"].nunique() == 54
    assert said["datatake"].nunique() == 51
    assert said["orbit_state"].unique().tolist() == ["descending"]


def test_a_plan_over_three_utm_zones_against_pandas(frame: pd.DataFrame, colorado: ItemTable) -> None:
    grid = Grid.make("EPSG:5070", 10)  # none of the three zones
    each = plan_cube(colorado, CubeSpec(bands=["red"], period=None), grid)
    assert len(each.steps) == frame["take"].nunique() == 51
    by_take = frame.drop_duplicates(["s2:mgrs_tile", "take", "strip"]).groupby("take")["id"].count()
    assert {s.groups[0][0].datatake: len(s.groups[0]) for s in each.steps} == by_take.to_dict()
    days = [s.start for s in each.steps]
    assert days == sorted(days)
    months = plan_cube(colorado, CubeSpec(bands=["red"], period="1MS"), grid)
    firsts = frame.groupby("take")["datetime"].min().dt.month.value_counts().to_dict()
    assert [len(s.groups) for s in months.steps] == [firsts[7], firsts[8]]


def test_the_scenes_of_a_tile_against_projected_footprints(frame: pd.DataFrame, colorado: ItemTable) -> None:
    """Whatever the zone of a scene, a tile on the border of two zones gets those that reach it, no others."""
    grid = Grid.make("EPSG:5070", 10)
    projected = frame.set_index("id").geometry.segmentize(0.02).to_crs(5070)
    for lon, lat in ((-108.0, 39.0), (-105.0, 40.5), (-102.0, 38.0)):
        x, y = geopandas.GeoSeries([shapely.Point(lon, lat)], crs=4326).to_crs(5070)[0].coords[0]
        bounds = x, y, x + 20_480, y + 20_480
        got = {i.id for i in colorado.in_bounds(bounds, grid.crs)}
        box = shapely.box(*bounds)
        near = projected[projected.distance(box) <= 10]
        far = projected[projected.distance(box) > 8000]
        assert set(near.index) - set(colorado.superseded) <= got
        assert not got & set(far.index)
        assert len(near) > 5
        pixels = grid.box_of_bounds(bounds)
        reached = {i.id for i in colorado if touches(i, grid, pixels) is not False}
        assert set(near.index) - set(colorado.superseded) <= reached


def test_coverage_of_real_footprints_at_points(frame: pd.DataFrame, colorado: ItemTable) -> None:
    area = Area.from_bbox((-108.5, 37.5, -102.5, 40.5))
    seen = coverage(colorado, area)
    y, x = seen.grid.centres(seen.box)
    rng = np.random.default_rng(5)
    picked = rng.choice(np.flatnonzero(seen.inside), 60, replace=False)
    rows, cols = np.unravel_index(picked, seen.inside.shape)
    points = geopandas.GeoSeries(shapely.points(x[cols], y[rows]), crs=seen.grid.crs).to_crs(4326)
    edges = shapely.union_all(frame.geometry.boundary.to_numpy())
    wrong = 0
    for point, row, col in zip(points, rows, cols, strict=True):
        truth = frame[frame.geometry.contains(point)]["take"].nunique()
        near_an_edge = edges.distance(point) < 0.01  # straight in degrees is not straight in metres
        wrong += seen.observations[row, col] != truth and not near_an_edge
    assert wrong == 0


def test_the_summary_of_real_items_against_pandas(real_data: Path, frame: pd.DataFrame) -> None:
    area = Area.from_bbox((-108.5, 37.5, -102.5, 40.5))
    table = search(area, "2024-07/2024-08", real_data / "stac" / COLORADO)
    mine = frame[frame["id"].isin([i.id for i in table])]
    counted = summarise(table, coverage(table, area))
    assert (
        counted["scenes"] == len(mine) == int(frame.intersects(area.geometry).sum()) - len(table.superseded)
    )
    assert counted["overpasses"] == mine["take"].nunique()
    assert counted["months"] == mine["datetime"].dt.strftime("%Y-%m").value_counts().sort_index().to_dict()
    assert counted["cloud_percent"]["median"] == round(mine["eo:cloud_cover"].median(), 1)
    assert counted["cloud_percent"]["below_20_percent"] == int((mine["eo:cloud_cover"] < 20).sum())
    assert counted["orbits"] == {
        f"R{int(o):03d}": n for o, n in mine["sat:relative_orbit"].value_counts().sort_index().items()
    }
    assert counted["baselines"] == mine["s2:processing_baseline"].value_counts().sort_index().to_dict()
    assert counted["offsets_dn"] == {"-1000": len(mine)}
    assert counted["coverage"]["share_seen_at_least"]["1"] == 1.0
