"""Overviews, COGs and class statistics of a whole-tile raster: exact for any blocks, in what time and memory.

Run: ``python benchmarks/pyramid_speed.py [--mask FILE] [--times 1] [--repeat 3]``. FILE is any raster of one band of
up to 255 small codes; default the 10980 x 10980 cloud mask of the test data, whose 0 is a class here. ``--times 2``
lays it out 2 x 2 (21960 x 21960): memory should not follow. Each way runs in a process of its own:

- ``read``: every block of the store once, and nothing else: the floor of all that reads a map;
- ``pyramid``: `build_overviews`, five levels of the label in the store;
- ``cog``: `write_cog`: an exact COG of the store; ``mosaic``: the same as cells of 4096 px with a VRT;
- ``gdal-cog``: GDAL's COG driver on a plain tiled GeoTIFF of the same pixels, OVERVIEW_RESAMPLING=MODE: no
  conversion, and majorities of majorities;
- ``statistics``: pixels and true hectares per class.

Reported: seconds (the best of the repeats), the peak of the process above that of one that only imports, and how many
overview pixels differ from the majority of the whole array, level by level. Pyramids of six block sizes and
statistics of six are compared bit by bit. GDAL's driver cuts the last half pixel off a
level of odd size: such a level is another raster (-1). Exit code 1 if any differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from affine import Affine
from numpy.typing import NDArray
from rasterio.shutil import copy

from engine.products.cog import write_cog
from engine.products.mosaic import MosaicOptions, write_mosaic
from engine.products.overviews import build_overviews
from engine.products.reducers import mode_blocks
from engine.store.layout import StoreSpec, Variable, create
from engine.store.view import open_view
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid
from pipelines.export_map import counts_of

DATA = Path(__file__).parents[2] / "shared/data/full_tile/cloudmask_T19GBQ_20170725.tif"
FACTORS = (2, 4, 8, 16, 32)
BLOCKS = (256, 512, 1024, 2048, 4096, 8192)
GRID = Grid("EPSG:32719", (10.0, 10.0))


def make(mask: Path, folder: Path, times: int) -> None:
    """Write the raster as a map store and as a plain tiled GeoTIFF."""
    with rasterio.open(mask) as file:
        label = file.read(1) + 1
    label = np.tile(label, (times, times))
    box = Box(0, 0, *label.shape)
    scheme = ClassScheme.from_names([f"class {v}" for v in range(1, int(label.max()) + 1)])
    variable = Variable("label", "uint8", 0, attrs=scheme.flag_attributes())
    create(str(folder / "map.zarr"), StoreSpec(GRID, box, 2048, (variable,)))
    store: Any = zarr.open_group(str(folder / "map.zarr"), mode="r+")
    store["label"][: box.y1, : box.x1] = label
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "tiled": True, "compress": "lzw"}
    size = {"height": box.y1, "width": box.x1, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(
        folder / "plain.tif", "w", **profile, **size, crs=GRID.crs, transform=Affine(*GRID.transform_of(box))
    ) as file:
        file.write(label, 1)


def _read(folder: Path) -> None:
    view = open_view(str(folder / "map.zarr"))
    for block in view.box.blocks(2048):
        view.read("label", block)


def _gdal(folder: Path) -> None:
    options = {
        "COMPRESS": "DEFLATE",
        "OVERVIEW_RESAMPLING": "MODE",
        "NUM_THREADS": "ALL_CPUS",
        "BLOCKSIZE": 512,
    }
    copy(str(folder / "plain.tif"), str(folder / "gdal.tif"), driver="COG", **options)


def _mosaic(folder: Path) -> None:
    shutil.rmtree(folder / "cells", ignore_errors=True)  # cells that are there would not be written again
    url, options = str(folder / "map.zarr"), MosaicOptions(4096)
    write_mosaic(url, folder / "cells", box=_inner(folder), options=options)


def _inner(folder: Path) -> Box:
    """Return the raster's own pixels, without the padding to whole shards."""
    with rasterio.open(folder / "plain.tif") as file:
        return Box(0, 0, *file.shape)


WAYS: dict[str, Callable[[Path], object]] = {
    "imports": lambda folder: None,
    "read": _read,
    "pyramid": lambda folder: build_overviews(str(folder / "map.zarr"), FACTORS),
    "cog": lambda folder: write_cog(str(folder / "map.zarr"), folder / "label.tif", box=_inner(folder)),
    "mosaic": _mosaic,
    "gdal-cog": _gdal,
    "statistics": lambda folder: counts_of(open_view(str(folder / "map.zarr"))),
}


def measure(way: str, folder: Path, repeat: int) -> tuple[float, float]:
    """Run a way in processes of its own: the least seconds, and the largest peak in MiB."""
    found = []
    for _ in range(repeat):
        call = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(f["seconds"] for f in found), max(f["peak_mib"] for f in found)


def run_way(way: str, folder: Path) -> None:
    """Run one way in this process, its kernels loaded before, and print what it took."""
    mode_blocks(np.zeros((2, 2), np.uint8), 2)
    began = time.perf_counter()
    WAYS[way](folder)
    seconds = time.perf_counter() - began
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def differing(label: NDArray[np.uint8], level: Callable[[int], NDArray[np.uint8]]) -> list[int]:
    """Count the pixels of each level that are not the whole array's majority; -1 for a level of another size."""
    counts = []
    for factor in FACTORS:
        found, wanted = level(factor), mode_blocks(label, factor)
        counts.append(int((found != wanted).sum()) if found.shape == wanted.shape else -1)
    return counts


def _stored(root: Any, box: Box, factor: int) -> NDArray[np.uint8]:
    values: NDArray[np.uint8] = root[f"overviews/{factor}/label"][
        : -(-box.y1 // factor), : -(-box.x1 // factor)
    ]
    return values


def _of_file(path: Path, box: Box, factor: int) -> NDArray[np.uint8]:
    with rasterio.open(path, overview_level=FACTORS.index(factor)) as file:
        values: NDArray[np.uint8] = file.read(1)
    return values[: -(-box.y1 // factor), : -(-box.x1 // factor)]


def check(folder: Path) -> dict[str, list[int]]:
    """Compare all that was made with the whole array."""
    url, box = str(folder / "map.zarr"), _inner(folder)
    store: Any = zarr.open_group(url, mode="r")
    label = store["label"][: box.y1, : box.x1]
    found = {}
    for block in BLOCKS:
        build_overviews(url, FACTORS, block_px=block)
        root = zarr.open_group(url, mode="r")
        found[f"pyramid, blocks of {block}"] = differing(label, partial(_stored, root, box))
    for name, path in (("cog", "label.tif"), ("mosaic", "cells/label.vrt"), ("gdal-cog", "gdal.tif")):
        found[name] = differing(label, partial(_of_file, folder / path, box))
    view, ours = open_view(url), {int(v): int((label == v).sum()) for v in np.unique(label)}
    counts = [counts_of(view, block_px=block) for block in (*BLOCKS[:4], 777, 5000)]
    found["statistics"] = [int(c != counts[0] or c.pixels != ours) for c in counts]
    return found


def main() -> int:
    """Measure all ways, print a table, compare."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--mask", type=Path, default=DATA)
    arguments.add_argument("--times", type=int, default=1)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--no-check", action="store_true")
    arguments.add_argument("--way")
    arguments.add_argument("--folder", type=Path)
    given = arguments.parse_args()
    if given.way:
        run_way(given.way, given.folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(given.mask, folder, given.times)
        took = {way: measure(way, folder, given.repeat) for way in WAYS}
        floor, base = took["read"][0], took["imports"][1]
        print(f"{'way':<12}{'seconds':>9}{'x read':>8}{'MiB above imports':>20}")
        for way, (seconds, peak) in took.items():
            print(f"{way:<12}{seconds:>9.2f}{seconds / floor:>8.2f}{peak - base:>20.0f}")
        if given.no_check:
            return 0
        found = check(folder)
    for way, wrong in found.items():
        print(f"{way:<26} differing: {wrong}")
    return int(any(any(wrong) for way, wrong in found.items() if way != "gdal-cog"))


if __name__ == "__main__":
    sys.exit(main())
