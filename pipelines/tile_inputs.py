"""What the tiles of a run are made from: outline and scenes, files in the run folder, read once a process.

A file is named by the hash of what it holds, so it is never overwritten: a worker cannot read a newer one
by mistake, map versions of one folder share what they have in common, and the scenes of an earlier plan
are still there to tell what changed::

    inputs/area-3f9a....geojson    inputs/items-77e2....parquet    inputs/radar-51c0....parquet
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import shapely

from engine.archive.items import ItemTable
from engine.store.objects import Folder
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.tiling import Reach, Tiling

INPUTS, ITEMS_FILE = "inputs", "items.parquet"
SHARD_MAX_PX = 2048


def put_area(run_dir: str, area: Area) -> str:
    """Put an outline into the run folder; returns the file's name."""
    feature = {
        "type": "Feature",
        "properties": {"name": area.name},
        "geometry": shapely.geometry.mapping(area.geometry),
    }
    text = json.dumps(feature).encode()
    name = f"{INPUTS}/area-{hashlib.sha256(text).hexdigest()[:16]}.geojson"
    Folder(run_dir).create(name, text)
    return name


def put_items(run_dir: str, items: ItemTable, kind: str = "items") -> str:
    """Put scenes into the run folder, whole or not at all; returns the file's name."""
    name = f"{INPUTS}/{kind}-{items.digest()[:16]}.parquet"
    if Folder(run_dir).read(name) is None:
        Folder(run_dir).create(name, _as_parquet(items))
    return name


def show_items(run_dir: str, items: ItemTable) -> None:
    """Put the scenes of the map where people look for them: ``items.parquet``."""
    Folder(run_dir).replace(ITEMS_FILE, _as_parquet(items))


def items_in(run_dir: str, name: str) -> ItemTable:
    """Return scenes of a run folder.

    Raises:
        InputError: If there is no such file.
    """
    return _items(run_dir, name)


def all_items(run_dir: str, kind: str = "items") -> Iterator[ItemTable]:
    """Yield the scenes of every plan that the folder ever had."""
    for name in Folder(run_dir).child(INPUTS).names():
        if name.startswith(f"{kind}-"):
            yield items_in(run_dir, f"{INPUTS}/{name}")


def area_in(run_dir: str, name: str) -> Area:
    """Return an outline of a run folder, in longitude and latitude."""
    feature = json.loads(_bytes(run_dir, name))
    return Area(feature["properties"]["name"], shapely.geometry.shape(feature["geometry"]))


def outline_in(run_dir: str, name: str, crs: str) -> Any:
    """Return an outline of a run folder in a CRS, prepared."""
    return _outline(run_dir, name, crs)


def tiling_in(run_dir: str, name: str, grid: Grid, tile_px: int, reach: Reach | None = None) -> Tiling:
    """Return the tiles that touch an outline of a run folder, with the parts of it that were clipped so far."""
    return _tiling(run_dir, name, grid, tile_px, reach)


@lru_cache(maxsize=8)
def _tiling(run_dir: str, name: str, grid: Grid, tile_px: int, reach: Reach | None) -> Tiling:
    return Tiling(grid, tile_px, outline_in(run_dir, name, grid.crs), reach)


@lru_cache(maxsize=4)
def _items(run_dir: str, name: str) -> ItemTable:
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(_bytes(run_dir, name))
        file.flush()
        return ItemTable.from_parquet(file.name)


@lru_cache(maxsize=4)
def _outline(run_dir: str, name: str, crs: str) -> Any:
    outline = area_in(run_dir, name).to_crs(crs)
    shapely.prepare(outline)
    return outline


def _as_parquet(items: ItemTable) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ITEMS_FILE)
        items.to_parquet(path)
        return path.read_bytes()


def _bytes(run_dir: str, name: str) -> bytes:
    data = Folder(run_dir).read(name)
    if data is None:
        raise InputError(
            "the run folder lacks a file that its tiles are made from",
            where=f"{run_dir}/{name}",
            mend="run `landweave map` (or `cube`) again: it writes the file anew",
        )
    return data
