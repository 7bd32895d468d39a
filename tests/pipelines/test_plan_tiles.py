"""A plan tells its tiles without listing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely

from engine.values.area import Area
from engine.values.grid import Box, Grid
from engine.values.tiling import Reach
from pipelines.plan_tiles import tiles_of, walk_of
from pipelines.tile_inputs import put_area, tiling_in

GRID = Grid.make("EPSG:32633", 10)


@pytest.mark.parametrize("reach", [None, Reach(Box(-540_000, 40_000, -530_000, 60_000), 512, 100)])
@pytest.mark.parametrize("tile_px", [64, 1024])
def test_a_plan_gives_the_walk_back(tmp_path: Path, reach: Reach | None, tile_px: int) -> None:
    area = Area("disc", shapely.Point(15.0, 48.3).buffer(0.4))
    outline = put_area(str(tmp_path), area)
    tiling = tiling_in(str(tmp_path), outline, GRID, tile_px, reach)
    plan = json.loads(json.dumps(walk_of(tiling, outline)))
    assert plan["tiles"] == len(tiling) > 10
    assert len(json.dumps(plan)) < 500
    again = tiles_of(str(tmp_path), plan)
    assert (again.grid, again.tile_px, again.reach) == (tiling.grid, tiling.tile_px, tiling.reach)
    assert list(again) == list(tiling)


def test_a_new_outline_is_a_new_walk(tmp_path: Path) -> None:
    for radius, name in ((0.1, "small"), (0.2, "large")):
        outline = put_area(str(tmp_path), Area(name, shapely.Point(15.0, 48.3).buffer(radius)))
        tiling = tiling_in(str(tmp_path), outline, GRID, 256)
        assert tiling.outline.area == pytest.approx(3.1 * (radius * 92_000) ** 2, rel=0.3)
        assert tiling_in(str(tmp_path), outline, GRID, 256) is tiling
