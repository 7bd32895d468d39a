"""What opening costs on the client: a country's cube, and one tile of it, as the item table grows.

Run: ``python benchmarks/open_speed.py``. The items are made up (10 bands and SCL each, tiles of 110 km in
three UTM zones, 100 dates on each); no pixel is read. Prints seconds, the growth of the peak resident
memory, and for one tile of 2048 px the milliseconds at 500, 5,000 and 50,000 items with their ratio.
Goals: 5,000 items below 5 s and 300 MB; one tile as fast whatever the table holds.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely
from pyproj import Transformer

from engine.archive.items import AssetRecord, ItemRecord, ItemTable
from engine.cube.cube import open_cube
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
SEASON = (dt.date(2023, 3, 1), dt.date(2023, 10, 31))
GRID = Grid.make("EPSG:3035", 10)
TILES, SIDE_M, STEP_M, WEST_M, SOUTH_M = 50, 109_800, 100_000, 4_000_000, 2_500_000


def make(count: int, tiles: int = TILES) -> ItemTable:
    """Lay items on tiles of a country, as many dates on each as it takes."""
    to_degrees = Transformer.from_crs(3035, 4326, always_xy=True)
    outlines = []
    for tile in range(tiles):
        x, y = WEST_M + tile % 10 * STEP_M, SOUTH_M + tile // 10 * STEP_M
        corners = shapely.segmentize(shapely.box(x, y, x + SIDE_M, y + SIDE_M), SIDE_M / 3)
        degrees = shapely.transform(corners, lambda p: np.column_stack(to_degrees.transform(*p.T)))
        outlines.append(shapely.to_wkb(shapely.normalize(degrees), byte_order=1))
    first = dt.datetime(2023, 3, 1, 10, tzinfo=dt.UTC)
    dates = -(-count // tiles)
    items = []
    for index in range(count):
        tile, date = index % tiles, index // tiles
        moment = first + dt.timedelta(seconds=245 * 86400 * date / dates)
        name = f"S2A_{tile:05}_{date:05}"
        base = f"https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/32/T/{name}"
        assets = tuple(AssetRecord(b, f"{base}/{b}.tif", 0.0) for b in sorted((*BANDS, "scl")))
        items.append(
            ItemRecord(
                id=name, collection="sentinel-2-l2a", provider="earth-search", datetime=moment,
                geometry_wkb=outlines[tile], crs=f"EPSG:{32632 + tile % 3}", tile=f"32T{tile:02}",
                datatake=f"GS2A_{moment:%Y%m%dT%H%M%S}_{date:06}", platform="sentinel-2a", relative_orbit=22,
                baseline="05.09", cloud_cover=20.0, offset_applied=True, claimed_offset=-1000.0,
                assets=assets, claimed_scale=1e-4, generated=f"{moment:%Y%m%d%H%M%S}",
            )
        )  # fmt: skip
    return ItemTable(tuple(items), SEASON)


def country(queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """Open a country's cube in a process of its own, where the peak of memory is its own too."""
    spec = CubeSpec(bands=BANDS)
    open_cube(make(50), spec, grid=GRID, box=Box(0, 0, 2048, 2048))  # imports
    items = make(5000)
    box = GRID.box_of_bounds((WEST_M, SOUTH_M, WEST_M + 10 * STEP_M, SOUTH_M + 5 * STEP_M))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    cube = open_cube(items, spec, grid=GRID, box=box, chunks_yx=(2048, 2048))
    took = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    queue.put((took, grown, cube.reflectance.shape, len(cube.reflectance.data.__dask_graph__())))


def table(count: int, folder: Path) -> tuple[ItemTable, float]:
    """Write a table and read it as a worker does, once a process; return it and the milliseconds."""
    path = folder / f"{count}.parquet"
    make(count, count // 100).to_parquet(path)
    start = time.perf_counter()
    items = ItemTable.from_parquet(path)
    return items, (time.perf_counter() - start) * 1000


def one_tile(items: ItemTable) -> tuple[float, float]:
    """Return the milliseconds to find one tile's scenes and to open its cube."""
    corner = GRID.box_of_bounds((WEST_M + 30_000, SOUTH_M + 30_000, WEST_M + 30_010, SOUTH_M + 30_010))
    box = Box(corner.y0, corner.x0, corner.y0 + 2048, corner.x0 + 2048)
    start = time.perf_counter()
    scenes = items.in_bounds(GRID.bounds_of_box(box), GRID.crs)
    middle = time.perf_counter()
    assert len(scenes) == 100
    open_cube(scenes, CubeSpec(bands=BANDS), grid=GRID, box=box)
    return (middle - start) * 1000, (time.perf_counter() - middle) * 1000


def main() -> None:
    """Measure and print."""
    queue: multiprocessing.Queue = multiprocessing.get_context("spawn").Queue()  # type: ignore[type-arg]
    process = multiprocessing.get_context("spawn").Process(target=country, args=(queue,))
    process.start()
    took, grown, shape, tasks = queue.get()
    process.join()
    print(
        f"country: 5000 items, cube {shape}, {tasks} tasks: {took:.2f} s, +{grown:.0f} MB (goals 5 s, 300 MB)"
    )
    with tempfile.TemporaryDirectory() as name:
        tables = {n: table(n, Path(name)) for n in (500, 5000, 50_000)}
    rounds = {n: [] for n in tables}  # type: dict[int, list[tuple[float, float]]]
    for _ in range(15):  # by turns, so that a busy machine is so for all
        for count, (items, _) in tables.items():
            rounds[count].append(one_tile(items))
    print("one tile      scenes    cube    both   ratio | reading the table, once a process")
    best = {n: tuple(min(column) for column in zip(*r, strict=True)) for n, r in rounds.items()}
    for count, (find, opened) in best.items():
        ratio, read = (find + opened) / sum(best[500]), tables[count][1]
        print(
            f"{count:6} items {find:6.1f}  {opened:6.1f}  {find + opened:6.1f} ms {ratio:5.2f} | {read:8.0f} ms"
        )


if __name__ == "__main__":
    main()
