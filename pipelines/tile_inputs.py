"""What the tiles of a run are made from: outline and scenes, files in the run folder, read once a process."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import shapely

from engine.archive.items import ItemTable
from engine.store.objects import Folder
from engine.values.area import Area
from engine.values.grid import Grid
from engine.values.tiling import Reach, Tiling

ITEMS_FILE, AREA_FILE = "items.parquet", "area.geojson"
SHARD_MAX_PX = 2048


def write_inputs(run_dir: Path, area: Area, items: ItemTable | None, items_file: str = ITEMS_FILE) -> None:
    """Put the outline and, if given, the scenes into the run folder, each whole or not at all."""
    feature = {
        "type": "Feature",
        "properties": {"name": area.name},
        "geometry": shapely.geometry.mapping(area.geometry),
    }
    Folder(str(run_dir)).replace(AREA_FILE, json.dumps(feature).encode())
    if items is not None:
        whole = run_dir / f".{items_file}.part"
        items.to_parquet(whole)
        whole.replace(run_dir / items_file)


def stage_items(stage: str, kind: str = "items") -> str:
    """Name the file of a stage's scenes: ``items``, or ``radar``.

    >>> stage_items("cube-2024-03", "radar")
    'radar-cube-2024-03.parquet'
    """
    return f"{kind}-{stage}.parquet"


def items_in(run_dir: str, items_file: str) -> ItemTable:
    """Return the scenes of a run folder."""
    return _items(run_dir, items_file, _stamp(run_dir, items_file))


def outline_in(run_dir: str, crs: str, file: str = AREA_FILE) -> Any:
    """Return the outline of a run folder in a CRS, prepared."""
    return _outline(run_dir, crs, file, _stamp(run_dir, file))


def tiling_in(
    run_dir: str, grid: Grid, tile_px: int, reach: Reach | None = None, file: str = AREA_FILE
) -> Tiling:
    """Return the tiles that touch the outline of a run folder, with the parts of it that were clipped so far."""
    return _tiling(run_dir, grid, tile_px, reach, file, _stamp(run_dir, file))


def _stamp(run_dir: str, name: str) -> int:
    """Tell one version of an input from the next, so that the caches below never serve a stale one."""
    return (Path(run_dir) / name).stat().st_mtime_ns


@lru_cache(maxsize=4)
def _items(run_dir: str, name: str, stamp: int) -> ItemTable:
    return ItemTable.from_parquet(Path(run_dir) / name)


@lru_cache(maxsize=8)
def _tiling(run_dir: str, grid: Grid, tile_px: int, reach: Reach | None, file: str, stamp: int) -> Tiling:
    return Tiling(grid, tile_px, _outline(run_dir, grid.crs, file, stamp), reach)


@lru_cache(maxsize=4)
def _outline(run_dir: str, crs: str, file: str, stamp: int) -> Any:
    feature = json.loads((Path(run_dir) / file).read_text())
    area = Area(feature["properties"]["name"], shapely.geometry.shape(feature["geometry"]))
    outline = area.to_crs(crs)
    shapely.prepare(outline)
    return outline
