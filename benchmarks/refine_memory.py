"""Projected against measured memory of a worker that refines, over kinds of steps, each in a new process.

Run: ``python benchmarks/refine_memory.py [--data FOLDER] [--only NAME ...]``.
A map of 4096 x 4096 pixels, cut out of the mask of a whole Sentinel-2 tile, is refined tile by tile by one new worker
process of one thread; its highest resident memory during a tile stands against `engine.refine.memory`. A projection
must not be below what was measured. Prints a line per case.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from engine.runs.tile import key_of
from engine.store.layout import Dim, StoreSpec, Variable, create
from engine.store.ledger import Ledger, TileRecord
from engine.store.regions import write_region
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid, TileKey, tiles_over
from pipelines.plan_tiles import walk_of
from pipelines.refine_config import RefineConfig
from pipelines.refine_run import refine_run
from pipelines.run_folder import current_records, read_plan, write_plan
from pipelines.tile_inputs import put_area, tiling_in

TILE_PX, SIDE, FIRST = 2048, 2, TileKey(-300, 20)
GRID = Grid("EPSG:32633", (10.0, 10.0))
SCHEME = ClassScheme.from_names(["clear", "thick", "thin", "shadow"])
CASES: dict[str, list[dict[str, Any]]] = {
    "rules": [{"step": "rules", "rules": [{"below": 0.2, "into": None}]}],
    "majority": [{"step": "majority", "within_px": 2}],
    "mmu": [{"step": "mmu", "min_ha": 0.5}],
    "context": [{"step": "context", "class": "shadow", "needs": ["thick"], "within_m": 500, "else": "clear"}],
    "gaussian": [{"step": "gaussian", "sigma_px": 2}],
    "bayes": [{"step": "bayes"}],
    "all": [
        {"step": "bayes"},
        {"step": "majority", "within_px": 2},
        {"step": "mmu", "min_ha": 0.5},
        {"step": "fill", "within_px": 5},
    ],
}


def layers_of(mask: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Make a map of a mask (0..3): its classes from 1, their confidence and probabilities."""
    rng = np.random.default_rng(0)
    confidence = rng.integers(100, 250, mask.shape, np.uint8)
    others = ((250 - confidence) // 3).astype(np.uint8)
    probability = np.where(np.arange(4)[:, None, None] == mask, confidence, others).astype(np.uint8)
    return {"label": (mask + 1).astype(np.uint8), "confidence": confidence, "probability": probability}


def make_run(run: Path, data: Path) -> None:
    """Write a run folder with the map and its records."""
    run.mkdir()
    box = Box(
        FIRST.row * TILE_PX, FIRST.col * TILE_PX, (FIRST.row + SIDE) * TILE_PX, (FIRST.col + SIDE) * TILE_PX
    )
    back = Transformer.from_crs(GRID.crs, "OGC:CRS84", always_xy=True)
    inner = shapely.box(*GRID.bounds_of_box(box)).buffer(-50)
    outline = put_area(str(run), Area("cut-out", shapely.transform(inner, back.transform, interleaved=False)))
    classes = Dim("class", SCHEME.names, chunk=1)
    variables = (
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255),
        Variable("probability", "uint8", 255, (classes,)),
    )
    create(f"{run}/map.zarr", StoreSpec(GRID, box, TILE_PX, variables))
    with rasterio.open(data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        for tile in tiles_over(box, TILE_PX):
            row, col = (tile.row - FIRST.row) * TILE_PX, (tile.col - FIRST.col) * TILE_PX
            arrays = layers_of(file.read(1, window=Window(3000 + col, 3000 + row, TILE_PX, TILE_PX)))
            sums = write_region(f"{run}/map.zarr", tile.box(TILE_PX), arrays)
            key = key_of({"tile": str(tile)})
            Ledger(str(run), "map").commit(TileRecord(tile, key, 1, sums, 1.0, 1, {}, "", "", ""))
    config = {"area": [14, 44, 15, 46], "time": "2023", "bundle": "none", "out": str(run)}
    told = {"stage": "map", "store": "map.zarr", "area": "cut-out", "config": config, "projected_bytes": 0}
    walk = walk_of(tiling_in(str(run), outline, GRID, TILE_PX), outline)
    write_plan(str(run), {**walk, **told, "classes": SCHEME.model_dump(mode="json")})


def main() -> None:
    """Refine by each kind of steps, and print what was projected and measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        make_run(run, asked.data)
        for name in asked.only:
            settings = {
                "refine": {"steps": CASES[name]},
                "products": False,
                "cluster": {"kind": "local", "n_workers": 1, "memory_limit": "4GiB"},
            }
            result = refine_run(str(run), RefineConfig.model_validate(settings))
            plan = read_plan(str(run), "refined")
            records = current_records(str(run), "refined")
            measured, projected = max(r.peak_bytes for r in records), plan["projected_bytes"]
            seconds = sorted(r.seconds for r in records)
            print(
                f"{name:<10} reach {plan['reach_px']:>4} px  measured {measured / 2**20:6.0f} MiB  "
                f"projected {projected / 2**20:6.0f} MiB  {projected / measured:.2f}  "
                f"{seconds[len(seconds) // 2]:.1f} s a tile, exit {result.exit_code}",
                flush=True,
            )


if __name__ == "__main__":
    main()
