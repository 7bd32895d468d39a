"""Footprints across the antimeridian: every way to write one gives the same record, real tiles included."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from engine.archive.coverage import coverage
from engine.archive.footprints import box_outline, cut_footprint, from_degrees
from engine.archive.search import search
from engine.archive.stac import item_record
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Grid
from tests.archive.samples import stac_items


@given(st.floats(170, 190), st.floats(0.5, 6), st.floats(-80, 79))
def test_all_ways_to_write_a_footprint_give_the_same_parts(west: float, width: float, south: float) -> None:
    beyond = shapely.box(west, south, west + width, south + 1)
    jumping = shapely.transform(beyond, lambda xy: np.column_stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]]))
    cut = cut_footprint(beyond)
    assert abs(cut.area - width) < 1e-9
    assert -180 <= cut.bounds[0] <= cut.bounds[2] <= 180
    if west < 179.9 and west + width > 180.1:
        assert shapely.equals(shapely.normalize(cut_footprint(jumping)), shapely.normalize(cut)) or (
            cut_footprint(jumping).symmetric_difference(cut).area < 1e-9
        )
    assert cut_footprint(cut) is cut


def test_a_plain_footprint_stays_to_the_bit(real_data: Path) -> None:
    for items in stac_items(real_data / "stac").values():
        for item in items:
            shape = shapely.geometry.shape(item["geometry"])
            assert cut_footprint(shape) is shape


def _jumping(item: dict[str, Any]) -> dict[str, Any]:
    """Write the footprint of a tile on the line as one ring that jumps, as many catalogues do."""
    parts = shapely.get_parts(shapely.geometry.shape(item["geometry"]))
    east = [shapely.transform(p, lambda xy: xy + (360 * (xy[:, :1] < 0)) * [1, 0]) for p in parts]
    ring = shapely.union_all(east, grid_size=1e-9)
    back = shapely.transform(ring, lambda xy: np.where(xy[:, :1] > 180, xy - [360, 0], xy))
    assert back.geom_type == "Polygon"
    assert back.bounds[2] - back.bounds[0] > 350
    return copy.deepcopy(item) | {"geometry": shapely.geometry.mapping(back)}


@pytest.mark.parametrize(
    "name", ["stactools_01WCP_20230625_antimeridian.json", "stactools_60CWS_20240109_antimeridian.json"]
)
def test_real_tiles_on_the_line(real_data: Path, name: str, tmp_path: Path) -> None:
    item = stac_items(real_data / "stac")[name][0]
    asset = str(real_data / "stac" / name)
    plain, jumps = item_record(item, asset), item_record(_jumping(item), asset)
    assert jumps.geometry.symmetric_difference(plain.geometry).area < 1e-6
    assert jumps.geometry.bounds[2] == 180
    (tmp_path / "i.json").write_text(json.dumps(_jumping(item)))
    middle = shapely.get_parts(plain.geometry)[0].representative_point()
    near = Area.from_bbox((middle.x - 0.01, middle.y - 0.01, middle.x + 0.01, middle.y + 0.01))
    assert len(search(near, "2023/2024", tmp_path)) == 1
    far = Area.from_bbox(
        (10.0, middle.y - 0.01, 10.1, middle.y + 0.01)
    )  # the same latitude, in Norway or at sea
    with pytest.raises(InputError, match="elsewhere"):
        search(far, "2023/2024", tmp_path)


def test_chukotka_finds_the_tile_of_either_side(real_data: Path) -> None:
    """01WCP lies on 66 north, 178.5 east to 179 west; the outline is cut at the line too."""
    path = real_data / "stac" / "stactools_01WCP_20230625_antimeridian.json"
    chukotka = Area.from_bbox((175.0, 65.0, -172.0, 68.0), name="Chukotka")
    table = search(chukotka, "2023-06", path)
    assert [i.tile for i in table] == ["01WCP"]
    for east, north in ((179.2, 66.2), (-179.5, 66.2)):
        spot = Area.from_bbox((east - 0.05, north - 0.05, east + 0.05, north + 0.05))
        assert coverage(search(spot, "2023-06", path), spot).share(1) == 1.0
    seen = coverage(table, chukotka)
    truth = shapely.intersection(table.items[0].geometry, chukotka.geometry)
    km2 = _km2(truth)
    assert abs(seen.share(1) * seen.inside.sum() * seen.cell_m**2 / 1e6 / km2 - 1) < 0.05


def _km2(shape: Any) -> float:
    from pyproj import Geod

    parts = [
        Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(p))[0]
        for p in shapely.get_parts(shape)
    ]
    return sum(map(abs, parts)) / 1e6


def test_fiji_and_a_tile_of_its_grid(real_data: Path) -> None:
    """A tile of a national grid west of the line finds the same items as one east of it."""
    fiji = Area.from_name("Fiji", file=real_data / "boundaries" / "world_countries.gpkg")
    grid = Grid.make(fiji.default_crs(), 10)
    left, bottom, right, top = fiji.to_crs(grid.crs).bounds
    assert right - left < 1.5e6  # in one piece
    outline = box_outline((left, bottom, right, top), grid.crs)
    assert outline.bounds[2] - outline.bounds[0] < 15
    assert outline.bounds[0] < 180 < outline.bounds[2] or outline.bounds[0] < -180 < outline.bounds[2]


def test_the_inverse_of_a_box(real_data: Path) -> None:
    there = from_degrees(shapely.Point(15.0, 52.0), "EPSG:32633")
    x, y = Transformer.from_crs(4326, 32633, always_xy=True).transform(15.0, 52.0)
    assert shapely.equals_exact(there, shapely.Point(x, y), 1e-6)
