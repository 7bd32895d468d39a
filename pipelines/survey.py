"""Survey: what each tile of a map has to do, and what other sizes and ways would mean; nothing is read.

Every tile of the walk is looked at for its scenes and windows. Bytes are counted on all tiles, or, where there
are more than `SAMPLED`, on every n-th along the walk, which goes evenly through the area.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engine.archive.items import ItemTable
from engine.cube.plan import BLOCK_PX
from engine.cube.reading import Archive
from engine.inference.ensemble import halo_px
from engine.runs.estimate import Load, TileSize, TileTimes, Way, WayCost, Workers, choose_way, run_seconds
from engine.values.budget import tile_bytes
from engine.values.grid import TileKey
from engine.values.planes import planes_of
from engine.values.spec import CubeSpec
from pipelines.map_job import MapJob
from pipelines.plan_area import tile_shape
from pipelines.tile_inputs import outline_in

SAMPLED = 2000
"""Tiles on which bytes are counted."""

SIZES_PX = (1024, 2048, 4096, 8192)
"""Tile sizes among which a plan proposes."""

CUBE_COMPRESSED = 0.55
"""Size of staged reflectance against its pixels: Blosc zstd with bit shuffle on simulated composites."""

STORE_WRITE_BYTES_S, STORE_READ_BYTES_S = 150e6, 400e6
"""Staged pixels that a worker writes and reads back, and reads, in a second; measured on a local disk."""

Step = Callable[[int, int, str], None]
"""Told steps done, steps in all, and what was done."""


@dataclass(frozen=True)
class Survey:
    """What the tiles of a job have to do.

    Attributes:
        tiles: Tiles that will be made.
        empty: Tiles of the walk without any scene: no data, at no cost.
        outside: Tiles of the area's box that miss the outline: never visited.
        windows: Windows to evaluate in all tiles.
        sample: The tiles that were counted, in order of the walk.
        loads: What each of them has to do.
        cores_bytes: What each of them would read without a halo.
        sizes: Where the sizes of files come from.
    """

    tiles: int
    empty: int
    outside: int
    windows: int
    sample: tuple[TileKey, ...]
    loads: tuple[Load, ...]
    cores_bytes: tuple[float, ...]
    sizes: str

    @property
    def archive_bytes(self) -> float:
        """Bytes read from the archive by all tiles, halos included."""
        return sum(load.read_bytes for load in self.loads) * self._scale

    @property
    def halo_factor(self) -> float:
        """How much more is read than without halos."""
        once = sum(self.cores_bytes)
        return sum(load.read_bytes for load in self.loads) / once if once else 1.0

    @property
    def _scale(self) -> float:
        return self.tiles / len(self.sample) if self.sample else 0.0


def survey(job: MapJob, archive: Archive, step: Step | None = None) -> Survey:
    """Walk all tiles of a job."""
    walk = job.tiles()
    total, stride = len(walk), max(1, -(-len(walk) // SAMPLED))
    made = empty = windows = 0
    rows: list[tuple[TileKey, Load, float]] = []
    for n, tile in enumerate(walk):
        core = job.core(tile)
        scenes = job.scenes_near(core)
        if scenes is None or not len(scenes):
            empty += 1
            continue
        windows += (n_windows := job.windows(tile))
        if made % stride == 0:
            rows.append(
                (
                    tile,
                    Load(job.bytes_read(archive, scenes, job.outer(core)), n_windows),
                    job.bytes_read(archive, scenes, job.fine(core)),
                )
            )
        made += 1
        if step is not None and n % 100 == 0:
            step(n, total, f"{len(scenes)} scenes")
    if step is not None:
        step(total, total, "")
    return Survey(
        tiles=made,
        empty=empty,
        outside=_tiles_of_box(job) - total,
        windows=windows,
        sample=tuple(tile for tile, _, _ in rows),
        loads=tuple(load for _, load, _ in rows),
        cores_bytes=tuple(once for _, _, once in rows),
        sizes=str(archive.sizes),
    )


def _outline(job: MapJob) -> Any:
    return outline_in(job.run_dir, job.outline, job.grid.crs)


def _tiles_of_box(job: MapJob) -> int:
    box = job.grid.box_of_bounds(_outline(job).bounds).snap_out(job.tile_px)
    return int(box.area_px // job.tile_px**2)


@dataclass(frozen=True)
class Bounds:
    """What a choice of sizes and ways has to keep to.

    Attributes:
        workers: Where the tiles run.
        times: Seconds of a tile, None where nothing was measured.
        steps: Time steps of the cube, and most overpasses in one.
        at_once: Tiles that a worker makes at the same time.
    """

    workers: Workers
    times: TileTimes | None
    steps: tuple[int, int]
    at_once: int = 1


def compare_sizes(job: MapJob, archive: Archive, bounds: Bounds) -> list[TileSize]:
    """Say what other tile sizes would mean, from a sample of their tiles."""
    sizes = sorted({*SIZES_PX, job.tile_px})
    return [_size(replace(job, tile_px=px), archive, bounds) for px in sizes]


def _size(job: MapJob, archive: Archive, bounds: Bounds, sampled: int = 150) -> TileSize:
    walk = job.tiles()
    count = len(walk)
    loads = []
    for tile in itertools.islice(walk, 0, None, max(1, -(-count // sampled))):
        core = job.core(tile)
        scenes = job.scenes_near(core)
        loads.append(
            Load(job.bytes_read(archive, scenes, job.outer(core)), job.windows(tile))
            if scenes is not None and len(scenes)
            else Load(0.0, 0.0)
        )
    busy = [load for load in loads if load.windows]
    tiles = round(count * len(busy) / max(1, len(loads)))
    read = sum(load.read_bytes for load in busy) / max(1, len(busy)) * tiles
    seconds = None
    if bounds.times is not None:
        seconds = run_seconds(bounds.times, busy, bounds.workers, tiles=tiles).middle
    return TileSize(
        job.tile_px, tiles, read, tile_bytes(tile_shape(job, bounds.steps, bounds.at_once))["total"], seconds
    )


@dataclass(frozen=True)
class Ways:
    """What the two ways through the kernels cost.

    Attributes:
        fused: Each tile reads the archive with its halo.
        staged: The cube is written once, and each tile reads it with its halo.
        cube_bytes: Size of cube.zarr, compressed.
    """

    fused: WayCost
    staged: WayCost
    cube_bytes: float


def compare_ways(job: MapJob, seen: Survey, archive: Archive, bounds: Bounds) -> Ways:
    """Cost the two ways. Staged, the archive is read once for each block that a window may look at."""
    once, pixels, tiles = _staged(job, archive, seen)
    n_bands, dates = len(job.spec.bands), bounds.steps[0]
    pixel_bytes = dates * (2 * n_bands + (2 if job.spec.gap_fill else 1)) + _more_bytes(job.spec, dates)
    cube_raw = pixels * pixel_bytes
    read_raw = _halo_pixels(job, seen) * pixel_bytes
    times, slots = bounds.times, bounds.workers.slots
    fused_s = staged_s = None
    if times is not None:
        fused_s = run_seconds(times, seen.loads, bounds.workers, tiles=seen.tiles).middle
        saved = (seen.archive_bytes - once) * times.reading_s_per_byte
        more = tiles * times.coefficients[0] + cube_raw / STORE_WRITE_BYTES_S + read_raw / STORE_READ_BYTES_S
        staged_s = max(0.0, fused_s + (more - saved) / max(1, slots))
    moved = (cube_raw + read_raw) * CUBE_COMPRESSED
    return Ways(
        WayCost(seen.archive_bytes, 0.0, fused_s),
        WayCost(once, moved, staged_s),
        cube_raw * CUBE_COMPRESSED,
    )


def _more_bytes(spec: CubeSpec, dates: int) -> int:
    """Return the bytes of a pixel in a staged cube's floats: indices and radar of each date, layers once."""
    times = {"index": dates, "backscatter": dates, "layer": 1, "reflectance": 0}
    return 4 * sum(times[plane.kind] for plane in planes_of(spec))


def _halo_pixels(job: MapJob, seen: Survey) -> float:
    """Return the pixels that all tiles look at, halos included."""
    areas = [job.outer(job.core(tile)).area_px for tile in seen.sample]
    return sum(areas) / max(1, len(areas)) * seen.tiles


def _staged(job: MapJob, archive: Archive, seen: Survey) -> tuple[float, float, int]:
    """Return bytes read, pixels and tiles of a staged cube: the tiles of the walk, and the halo around them."""
    once = pixels = 0.0
    for tile in seen.sample:
        part = job.fine(job.core(tile)).snap_out(BLOCK_PX) & job.fine(job.box(tile))
        scenes = job.scenes_of(tile)
        pixels += part.area_px
        once += job.bytes_read(archive, scenes, part) if scenes is not None else 0.0
    scale = seen.tiles / max(1, len(seen.sample))
    ring = _ring(job)
    return once * scale * ring, pixels * scale * ring, round(seen.tiles * ring)


def _ring(job: MapJob) -> float:
    """Return by how much the outline grows with a window's halo."""
    halo = halo_px(job.bundle) * max(job.cube_grid.resolution_yx)
    outline = _outline(job)
    return float(outline.buffer(halo).area / outline.area) if outline.area else 1.0


def cheaper_way(job: MapJob, table: ItemTable, steps: tuple[int, int]) -> Way:
    """Choose the way that moves fewer bytes, where nothing was measured."""
    archive = job.archive(table)
    ways = compare_ways(job, survey(job, archive), archive, Bounds(Workers(1), None, steps))
    return choose_way(ways.fused, ways.staged)
