"""From a run's settings to its area, its scenes and its cube."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from engine.archive.items import ItemTable
from engine.archive.search import search
from engine.cube.cube import open_cube
from engine.values.area import Area
from engine.values.grid import Box, Grid
from engine.values.spec import CubeSpec
from pipelines.config import AreaConfig, SourceConfig


def area_of(config: AreaConfig) -> Area:
    """Read the outline that a configuration names.

    Raises:
        InputError: If there is no such place or file; suggests close names.
    """
    if config.bbox is not None:
        west, south, east, north = config.bbox
        return Area.from_bbox(config.bbox, name=f"{west:g} to {east:g} E, {south:g} to {north:g} N")
    if config.name is not None:
        return Area.from_name(config.name, file=config.file)
    return Area.from_file(str(config.file))


SLACK_M = 3000.0
"""A tile takes scenes whose footprint comes within 2 km of its bounds (`ItemTable.in_bounds`), at a corner 2.8 km."""


def pad_of(spec: CubeSpec, halo_px: int) -> float:
    """Return the metres around an area in which scenes are searched: the halo, and the slack of footprints.

    So which scenes a tile has does not depend on how far the area goes on beyond it, and a bigger area
    leaves the tiles inside as they are. Without a period each scene is a time step; then there is no slack.
    """
    return halo_px * spec.resolution_m + (SLACK_M if spec.period is not None else 0.0)


def search_scenes(config: SourceConfig, area: Area, *, pad_m: float = 0.0) -> ItemTable:
    """Search the scenes of an area and season, padded outward for the halo; opens no file."""
    return search(
        area,
        config.time,
        config.catalog,
        collection=config.collection,
        max_cloud=config.max_cloud,
        pad_m=pad_m,
        orbits=config.orbits,
    )


def find_scenes(config: SourceConfig, area: Area, *, pad_m: float = 0.0) -> ItemTable:
    """Search scenes and, as the configuration asks, look at their dark pixels (`engine.archive.probe`).

    Everything that makes cubes comes through here, so that training and map decide alike.
    """
    table = search_scenes(config, area, pad_m=pad_m)
    if config.probe == "off":
        return table
    from engine.archive.probe import probe

    return probe(table, config.probe)


def find_radar(config: SourceConfig, area: Area, spec: CubeSpec, *, pad_m: float = 0.0) -> ItemTable | None:
    """Search the radar scenes of the same area and time; None for a cube without radar."""
    if spec.sentinel1 is None:
        return None
    source = config.sentinel1
    return search(area, config.time, source.catalog, collection=source.collection, pad_m=pad_m)


def grid_and_box(area: Area, crs: str | None, resolution_m: float) -> tuple[Grid, Box]:
    """Choose the grid of an area and the box of its outline."""
    grid = Grid.make(crs or area.default_crs(), resolution_m)
    return grid, grid.box_of_bounds(area.to_crs(grid.crs).bounds)


def cube_of(config: SourceConfig, spec: CubeSpec, *, chunk_px: int = 1024) -> xr.Dataset:
    """Open the lazy cube of a configuration's area."""
    area = area_of(config.area)
    grid, box = grid_and_box(area, config.crs, spec.resolution_m)
    scenes, radar = find_scenes(config, area), find_radar(config, area, spec)
    chunks = chunk_px, chunk_px
    return open_cube(scenes, spec, area, grid=grid, box=box, chunks_yx=chunks, sentinel1=radar)


def is_local(url: str) -> bool:
    """Tell a local path from an fsspec URL."""
    return "://" not in url


def folder(url: str) -> Path:
    """Return a local run folder, made if missing."""
    path = Path(url)
    path.mkdir(parents=True, exist_ok=True)
    return path
