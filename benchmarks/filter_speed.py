"""Filters, parcels and probability smoothing against the nearest way of scipy and rasterio: CPU time and memory.

Run: ``python benchmarks/filter_speed.py MASK.tif [--size 5490] [--rounds 3]``, one thread; MASK is a raster of classes
0..254 (``full_tile/cloudmask_T19GBQ_20170725.tif`` of the test data). Every way runs in a process of its own, on the
same array, and must give the same answer; compiling is not counted.

=============  ===========================================================================================
ours           peer
=============  ===========================================================================================
majority 3     scipy.ndimage.uniform_filter1d of each class's mask in int32 (a count), argmax, ties as ours
majority 11    the same
context 51     scipy.ndimage.uniform_filter1d of two masks in int32
fill 10        scipy.ndimage.distance_transform_edt with the nearest pixel's indices, cut at 10 px (other ties)
parcels        rasterio.features.rasterize of numbers, then numpy.bincount of number and class, and a look-up
gaussian 1     scipy.ndimage.correlate1d of each class's plane, int32, down and across, then argmax
bilateral 1    numpy: shifted planes, one neighbour after the other (scipy has none)
bayes 7        scipy.ndimage.uniform_filter1d of logits and their squares: the whole window (fraction 1), float64
=============  ===========================================================================================
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from engine.refine.around import Around
from engine.refine.context import Context, in_context
from engine.refine.fill import nearest
from engine.refine.filters import Majority, majority
from engine.refine.parcels import ParcelsConfig
from engine.refine.smooth import BayesConfig, BilateralConfig, GaussianConfig, logits, similar_weights
from engine.refine.windows import Window
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid

GRID = Grid("EPSG:32719", (10.0, 10.0))
K = 8
SCHEME = ClassScheme.from_names([f"class {k}" for k in range(1, K + 1)])
AROUND = Around(SCHEME, (10.0, 10.0), GRID)
NAMES = (
    "majority 3",
    "majority 11",
    "context 51",
    "fill 10",
    "parcels",
    "gaussian 1",
    "bilateral 1",
    "bayes 7",
)


def prepare(folder: Path, mask: Path, size: int, parcels: int) -> None:
    """Write the labels (8 classes: the mask's over a patchwork), gaps, probabilities and fields."""
    import geopandas as gpd
    import shapely

    rng = np.random.default_rng(0)
    with rasterio.open(mask) as file:
        codes = file.read(1)[:size, :size]
    side = 37
    patches = rng.integers(1, 5, (size // side + 1, size // side + 1), dtype=np.uint8)
    label = np.kron(patches, np.ones((side, side), np.uint8))[:size, :size]
    speckle = rng.random((size, size), dtype=np.float32) < 0.05
    label[speckle] = rng.integers(1, 5, speckle.sum(), dtype=np.uint8)
    label = np.where(codes == 0, label, codes + 4).clip(1, K).astype(np.uint8)
    np.save(folder / "label.npy", label)
    gaps = rng.random((size // 7 + 1, size // 7 + 1)) < 0.1
    holes = np.kron(gaps, np.ones((7, 7), bool))[:size, :size]
    np.save(folder / "gappy.npy", np.where(holes, np.uint8(0), label))
    part = label[: size // 4, : size // 4]
    raw = rng.gamma(0.5, 1, (K, *part.shape)).astype(np.float32) + 1.5 * (
        part == np.arange(1, K + 1)[:, None, None]
    )
    np.save(folder / "p.npy", np.floor(250 * raw / raw.sum(0) + 0.5).astype(np.uint8))
    n = max(1, round(parcels**0.5))
    knots = np.stack(np.mgrid[: n + 1, : n + 1], -1) * (size * 10.0 / n)
    knots += rng.normal(0, size * 1.5 / n, knots.shape)
    corners = [knots[:-1, :-1], knots[1:, :-1], knots[1:, 1:], knots[:-1, 1:]]
    rings = np.stack(corners, 2).reshape(-1, 4, 2)[..., ::-1] * [1, -1]
    fields = shapely.make_valid(shapely.polygons(rings))
    gpd.GeoDataFrame(geometry=fields, crs=GRID.crs).to_file(folder / "fields.gpkg")


def count(mask: np.ndarray, size: int) -> np.ndarray:
    """Count in a square window by scipy."""
    from scipy import ndimage

    down = ndimage.correlate1d(mask, np.ones(size, np.int32), 0, output=np.int32, mode="constant")
    return ndimage.correlate1d(down, np.ones(size, np.int32), 1, output=np.int32, mode="constant")


def running(mask: np.ndarray, size: int) -> np.ndarray:
    """Count in a square window by running sums, scipy's fastest way."""
    from scipy import ndimage

    ones = mask.astype(np.float32) * size  # the mean of so many is the count, exact below 2**24
    down = ndimage.uniform_filter1d(ones, size, 0, mode="constant")
    return np.rint(ndimage.uniform_filter1d(down * size, size, 1, mode="constant")).astype(np.int32)


def majority_peer(label: np.ndarray, size: int) -> np.ndarray:
    """Vote by one count a class."""
    best, most = label.copy(), np.zeros(label.shape, np.int32)
    own = np.zeros(label.shape, np.int32)
    for k in range(1, K + 1):
        votes = running(label == k, size)
        own = np.where(label == k, votes, own)
        more = votes > most
        best, most = np.where(more, np.uint8(k), best), np.maximum(votes, most)
    return np.where(own == most, label, best)


def context_peer(label: np.ndarray, size: int) -> np.ndarray:
    near, data = running(label == 6, size), running(label != 0, size)
    stays = (near > 0) & (near * 20 >= data)
    return np.where((label == 5) & ~stays, np.uint8(1), label)


def fill_peer(label: np.ndarray, reach: int) -> np.ndarray:
    from scipy import ndimage

    away, (y, x) = ndimage.distance_transform_edt(label == 0, return_indices=True)
    return np.where(away <= reach, label[y, x], label)


def parcels_peer(label: np.ndarray, file: Path) -> np.ndarray:
    import geopandas as gpd
    import rasterio.features
    from affine import Affine

    shapes = gpd.read_file(file).geometry
    transform = Affine(*GRID.transform_of(Box(0, 0, *label.shape)))
    pairs = ((shape, k) for k, shape in enumerate(shapes, 1))
    numbers = rasterio.features.rasterize(pairs, label.shape, transform=transform, dtype="int32")
    votes = np.bincount((numbers.astype(np.int64) * 16 + label).ravel(), minlength=(len(shapes) + 1) * 16)
    winner = votes.reshape(-1, 16)[:, 1:].argmax(1).astype(np.uint8) + 1
    return np.where(numbers > 0, winner[numbers], label).astype(np.uint8)


def gaussian_peer(p: np.ndarray, weights: tuple[int, ...]) -> np.ndarray:
    from scipy import ndimage

    best, most = np.zeros(p.shape[1:], np.uint8), np.full(p.shape[1:], -1, np.int32)
    ones = np.ones(p.shape[1:], np.int32)
    total = ndimage.correlate1d(
        ndimage.correlate1d(ones, weights, 0, mode="constant"), weights, 1, mode="constant"
    )
    out = np.empty_like(p)
    for k in range(K):
        down = ndimage.correlate1d(p[k], weights, 0, output=np.int32, mode="constant")
        sums = ndimage.correlate1d(down, weights, 1, output=np.int32, mode="constant")
        out[k] = np.floor((2.0 * sums + total) / (2.0 * total))
        more = sums > most
        best, most = np.where(more, np.uint8(k + 1), best), np.maximum(sums, most)
    return best


def bilateral_peer(p: np.ndarray, step: Any) -> np.ndarray:
    """Add one neighbour after the other, whole planes at once."""
    table, (down, across) = similar_weights(step.similar), step.reach_yx
    _, height, width = p.shape
    padded = np.pad(p, ((0, 0), (down, down), (across, across)), constant_values=255)
    sums, total = np.zeros(p.shape, np.int32), np.zeros((height, width), np.int32)
    own = p.astype(np.int32)
    for row, col, near in step._offsets():
        other = padded[:, row : row + height, col : col + width].astype(np.int32)
        squares = np.minimum(((own - other) ** 2).sum(0) // 16, len(table) - 1)
        weight = np.where(other[0] != 255, np.int32(near) * table[squares] >> 12, 0)
        total += weight
        sums += weight * other
    out = np.floor((2.0 * sums + total) / (2.0 * total)).astype(np.uint8)
    return sums.argmax(0).astype(np.uint8) + 1 if out.size else sums


def bayes_peer(p: np.ndarray, smoothness: float, size: int) -> np.ndarray:
    from scipy import ndimage

    table = logits() / 65536
    x = table[p]
    odds = np.empty(p.shape)
    inside = ndimage.uniform_filter(np.ones(p.shape[1:]), size, mode="constant") * size**2
    posterior = np.empty(p.shape)
    for k in range(K):
        total = ndimage.uniform_filter(x[k], size, mode="constant") * size**2
        squares = ndimage.uniform_filter(x[k] ** 2, size, mode="constant") * size**2
        mean = total / inside
        variance = np.maximum(squares - total * mean, 0) / (inside - 1)
        weight = variance / (variance + smoothness)
        posterior[k] = weight * x[k] + (1 - weight) * mean
        odds[k] = 1 / (1 + np.exp(-posterior[k]))
    np.floor(250 * odds / odds.sum(0) + 0.5).astype(np.uint8)
    return posterior.argmax(0).astype(np.uint8) + 1


def whole(step: Any, layers: dict[str, np.ndarray]) -> np.ndarray:
    """Apply a step to a whole array, no data around it."""
    height, width = layers["label"].shape
    box = Box(0, 0, height, width)

    def read(asked: Box) -> dict[str, np.ndarray]:
        out = {}
        for name, array in layers.items():
            out[name] = np.full((*array.shape[:-2], *asked.shape_yx), 0 if name == "label" else 255, np.uint8)
            common = asked & box
            out[name][(..., *common.slices_in(asked))] = array[(..., *common.slices_in(box))]
        return out

    return step.apply(read, box)["label"]


def ways(name: str, folder: Path) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Return ours and the peer's way."""
    kind, _, size_text = name.partition(" ")
    size = int(size_text or 0)
    if kind in ("gaussian", "bilateral", "bayes"):
        p = np.load(folder / "p.npy")
        layers = {"label": (p.argmax(0) + 1).astype(np.uint8), "confidence": p.max(0), "probability": p}
        if kind == "gaussian":
            step = GaussianConfig(sigma_px=size).made(AROUND)
            return lambda: whole(step, layers), lambda: gaussian_peer(p, step.down)
        if kind == "bilateral":
            other = BilateralConfig(sigma_px=size).made(AROUND)
            return lambda: whole(other, layers), lambda: bilateral_peer(p, other)
        config = BayesConfig(within_px=size // 2, shape="square", fraction=1.0)
        return lambda: whole(config.made(AROUND), layers), lambda: bayes_peer(p, config.smoothness, size)
    label = np.load(folder / ("gappy.npy" if kind == "fill" else "label.npy"))
    if kind == "parcels":
        config_of = ParcelsConfig(file=folder / "fields.gpkg", overlap="largest", largest_m=20_000)
        made = config_of.made(AROUND)
        return lambda: whole(made, {"label": label}), lambda: parcels_peer(label, folder / "fields.gpkg")
    if kind == "fill":
        return lambda: nearest(np.pad(label, size), size), lambda: fill_peer(label, size)
    window = Window.make("square", size // 2)
    padded = np.pad(label, size // 2)
    if kind == "majority":
        return lambda: majority(padded, Majority(window)), lambda: majority_peer(label, size)
    context = Context(window, (5,), (6,), 50_000, 1)
    return lambda: in_context(padded, context), lambda: context_peer(label, size)


def run(name: str, whose: str, folder: Path, rounds: int) -> None:
    """Time one way and print its figures; its answer goes into a file."""
    way = ways(name, folder)[whose == "peer"]
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        answer = way()
        times.append(time.process_time() - start)
    np.save(folder / f"{whose}.npy", answer)
    tracemalloc.start()  # NumPy's arrays count; what was loaded before does not
    way()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    print(json.dumps({"cpu_s": min(times[1:]), "above_mb": peak, "megapixels": answer.size / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--size", type=int, default=5490)
    parser.add_argument("--parcels", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--whose", choices=["ours", "peer"])
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.whose:
        run(args.only, args.whose, args.folder, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.mask, args.size, args.parcels)
        print(
            f"{'':12} {'ours ns/px':>10} {'peer ns/px':>10} {'ratio':>6} {'ours MB':>8} {'peer MB':>8}  differ"
        )
        for name in [args.only] if args.only else NAMES:
            found = {whose: child(name, whose, folder, args) for whose in ("ours", "peer")}
            a, b = (1e3 * f["cpu_s"] / f["megapixels"] for f in found.values())
            ours, theirs = (np.load(Path(folder) / f"{whose}.npy") for whose in found)
            memory = " ".join(f"{f['above_mb']:8.0f}" for f in found.values())
            print(
                f"{name:12} {a:10.1f} {b:10.1f} {a / b:6.2f} {memory}  {(ours != theirs).mean():.1e}",
                flush=True,
            )


def child(name: str, whose: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one way in a process of its own."""
    told = [sys.executable, __file__, str(args.mask), "--only", name, "--whose", whose, "--folder", folder]
    done = subprocess.run(
        [*told, "--rounds", str(args.rounds)], stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
