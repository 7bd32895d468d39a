"""A run without pixels: what the client, the scheduler and the workers cost a tile as the area grows.

Run::

    python benchmarks/scale.py --places district Luxembourg France Brazil     real outlines at 10 m
    python benchmarks/scale.py --places Brazil --no-arrays
    python benchmarks/scale.py --series 100 1000 10000 100000                 one outline, ever smaller tiles

The real outline, tiling, keys, ledger, lease and store of a map over simulated scenes (one per degree and
month); the tiles' computation is left out. Places write blank tiles of 2048 px. In the series a tile writes
no array at all, because what writing costs is the store's and does not depend on how many tiles there are;
its key, the looks at the lease, the store's opening and its record stay. ``--stop-after`` drains a run after
so many tiles: the first task comes as late, and the client has as much to hold, as if it went on.

Scheduler, workers and client are processes of their own, and each line is a new client, so that CPU and
memory are told apart. Prints per line: tiles; seconds, and CPU seconds of the client, from before the store
is made to the first task; memory of the client at its peak and how much of it came during the run; tasks
and transitions on the scheduler per tile (a task is waiting, processing, in memory, released, forgotten);
CPU per tile of client, scheduler and workers; share of time in which the window of tiles in flight was full.
An idle scheduler takes about 25 ms of CPU a second, which slow tiles pay for too.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import datetime as dt
import json
import math
import os
import pstats
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import shapely
import torch
from distributed import Client

from cluster.local import LocalSpec, start
from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.runs.driver import RunEvent, RunOptions, TileOutput, run_tiles
from engine.store.layout import create
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.grid import Grid, TileKey
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.map_job import MapJob
from pipelines.plan_tiles import walk_of
from pipelines.tile_inputs import put_area, put_items

SERIES_KM = 91.0
"""Radius of the disc of the series: 1e6 tiles of 16 px at 10 m."""


@dataclass(frozen=True)
class NoPixels(MapJob):
    """A map whose tiles are blank."""

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        return TileOutput(self._blank(self.box(tile)), {"pixels": 0})


@dataclass(frozen=True)
class Nothing(MapJob):
    """A map whose tiles write no array."""

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        return TileOutput({}, {"pixels": 0})


def area_of(place: str) -> Area:
    if place == "district":
        return Area.from_bbox((11.0, 48.0, 11.3, 48.2), "district")
    if place == "series":
        return Area("series", shapely.Point(11.0, 48.0).buffer(SERIES_KM / 91.0, quad_segs=5000))
    return Area.from_name(place)


def scenes_over(area: Area) -> ItemTable:
    """One scene per square degree and month."""
    west, south, east, north = (int(v // 1) for v in area.bounds)
    cells = [
        (x, y)
        for x in range(west, east + 1)
        for y in range(south, north + 1)
        if area.geometry.intersects(shapely.box(x, y, x + 1, y + 1))
    ]
    items = [
        ItemRecord(
            id=f"S2_{x}_{y}_{month:02}", collection="sentinel-2-l2a", provider="other",
            datetime=dt.datetime(2023, month, 15, 10, tzinfo=dt.UTC),
            geometry_wkb=shapely.to_wkb(shapely.box(x, y, x + 1, y + 1)), crs="EPSG:32632", tile="",
            datatake=f"S2_{month:02}", platform="sentinel-2a", relative_orbit=1, baseline="05.09", cloud_cover=10.0,
            offset_applied=None, claimed_offset=None,
            assets=tuple(AssetRecord(b, f"s3://none/{x}_{y}_{month}_{b}.tif", 0.0) for b in ("green", "red")),
        )
        for x, y in cells
        for month in range(3, 11)
    ]  # fmt: skip
    return ItemTable(tuple(items), (dt.date(2023, 3, 1), dt.date(2023, 10, 31)))


def bundle_in(folder: Path) -> Bundle:
    torch.manual_seed(0)
    net = build("unet", {"n_dates": 8, "n_bands": 2, "n_classes": 3, "width": 8, "stem": 8, "depth": 2})
    fields = BundleFields(
        name="none", spec=CubeSpec(bands=("green", "red")), n_dates=8,
        classes=ClassScheme.from_names(["a", "b", "c"]), lattice=Lattice(256, 96),
        normalisation=Standard(mean=(0.0, 0.0), std=(1.0, 1.0)),
        temperature=1.0, description="", licence="Apache-2.0", training={},
    )  # fmt: skip
    return save_bundle(folder, net.eval(), "unet", fields)


@dataclass
class Watch:
    """Listens to a run: first task, memory, how long the window was full."""

    limit: int
    stop_after: int
    process: psutil.Process = field(default_factory=psutil.Process)
    first: float = 0.0
    first_cpu: float = 0.0
    peak: int = 0
    events: int = 0
    in_flight: int = 0
    full_s: float = 0.0
    last: float = 0.0

    def __call__(self, event: RunEvent) -> None:
        now = time.perf_counter()
        self.full_s += (now - self.last) * (self.in_flight >= self.limit)
        self.last, self.first, self.first_cpu = now, self.first or now, self.first_cpu or time.process_time()
        self.in_flight += {"submitted": 1, "done": -1}.get(event.kind, 0)
        self.events += 1
        if event.kind == "done" and event.ended == self.stop_after:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: what is in flight ends
        if self.events % 500 == 1:
            self.peak = max(self.peak, self.process.memory_info().rss)


@dataclass(frozen=True)
class Costs:
    """CPU seconds, and what the scheduler has done, so far."""

    client: float
    thread: float
    scheduler: float
    workers: float
    transitions: int
    tasks: int

    @classmethod
    def now(cls, client: Client) -> Costs:
        transitions, tasks = client.run_on_scheduler(_done)
        scheduler, workers = client.run_on_scheduler(_cpu), sum(client.run(_cpu).values())
        return cls(time.process_time(), time.thread_time(), scheduler, workers, transitions, tasks)

    def since(self, before: Costs) -> Costs:
        return Costs(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


def _cpu() -> float:
    return time.process_time()


def _done(dask_scheduler: Any) -> tuple[int, int]:
    handed_out = sum(p.state_counts["processing"] for p in dask_scheduler.task_prefixes.values())
    return dask_scheduler.transition_counter, handed_out


def measure(
    address: str, name: str, place: str, tile_px: int, kind: type[MapJob], stop_after: int
) -> tuple[float, int]:
    """Make one map in a process of its own, print what it cost; give CPU seconds to the first task, peak bytes."""
    process = psutil.Process()
    with Client(address) as client, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        area, bundle = area_of(place), bundle_in(folder / "bundle")
        grid, home = Grid.make(area.default_crs(), 10.0), str(folder)
        scenes, outline = put_items(home, scenes_over(area)), put_area(home, area)
        job = kind(home, grid, tile_px, 1024, bundle.spec, bundle, scenes, outline)
        watch = Watch(sum(client.nthreads().values()) + 1, stop_after)
        before, costs, begun = process.memory_info().rss, Costs.now(client), time.perf_counter()
        begun_cpu = time.process_time()
        create(job.store_url, job.store_spec(area, place))
        plan_bytes = len(json.dumps(walk_of(job.tiles(), outline)))
        with profiled():
            summary = run_tiles(job, client, str(folder), RunOptions(), watch)
        wall, costs = time.perf_counter() - begun, Costs.now(client).since(costs)
        peak, n = max(watch.peak, process.memory_info().rss), max(1, summary.done)
        first_cpu = watch.first_cpu - begun_cpu
        cpu = {k: f"{v / n * 1e3:.2f}" for k, v in asdict(costs).items()}
        print(
            f"{name:10} {summary.done:7}/{summary.total} tiles"
            f"  first task {watch.first - begun:5.2f} s, {first_cpu:.2f} s of CPU"
            f"  client {peak / 2**20:.1f} MiB, of the run {(peak - before) / 2**20:.1f}"
            f"  {costs.tasks / n:.3f} tasks, {costs.transitions / n:.2f} transitions a tile"
            f"  CPU ms a tile: client {cpu['client']} (driver's thread {cpu['thread']}) + scheduler"
            f" {cpu['scheduler']}, workers {cpu['workers']}  wall {wall / n * 1e3:.1f} ms a tile"
            f"  window full {watch.full_s / max(1e-9, watch.last - watch.first):.0%}  plan {plan_bytes} bytes",
            flush=True,
        )
        return first_cpu, peak


@contextlib.contextmanager
def profiled() -> Iterator[None]:
    """Print where the driver's thread spends its time if ``LANDWEAVE_PROFILE`` is set."""
    if "LANDWEAVE_PROFILE" not in os.environ:
        yield
        return
    with cProfile.Profile(time.thread_time) as profile:
        yield
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--places", nargs="*", default=[])
    parser.add_argument("--series", nargs="*", type=int, default=[])
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--no-arrays", action="store_true", help="places write no array, as the series")
    parser.add_argument("--stop-after", type=int, default=0, help="drain each run after so many tiles")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    job = Nothing if args.no_arrays else NoPixels
    stop = args.stop_after
    lines = [(place, place, args.tile, job, stop) for place in args.places]
    lines += [(f"{n:.0e}", "series", side_of(n), Nothing, stop) for n in args.series]
    with start(LocalSpec(n_workers=args.workers, threads_per_worker=1)) as client:
        address, figures = client.scheduler.address, []
        for line in lines:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures.append(pool.submit(measure, address, *line).result())
    for (name, *_), (first, peak) in zip(lines, figures, strict=True):
        print(
            f"{name:10} of {lines[0][0]}: client memory {peak / figures[0][1]:.2f},"
            f" CPU time to first task {first / figures[0][0]:.2f}"
        )


def side_of(tiles: int) -> int:
    """Return the side of a tile in pixels, a multiple of 16, that makes about so many tiles of the series."""
    return max(1, round((math.pi * (SERIES_KM * 100) ** 2 / tiles) ** 0.5 / 16)) * 16


if __name__ == "__main__":
    main()
