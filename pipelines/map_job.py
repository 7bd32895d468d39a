"""The map as a tile job: what a tile needs, what it is made of, what it writes.

Two ways to the same bytes::

    fused    archive ──► cube of tile + halo ──► predict ──► map        reads the halo again for each tile
    staged   archive ──► cube.zarr ──► tile + halo ──► predict ──► map  waits for the cube tiles under its halo

The job itself is small and pickles; the scenes and the outline lie in the run folder and are read once
per worker process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
import xarray as xr
from dask.base import compute
from numpy.typing import NDArray

from engine.archive.items import ItemTable
from engine.cube.cube import open_cube
from engine.cube.masks import inside_outline
from engine.cube.reading import Archive
from engine.cube.stored import open_stored
from engine.inference.decide import Layers
from engine.inference.ensemble import Model, evaluations
from engine.inference.predict import layer_attributes, predict, stacked
from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.readable import without_unreadable
from engine.runs.tile import key_of
from engine.store.layout import Dim, StoreSpec, Variable
from engine.store.ledger import Gap, Ledger
from engine.values.area import Area
from engine.values.grid import Box, Grid, TileKey, tiles_over
from engine.values.head import Augment, Extra
from engine.values.spec import ENGINE_FORMAT, CubeSpec
from engine.values.tiling import Tiling
from pipelines.cube_job import CubeJob, pipelines_of
from pipelines.tile_inputs import SHARD_MAX_PX, items_in, outline_in, tiling_in


@dataclass(frozen=True)
class MapJob:
    """Map an area tile by tile.

    Attributes:
        run_dir: Run folder with the scenes and the outline.
        grid: Where the map's pixels lie; the cube's are finer where the model's output is coarser than its input.
        tile_px: Side of a tile in pixels.
        chunk_px: Side of a piece inside a tile; changes no value.
        spec: The cube.
        bundle: The model, a bundle or an ensemble.
        items: File of the scenes in the run folder.
        outline: File of the outline in the run folder.
        radar: File of the radar scenes in the run folder, empty for a cube without radar.
        layers: What to store beside label and confidence.
        augment: Views in which the network sees each window.
        cubes: Stages of the cube to read; none reads the archive.
        name: Stage of the ledger and name of the store: ``map``, or ``map-<version>``.
        device: Where the network runs: ``cpu``, or the ``cuda`` of the worker. No part of a tile's key, as the
            instruction set of a CPU is none.
    """

    run_dir: str
    grid: Grid
    tile_px: int
    chunk_px: int
    spec: CubeSpec
    bundle: Model
    items: str
    outline: str
    radar: str = ""
    layers: tuple[Extra, ...] = ()
    augment: Augment = "none"
    cubes: tuple[CubeJob, ...] = ()
    name: str = "map"
    device: str = "cpu"

    @property
    def store_url(self) -> str:
        """The Zarr that the tiles are written to."""
        return f"{self.run_dir}/{self.name}.zarr"

    def box(self, tile: TileKey) -> Box:
        """Return a tile's pixels."""
        return tile.box(self.tile_px)

    def tiles(self) -> Tiling:
        """Return the tiles that touch the outline, along a Z-order curve."""
        return tiling_in(self.run_dir, self.outline, self.grid, self.tile_px)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        """Return all that decides this tile's bytes, by component."""
        core = self.core(tile)
        return {
            "format": ENGINE_FORMAT,
            "grid": [self.grid.crs, self.grid.resolution_yx, self.grid.anchor_xy],
            "tile": [str(tile), self.tile_px],
            "outline": hashlib.sha256(self.tiles().part(tile).wkb).hexdigest(),
            "spec": self.spec.digest(),
            "bundle": self.bundle.digest(),
            "layers": list(self.layers),
            "augment": self.augment,
            **(self._cube_inputs(core) if self.cubes else self._archive_inputs(core)),
        }

    @property
    def cube_grid(self) -> Grid:
        """Where the cube's pixels lie."""
        return self.grid.finer(self.stride)

    @property
    def stride(self) -> int:
        """Pixels of the cube per pixel of the map."""
        return self.bundle.stride

    def fine(self, box: Box) -> Box:
        """Return the cube's pixels under some of the map's."""
        f = self.stride
        return Box(box.y0 * f, box.x0 * f, box.y1 * f, box.x1 * f)

    def outer(self, core: Box) -> Box:
        """Return the cube's pixels that some of the map's depend on."""
        return self.bundle.outer(self.fine(core))

    def windows(self, tile: TileKey) -> int:
        """Return how many windows a tile evaluates: those that meet the outline, in all views, of all members."""
        core = self.core(tile)
        if not core:
            return 0
        whole = shapely.box(*self.grid.bounds_of_box(core))
        return self._windows(core, None if self.tiles().part(tile).covers(whole) else self.wanted(core))

    def _windows(self, core: Box, wanted: NDArray[np.bool_] | None) -> int:
        return evaluations(self.bundle, self.fine(core), wanted, self.augment)

    def wanted(self, core: Box) -> NDArray[np.bool_]:
        """Tell which pixels of a core lie in the outline, (y, x) bool."""
        return inside_outline(self._outline(), self.grid, core)

    def _archive_inputs(self, core: Box) -> dict[str, Any]:
        """Return what a tile reads from the archive."""
        scenes = self.scenes_near(core)
        radar = self._radar_near(core)
        return {
            "range": [d.isoformat() for d in scenes.time_range] if scenes is not None else [],
            "scenes": [s.digest() for s in scenes] if scenes is not None else [],
            "proj": pipelines_of(scenes, self.grid.crs),
            **({"radar": [s.digest() for s in radar]} if self.radar else {}),
        }

    def _cube_inputs(self, core: Box) -> dict[str, Any]:
        """Return what a tile reads from the cube: the keys of the tiles under its windows."""
        return {"cube": {str(unit): key_of(cube.inputs(unit.tile)) for cube, unit in self._under(core)}}

    def needs(self, tile: TileKey) -> tuple[Unit, ...]:
        """Name the cube's tiles that lie under this one's windows."""
        return tuple(unit for _, unit in self._under(self.core(tile))) if self.cubes else ()

    def _under(self, core: Box) -> Iterator[tuple[CubeJob, Unit]]:
        if not core:
            return
        for cube in self.cubes:
            for tile in tiles_over(self.outer(core) & cube.cube_box, cube.tile_px):
                if tile in cube.tiles():
                    yield cube, Unit(cube.name, tile)

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        """Make one tile: read with halo, predict on the lattice, cut by the outline.

        Scenes whose files cannot be read are left out of the tile and listed.
        Inner graphs run on this worker's own threads and never go back to the scheduler.
        """
        core = self.core(tile)
        if self.cubes and core:
            return replace(self._made(tile, core, None, threads), gaps=self._gaps_under(tile, core))
        scenes = self.scenes_near(core)
        if scenes is None or not len(scenes):
            return TileOutput(self._blank(self.box(tile)), {"windows": 0, "scenes": 0, "pixels": 0})
        ids = frozenset(s.id for s in (*scenes, *self._radar_near(core)))
        return without_unreadable(tile, ids, lambda gone: self._made(tile, core, scenes, threads, gone))

    def _made(
        self,
        tile: TileKey,
        core: Box,
        scenes: ItemTable | None,
        threads: int,
        gone: frozenset[str] = frozenset(),
    ) -> TileOutput:
        """Make a tile from its scenes but those that are gone, or from the staged cube."""
        scenes = None if scenes is None else scenes.without(gone)
        box = self.box(tile)
        arrays = self._blank(box)
        wanted = self.wanted(core)
        mapped = predict(
            self._cube(core, scenes, gone),
            self.bundle,
            core=self.fine(core),
            layers=self.layers,
            wanted=wanted,
            augment=self.augment,
            device=self.device,
        )
        names = [str(n) for n in mapped.data_vars]
        values = compute(*(mapped[n].data for n in names), scheduler="threads", num_workers=threads)
        at = core.slices_in(box)
        for name, value in zip(names, values, strict=True):
            np.copyto(arrays[name][(..., *at)], value, where=wanted)
        counts = {
            "windows": self._windows(core, wanted),
            "scenes": 0 if scenes is None else len(scenes),
            "pixels": self._with_data(arrays),
        }
        return TileOutput(arrays, counts)

    def _with_data(self, arrays: dict[str, NDArray[Any]]) -> int:
        """Count the pixels that have an answer: all planes of a layer have data at the same ones."""
        name = next(iter(self._layers.slices))
        first = arrays[name] if arrays[name].ndim == 2 else arrays[name][0]
        return int((first != self._layers.no_data(name)).sum())

    def _cube(self, core: Box, scenes: ItemTable | None, gone: frozenset[str]) -> xr.Dataset:
        """Open the cube of a tile and its halo."""
        outer, chunks = self.outer(core), (self.chunk_px, self.chunk_px)
        if scenes is None:
            return open_stored(
                self.cubes[0].store_url, grid=self.cube_grid, box=outer, chunks_yx=chunks, partial=True
            )
        return self.open(scenes, outer, gone)

    def open(self, scenes: ItemTable, box: Box, gone: frozenset[str] = frozenset()) -> xr.Dataset:
        """Open the cube of scenes over some of its pixels, radar beside it where the model sees that.

        Args:
            scenes: Optical scenes.
            box: Pixels of the cube.
            gone: Ids of radar scenes to do without.
        """
        chunks, radar = (self.chunk_px, self.chunk_px), self._radar()
        radar = None if radar is None else radar.without(gone)
        return open_cube(scenes, self.spec, grid=self.cube_grid, box=box, chunks_yx=chunks, sentinel1=radar)

    def _gaps_under(self, tile: TileKey, core: Box) -> tuple[Gap, ...]:
        """Return what the cube under a tile does without: the tile does without it too."""
        found = []
        for cube, unit in self._under(core):
            record = Ledger(self.run_dir, cube.name).done(unit.tile, key_of(cube.inputs(unit.tile)))
            found += [replace(g, tile=str(tile)) for g in (record.gaps if record else ())]
        return tuple(dict.fromkeys(found))

    def store_spec(self, area: Area, title: str) -> StoreSpec:
        """Describe the Zarr of the whole area, grown outward to whole tiles."""
        whole = self.grid.box_of_bounds(area.to_crs(self.grid.crs).bounds).snap_out(self.tile_px)
        shard = min(self.tile_px, SHARD_MAX_PX)
        counts = Variable("observations", "uint8", 0, attrs={"long_name": "clear observations, at most 255"})
        variables = (*(self._variable(name) for name in self._layers.slices), counts)
        chunk = next(c for c in (256, 128, 64, 32, 16) if shard % c == 0)
        return StoreSpec(self.grid, whole, shard, variables, chunk_px=chunk, title=title)

    @property
    def _layers(self) -> Layers:
        return self.bundle.layers(self.layers)

    def _variable(self, name: str) -> Variable:
        """Describe one layer in the store."""
        layers, dim = self._layers, stacked(self.bundle, name)
        dims = (Dim(dim, self.bundle.classes.names, chunk=1),) if dim else ()
        attrs = layer_attributes(self.bundle, name)
        return Variable(name, layers.dtype.name, layers.no_data(name), dims, attrs)

    def _blank(self, box: Box) -> dict[str, NDArray[Any]]:
        layers, arrays = self._layers, {}
        for name, planes in layers.slices.items():
            deep = (planes.stop - planes.start,) if stacked(self.bundle, name) else ()
            arrays[name] = np.full((*deep, *box.shape_yx), layers.no_data(name), layers.dtype)
        return arrays | {"observations": np.zeros(box.shape_yx, np.uint8)}

    def _outline(self) -> Any:
        return outline_in(self.run_dir, self.outline, self.grid.crs)

    def core(self, tile: TileKey) -> Box:
        """Return the part of a tile for which an answer is wanted: the bounds of the outline in it."""
        part = self.tiles().part(tile)
        if part.is_empty:
            return Box(0, 0, 0, 0)
        return self.grid.box_of_bounds(part.bounds) & self.box(tile)

    def covers(self, tile: TileKey) -> bool:
        """Tell whether a tile touches the outline."""
        return bool(self.core(tile))

    def scenes_of(self, tile: TileKey) -> ItemTable | None:
        """Return the scenes that a tile reads from the archive, None for a tile outside the outline."""
        return self.scenes_near(self.core(tile))

    def scenes_near(self, core: Box) -> ItemTable | None:
        """Return the scenes that may touch a core and its halo, None for an empty core."""
        return self._near(items_in(self.run_dir, self.items), core) if core else None

    def _radar(self) -> ItemTable | None:
        """Return all radar scenes, None for a cube without radar."""
        return items_in(self.run_dir, self.radar) if self.radar else None

    def _radar_near(self, core: Box) -> ItemTable | tuple[()]:
        radar = self._radar()
        return () if radar is None or not core else self._near(radar, core)

    def archive(self, table: ItemTable) -> Archive:
        """Say how large the files of the map's scenes are, and of its radar scenes."""
        return Archive((*table.items, *(self._radar() or ())), self.spec, self.cube_grid)

    def bytes_read(self, archive: Archive, scenes: ItemTable, box: Box) -> float:
        """Count what reading pixels of the cube takes; `scenes` are the optical ones near them."""
        radar = self._radar()
        near = () if radar is None else radar.in_bounds(self.cube_grid.bounds_of_box(box), self.grid.crs)
        pieces = max(1, round(max(box.shape_yx) / self.chunk_px))
        return archive.bytes_in((*scenes, *near), box, pieces)

    def scenes_among(self, table: ItemTable, tile: TileKey) -> ItemTable:
        """Return those of other scenes that a tile would read."""
        return self._near(table, self.core(tile))

    def _near(self, table: ItemTable, core: Box) -> ItemTable:
        """Keep the scenes that may touch a core and its halo.

        Without composites every scene is a date of the cube, whether it touches this tile or not.
        """
        if self.spec.period is None:
            return table
        return table.in_bounds(self.cube_grid.bounds_of_box(self.outer(core)), self.grid.crs)
