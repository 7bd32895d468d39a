"""Seams in a stored map: found again from the run folder alone, and told in words, JSON and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyproj import Transformer
from typer.testing import CliRunner

from engine.inference.seams import map_seams
from engine.store.layout import StoreSpec, Variable, create
from engine.store.regions import write_region
from engine.values.area import Area
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.tiling import Tiling
from pipelines.cli import app
from pipelines.plan_tiles import walk_of
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import put_area
from pipelines.verify_run import verify_run
from tests.products.mapstore import patches

GRID, TILE_PX, BOX = Grid.make("EPSG:32633", 10), 128, Box(0, 0, 512, 640)
LATTICE = Lattice(96, 32)


def stored(folder: Path, label: np.ndarray) -> str:
    """Write a run folder that holds a map and its plan, as a run leaves it when its ledger is lost."""
    run = str(folder / "run")
    Path(run).mkdir()
    create(f"{run}/map.zarr", StoreSpec(GRID, BOX, TILE_PX, (Variable("label", "uint8", 0),), chunk_px=64))
    write_region(f"{run}/map.zarr", BOX, {"label": label})
    outline = shapely.box(*GRID.bounds_of_box(BOX)).buffer(-25)
    lonlat = Transformer.from_crs(GRID.crs, "OGC:CRS84", always_xy=True)
    area = Area("Weavonia", shapely.transform(outline, lonlat.transform, interleaved=False))
    plan = walk_of(Tiling(GRID, TILE_PX, outline), put_area(run, area))
    lattices = [{"window_px": 96, "overlap_px": 32, "kernel": "hann"}]
    write_plan(run, {**plan, "stage": "map", "store": "map.zarr", "lattices": lattices, "area": area.name})
    return run


@pytest.fixture
def fields() -> np.ndarray:
    return patches(3, BOX.shape_yx, 6, sites=900)


def test_a_map_without_seams_is_told_so(tmp_path: Path, fields: np.ndarray) -> None:
    run = stored(tmp_path, fields)
    found = verify_run(run)
    assert (found.exit_code, found.no_seams) == (3, {}), "no tile is on record, and nothing worse"
    inner = Box(2, 2, 510, 638)  # the outline's own bounds, without the padding to tiles
    assert found.seams["map"] == map_seams(f"{run}/map.zarr", LATTICE, TILE_PX, inner, grid=GRID)
    assert "seams      map: none found" in CliRunner().invoke(app, ["verify", run]).stdout


def test_a_shifted_tile_is_named_and_changes_the_exit_code(tmp_path: Path, fields: np.ndarray) -> None:
    fields[128:256, 256:384] = np.roll(fields, (4, 4), (0, 1))[128:256, 256:384]
    run = stored(tmp_path, fields)
    shown = CliRunner().invoke(app, ["verify", run])
    assert shown.exit_code == 4
    assert "seams      map: SEEN: tile r1_c2 (label changes" in shown.stdout
    assert "to mend    the bytes are those recorded" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["verify", run, "--json"]).stdout)
    assert told["seams"]["map"]["suspects"][0]["where"] == "r1_c2"


def test_a_plan_that_tells_no_windows_and_a_lost_store_are_no_seams(
    tmp_path: Path, fields: np.ndarray
) -> None:
    run = stored(tmp_path, fields)
    path = Path(run, "plan.json")
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"store": "other.zarr"}))
    found = verify_run(run)
    assert (found.seams, list(found.no_seams)) == ({}, ["map"])
    plan.pop("lattices")
    path.write_text(json.dumps(plan))
    assert (verify_run(run).seams, verify_run(run).exit_code) == ({}, 3)
