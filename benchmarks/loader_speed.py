"""Random patches of a cube for training: this loader against one decompression of its chunks, plain reads and others.

Run: ``python benchmarks/loader_speed.py [--rounds 5] [--patches 128] [--side 2048]`` (about four minutes;
``LANDWEAVE_TEST_DATA`` names the folder of real data). The cube: ten real Sentinel-2 bands at 10 m of 33UUU, as
in ``cube_store.py``, over 12 dates of other illumination with real cloud shapes as no data, staged as
``landweave cube`` stages it (blosc-lz4, inner chunks of 256 px, shards of 2048). Patches of 256 x 256 px, 10 bands,
12 dates (15.7 MB each) from anywhere, in batches of 8.

All ways run in one process, one after the other in each round, in files that are in the page cache; the
figure is the median over rounds of the ratio within a round, of wall-clock time and of processor time (all
threads). The decompression is that of every chunk that the loader reads, once: by zarr, in squares of 1024 px, as
fast as it goes; and by the bare codec out of memory, in as many threads as the loader has. Reuse is the pixels
of all patches over those of the chunks read; mixing is `training.mixing` (1: as if drawn at random).

xbatcher and torchgeo run where they can be imported. xbatcher gives patches of a fixed lattice in
random order, as it has no others; torchgeo reads the same values from tiled GeoTIFFs (one a date, its usual
kind of input; zstd, as GDAL's files know no lz4) with its RandomGeoSampler.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cube_store
import numpy as np
import xarray as xr
import zarr

from engine.cube.stored import STAGED_ATTR, Stage, Staged, dataset_attrs, store_spec
from engine.inference.allocator import keep_freed_memory
from engine.store.chunks import Chunks, _index_of
from engine.store.layout import create, update_attrs
from engine.store.regions import write_region
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec
from training.labels import LabelRaster
from training.loader import Loader, LoaderOptions, loader
from training.samples import Patches

GRID = Grid("EPSG:32633", (10.0, 10.0))
BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
DATES, PATCH, BATCH, THREADS = 12, 256, 8, 2


@dataclasses.dataclass
class Cube:
    folder: Path
    side: int
    box: Box

    @property
    def url(self) -> str:
        return str(self.folder / "cube.zarr")


def stage(folder: Path, side: int) -> Cube:
    """Write the cube, three dates at a time."""
    y0, x0 = -(5_400_000 // 10) // 2048 * 2048, 300_000 // 10 // 2048 * 2048
    cube = Cube(folder, side, Box(y0, x0, y0 + side, x0 + side))
    ground = cube_store.scene()[:, :, :side, :side]
    times = np.array([f"2023-{m:02d}-01" for m in range(1, 13)], "datetime64[ns]")
    spec = CubeSpec(bands=BANDS)
    lazy = xr.Dataset(
        {
            "reflectance": (
                ("time", "band", "y", "x"),
                np.broadcast_to(ground[:1], (DATES, *ground.shape[1:])),
            )
        },
        coords={"time": times, "band": list(BANDS), **georef_coords(GRID, cube.box)},
        attrs={"landweave_spec": spec.model_dump_json()},
    )
    layout = store_spec(lazy, GRID, cube.box, 2048, "a cube")
    create(cube.url, layout)
    for month in range(DATES):
        values = ground[month % 3].astype(np.float32) * (1 + 0.04 * (month // 3))
        whole = np.zeros((1, len(BANDS), *layout.box.shape_yx), np.uint16)
        whole[(..., *cube.box.slices_in(layout.box))] = np.clip(values, 0, 65535)
        write_region(cube.url, layout.box, {"reflectance": whole}, steps=(month, month + 1))
    attrs = dataset_attrs(lazy)
    done = Stage("cube", (0, DATES), ("2023-01-01", "2023-12-31"), "2023-01-01", "complete")
    update_attrs(cube.url, attrs | {STAGED_ATTR: Staged(cube.box, tuple(attrs), (done,)).to_dict()})
    return cube


def labels_of(cube: Cube) -> LabelRaster:
    values = np.ones((cube.side, cube.side), np.uint8)
    return LabelRaster(values, cube.box, ClassScheme.from_names(["land"]))


def made(cube: Cube, patches: int, blocks: int) -> Loader:
    draw = Patches(patch_px=PATCH, draw="classes", per_epoch=patches)
    options = LoaderOptions(
        draw=draw, batch=BATCH, threads=THREADS, buffer_bytes=blocks * 256 * 256 * 20 * DATES + 1, places=4
    )
    return loader(cube.url, labels_of(cube), options)


def drain(batches: Any) -> int:
    return sum(len(batch) for batch in batches)


def zarr_once(array: Any, side: int) -> None:
    for y in range(0, side, 1024):
        for x in range(0, side, 1024):
            array[:, :, y : y + 1024, x : x + 1024]


def packed_chunks(chunks: Chunks) -> list[bytes]:
    """The compressed chunks of all shards, in memory."""
    found = []
    for path in sorted(Path(chunks.url, chunks.name, "c").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            index = _index_of(str(path), 0, 0, len(data), 64)
            found += [data[int(o) : int(o) + int(n)] for o, n in index if o != 2**64 - 1]
    return found


def codec_once(packed: list[bytes], out: np.ndarray, unpack: Any) -> None:
    """Decompress everything into memory that is there already."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda pair: unpack(*pair), zip(packed, out, strict=True)))


def naive(array: Any, corners: np.ndarray) -> None:
    """Read each patch by itself and stack batches of them."""
    for first in range(0, len(corners), BATCH):
        np.stack([array[:, :, y : y + PATCH, x : x + PATCH] for y, x in corners[first : first + BATCH]])


def xbatcher_way(cube: Cube, n: int) -> Callable[[], Any] | None:
    try:
        import xbatcher
    except ImportError:
        return None
    inner = {
        "time": 1,
        "band": -1,
        "y": 256,
        "x": 256,
    }  # of its other ways of opening, one reads pixel by pixel
    data = xr.open_zarr(cube.url, chunks=inner)["reflectance"]
    patches = xbatcher.BatchGenerator(data, {"y": PATCH, "x": PATCH}, preload_batch=False)
    rng = np.random.default_rng(2)

    def run() -> None:
        order = rng.integers(0, len(patches), n)
        for first in range(0, n, BATCH):
            np.stack([patches[int(i)].values for i in order[first : first + BATCH]])

    return run


def torchgeo_way(cube: Cube, n: int) -> Callable[[], Any] | None:
    import torch

    for name in ("nms", "qnms"):  # a torchvision built for another torch asks for them; nobody here uses them
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    try:
        from torchgeo.datasets import RasterDataset
        from torchgeo.samplers import RandomGeoSampler
    except ImportError:
        return None

    write_tiffs(cube)
    kind = type("Dates", (RasterDataset,), {"filename_glob": "date_*.tif", "separate_files": False})
    dates = [kind(paths=[str(path)], cache=True) for path in sorted(cube.folder.glob("date_*.tif"))]

    def run() -> None:
        batch = []
        for query in RandomGeoSampler(dates[0], size=PATCH, length=n):
            batch.append(torch.stack([d[query]["image"] for d in dates]))
            if len(batch) == BATCH:
                torch.stack(batch)
                batch = []

    return run


def write_tiffs(cube: Cube) -> None:
    import rasterio
    from affine import Affine

    array = zarr.open_group(cube.url, mode="r")["reflectance"]
    profile = {
        "driver": "GTiff", "width": cube.side, "height": cube.side, "count": len(BANDS), "dtype": "uint16",
        "crs": GRID.crs, "transform": Affine(*GRID.transform_of(cube.box)), "tiled": True, "blockxsize": 256,
        "blockysize": 256, "compress": "zstd", "zstd_level": 1, "predictor": 2, "interleave": "pixel", "nodata": 0,
    }  # fmt: skip
    for month in range(DATES):
        with rasterio.open(cube.folder / f"date_{month:02d}.tif", "w", **profile) as file:
            file.write(array[month, :, : cube.side, : cube.side])


@dataclasses.dataclass
class Took:
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def time(self, work: Callable[[], Any]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def told(name: str, took: Took, against: Took, scale: float) -> str:
    """Median over rounds of how much faster than another way, per unit of work."""
    wall = np.median(np.array(against.wall) / np.array(took.wall)) * scale
    cpu = np.median(np.array(against.cpu) / np.array(took.cpu)) * scale
    return f"{name}: {wall:.2f} (wall clock), {cpu:.2f} (processor)"


def measure(cube: Cube, rounds: int, n: int) -> None:
    keep_freed_memory()
    chunks = Chunks(cube.url, "reflectance")
    assert chunks.direct
    assert chunks._decompress is not None
    array = zarr.open_group(cube.url, mode="r")["reflectance"]
    packed = packed_chunks(chunks)
    space = np.zeros((len(packed), *chunks.chunk_shape), chunks.dtype)
    n_columns = (cube.side // 256) ** 2
    loaders = {
        "all held": made(cube, n, 2 * n_columns),
        "a quarter held": made(cube, n, max(8, n_columns // 4)),
    }
    rng = np.random.default_rng(1)
    few = max(BATCH, n // 4)
    ways: dict[str, Callable[[], Any]] = {
        "zarr": functools.partial(zarr_once, array, cube.side),
        "codec": functools.partial(codec_once, packed, space, chunks._decompress),
        **{name: functools.partial(drain, each) for name, each in loaders.items()},
        "naive": lambda: naive(array, rng.integers(0, cube.side - PATCH, (few, 2))),
    }
    for name, way in (("xbatcher", xbatcher_way(cube, few)), ("torchgeo", torchgeo_way(cube, few))):
        if way is None:
            print(f"{name}: not installed")
        else:
            ways[name] = way
    took = {name: Took() for name in ways}
    reads: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, way in ways.items():
            if name in loaders:
                reads[name].append(loaders[name].plan().n_reads / n_columns)
            (Took() if number == 0 else took[name]).time(way)  # the first round warms up
    mb = n * PATCH**2 * 20 * DATES / 1e6
    for name, each in loaders.items():
        each.set_epoch(1)
        share = float(np.mean(reads[name][1:]))
        print(f"\n{name}: {each}")
        wall = np.median(took[name].wall)
        print(
            f"  {mb / wall:.0f} MB/s of patches, {n / wall:.1f} patches/s, reuse {n / n_columns / share:.2f}"
        )
        print(
            "  "
            + told("of the rate of zarr decompressing once, times reuse", took[name], took["zarr"], share)
        )
        print("  " + told("of the rate of the bare codec, times reuse", took[name], took["codec"], share))
        for other in ("naive", "xbatcher", "torchgeo"):
            if other in took:
                print("  " + told(f"times {other}", took[name], took[other], n / few))


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--patches", type=int, default=128)
    asked.add_argument("--side", type=int, default=2048)
    given = asked.parse_args()
    warnings.filterwarnings("ignore", module="torchgeo|xbatcher")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        cube = stage(Path(folder), given.side)
        print(
            f"{given.side} x {given.side} px, {DATES} dates, {given.patches} patches an epoch, {THREADS} threads"
        )
        measure(cube, given.rounds, given.patches)


if __name__ == "__main__":
    main()
