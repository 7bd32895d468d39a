"""What a cube's staging means before it runs: its settings, grid, box, layout and cost."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.archive.items import ItemTable
from engine.archive.search import parse_time
from engine.cube.cube import open_cube
from engine.cube.plan import plan_cube
from engine.cube.stored import STORE, dataset_attrs, store_spec
from engine.store.layout import StoreSpec
from engine.store.objects import absolute
from engine.store.storespec import TIME
from engine.values.area import Area
from engine.values.budget import GIB, CubeTileShape, cube_tile_bytes
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec
from pipelines.config import CubeConfig, RunConfig, parse_config, read_yaml
from pipelines.cube_area import area_of, find_radar, find_scenes, grid_and_box, pad_of
from pipelines.plan_area import bundle_of, reading_of, spec_of, summarise_scenes, tiles_at_once
from pipelines.tile_inputs import SHARD_MAX_PX


def load_cube_config(path: str | Path, overrides: list[str] | None = None) -> CubeConfig:
    """Read a cube's YAML, or a map's: then the cube is the one that its bundle needs, halo included.

    Raises:
        InputError: If the file is missing or a field is wrong; names every field at once.
    """
    raw = read_yaml(path, overrides, paths=("bundle", "out"))
    if "bundle" not in raw:
        return parse_config(raw, str(path), CubeConfig)
    halo = {k: raw.pop(k) for k in ("halo_px",) if k in raw}
    run = parse_config(raw, str(path), RunConfig)
    return cube_config_of(run, **halo)


def cube_config_of(run: RunConfig, halo_px: int | None = None) -> CubeConfig:
    """Return the staging of the cube that a map needs."""
    from engine.inference.ensemble import halo_px as halo_of

    bundle = bundle_of(run)
    shared = {name: getattr(run, name) for name in CubeConfig.model_fields if name in RunConfig.model_fields}
    halo = halo_of(bundle) if halo_px is None else halo_px
    return CubeConfig(**shared | {"cube": spec_of(run, bundle), "halo_px": halo})


@dataclass(frozen=True)
class Asked:
    """A configuration with what follows from it.

    Attributes:
        config: The settings.
        run_dir: Run folder.
        area: Outline.
        spec: The cube, without a season.
        grid: Where pixels lie.
        box: Global pixels of the area's bounds and the halo.
    """

    config: CubeConfig
    run_dir: str
    area: Area
    spec: CubeSpec
    grid: Grid
    box: Box

    @property
    def url(self) -> str:
        """The store."""
        return f"{self.run_dir}/{STORE}"

    @property
    def pad_m(self) -> float:
        """Metres around the area in which scenes are searched."""
        return pad_of(self.spec, self.config.halo_px)

    @property
    def days(self) -> tuple[dt.date, dt.date]:
        """First and last day asked for."""
        return parse_time(self.config.time)

    @property
    def days_text(self) -> tuple[str, str]:
        """The same as ISO 8601."""
        first, last = self.days
        return first.isoformat(), last.isoformat()


def ask(config: CubeConfig) -> Asked:
    """Read the area and choose grid and box."""
    area, spec = area_of(config.area), config.cube.model_copy(update={"season": None})
    grid, box = grid_and_box(area, config.crs, spec.resolution_m)
    return Asked(config, absolute(config.out), area, spec, grid, box.pad(config.halo_px))


@dataclass(frozen=True)
class Scenes:
    """What a search found.

    Attributes:
        items: Optical scenes.
        radar: Radar scenes, None for a cube without radar.
    """

    items: ItemTable
    radar: ItemTable | None

    @classmethod
    def find(cls, config: CubeConfig, asked: Asked) -> Scenes:
        """Search the scenes of a configuration's time."""
        items = find_scenes(config, asked.area, pad_m=asked.pad_m)
        return cls(items, find_radar(config, asked.area, asked.spec, pad_m=asked.pad_m))


def layout_of(asked: Asked, scenes: Scenes) -> tuple[StoreSpec, dict[str, Any]]:
    """Read the store's layout and the attributes off the lazy cube; nothing of it is read."""
    some = Box(asked.box.y0, asked.box.x0, asked.box.y0 + 1, asked.box.x0 + 1)
    cube = open_cube(scenes.items, asked.spec, grid=asked.grid, box=some, sentinel1=scenes.radar)
    tile_px = asked.config.tile_px
    shard = min(tile_px, SHARD_MAX_PX)
    layout = store_spec(cube, asked.grid, asked.box.snap_out(tile_px), shard, asked.area.name)
    return layout, dataset_attrs(cube)


def tile_shape(asked: Asked, layout: StoreSpec, scenes: Scenes) -> CubeTileShape:
    """Gather what decides the memory of a tile."""
    config, radar = asked.config, asked.spec.sentinel1
    passes = _most_at_once(asked, scenes.radar) if scenes.radar is not None else 0
    sizes = [(v.dims, np.dtype(v.dtype).itemsize) for v in layout.variables]
    whole = [size * math.prod(len(d.labels) for d in dims) for dims, size in sizes]
    steps = [size * math.prod(d.chunk_len for d in dims) for dims, size in sizes]
    return CubeTileShape(
        tile=Box(0, 0, config.tile_px, config.tile_px),
        reading=reading_of(config.cube, _most_at_once(asked, scenes.items), config.chunk_px),
        pixel_bytes=sum(whole),
        step_bytes=max(steps),
        series_bytes=_series_bytes(asked, layout),
        features=config.cube.features is not None,
        shard_px=layout.shard_px,
        at_once=tiles_at_once(config.cluster),
        radar_bytes=4 * (passes + 3) * len(radar.polarisations) if radar is not None else 0,
    )


def _series_bytes(asked: Asked, layout: StoreSpec) -> int:
    """Return the bytes of a pixel's reflectance in all dates, if its gaps are filled."""
    filled = asked.spec.gap_fill is not None
    return 2 * len(asked.spec.bands) * len(layout.dims[TIME].labels) * filled


def _most_at_once(asked: Asked, table: ItemTable) -> int:
    """Return the largest number of overpasses in one time step."""
    spec = asked.spec.model_copy(update={"mask": ()})  # radar scenes have nothing that a mask reads
    return max(len(s.groups) for s in plan_cube(table, spec, asked.grid).steps)


def plan_staging(config: CubeConfig) -> dict[str, Any]:
    """Search, and say what staging the cube needs before it runs."""
    asked = ask(config)
    scenes = Scenes.find(config, asked)
    layout, _ = layout_of(asked, scenes)
    shape = tile_shape(asked, layout, scenes)
    outer = asked.box.snap_out(config.tile_px)
    height, width = asked.box.shape_yx
    return {
        **summarise_scenes(scenes.items),
        "time steps": len(layout.dims[TIME].labels),
        "variables": ", ".join(a.name for a in layout.arrays),
        "pixels": f"{width} x {height}, halo of {config.halo_px} included",
        "tiles": f"at most {outer.area_px // config.tile_px**2}",
        "memory a worker": f"{cube_tile_bytes(shape)['total'] / GIB:.2f} GiB",
        "cube, before compression": f"{shape.pixel_bytes * asked.box.area_px / GIB:.3f} GiB",
    }
