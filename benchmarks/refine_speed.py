"""Sieve and minimum mapping unit, beside rasterio's whole-array sieve: seconds, as a ratio, and memory.

``python -m benchmarks.refine_speed FILE.tif ...`` takes class rasters of one byte, by default the 10980 x 10980 cloud
mask of the real test data (its classes plus one, so that nothing is no data) and, since that one is calm, a noisy map
of the same size: classes of a real scene by its index in two seasons, pixel by pixel, mirrored and repeated.

Each way runs in turn with rasterio's (``--pairs`` times, the median ratio is told) on one thread; seconds are of the
processor. Memory is of a fresh process for each way: the rise of its peak while the way runs, over a process that holds
the map and has run the way on a small one. "Streamed" reads strips of a raw file and writes strips of another, so the
map itself is not held. All answers are compared: the sieves with rasterio's, the tiles with the whole array's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
from numpy.typing import NDArray

from engine.refine.mmu import MmuStep, array_source, merge_small
from engine.refine.objects import find_runs
from engine.refine.sieve import Sieve, sieve
from engine.values.grid import Box

DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SIDE_PX = 10980
Map = NDArray[np.uint8]


def calm() -> Map:
    with rasterio.open(DATA / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        return file.read(1) + np.uint8(1)


def noisy() -> Map:
    with rasterio.open(DATA / "s2_ftw_austria" / "inference-img.tif") as file:
        red, nir, red2, nir2 = (file.read(b).astype(np.float32) for b in (1, 4, 5, 8))
    first, second = (nir - red) / (nir + red + 1), (nir2 - red2) / (nir2 + red2 + 1)
    season = np.digitize(first, np.quantile(first, [0.25, 0.5, 0.75])) * 2
    classes = (season + (second > np.median(second)) + 1).astype(np.uint8)
    block = np.block([[classes, classes[:, ::-1]], [classes[::-1], classes[::-1, ::-1]]])
    times = [-(-SIDE_PX // n) for n in block.shape]
    return np.ascontiguousarray(np.tile(block, times)[:SIDE_PX, :SIDE_PX])


def random() -> Map:
    return np.random.default_rng(0).integers(1, 6, (3000, 3000), np.uint8)


MAPS: dict[str, Callable[[], Map]] = {"calm": calm, "noisy": noisy, "random": random}


def _load(name: str) -> Map:
    if name in MAPS:
        return MAPS[name]()
    with rasterio.open(name) as file:
        return file.read(1)


def _mmu(min_px: int) -> MmuStep:
    return MmuStep((0,) + (min_px,) * 255)


def _tiled(label: Map, min_px: int, tile_px: int) -> Map:
    out, whole = np.empty_like(label), Box(0, 0, *label.shape)
    source, step = array_source(label), _mmu(min_px)
    for box in whole.blocks(tile_px):
        out[box.slices_in(whole)] = step.merged(source, box).label
    return out


def _streamed(file: Path, shape: tuple[int, int], min_px: int) -> None:
    """Sieve a raw file into another, without a map of the file in this process's memory."""
    width = shape[1]
    with file.open("rb") as source, file.with_suffix(".out").open("wb") as target:

        def read(y0: int, y1: int) -> Map:
            source.seek(y0 * width)
            return np.frombuffer(source.read((y1 - y0) * width), np.uint8).reshape(-1, width)

        Sieve(min_px).run(read, lambda _, rows: rows.tofile(target), shape)


def _ways(label: Map, min_px: int) -> dict[str, Callable[[], Map | None]]:
    return {
        "rasterio sieve": lambda: rasterio.features.sieve(label, min_px, mask=label != 0),
        "sieve": lambda: sieve(label, min_px),
        "mmu, whole array": lambda: merge_small(label, _mmu(min_px)).label,
        "mmu, tiles of 2048": lambda: _tiled(label, min_px, 2048),
        "mmu, tiles of 512": lambda: _tiled(label, min_px, 512),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _rise_mib(way: str, file: Path, min_px: int) -> float:
    """Measure, in a process of its own, how far memory rises while a way runs."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.refine_speed",
        "--alone",
        way,
        "--min-px",
        str(min_px),
        str(file),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _alone(way: str, file: Path, min_px: int) -> None:
    shape = tuple(int(n) for n in file.stem.split("x"))
    if way == "sieve, streamed":
        small = file.with_name("64x64.small")
        small.write_bytes(bytes(64 * 64))
        _streamed(small, (64, 64), 3)
        call: Callable[[], object] = lambda: _streamed(file, (shape[0], shape[1]), min_px)  # noqa: E731
    else:
        label = np.fromfile(file, np.uint8).reshape(shape)
        _ways(label[:64, :64].copy(), 3)[way]()
        call = _ways(label, min_px)[way]
    before = _memory_mib("VmRSS")
    call()
    print(_memory_mib("VmHWM") - before)


def _memory_mib(what: str) -> float:
    """Read what the kernel says of this process (`ru_maxrss` would begin with the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 2**10


def _report(name: str, label: Map, min_px: int, pairs: int) -> None:
    runs = find_runs(label)
    print(
        f"\n{name}: {label.shape[0]} x {label.shape[1]}, {len(runs.sizes_px):,} objects, "
        f"{(runs.sizes_px < min_px).sum():,} below {min_px} px; processor, ratio to rasterio, rise of memory"
    )
    del runs
    ways = _ways(label, min_px)
    answers = {way: call() for way, call in ways.items()}
    assert np.array_equal(answers["sieve"], answers["rasterio sieve"]), "the sieve is not GDAL's"
    for way in ("mmu, tiles of 2048", "mmu, tiles of 512"):
        assert np.array_equal(answers[way], answers["mmu, whole array"]), "the tiling can be seen"
    del answers
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{label.shape[0]}x{label.shape[1]}.raw"
        label.tofile(file)
        streamed = lambda: _streamed(file, (label.shape[0], label.shape[1]), min_px)  # noqa: E731
        for way, call in {**ways, "sieve, streamed": streamed}.items():
            ratios = []
            for _ in range(pairs):
                beside, mine = _seconds(ways["rasterio sieve"]), _seconds(call)
                ratios.append(mine / beside)
            rise = _rise_mib(way, file, min_px)
            spread = f"({min(ratios):.2f}..{max(ratios):.2f})"
            print(f"{way:20s} {mine:7.2f} s {statistics.median(ratios):6.2f} {spread:14s} {rise:+8.0f} MiB")


def main() -> None:
    """Print one row per way and map."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", nargs="*", help=f"rasters, or {', '.join(MAPS)}")
    parser.add_argument("--min-px", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--alone", help="one way in this process; prints the rise of memory in MiB")
    args = parser.parse_args()
    if args.alone:
        _alone(args.alone, Path(args.maps[0]), args.min_px)
        return
    for name in args.maps or ["calm", "noisy"]:
        _report(name, _load(name), args.min_px, args.pairs)


if __name__ == "__main__":
    main()
