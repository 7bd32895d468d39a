"""What a reader costs over plain rasterio: (dates, 10 bands, size, size) from local COGs, same CRS and across.

Run: ``python benchmarks/reader_overhead.py [--size 2048] [--dates 12] [--threads 2] [--rounds 3]``.
It makes its own COGs (four bands at 10 m, six at 20 m, deflate, blocks of 512) in a temporary folder. Each
round clocks every way once, one after the other, so that a busy machine slows all alike; rates are the median
over rounds of plain rasterio's time by the reader's, on the wall clock and in seconds of processor. The floor
reads the very same windows (same CRS), or warps the same area by ``rasterio.warp.reproject`` (another CRS), with
the same number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window

from engine.archive.gdal import gdal_environment
from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.reader import OdcReader, Reader
from engine.archive.stackstac_reader import StackstacReader
from engine.values.bands import common_name
from engine.values.grid import Box, Grid

SIZES = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B05": 20, "B06": 20, "B07": 20, "B8A": 20}
SIZES |= {"B11": 20, "B12": 20}
WEST, NORTH, BLOCK = 300000, 5900040, 512
UTM, LAEA = "EPSG:32633", "EPSG:3035"
Read = Callable[[ItemRecord, Box], np.ndarray]


def make(folder: Path, side: int) -> ItemRecord:
    """Write one COG a band: blocky ground with noise, so that it compresses like an image."""
    rng = np.random.default_rng(0)
    assets = []
    for band, size in SIZES.items():
        n = side * 10 // size
        ground = np.kron(rng.integers(200, 4000, (n // 16 + 1, n // 16 + 1)), np.ones((16, 16)))[:n, :n]
        values = (ground + rng.integers(0, 60, (n, n))).astype(np.uint16)
        plain, path = folder / "plain.tif", folder / f"{band}.tif"
        with rasterio.open(
            plain, "w", driver="GTiff", height=n, width=n, count=1, dtype="uint16", crs=UTM,
            transform=Affine(size, 0, WEST, 0, -size, NORTH), nodata=0, tiled=True,
        ) as file:  # fmt: skip
            file.write(values, 1)
        rasterio.shutil.copy(plain, path, driver="COG", compress="DEFLATE", predictor="YES", blocksize=BLOCK)
        plain.unlink()
        assets.append(AssetRecord(common_name(band), str(path), 0.0))
    return item_of(tuple(sorted(assets)))


def item_of(assets: tuple[AssetRecord, ...]) -> ItemRecord:
    import datetime as dt

    return ItemRecord(
        "made", "bench", "other", dt.datetime(2023, 5, 10, tzinfo=dt.UTC), shapely.to_wkb(shapely.box(12, 52, 13, 53)),
        UTM, "33UUU", "take", "sentinel-2a", 22, "05.09", 0.0, None, None, assets,
    )  # fmt: skip


def windows_by_rasterio(item: ItemRecord, box: Box) -> np.ndarray:
    """Read windows with nothing around them: the floor in the same CRS."""
    row, col = box.y0 + NORTH // 10, box.x0 - WEST // 10
    height, width = box.shape_yx
    out = np.zeros((len(item.assets), height, width), np.uint16)
    with gdal_environment():
        for plane, asset in zip(out, item.assets, strict=True):
            with rasterio.open(asset.href) as file:
                k = int(file.res[0]) // 10
                part = file.read(1, window=Window(col // k, row // k, width // k, height // k))
            plane[:] = part if k == 1 else part.repeat(k, 0).repeat(k, 1)
    return out


def warp_by_rasterio(grid: Grid, how: str) -> Read:
    """Warp the whole area at once: the floor across CRSs."""

    def read(item: ItemRecord, box: Box) -> np.ndarray:
        out = np.zeros((len(item.assets), *box.shape_yx), np.uint16)
        with gdal_environment():
            for plane, asset in zip(out, item.assets, strict=True):
                with rasterio.open(asset.href) as file:
                    reproject(
                        rasterio.band(file, 1), plane, src_nodata=0, dst_nodata=0, dst_crs=grid.crs,
                        dst_transform=Affine(*grid.transform_of(box)), resampling=Resampling[how],
                    )  # fmt: skip
        return out

    return read


def by_reader(reader: Reader, grid: Grid, how: str) -> Read:
    def read(item: ItemRecord, box: Box) -> np.ndarray:
        return reader.read(item, item.bands, grid, box, how)  # type: ignore[arg-type]

    return read


def clock(ways: dict[str, Read], item: ItemRecord, box: Box, options: argparse.Namespace) -> None:
    """Time all ways in turn, and print each one's rate against the first."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    pixels: dict[str, np.ndarray] = {}
    pieces = list(box.blocks(options.chunk)) * options.dates
    for turn in range(options.rounds + 1):
        for name, read in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(options.threads) as pool:
                for piece, _ in zip(
                    pieces, pool.map(lambda b, r=read: r(item, b).any(), pieces), strict=True
                ):
                    assert piece
            if turn:  # the first round compiles kernels and fills caches
                took[name].append(time.perf_counter() - start)
                worked[name].append(time.process_time() - busy)
            pixels[name] = read(item, pieces[0])
    floor = next(iter(ways))
    for name in ways:
        wall, cpu = (
            statistics.median(a / b for a, b in zip(t[floor], t[name], strict=True)) for t in (took, worked)
        )
        same = (pixels[name] == pixels[floor]).mean()
        told = f"{min(took[name]):7.2f} s  rate {wall:6.1%}, of processor {cpu:6.1%}  equal pixels {same:.2%}"
        print(f"  {name:28} {told}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("size", 2048), ("dates", 12), ("threads", 2), ("rounds", 3), ("chunk", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        item = make(Path(name), options.size + 3 * BLOCK)
        print(f"({options.dates}, {len(SIZES)}, {options.size}, {options.size}), {options.threads} threads")
        grid = Grid.make(UTM, 10)
        row, col = -NORTH // 10 // BLOCK * BLOCK + BLOCK, WEST // 10 // BLOCK * BLOCK + BLOCK
        box = Box(row, col, row + options.size, col + options.size)
        print("same CRS, nearest:")
        ways = {"rasterio, the same windows": windows_by_rasterio}
        readers = {"OdcReader": OdcReader(), "StackstacReader": StackstacReader()}
        clock(ways | {n: by_reader(r, grid, "nearest") for n, r in readers.items()}, item, box, options)
        grid = Grid.make(LAEA, 10)
        bounds = transform_bounds(UTM, LAEA, *Grid.make(UTM, 10).bounds_of_box(box))
        box = grid.box_of_bounds(bounds).snap_out(BLOCK)
        box = Box(box.y0, box.x0, box.y0 + options.size, box.x0 + options.size)
        for how in ("nearest", "bilinear"):
            print(f"another CRS, {how}:")
            ways = {"rasterio.warp, the same area": warp_by_rasterio(grid, how)}
            clock(ways | {n: by_reader(r, grid, how) for n, r in readers.items()}, item, box, options)


if __name__ == "__main__":
    main()
