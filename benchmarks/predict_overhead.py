"""Wall time of `predict` from Zarr to Zarr against the pure forward pass, paired in one run.

The floor is the same lane over the fewest windows that cover the array (the same window and overlap,
packed from the array's own corner), on the same threads, with the input already in memory. `predict`
reads, normalises, runs, blends, decides and writes. Printed: the two times, their ratio pair by pair, the
peak memory of each, and the number of windows.

    python benchmarks/predict_overhead.py --size 4096 --pairs 3
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import psutil
import torch
import xarray as xr

from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.inference.lane import Lane, lane_for
from engine.inference.predict import predict
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")


class Peak:
    """Highest resident memory of this process above its start, sampled every 20 ms."""

    def __enter__(self) -> Peak:
        self.process, self.bytes, self.stop = psutil.Process(), 0, threading.Event()
        self.start = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.02):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.start)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def make_cube(folder: Path, size: int, chunk: int) -> xr.Dataset:
    """Write a random but smooth (1, 10, size, size) uint16 cube as Zarr and open it lazily."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(200, 4000, (1, len(BANDS), size // 32, size // 32))
    values = coarse.repeat(32, axis=2).repeat(32, axis=3) + rng.integers(0, 200, (1, 1, size, size))
    grid, box = Grid.make(32633, 10), Box(-530_000, 50_000, -530_000 + size, 50_000 + size)
    coords = {"band": list(BANDS), "time": np.array(["2023-06-01"], "M8[ns]"), **georef_coords(grid, box)}
    data = xr.Dataset({"reflectance": (("time", "band", "y", "x"), values.astype(np.uint16))}, coords=coords)
    encoding = {"reflectance": {"chunks": (1, len(BANDS), 256, 256), "shards": (1, len(BANDS), chunk, chunk)}}
    data.to_zarr(folder / "cube.zarr", encoding=encoding, consolidated=False)
    return xr.open_zarr(folder / "cube.zarr", consolidated=False, chunks={"y": chunk, "x": chunk})


def make_bundle(folder: Path, width: int) -> tuple[Bundle, int]:
    """Write a U-Net with random weights as a bundle; return it and its number of parameters."""
    torch.manual_seed(0)
    config = {"n_dates": 1, "n_bands": 10, "n_classes": 10, "width": width, "width_max": 8 * width}
    network = build("unet", config).eval()
    fields = BundleFields(
        name="benchmark unet",
        spec=CubeSpec(bands=BANDS, period=None, mask=None),
        n_dates=1,
        classes=ClassScheme.from_names([f"class {i}" for i in range(10)]),
        lattice=Lattice(256, 96),
        normalisation=Standard(mean=[2000.0] * 10, std=[1000.0] * 10),
    )
    parameters = sum(p.numel() for p in network.parameters())
    return save_bundle(folder / "bundle", network, "unet", fields), parameters


def floor(lane: Lane, values: np.ndarray, lattice: Lattice, threads: int) -> int:
    """Run the fewest windows that cover the array; return how many."""
    size, window, stride = values.shape[-1], lattice.window_px, lattice.stride_px
    starts = [min(s, size - window) for s in range(0, size - lattice.overlap_px, stride)]
    corners = [(y, x) for y in starts for x in starts]
    batches = [corners[i : i + lane.batch] for i in range(0, len(corners), lane.batch)]

    def one(batch: list[tuple[int, int]]) -> None:
        lane.run(np.stack([values[:, :, y : y + window, x : x + window] for y, x in batch]))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, batches))
    return len(corners)


def whole(cube: xr.Dataset, bundle: Bundle, folder: Path, threads: int) -> None:
    """From Zarr to Zarr."""
    with dask.config.set(scheduler="threads", num_workers=threads):
        mapped = predict(cube, bundle).drop_vars("spatial_ref")
        mapped.attrs.clear()
        encoding = {n: {"chunks": (256, 256)} for n in mapped.data_vars}
        mapped = mapped.chunk({"y": 1024, "x": 1024})
        mapped.to_zarr(folder / "map.zarr", mode="w", encoding=encoding, consolidated=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cube = make_cube(folder, args.size, args.chunk)
        bundle, parameters = make_bundle(folder, args.width)
        lane = lane_for(bundle)
        values = cube.reflectance.values
        floor(lane, values[:, :, :512, :512], bundle.lattice, args.threads)
        whole(cube.isel(y=slice(512), x=slice(512)), bundle, folder, args.threads)
        ratios = []
        for pair in range(args.pairs):
            with Peak() as floor_peak:
                begun = time.perf_counter()
                fewest = floor(lane, values, bundle.lattice, args.threads)
                floor_s = time.perf_counter() - begun
            before = lane.evaluations
            with Peak() as peak:
                begun = time.perf_counter()
                whole(cube, bundle, folder, args.threads)
                whole_s = time.perf_counter() - begun
            windows = lane.evaluations - before
            ratios.append(whole_s / floor_s)
            print(
                f"pair {pair}: floor {floor_s:.1f} s ({fewest} windows, +{floor_peak.bytes / 2**20:.0f} MiB), "
                f"predict {whole_s:.1f} s ({windows} windows, +{peak.bytes / 2**20:.0f} MiB), "
                f"ratio {ratios[-1]:.3f}, per window {ratios[-1] * fewest / windows:.3f}"
            )
        print(
            f"{parameters / 1e6:.2f} M parameters, {args.size} px, {args.threads} threads, batch {lane.batch}: "
            f"median ratio {np.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
