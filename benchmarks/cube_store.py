"""Codec, inner chunk and shard of cube.zarr: MB/s written and read, compression ratio, latency of a patch.

Run: ``python benchmarks/cube_store.py`` (about two minutes; ``LANDWEAVE_TEST_DATA`` names the folder of real
data). The data: ten real Sentinel-2 bands at 10 m of 33UUU, the 20 m ones repeated as `nearest` does,
mirrored to 2048 x 2048, three time steps with other illumination and real cloud shapes as no data. Each
candidate writes one 2048 px tile, reads it whole, and reads 60 random 256 x 256 patches of all bands of one
time step, and 20 of all time steps; files are in the page cache. Least of three; CPU seconds count all
threads, and tell more than the clock where the machine has other work.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import zarr

from engine.store.layout import codec_of

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIDE, PATCH, STEPS = 2048, 256, 3
_HERE = Path(__file__).parents[2] / "shared" / "data"
DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", _HERE))


@dataclass(frozen=True)
class Layout:
    codec: str = "blosc-zstd:3"
    inner_px: int = 256
    bands: int = len(BANDS)
    steps: int = 1
    shard_px: int = 2048

    def __str__(self) -> str:
        bands = "all bands" if self.bands > 1 else "one band "
        steps = "one step " if self.steps == 1 else "all steps"
        return f"{self.codec:13} inner {self.inner_px:3} {bands} {steps} shard {self.shard_px:4}"


def scene() -> np.ndarray:
    """(time, band, y, x) uint16."""
    planes = []
    for band in BANDS:
        with rasterio.open(DATA / "s2_l1c_33UUU" / f"T33UUU_20170216T102101_{band}.jp2") as file:
            plane = file.read(1)
        planes.append(plane.repeat(768 // plane.shape[0], 0).repeat(1536 // plane.shape[1], 1))
    ground = np.pad(np.stack(planes), ((0, 0), (0, SIDE - 768), (0, SIDE - 1536)), "symmetric")
    with rasterio.open(DATA / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        cloud = file.read(1)[::5, ::5][:SIDE, :SIDE] > 0
    rng = np.random.default_rng(0)
    out = np.empty((STEPS, *ground.shape), np.uint16)
    for i in range(STEPS):
        noise = rng.integers(-12, 13, ground.shape, dtype=np.int32)
        out[i] = np.clip(ground * (1 + 0.13 * i) + noise, 1, 65535)
        out[i][:, np.roll(cloud, 700 * i, 1)] = 0
    return out


def measure(folder: Path, values: np.ndarray, layout: Layout) -> dict[str, float]:
    inner = (layout.steps, layout.bands, layout.inner_px, layout.inner_px)
    shards = (layout.steps, len(BANDS), layout.shard_px, layout.shard_px)
    array = zarr.create_array(
        folder / "a.zarr", shape=values.shape, dtype="uint16", chunks=inner, shards=shards, fill_value=0,
        compressors=codec_of(layout.codec, values.dtype), overwrite=True,
    )  # fmt: skip
    mb = values.nbytes / 1e6
    write = best(3, lambda: array.__setitem__(..., values))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    read = best(3, lambda: array[...])
    rng = np.random.default_rng(1)
    corners = rng.integers(0, SIDE - PATCH, (60, 2))
    one = [best(1, lambda y=y, x=x: array[1, :, y : y + PATCH, x : x + PATCH]) for y, x in corners]
    every = [best(1, lambda y=y, x=x: array[:, :, y : y + PATCH, x : x + PATCH]) for y, x in corners[:20]]
    shutil.rmtree(folder / "a.zarr")
    return {
        "write MB/s": mb / write[0],
        "a CPU s": mb / write[1],
        "read MB/s": mb / read[0],
        "a CPU s ": mb / read[1],
        "ratio": mb / size,
        "patch ms": 1000 * min(w for w, _ in one),
        "CPU ms": 1000 * float(np.median([c for _, c in one])),
        "all steps CPU ms": 1000 * float(np.median([c for _, c in every])),
    }


def best(times: int, work) -> tuple[float, float]:
    """Return the least wall-clock and CPU seconds: other work on the machine only ever adds."""
    wall, cpu = [], []
    for _ in range(times):
        begun, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
    return min(wall), min(cpu)


def candidates() -> list[Layout]:
    codecs = ["blosc-lz4:1", "blosc-lz4:5", "blosc-zstd:1", "blosc-zstd:3", "zstd:1", "zstd:3"]
    found = [Layout(codec) for codec in codecs]
    for codec in ("blosc-lz4:5",):
        found += [Layout(codec, 128), Layout(codec, 512), Layout(codec, bands=1), Layout(codec, 512, bands=1)]
        found += [Layout(codec, 256, steps=STEPS), Layout(codec, shard_px=1024), Layout(codec, 128, bands=1)]
    return found


def main() -> None:
    values = scene()
    print(f"{values.shape} {values.nbytes / 1e6:.0f} MB, {(values == 0).mean():.0%} no data")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), values[:, :, :512, :512].repeat(4, 2).repeat(4, 3), Layout())  # warm up
        for layout in (c for c in candidates() if all(word in str(c) for word in sys.argv[1:])):
            told = measure(Path(folder), values, layout)
            print(layout, "  ".join(f"{k} {v:.4g}" for k, v in told.items()), flush=True)


if __name__ == "__main__":
    main()
