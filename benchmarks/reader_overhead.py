"""What OdcReader costs over plain rasterio: 1024 x 1024 boxes x 10 bands of local COGs, in one thread.

Run: ``python benchmarks/reader_overhead.py``. It makes its own COGs (4096 x 4096 px at 10 m, four bands at
10 m and six at 20 m, deflate, blocks of 512) in a temporary folder and prints milliseconds per box.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.windows import Window

from engine.archive.gdal import gdal_environment
from engine.archive.reader import OdcReader
from engine.archive.search import search
from engine.archive.staging import stage
from engine.values.area import Area
from engine.values.grid import Box, Grid

SIZES = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B05": 20, "B06": 20, "B07": 20, "B8A": 20}
SIZES |= {"B11": 20, "B12": 20}
WEST, NORTH, SIDE, STEP = 300000, 5900040, 4096, 1024


def make(folder: Path) -> dict[str, Path]:
    """Write one COG a band: blocky ground with noise, so that it compresses like an image."""
    rng = np.random.default_rng(0)
    paths = {}
    for band, size in SIZES.items():
        n = SIDE * 10 // size
        ground = np.kron(rng.integers(200, 4000, (n // 16, n // 16)), np.ones((16, 16)))
        values = (ground + rng.integers(0, 60, (n, n))).astype(np.uint16)
        plain = folder / "plain.tif"
        with rasterio.open(
            plain, "w", driver="GTiff", height=n, width=n, count=1, dtype="uint16", crs="EPSG:32633",
            transform=Affine(size, 0, WEST, 0, -size, NORTH), nodata=0, tiled=True,
        ) as file:  # fmt: skip
            file.write(values, 1)
        paths[band] = folder / f"T33UUU_20230510T101601_{band}.tif"
        rasterio.shutil.copy(
            plain, paths[band], driver="COG", compress="DEFLATE", predictor="YES", blocksize=512
        )
        plain.unlink()
    return paths


def through_rasterio(paths: dict[str, Path], y: int, x: int) -> np.ndarray:
    """Read windows with nothing around them: the floor."""
    out = np.zeros((len(paths), STEP, STEP), np.uint16)
    with gdal_environment():
        for plane, (band, path) in zip(out, paths.items(), strict=True):
            k = SIZES[band] // 10
            with rasterio.open(path) as file:
                part = file.read(1, window=Window(x // k, y // k, STEP // k, STEP // k))
            plane[:] = part if k == 1 else part.repeat(k, 0).repeat(k, 1)
    return out


def through_odc_stac(item: pystac.Item, grid: Grid, box: Box) -> np.ndarray:
    """Read through odc.stac.load, eagerly."""
    keys = [f"{b}_{s}m" for b, s in SIZES.items()]
    cube = odc.stac.load([item], bands=keys, geobox=grid.geobox(box), resampling="nearest", chunks=None)
    return np.stack([cube[k].values[0] for k in keys])


def clock(read: Callable[[int, int], np.ndarray], rounds: int = 4) -> tuple[float, list[np.ndarray]]:
    """Return the best milliseconds per box of several rounds, and the pixels."""
    corners = [(y, x) for y in range(0, SIDE, STEP) for x in range(0, SIDE - STEP, STEP)]
    best, found = float("inf"), []
    for _ in range(rounds):
        start = time.perf_counter()
        found = [read(y, x) for y, x in corners]
        best = min(best, (time.perf_counter() - start) / len(corners))
    return best * 1000, found


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        paths = make(Path(name))
        catalog = stage(name)
        (record,) = search(Area.from_bbox((10, 50, 15, 55)), "2023", catalog).items
        (item,) = pystac.Catalog.from_file(str(catalog)).get_items(recursive=True)
        assert item.datetime == dt.datetime(2023, 5, 10, 10, 16, 1, tzinfo=dt.UTC)
        grid, reader = Grid.make(32633, 10), OdcReader()

        def box(y: int, x: int) -> Box:
            row, col = y - NORTH // 10, x + WEST // 10
            return Box(row, col, row + STEP, col + STEP)

        floor, truth = clock(lambda y, x: through_rasterio(paths, y, x))
        print(f"{'plain rasterio':16} {floor:7.1f} ms")
        ways = {
            "OdcReader": lambda y, x: reader.read(record, list(SIZES), grid, box(y, x)),
            "odc.stac.load": lambda y, x: through_odc_stac(item, grid, box(y, x)),
        }
        for label, read in ways.items():
            took, got = clock(read)
            same = all(np.array_equal(a, b) for a, b in zip(got, truth, strict=True))
            print(f"{label:16} {took:7.1f} ms  {took / floor:.2f} x  same pixels: {same}")


if __name__ == "__main__":
    main()
