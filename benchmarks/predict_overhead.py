"""Time of `predict` from Zarr to Zarr against the pure forward pass, paired in one run.

The floor is the bare forward pass of the same network over the fewest windows that cover the array (the same
window and overlap, packed from the array's own corner), as torch runs it at its best plain settings: batch norms
folded, channels last, one thread a window, on the same threads and with the same memory settings, the input
already normalised, in memory, in the order that the network likes best. The limit is the same over windows of 256
that do not overlap: every pixel once. `predict` reads, normalises, runs, blends, decides and writes; the
network that its lane runs is packed (`engine.models.packed`) and faster than the floor's, so its ratio to that
one is printed beside. Printed: times by the clock and of the processor, their ratios pair by pair, the peak
memory, the number of windows. First a part is mapped in six layouts; other bytes in any of them end the benchmark.

    python benchmarks/predict_overhead.py --pairs 3                       # aligned with the lattice
    python benchmarks/predict_overhead.py --pairs 3 --shift 77            # not aligned
    python benchmarks/predict_overhead.py --pairs 3 --window 1104         # a larger window
    python benchmarks/predict_overhead.py --pairs 3 --model mlp           # a small, fast, pixel-wise model
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import torch
import xarray as xr

from engine.inference.blend import ROWS
from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.inference.lane import Days, Lane, Network, lane_for, network_of
from engine.inference.predict import days_of, predict
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.store.layout import codec_of
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


def make_cube(folder: Path, size: int, chunk: int, first: int = 0) -> xr.Dataset:
    """Write a random but smooth (1, 10, size, size) uint16 cube as Zarr and open it lazily.

    `first`: row and column of its corner.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(200, 4000, (1, len(BANDS), size // 32, size // 32))
    values = coarse.repeat(32, axis=2).repeat(32, axis=3) + rng.integers(0, 200, (1, 1, size, size))
    grid, box = Grid.make(32633, 10), Box(first, first, first + size, first + size)
    coords = {"band": list(BANDS), "time": np.array(["2023-06-01"], "M8[ns]"), **georef_coords(grid, box)}
    data = xr.Dataset({"reflectance": (("time", "band", "y", "x"), values.astype(np.uint16))}, coords=coords)
    encoding = {
        "reflectance": {
            "chunks": (1, len(BANDS), 256, 256),
            "shards": (1, len(BANDS), chunk, chunk),
            "compressors": codec_of("blosc-lz4:5", np.dtype("uint16")),  # as `landweave cube` writes it
        }
    }
    data.to_zarr(folder / "cube.zarr", encoding=encoding, consolidated=False)
    return xr.open_zarr(folder / "cube.zarr", consolidated=False, chunks={"y": chunk, "x": chunk})


def make_bundle(folder: Path, model: str, lattice: Lattice, precision: str = "float32") -> tuple[Bundle, int]:
    """Write a network with random weights as a bundle; return it and its number of parameters."""
    torch.manual_seed(0)
    network = build(model, {"n_bands": 10, "n_classes": 10, **_SIZES[model]}).eval()
    if model == "unet":
        _spread(network)
    fields = BundleFields(
        name=f"benchmark {model}",
        spec=CubeSpec(bands=BANDS, period=None, mask=None),
        n_dates=network.config.n_dates,  # type: ignore[union-attr,arg-type]
        classes=ClassScheme.from_names([f"class {i}" for i in range(10)]),
        lattice=Lattice(1, 0) if model != "unet" else lattice,
        normalisation=Standard(mean=[2000.0] * 10, std=[1000.0] * 10),
        precision=precision,  # type: ignore[arg-type]
    )
    parameters = sum(p.numel() for p in network.parameters())
    return save_bundle(folder / "bundle", network, model, fields), parameters


@torch.no_grad()
def _spread(network: torch.nn.Module) -> None:
    """Scale the last layer so that all classes occur, as in a trained network; else labels would tell nothing."""
    x_BTCHW = torch.randn(1, 1, 10, 16, 16).repeat_interleave(16, 3).repeat_interleave(16, 4)
    logits_KN = network(x_BTCHW, torch.ones(1, 1, 256, 256))[0].flatten(1)
    centre, scale = logits_KN.mean(dim=1), 3 / logits_KN.std(dim=1)
    head: torch.nn.Conv2d = network.head  # type: ignore[assignment]
    head.bias.copy_((head.bias - centre) * scale)  # type: ignore[union-attr]
    head.weight.mul_(scale[:, None, None, None])


_SIZES: dict[str, dict[str, Any]] = {
    "unet": {"n_dates": 1, "width": 16, "width_max": 128},
    "mlp": {"n_dates": 1},
    "tempcnn": {},
}


def ready(lane: Lane, values: np.ndarray, overlap: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Normalise the fewest windows, or rows of pixels, that cover the array: all that the floor runs on.

    Args:
        lane: The model.
        values: (T, C, y, x) uint16.
        overlap: Pixels that neighbouring windows share; 0: every pixel once.
    """
    size, window = values.shape[-1], lane.bundle.lattice.window_px
    if lane.bundle.pixelwise:
        flat = values.reshape(*values.shape[:2], -1, 1)
        return [_prepared(lane, flat[:, :, n : n + ROWS]) for n in range(0, flat.shape[2], ROWS)]
    starts = [min(s, size - window) for s in range(0, max(1, size - overlap), window - overlap)]
    return [_prepared(lane, values[:, :, y : y + window, x : x + window]) for y in starts for x in starts]


def _prepared(lane: Lane, x_TCHW: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return lane.prepared(np.ascontiguousarray(x_TCHW)[None])


def plain(bundle: Bundle, days: Days) -> Network:
    """Open the network as torch runs it at its best plain settings: batch norms folded, channels last, one
    thread for each window, nothing packed.
    """
    network = network_of(bundle, "cpu", days)
    if bundle.precision == "float32":
        return network

    def halved(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=getattr(torch, bundle.precision)):
            return network(x_BTCHW, valid_BTHW)

    return halved


def forward(network: Network, windows: list[tuple[torch.Tensor, torch.Tensor]], threads: int) -> None:
    """Run a network alone."""

    def one(number: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            network(*windows[number])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(windows))))


def whole(cube: xr.Dataset, bundle: Bundle, folder: Path, threads: int) -> None:
    """From Zarr to Zarr."""
    with dask.config.set(scheduler="threads", num_workers=threads):
        mapped = predict(cube, bundle).drop_vars("spatial_ref")
        mapped.attrs.clear()
        how = {
            "chunks": (256, 256),
            "compressors": codec_of("", np.dtype("uint8")),
        }  # as `landweave map` does
        how["shards"] = tuple(min(1024, side) for side in mapped.label.shape)
        encoding = {n: dict(how) for n in mapped.data_vars}
        mapped = mapped.chunk({"y": 1024, "x": 1024})
        mapped.to_zarr(folder / "map.zarr", mode="w", encoding=encoding, consolidated=False)


LAYOUTS = ((1.0, 1.0, 1), (0.5, 0.5, 2), (0.17, 0.83, 2), (0.4, 0.23, 1), (0.11, 0.66, 2), (0.31, 0.29, 3))
"""Chunk height and width as shares of the part's side, and threads."""


def require_equal_bytes(cube: xr.Dataset, bundle: Bundle) -> str:
    """Map a part of the cube, two windows and a bit wide, in all layouts; say that the bytes are equal, or end."""
    side = min(cube.sizes["y"], 2 * max(bundle.lattice.window_px, 256) + 100)
    part = cube.isel(y=slice(side), x=slice(side))
    digests = set()
    for height, width, threads in LAYOUTS:
        mapped = predict(part.chunk({"y": int(height * side), "x": int(width * side)}), bundle)
        with dask.config.set(scheduler="threads", num_workers=threads):
            found = mapped[["label", "confidence"]].compute()
        digests.add(
            hashlib.sha256(found.label.values.tobytes() + found.confidence.values.tobytes()).hexdigest()
        )
    if len(digests) != 1:
        raise SystemExit(f"{len(digests)} different maps of one area in {len(LAYOUTS)} layouts")
    return f"{len(LAYOUTS)} layouts of {side} px give the same bytes, sha256 {digests.pop()[:16]}"


@dataclass(frozen=True)
class Cost:
    """What one call took: by the clock and of all processors in seconds, memory above the start in MiB."""

    wall_s: float
    cpu_s: float
    peak_mib: float

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s, processor {self.cpu_s:.2f} s, +{self.peak_mib:.0f} MiB"


def measured(call: Callable[[], object]) -> Cost:
    """Run a call once."""
    with Peak() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        cost = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(*cost, peak.bytes / 2**20)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=tuple(_SIZES), default="unet")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=96)
    parser.add_argument("--shift", type=int, default=0, help="pixels from the lattice to the cube's corner")
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    args = options()
    lattice = Lattice(args.window, args.overlap)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cube = make_cube(folder, args.size, args.chunk, 300 * lattice.stride_px + args.shift)
        bundle, parameters = make_bundle(folder, args.model, lattice, args.precision)
        print(require_equal_bytes(cube, bundle), flush=True)
        costs = _pairs(cube, bundle, folder, args)
        print(
            f"{args.model}, {parameters / 1e6:.2f} M parameters, {args.precision}, {args.size} px, window "
            f"{lattice.window_px}/{lattice.overlap_px}, shift {args.shift}, chunk {args.chunk}, {args.threads} "
            f"threads: median ratio {_median(costs, 'wall')}, {_median(costs, 'processor')}; to the packed network's "
            f"own time {_median(costs, 'processor, packed')}; to every pixel once {_median(costs, 'processor, once')}"
        )


def _pairs(
    cube: xr.Dataset, bundle: Bundle, folder: Path, args: argparse.Namespace
) -> dict[str, list[float]]:
    """Measure side by side; return the ratios of each pair, by name."""
    days = days_of(cube) if bundle.takes_days else ()
    lane, network = lane_for(bundle, days=days), plain(bundle, days)
    values = cube.reflectance.values
    packed = ready(lane, values, args.overlap)
    trained = lane if bundle.pixelwise else Lane(replace(bundle, lattice=Lattice(256, 0)))
    once = ready(trained, values[..., :1024, :1024], 0)
    share = (min(1024, args.size) / args.size) ** 2
    part = {k: slice(args.chunk + 256) for k in "yx"}
    whole(cube.isel(part), bundle, folder, args.threads)
    forward(network, packed[:4], args.threads)
    ratios: dict[str, list[float]] = {}
    for pair in range(args.pairs):
        floor = measured(lambda: forward(network, packed, args.threads))
        limit = measured(lambda: forward(network, once, args.threads))
        own = measured(lambda: forward(lane.outputs, packed, args.threads))
        before = lane.evaluations
        all_of_it = measured(lambda: whole(cube, bundle, folder, args.threads))
        windows = lane.evaluations - before
        found = {
            "wall": all_of_it.wall_s / floor.wall_s,
            "processor": all_of_it.cpu_s / floor.cpu_s,
            "processor, packed": all_of_it.cpu_s / own.cpu_s,
            "processor, once": all_of_it.cpu_s * share / limit.cpu_s,
        }
        for kind, ratio in found.items():
            ratios.setdefault(kind, []).append(ratio)
        print(
            f"pair {pair}: floor {floor} ({len(packed)} windows); packed network alone {own}; predict "
            f"{all_of_it} ({windows} windows); " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()),
            flush=True,
        )
    return ratios


def _median(ratios: dict[str, list[float]], kind: str) -> str:
    found = ratios[kind]
    return f"{statistics.median(found):.3f} ({kind}; {min(found):.3f} to {max(found):.3f})"


if __name__ == "__main__":
    main()
