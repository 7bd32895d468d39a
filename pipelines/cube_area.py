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


def grid_and_box(area: Area, crs: str | None, resolution_m: float) -> tuple[Grid, Box]:
    """Choose the grid of an area and the box of its outline."""
    grid = Grid.make(crs or area.default_crs(), resolution_m)
    return grid, grid.box_of_bounds(area.to_crs(grid.crs).bounds)


def cube_of(config: SourceConfig, spec: CubeSpec, *, chunk_px: int = 1024) -> xr.Dataset:
    """Open the lazy cube of a configuration's area."""
    area = area_of(config.area)
    grid, box = grid_and_box(area, config.crs, spec.resolution_m)
    scenes = find_scenes(config, area)
    return open_cube(scenes, spec, area, grid=grid, box=box, chunks_yx=(chunk_px, chunk_px))


def is_local(url: str) -> bool:
    """Tell a local path from an fsspec URL."""
    return "://" not in url


def folder(url: str) -> Path:
    """Return a local run folder, made if missing."""
    path = Path(url)
    path.mkdir(parents=True, exist_ok=True)
    return path
