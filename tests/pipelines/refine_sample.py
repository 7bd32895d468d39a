"""A run folder with a finished map of patches and specks, made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely

from engine.cube.masks import inside_outline
from engine.runs.tile import digests_of, key_of
from engine.store.layout import StoreSpec, Variable, create
from engine.store.ledger import Ledger, TileRecord
from engine.store.regions import write_region
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid, TileKey
from pipelines.plan_tiles import walk_of
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import outline_in, put_area, tiling_in
from tests.products.mapstore import patches

TILE_PX = 32
GRID = Grid("EPSG:32633", (10.0, 10.0))
BOX = Box(-500_000, 50_016, -499_860, 50_180)  # 140 x 164 pixels, across the lines between tiles
SCHEME = ClassScheme.from_names(["wheat", "maize", "forest", "water"])


def speckled(seed: int = 0) -> dict[str, np.ndarray]:
    """Patches of four classes with specks of others and holes in them."""
    rng = np.random.default_rng(seed)
    label = patches(seed, BOX.shape_yx, 4)
    specks = rng.random(BOX.shape_yx)
    label = np.where(specks < 0.08, rng.integers(1, 5, BOX.shape_yx), label)
    label = np.where(specks > 0.98, 0, label).astype(np.uint8)
    confidence = np.where(label > 0, rng.integers(60, 251, BOX.shape_yx), 255).astype(np.uint8)
    return {"label": label, "confidence": confidence, "observations": (label > 0).astype(np.uint8) * 7}


def mapped(run: str, outline: str) -> dict[str, np.ndarray]:
    """Return the layers inside the outline."""
    inside = inside_outline(outline_in(run, outline, GRID.crs), GRID, BOX)
    empty = {"label": 0, "confidence": 255, "observations": 0}
    return {n: np.where(inside, a, empty[n]).astype(np.uint8) for n, a in speckled().items()}


def make_run(folder: Path) -> str:
    """Write map.zarr, its plan and its records; the outline is a diamond in the map."""
    folder.mkdir(parents=True)
    run = str(folder)
    outline = put_area(run, Area("Weavonia", _diamond()))
    tiling = tiling_in(run, outline, GRID, TILE_PX)
    variables = (
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255),
        Variable("observations", "uint8", 0),
    )
    create(f"{run}/map.zarr", StoreSpec(GRID, BOX.snap_out(TILE_PX), TILE_PX, variables, chunk_px=16))
    layers = mapped(run, outline)
    for tile in tiling:
        commit_tile(run, tile, layers)
    config = {"area": [14, 44, 15, 46], "time": "2023", "bundle": "/nowhere", "out": run, "tile_px": 64}
    more: dict[str, Any] = {"stage": "map", "store": "map.zarr", "area": "Weavonia", "config": config}
    more |= {"classes": SCHEME.model_dump(mode="json"), "projected_bytes": 1 << 28, "versions": {}}
    write_plan(run, {**walk_of(tiling, outline), **more})
    return run


def commit_tile(run: str, tile: TileKey, layers: dict[str, np.ndarray], version: int = 1) -> None:
    """Write a tile of the map, and its record."""
    box = tile.box(TILE_PX)
    arrays = {n: np.full(box.shape_yx, 255 if n == "confidence" else 0, np.uint8) for n in layers}
    inner = box & BOX
    for name, array in arrays.items():
        array[inner.slices_in(box)] = layers[name][inner.slices_in(BOX)]
    inputs = {"tile": str(tile), "version": version}
    ledger = Ledger(run, "map")
    ledger.clear(tile, version)
    checksums = write_region(f"{run}/map.zarr", box, arrays)
    record = TileRecord(
        tile=tile,
        key=key_of(inputs),
        attempt=1,
        checksums=checksums,
        seconds=1.0,
        peak_bytes=1,
        counts={"pixels": 1},
        finished_utc="2026-01-01T00:00:00+00:00",
        worker="test",
        engine="test",
        inputs=digests_of(inputs),
        epoch=version,
    )
    ledger.commit(record)


def _diamond() -> Any:
    from pyproj import Transformer

    left, bottom, right, top = GRID.bounds_of_box(BOX)
    x, y = (left + right) / 2, (bottom + top) / 2
    shape = shapely.Polygon([(left + 15, y), (x, top - 15), (right - 15, y + 200), (x, bottom + 15)])
    back = Transformer.from_crs(GRID.crs, "OGC:CRS84", always_xy=True)
    return shapely.transform(shape, back.transform, interleaved=False)
