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
import xarray as xr
from dask.base import compute
from numpy.typing import NDArray

from engine.archive.items import ItemTable
from engine.cube.cube import open_cube
from engine.cube.masks import inside_outline
from engine.cube.stored import open_stored
from engine.inference.blend import CONFIDENCE_NO_DATA
from engine.inference.bundle import Bundle
from engine.inference.predict import predict
from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.readable import without_unreadable
from engine.runs.tile import key_of
from engine.store.layout import Dim, StoreSpec, Variable
from engine.store.ledger import Gap, Ledger
from engine.values.area import Area
from engine.values.grid import Box, Grid, TileKey, tiles_over
from engine.values.spec import ENGINE_FORMAT, CubeSpec
from engine.values.tiling import Tiling
from pipelines.cube_job import CubeJob, pipelines_of
from pipelines.tile_inputs import SHARD_MAX_PX, items_in, outline_in, tiling_in


@dataclass(frozen=True)
class MapJob:
    """Map an area tile by tile.

    Attributes:
        run_dir: Run folder with the scenes and the outline.
        grid: Where pixels lie.
        tile_px: Side of a tile in pixels.
        chunk_px: Side of a piece inside a tile; changes no value.
        spec: The cube.
        bundle: The model.
        items: File of the scenes in the run folder.
        outline: File of the outline in the run folder.
        probability: Store the probability of every class.
        cubes: Stages of the cube to read; none reads the archive.
        name: Stage of the ledger and name of the store: ``map``, or ``map-<version>``.
    """

    run_dir: str
    grid: Grid
    tile_px: int
    chunk_px: int
    spec: CubeSpec
    bundle: Bundle
    items: str
    outline: str
    probability: bool = False
    cubes: tuple[CubeJob, ...] = ()
    name: str = "map"

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
            "probability": self.probability,
            **(self._cube_inputs(core) if self.cubes else self._archive_inputs(core)),
        }

    def _archive_inputs(self, core: Box) -> dict[str, Any]:
        """Return what a tile reads from the archive."""
        scenes = self.scenes_near(core)
        return {
            "range": [d.isoformat() for d in scenes.time_range] if scenes is not None else [],
            "scenes": [s.digest() for s in scenes] if scenes is not None else [],
            "proj": pipelines_of(scenes, self.grid.crs),
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
            for tile in tiles_over(self.bundle.lattice.pad(core) & cube.cube_box, cube.tile_px):
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
        ids = frozenset(s.id for s in scenes)
        return without_unreadable(
            tile, ids, lambda gone: self._made(tile, core, scenes.without(gone), threads)
        )

    def _made(self, tile: TileKey, core: Box, scenes: ItemTable | None, threads: int) -> TileOutput:
        """Make a tile from some scenes, or from the staged cube."""
        box = self.box(tile)
        arrays = self._blank(box)
        mapped = predict(self._cube(core, scenes), self.bundle, core=core, probability=self.probability)
        names = [str(n) for n in mapped.data_vars]
        values = compute(*(mapped[n].data for n in names), scheduler="threads", num_workers=threads)
        inside = inside_outline(self._outline(), self.grid, core)
        at = core.slices_in(box)
        for name, value in zip(names, values, strict=True):
            np.copyto(arrays[name][(..., *at)], value, where=inside)
        counts = {
            "windows": self.bundle.lattice.count(core),
            "scenes": 0 if scenes is None else len(scenes),
            "pixels": int((arrays["label"] != 0).sum()),
        }
        return TileOutput(arrays, counts)

    def _cube(self, core: Box, scenes: ItemTable | None) -> xr.Dataset:
        """Open the cube of a tile and its halo."""
        outer, chunks = self.bundle.lattice.pad(core), (self.chunk_px, self.chunk_px)
        if scenes is None:
            return open_stored(
                self.cubes[0].store_url, grid=self.grid, box=outer, chunks_yx=chunks, partial=True
            )
        return open_cube(scenes, self.spec, grid=self.grid, box=outer, chunks_yx=chunks)

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
        flags = {**self.bundle.classes.flag_attributes(), "long_name": "class"}
        share = {"long_name": "probability of the class", "scale": 1 / 250, "units": "1"}
        variables = [
            Variable("label", "uint8", 0, attrs=flags),
            Variable("confidence", "uint8", CONFIDENCE_NO_DATA, attrs=share),
            Variable("observations", "uint8", 0, attrs={"long_name": "clear observations, at most 255"}),
        ]
        if self.probability:
            classes = Dim("class", self.bundle.classes.names, chunk=1)
            variables.append(Variable("probability", "uint8", CONFIDENCE_NO_DATA, (classes,), share))
        chunk = next(c for c in (256, 128, 64, 32, 16) if shard % c == 0)
        return StoreSpec(self.grid, whole, shard, tuple(variables), chunk_px=chunk, title=title)

    def _blank(self, box: Box) -> dict[str, NDArray[np.uint8]]:
        arrays = {
            "label": np.zeros(box.shape_yx, np.uint8),
            "confidence": np.full(box.shape_yx, CONFIDENCE_NO_DATA, np.uint8),
            "observations": np.zeros(box.shape_yx, np.uint8),
        }
        if self.probability:
            shape = (len(self.bundle.classes.values), *box.shape_yx)
            arrays["probability"] = np.full(shape, CONFIDENCE_NO_DATA, np.uint8)
        return arrays

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

    def scenes_among(self, table: ItemTable, tile: TileKey) -> ItemTable:
        """Return those of other scenes that a tile would read."""
        return self._near(table, self.core(tile))

    def _near(self, table: ItemTable, core: Box) -> ItemTable:
        """Keep the scenes that may touch a core and its halo.

        Without composites every scene is a date of the cube, whether it touches this tile or not.
        """
        if self.spec.period is None:
            return table
        return table.in_bounds(self.grid.bounds_of_box(self.bundle.lattice.pad(core)), self.grid.crs)
