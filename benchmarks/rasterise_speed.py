"""Rasterising many polygons on a large grid: seconds and memory against one plain rasterio call.

Run: ``python benchmarks/rasterise_speed.py [--polygons 100000] [--size 10980] [--classes 12]``. A GeoPackage of
made-up fields (quadrilaterals of 33 x 33 px on average on a jittered lattice, so neighbours touch and overlap a
little; one in ten with a hole) in EPSG:32633. Each way runs in a process of its own:

- ``plain``: ``geopandas.read_file``, then one ``rasterio.features.rasterize`` over the whole grid;
  the last polygon wins;
- ``memory``: `training.labels.rasterise` into an array;
- ``file``: `training.labels.write_raster`: burnt block by block into a GeoTIFF.

Ours also find the pixels that two classes claim, which the plain call does not. Reported: seconds on the clock and
of the CPU, the peak of the process (all libraries included) and above that of its imports, and the pixels that
differ from the plain call outside contested ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio.features
import shapely
from affine import Affine

from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid
from training.label_burn import burn
from training.labels import PolygonSource, rasterise, write_raster

GRID = Grid("EPSG:32633", (10.0, 10.0))
TOP, LEFT = -500_000, 40_000


def make(folder: Path, polygons: int, size: int, classes: int) -> None:
    """Write the fields."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(polygons)))
    knots = np.stack(np.mgrid[: side + 1, : side + 1], -1) * (size * 10.0 / side)
    knots = knots + rng.normal(0, 30, knots.shape)
    corners = [knots[:-1, :-1], knots[1:, :-1], knots[1:, 1:], knots[:-1, 1:]]
    rings = np.stack(corners, 2).reshape(-1, 4, 2)[:polygons] + rng.normal(0, 4, (polygons, 4, 2))
    rings = rings[..., ::-1] * [1, -1] + [LEFT * 10, -TOP * 10]
    fields = shapely.polygons(rings)
    holed = rng.random(polygons) < 0.1
    fields[holed] = shapely.difference(
        fields[holed], shapely.buffer(shapely.centroid(fields[holed]), 40, quad_segs=2)
    )
    kinds = rng.integers(1, classes + 1, polygons)
    gpd.GeoDataFrame({"crop": kinds}, geometry=fields, crs=GRID.crs).to_file(folder / "fields.gpkg")


def run(way: str, folder: Path, size: int, classes: int) -> None:
    """Do one way and print its figures."""
    scheme = ClassScheme.from_names([f"class {k}" for k in range(classes)])
    box = Box(TOP, LEFT, TOP + size, LEFT + size)
    source = PolygonSource(folder / "fields.gpkg", "crop")
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: np.save(folder / "plain.npy", plain(folder, box)),
        "memory": lambda: np.save(folder / "memory.npy", rasterise(source, scheme, GRID, box).values),
        "file": lambda: write_raster(folder / "labels.tif", source, scheme, GRID, box),
    }
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    ways[way]()
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}
    print(json.dumps(figures | {"above_imports_mb": peak_mb() - before}))


def plain(folder: Path, box: Box) -> np.ndarray:
    """Do what one would write by hand."""
    frame = gpd.read_file(folder / "fields.gpkg")
    return rasterio.features.rasterize(
        zip(frame.geometry, frame["crop"], strict=True),
        box.shape_yx,
        transform=Affine(*GRID.transform_of(box)),
        dtype="uint8",
    )


def peak_mb() -> float:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(folder: Path, size: int, classes: int) -> dict[str, int]:
    """Count contested pixels and differences."""
    scheme = ClassScheme.from_names([f"class {k}" for k in range(classes)])
    box = Box(TOP, LEFT, TOP + size, LEFT + size)
    parts = burn(PolygonSource(folder / "fields.gpkg", "crop"), scheme, GRID, box)
    ours, theirs = np.load(folder / "memory.npy"), np.load(folder / "plain.npy")
    with rasterio.open(folder / "labels.tif") as file:
        written = file.read(1)
    return {
        "contested": sum(part.contested for part in parts),
        "differ": int((ours != theirs).sum()),
        "differ_where_both": int(((ours != theirs) & (ours != 0)).sum()),
        "file_differs": int((written != ours).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polygons", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=10_980)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.way:
        run(args.way, args.folder, args.size, args.classes)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.polygons, args.size, args.classes)
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for way in ("plain", "memory", "file"):
                found.setdefault(way, []).append(child(way, folder, args))
        best = {way: {k: min(f[k] for f in rounds) for k in rounds[0]} for way, rounds in found.items()}
        for way, figures in best.items():
            print(f"{way:7}", "  ".join(f"{k} {v:8.1f}" for k, v in figures.items()))
        for way in ("memory", "file"):
            ratios = {k: best[way][k] / best["plain"][k] for k in best[way]}
            print(f"{way} / plain", "  ".join(f"{k} {v:.2f}" for k, v in ratios.items()))
        print(compare(folder, args.size, args.classes))


def child(way: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one way in a process of its own."""
    told = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    told += ["--size", str(args.size), "--classes", str(args.classes)]
    done = subprocess.run(told, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
