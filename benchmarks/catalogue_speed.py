"""What describing a national mosaic costs: against the floor of hashing its files and writing as much JSON.

A grid of cells with an outline of many vertices is described twice; memory is that of a fresh process.

    python benchmarks/catalogue_speed.py [--side 32] [--vertices 100000] [--kilobytes 64]
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from engine.products.map_product import MapProduct
from engine.products.mosaic_files import Mosaic, MosaicCell
from engine.products.stac import write_stac
from engine.values.area import to_lonlat
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid, TileKey

GRID, CELL_PX = Grid("EPSG:3035", (10.0, 10.0)), 4096


def make(home: Path, side: int, vertices: int, n_bytes: int) -> MapProduct:
    """Make files that stand for side x side cells of two variables, and a wavy outline around their middle."""
    rng = np.random.default_rng(0)
    keys = [TileKey(-80 + r, 100 + c) for r in range(side) for c in range(side)]
    box = Box(
        keys[0].row * CELL_PX,
        keys[0].col * CELL_PX,
        (keys[-1].row + 1) * CELL_PX,
        (keys[-1].col + 1) * CELL_PX,
    )
    mosaics = []
    for variable in ("label", "confidence"):
        folder = home / "cog" / variable
        folder.mkdir(parents=True)
        cells = []
        for key in keys:
            (folder / f"{key}.tif").write_bytes(rng.bytes(n_bytes))
            cells.append(MosaicCell(key, key.box(CELL_PX), folder / f"{key}.tif"))
        for name in (f"{variable}.vrt", f"{variable}/overview.tif"):
            (home / "cog" / name).write_bytes(b"x")
        vrt, overview = home / f"cog/{variable}.vrt", folder / "overview.tif"
        mosaics.append(Mosaic(variable, GRID, box, tuple(cells), vrt, overview))
    left, bottom, right, top = GRID.bounds_of_box(box)
    turn = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = (right - left) * (0.47 + 0.02 * np.sin(977 * turn))
    ring = np.stack(
        [(left + right) / 2 + radius * np.cos(turn), (bottom + top) / 2 + radius * np.sin(turn)], -1
    )
    return MapProduct(
        *("land", "Land", GRID, box, ClassScheme.from_names([f"class {i}" for i in range(20)])),
        *(dt.date(2023, 3, 1), dt.date(2023, 10, 31)),
        outline=to_lonlat(shapely.Polygon(ring), GRID.crs),
        mosaics=tuple(mosaics),
    )


def floor(home: Path) -> None:
    """Hash the same files and write the same JSON, with nothing in between."""
    for path in (home / "cog").rglob("*"):
        if path.is_file():
            hashlib.sha256(path.read_bytes()).hexdigest()
    (home / "floor").mkdir(exist_ok=True)
    for path in (home / "stac").glob("*.json"):
        (home / "floor" / path.name).write_text(json.dumps(json.loads(path.read_text()), indent=2))


def timed(work: Callable[..., Any], *args: Any) -> float:
    """Return the seconds of a call."""
    begun = time.perf_counter()
    work(*args)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--vertices", type=int, default=100_000)
    parser.add_argument("--kilobytes", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        product = make(home, options.side, options.vertices, options.kilobytes * 1024)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        first = timed(write_stac, home / "stac", product)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        again, least = timed(write_stac, home / "stac", product), timed(floor, home)
        n_items = options.side**2
    print(f"{n_items} items, 2 COGs of {options.kilobytes} kB each, outline of {options.vertices} vertices")
    print(f"catalogue {first:.1f} s, again {again:.1f} s: {1000 * again / n_items:.1f} ms an item")
    print(f"floor (hashes and JSON) {least:.1f} s: {again / least:.1f} times")
    print(f"memory +{(after - before) / 1024:.0f} MB over {before / 1024:.0f} MB")


if __name__ == "__main__":
    main()
