"""Plan over a thousand real catalogue records whose files cannot be reached: counts against independent ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
import torch
import yaml

from engine.inference.bundle import BundleFields, save_bundle
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import load_config
from pipelines.plan_map import PlanOptions, plan_map

BBOX = (-109.05, 36.99, -102.04, 41.0)
TILE_PX, WINDOW, STRIDE = 2048, 256, 160
BANDS = ["blue", "green", "red", "nir"]


@pytest.fixture(scope="module")
def told(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("colorado")
    torch.manual_seed(0)
    network = build("unet", {"n_dates": 2, "n_bands": 4, "n_classes": 3, "width": 4, "stem": 8, "depth": 2})
    fields = BundleFields(
        name="three classes", spec=CubeSpec(bands=BANDS), n_dates=2, classes=ClassScheme.from_names(["a", "b", "c"]),
        lattice=Lattice(WINDOW, WINDOW - STRIDE),
        normalisation=Standard(mean=[1.0] * 4, std=[1.0] * 4), licence="CC0-1.0",
    )  # fmt: skip
    save_bundle(folder / "bundle", network.eval(), "unet", fields)
    settings = {
        "area": list(BBOX), "time": "2024-07/2024-08", "bundle": "bundle", "out": "run", "tile_px": TILE_PX,
        "crs": "EPSG:32613",
        "catalog": str(real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"),
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return plan_map(load_config(folder / "run.yaml"), PlanOptions(probe=0)).as_dict()


@pytest.fixture(scope="module")
def records(real_data: Path) -> Any:
    """The catalogue, read without landweave."""
    return geopandas.read_parquet(real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet")


def outline() -> Any:
    """The area in the grid's CRS, its edges bent as the projection bends them."""
    area = shapely.segmentize(shapely.box(*BBOX), 0.01)
    turn = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32613", always_xy=True)
    return shapely.transform(area, lambda xy: np.column_stack(turn.transform(*xy.T)))


def tiles() -> list[tuple[int, int]]:
    """Rows and columns of the tiles that touch the area: a plain walk over its box."""
    west, south, east, north = outline().bounds
    side = TILE_PX * 10
    rows = range(math.floor(-north / side), math.ceil(-south / side))
    cols = range(math.floor(west / side), math.ceil(east / side))
    area = outline()
    return [
        (r, c)
        for r in rows
        for c in cols
        if area.intersects(shapely.box(c * side, -(r + 1) * side, (c + 1) * side, -r * side))
    ]


def test_scenes_are_counted_as_they_are(told: dict[str, Any], records: Any) -> None:
    scenes = told["scenes"]
    near = records[records.intersects(shapely.box(*BBOX).buffer(0.05))]
    assert scenes["scenes"] == len(near) == 1000
    assert scenes["overpasses"] == near["s2:datatake_id"].nunique() == 51
    assert scenes["archive tiles"].split(", ") == sorted(near["s2:mgrs_tile"].unique())
    assert len(scenes["archive tiles"].split(", ")) == 54
    assert scenes["CRS"].split(", ") == [f"EPSG:{n}" for n in sorted(near["proj:epsg"].unique())]
    assert scenes["baselines"].split(", ") == sorted(near["s2:processing_baseline"].unique())
    months = near["datetime"].dt.strftime("%Y-%m").value_counts()
    assert scenes["per month"] == ", ".join(f"{m}: {months[m]}" for m in sorted(months.index))
    assert "1000 of 1000 scenes not looked at" in scenes["pixels"]


def test_tiles_and_windows_are_those_of_a_plain_walk(told: dict[str, Any]) -> None:
    walked = tiles()
    assert told["tiles"]["make"] + told["tiles"]["empty"] == len(walked)
    rows, cols = {r for r, _ in walked}, {c for _, c in walked}
    assert told["tiles"]["outside"] == len(rows) * len(cols) - len(walked)
    windows = 0
    area, side = outline(), TILE_PX * 10
    for r, c in walked:
        part = area & shapely.box(c * side, -(r + 1) * side, (c + 1) * side, -r * side)
        west, south, east, north = (round(v / 10, 6) for v in part.bounds)
        spans = (math.floor(-north), math.ceil(-south)), (math.floor(west), math.ceil(east))
        windows += math.prod(_touching(lo, hi) for lo, hi in spans)
    assert told["windows"] == pytest.approx(windows, rel=0.003)  # the outline's corners differ by a pixel


def _touching(lo: int, hi: int) -> int:
    return sum(
        k * STRIDE < hi and k * STRIDE + WINDOW > lo for k in range(lo // STRIDE - 3, hi // STRIDE + 3)
    )


def test_bytes_are_those_of_the_ground_that_is_seen(told: dict[str, Any], records: Any) -> None:
    """Surface of footprints within the area x pixels x bytes x compression, halos and whole blocks on top.

    A tile and its halo are read in two pieces a side, each with half a block of 512 px more on each end.
    """
    seen_m2 = sum(
        abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape & shapely.box(*BBOX))[0])
        for shape in records.geometry
    )
    once = seen_m2 / 100 * 4 * 2 * 0.6 + seen_m2 / 400 * 0.06
    with_halo = TILE_PX + 2 * (WINDOW - STRIDE / 2)
    halo, blocks = (with_halo / TILE_PX) ** 2, ((with_halo + 2 * 512) / with_halo) ** 2
    assert told["read_bytes"] == pytest.approx(once * halo * blocks, rel=0.15)
    assert 1.1 < told["halo_factor"] < halo * 1.1
    assert told["file_sizes"] == "5000 by pixels"


def test_no_time_is_told_where_no_file_can_be_read(told: dict[str, Any]) -> None:
    assert told["seconds"] is None
    assert told["probe"]["reason"]
    assert told["memory_bytes"]["total"] > 2**29
    assert told["storage_bytes"]["map"] == 3 * TILE_PX**2 * told["tiles"]["make"]
    json.dumps(told)
