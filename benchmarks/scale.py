"""A run without pixels: what the client, the scheduler and each tile cost as the area grows.

Run: ``python benchmarks/scale.py [--places district Luxembourg France Brazil] [--tile 2048] [--workers 2]``.
The real outline, tiling, keys, ledger, lease and store of a map at 10 m over simulated scenes (one per
degree and month); the tiles' computation is left out and blank tiles are written. Prints per place: tiles,
seconds to the first task, memory that the client grew by, scheduler tasks and milliseconds per tile.
"""

from __future__ import annotations

import argparse
import datetime as dt
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import shapely
import torch
from distributed import Client, LocalCluster

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
from pipelines.tile_inputs import write_inputs


@dataclass(frozen=True)
class NoPixels(MapJob):
    """A map whose tiles are blank."""

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        return TileOutput(self._blank(self.box(tile)), {"pixels": 0})


def area_of(place: str) -> Area:
    if place == "district":
        return Area.from_bbox((11.0, 48.0, 11.3, 48.2), "district")
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


def measure(place: str, tile_px: int, client: Client, folder: Path) -> None:
    process = psutil.Process()
    area, bundle = area_of(place), bundle_in(folder / "bundle")
    grid = Grid.make(area.default_crs(), 10.0)
    job = NoPixels(str(folder), grid, tile_px, 1024, bundle.spec, bundle)
    table = scenes_over(area)
    write_inputs(folder, area, table)
    create(job.store_url, job.store_spec(area, place))
    scheduler = psutil.Process(client.run_on_scheduler(lambda: __import__("os").getpid()))
    before = process.memory_info().rss, scheduler.memory_info().rss
    tasks = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
    begun, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
    peak, first, in_flight, full = [before[0]], [0.0], [0], [0]

    def listen(event: RunEvent) -> None:
        if event.kind == "submitted" and not first[0]:
            first[0] = time.perf_counter() - begun
        in_flight[0] += {"submitted": 1, "done": -1}.get(event.kind, 0)
        full[0] += event.kind == "done" and in_flight[0] >= 2
        if event.ended % 500 == 0:
            peak[0] = max(peak[0], process.memory_info().rss)

    summary = run_tiles(job, client, str(folder), RunOptions(), listen)
    peak[0] = max(peak[0], process.memory_info().rss)
    wall, cpu = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - cpu
    counter = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
    grown = scheduler.memory_info().rss - before[1]
    n = max(1, summary.done)
    print(
        f"{place:12} {summary.total:7} tiles  first task {first[0]:5.2f} s  client +{(peak[0] - before[0]) >> 20} MiB"
        f"  scheduler +{grown >> 20} MiB  {(counter - tasks) / n:.2f} transitions a tile"
        f"  client CPU {cpu / n * 1e3:.2f} ms a tile  wall {wall / n * 1e3:.1f} ms a tile"
        f"  window full {full[0] / n:.0%}  scenes {len(table)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", nargs="+", default=["district", "Luxembourg", "France"])
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with (
        LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for place in args.places:
            with tempfile.TemporaryDirectory() as folder:
                measure(place, args.tile, client, Path(folder))


if __name__ == "__main__":
    main()
