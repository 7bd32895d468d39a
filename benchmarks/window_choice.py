"""Where the best window lies on this processor, and why: seconds per pixel, evaluations per pixel, memory.

Run on a quiet machine: ``python benchmarks/window_choice.py [--threads 2] [--end-to-end] [--size 4096]``.

First, one row per window: the time of a pixel in it (caches: the smaller the better; the network's own rim and
the cost of a call: the larger the better), how often a pixel is evaluated in a tile of 2048 (the lattice:
the larger the better, until a tile is one window), their product, and the memory of one window. Then, if
asked, from Zarr to Zarr: `predict` with the trained and with the best window against the no-overlap limit (the
plain network's forward pass over windows of 256 that do not overlap, input normalised and in memory), pair by
pair in one run, after six layouts of the best window's map gave the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from benchmarks.predict_overhead import forward, plain, ready, require_equal_bytes
from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.inference.lane import Lane
from engine.inference.predict import predict
from engine.inference.receptive import receptive_field
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.propose_window import candidates, time_window

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
TILE_PX = 2048


def make_bundle(folder: Path, width: int) -> Bundle:
    import torch

    torch.manual_seed(0)
    config = {"n_dates": 1, "n_bands": 10, "n_classes": 10, "width": width, "width_max": 8 * width}
    fields = BundleFields(
        name="benchmark unet",
        spec=CubeSpec(bands=BANDS, period=None, mask=None),
        n_dates=1,
        classes=ClassScheme.from_names([f"class {i}" for i in range(10)]),
        lattice=Lattice(256, 96),
        normalisation=Standard(mean=[2000.0] * 10, std=[1000.0] * 10),
    )
    return save_bundle(folder / "bundle", build("unet", config).eval(), "unet", fields)


def make_cube(folder: Path, size: int, chunk: int) -> xr.Dataset:
    """Write a smooth random cube whose corner lies on the lines of tiles, and open it lazily."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(200, 4000, (1, len(BANDS), size // 32, size // 32))
    values = coarse.repeat(32, axis=2).repeat(32, axis=3) + rng.integers(0, 200, (1, 1, size, size))
    grid, box = (
        Grid.make(32633, 10),
        Box(-259 * TILE_PX, 24 * TILE_PX, -259 * TILE_PX + size, 24 * TILE_PX + size),
    )
    coords = {"band": list(BANDS), "time": np.array(["2023-06-01"], "M8[ns]"), **georef_coords(grid, box)}
    data = xr.Dataset({"reflectance": (("time", "band", "y", "x"), values.astype(np.uint16))}, coords=coords)
    encoding = {"reflectance": {"chunks": (1, len(BANDS), 256, 256), "shards": (1, len(BANDS), chunk, chunk)}}
    data.to_zarr(folder / "cube.zarr", encoding=encoding, consolidated=False)
    return xr.open_zarr(folder / "cube.zarr", consolidated=False, chunks={"y": chunk, "x": chunk})


def table(bundle: Bundle, threads: int) -> Lattice:
    """Print a row per window; return the best one."""
    rows = [Lattice(side, 0) for side in (128, 192)]
    best, best_cost, unit = bundle.lattice, float("inf"), 0.0
    print(
        f"{threads} at once; window, overlap, kernel | us a pixel | evaluations a pixel in a tile | product | MiB"
    )
    for lattice in [*rows, *candidates(bundle, TILE_PX)]:
        windowed = replace(bundle, lattice=lattice)
        seconds, grown = time_window(windowed, threads)
        per_pixel = seconds / lattice.window_px**2 * 1e6
        unit = unit or per_pixel
        evaluations = windowed.windows(Box(0, 0, TILE_PX, TILE_PX)) * lattice.window_px**2 / TILE_PX**2
        cost = per_pixel * evaluations
        if lattice.overlap_px and cost < best_cost:
            best, best_cost = lattice, cost
        print(
            f"{lattice.window_px:5} {lattice.overlap_px:4} {lattice.kernel:5} | {per_pixel:6.3f} | {evaluations:5.2f}"
            f" | {cost:6.3f} | {grown / 2**20:6.0f}",
            flush=True,
        )
    return best


def whole(cube: xr.Dataset, bundle: Bundle, folder: Path, threads: int) -> None:
    """From Zarr to Zarr."""
    with dask.config.set(scheduler="threads", num_workers=threads):
        mapped = predict(cube, bundle).drop_vars("spatial_ref").chunk({"y": 1024, "x": 1024})
        mapped.attrs.clear()
        encoding = {n: {"chunks": (256, 256)} for n in mapped.data_vars}
        mapped.to_zarr(folder / "map.zarr", mode="w", encoding=encoding, consolidated=False)


def seconds_of(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = make_bundle(folder, args.width)
        print(receptive_field(bundle).line())
        best = table(bundle, args.threads)
        if not args.end_to_end:
            return
        cube = make_cube(folder, args.size, 1024)
        once = ready(Lane(replace(bundle, lattice=Lattice(256, 0))), cube.reflectance.values, 0)
        network = plain(bundle)
        print(require_equal_bytes(cube, replace(bundle, lattice=best)), flush=True)
        small = cube.isel(y=slice(512), x=slice(512))
        for lattice in (bundle.lattice, best):
            whole(small, replace(bundle, lattice=lattice), folder, args.threads)
        ratios: dict[int, list[float]] = {}
        for _ in range(args.pairs):
            floor_s = seconds_of(lambda: forward(network, once, args.threads))
            for lattice in (bundle.lattice, best):
                windowed = replace(bundle, lattice=lattice)
                whole_s = seconds_of(lambda b=windowed: whole(cube, b, folder, args.threads))  # type: ignore[misc]
                ratios.setdefault(lattice.window_px, []).append(whole_s / floor_s)
                print(
                    f"window {lattice.window_px}: {whole_s:.1f} s, no-overlap limit {floor_s:.1f} s",
                    flush=True,
                )
        for side, found in ratios.items():
            print(f"window {side}: end to end {np.median(found):.2f} times the no-overlap limit {found}")


if __name__ == "__main__":
    main()
