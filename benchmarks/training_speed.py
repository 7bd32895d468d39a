"""Training images a second: batches of the loader against the same network fed from tensors on the device.

Run: ``python benchmarks/training_speed.py [--device cuda] [--architecture unet] [--config '{"width": 32}']`` (about a
minute on a processor; ``--help`` lists sizes). A cube of chance with gaps, all of it annotated, is learnt by the very
steps of `training.loop.fit` (`training.learner.Learner.step`: normalisation, forward, loss, backward, clipping, AdamW,
one-cycle; on a GPU the loader works ahead in a thread, into pinned memory), in rounds that take turns:

- ``tensors``: a few batches that lie on the device, again and again. What the network alone can do.
- ``memory``: patches drawn, cut, flipped, their dates dropped, from a cube in memory.
- ``streamed``: the same from a Zarr store on disk, in blocks, through the loader's buffer.

An image is a patch. The loader's cost is the share of time that a way takes longer than ``tensors`` in the same round,
the median over rounds; negative where the machine's noise is larger. The goal on a GPU is 10% at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from engine.values.classes import ClassScheme
from engine.values.grid import Box
from training.batch import Batch
from training.labels import LabelRaster
from training.learner import Learner, drawn_batches, make_learner
from training.lessons import CubeLessons
from training.loop import fresh_network
from training.options import TrainOptions
from training.splits import Split

CLASSES = 8
BLOCK_PX = 128


def data(side: int, dates: int, bands: int) -> tuple[xr.Dataset, LabelRaster]:
    """Make a cube of chance; a tenth of the dates of each block of 64 px has no data."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 8000, (dates, bands, side, side), np.uint16)
    gaps = (rng.random((dates, 1, -(-side // 64), -(-side // 64))) < 0.1).repeat(64, 2).repeat(64, 3)
    values *= ~gaps[:, :, :side, :side]
    times = np.datetime64("2023-01-01", "ns") + np.arange(dates) * np.timedelta64(15, "D")
    cube = xr.Dataset({"reflectance": (("time", "band", "y", "x"), values)}, coords={"time": times})
    truth = rng.integers(1, CLASSES + 1, (-(-side // 16),) * 2).repeat(16, 0).repeat(16, 1)
    classes = ClassScheme.from_names([f"class {k}" for k in range(CLASSES)])
    return cube, LabelRaster(truth[:side, :side].astype(np.uint8), Box(0, 0, side, side), classes)


def seconds_of(learner: Learner, batches: Iterator[Batch], steps: int, first: int) -> float:
    """Return the wall-clock time of steps, to the end of the last on the device."""
    _wait(learner)
    start = time.perf_counter()
    for i in range(steps):
        learner.step(batches, first + i)
    _wait(learner)
    return time.perf_counter() - start


def _wait(learner: Learner) -> None:
    if learner.group.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--config", default="{}", help="fields of its configuration, JSON")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--dates", type=int, default=12)
    parser.add_argument("--bands", type=int, default=10)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cube, labels = data(args.side, args.dates, args.bands)
    options = TrainOptions(
        architecture=args.architecture,
        config=json.loads(args.config),
        precision=args.precision,
        device=args.device,
        batch=args.batch,
        crop_px=args.crop,
        split=Split(val=0.1, block_px=128, buffer_px=2),
        steps=4 * args.steps * (args.rounds + 1),
        threads=args.threads,
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        path = Path(folder) / "cube.zarr"
        chunks = {"time": -1, "band": -1, "y": BLOCK_PX, "x": BLOCK_PX}
        cube.chunk(chunks).to_zarr(path, zarr_format=3, consolidated=False)
        memory = CubeLessons.of(cube, labels, options)
        some = options.model_copy(update={"memory_bytes": cube["reflectance"].nbytes * 3 // 4})
        lessons = {
            "memory": memory,
            "streamed": CubeLessons.of(xr.open_zarr(path, consolidated=False), labels, some),
        }
        module = fresh_network(memory, options, args.crop)
        learner = make_learner(module, memory, options)
        ways: dict[str, Iterator[Batch]] = {
            name: opened.enter_context(drawn_batches(found, 0, learner.group))
            for name, found in lessons.items()
        }
        held = [next(ways["memory"]).to(args.device) for _ in range(8)]
        ways = {"tensors": itertools.cycle(held), **ways}
        report(measured(learner, ways, args.steps, args.rounds), args)


def measured(
    learner: Learner, ways: dict[str, Iterator[Batch]], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Time each way in each round, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    done = 0
    for number in range(rounds + 1):
        for name, batches in ways.items():
            seconds = seconds_of(learner, batches, steps, done)
            done += steps
            if number:
                found[name].append(seconds)
    return found


def report(seconds: dict[str, list[float]], args: argparse.Namespace) -> None:
    """Print a line for each way."""
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{args.threads} thread(s)"
    print(
        f"{args.architecture} {args.config}, {args.precision}, {where}: batches of {args.batch} patches of "
        f"{args.crop} px, {args.dates} dates x {args.bands} bands; {args.rounds} rounds of {args.steps} steps"
    )
    alone = np.array(seconds["tensors"])
    for name, found in seconds.items():
        rate = args.steps * args.batch / np.median(found)
        cost = float(np.median(1 - alone / np.array(found)))
        print(f"{name:<9} {rate:9.1f} images/s   loader cost {cost:6.1%}")


if __name__ == "__main__":
    main()
