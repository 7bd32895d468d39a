"""Areas of classes in tens of units of a whole Sentinel-2 tile, against exactextract on the same pixels and units.

Run it with: python -m benchmarks.area_speed [--units 40]

exactextract adds up coverage fractions per class (`frac`, `count`) without true areas, streaming the file raster by
raster block or unit by unit, its two ways; ours streams blocks from the file, weighs each pixel with its area on the
ellipsoid and adds up exactly. Units are cells around random points, with corners every 400 m as real borders have. Each
way runs in a fresh process; memory is its peak above what it had before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
FILE = DATA / "full_tile" / "cloudmask_T19GBQ_20170725.tif"
WAYS = ("ours", "exactextract raster-sequential", "exactextract feature-sequential")


def main() -> None:
    """Print seconds, memory and how far the ways agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=40)
    parser.add_argument("--way", default="")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(one(args.way, args.units)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.area_speed", "--units", str(args.units), "--way", way]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(out.stdout.splitlines()[-1])
    ours = found[WAYS[0]]
    for way, told in found.items():
        off = np.abs(np.array(told["shares"]) - np.array(ours["shares"])).max()
        print(
            f"{way:<32} {told['seconds']:7.2f} s  {told['cpu']:7.2f} s of CPU  {told['memory'] / 2**20:6.0f} MiB  "
            f"{told['cpu'] / ours['cpu']:5.2f} x our CPU  shares of classes off by {off:.1e} at most"
        )


def one(way: str, n_units: int) -> dict[str, Any]:
    """Measure one way in this process: seconds, those of the CPU, bytes, share of each class in each unit."""
    units = _units(n_units)
    if way == WAYS[0]:
        _ours(units[:1], 2048)  # compile
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun, busy = time.perf_counter(), time.process_time()
    found = _ours(units) if way == WAYS[0] else _exactextract(units, way.split()[1])
    seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "memory": peak - before, "shares": found.tolist()}


def _units(n: int) -> list[Any]:
    import rasterio
    import shapely

    with rasterio.open(FILE) as file:
        left, bottom, right, top = file.bounds
    points = shapely.MultiPoint(np.random.default_rng(7).uniform([left, bottom], [right, top], (n, 2)))
    frame = shapely.box(left, bottom, right, top).buffer(-500, join_style="mitre")
    cells = shapely.get_parts(shapely.voronoi_polygons(points, extend_to=frame))
    return [shapely.segmentize(shapely.intersection(cell, frame), 400) for cell in cells]


def _ours(units: list[Any], side_px: int = 0) -> Any:
    from engine.archive.class_raster import open_class_raster
    from engine.assessment.areas import measure
    from engine.assessment.zones import Unit, zones_on
    from engine.values.grid import Box

    opened = open_class_raster(str(FILE))
    box = opened.box
    if side_px:
        box = Box(box.y0, box.x0, box.y0 + side_px, box.x0 + side_px)
    zones = zones_on([Unit(str(i), u, opened.grid.crs) for i, u in enumerate(units)], opened.grid, box)
    sums = measure(opened.read, opened.grid, box, zones)
    found = sums.sums[:, :4].astype(np.float64) @ [2.0**32, 1.0]
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1)


def _exactextract(units: list[Any], strategy: str) -> Any:
    import rasterio
    import shapely
    from exactextract import exact_extract

    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(u), "properties": {}} for u in units]
    found = np.zeros((len(units), 4))
    with rasterio.open(FILE) as file:
        told = exact_extract(file, features, ["unique", "frac"], strategy=strategy)
    for i, row in enumerate(told):
        for value, part in zip(row["properties"]["unique"], row["properties"]["frac"], strict=True):
            found[i, int(value)] = part
    return found


if __name__ == "__main__":
    main()
