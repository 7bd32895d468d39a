"""The map as a tile job: what a tile needs, what it is made of, what it writes.

The job itself is small and pickles; the scenes and the outline lie in the run folder and are read once
per worker process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import compute
from numpy.typing import NDArray

from engine.archive.items import ItemTable
from engine.cube.cube import open_cube
from engine.cube.masks import inside_outline
from engine.inference.blend import CONFIDENCE_NO_DATA
from engine.inference.bundle import Bundle
from engine.inference.predict import predict
from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.readable import without_unreadable
from engine.store.layout import Dim, StoreSpec, Variable
from engine.values.area import Area
from engine.values.grid import Box, Grid, TileKey
from engine.values.spec import ENGINE_FORMAT, CubeSpec
from engine.values.tiling import Tiling
from pipelines.tile_inputs import ITEMS_FILE, SHARD_MAX_PX, items_in, outline_in, tiling_in

STORE = "map.zarr"


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
        probability: Store the probability of every class.
    """

    run_dir: str
    grid: Grid
    tile_px: int
    chunk_px: int
    spec: CubeSpec
    bundle: Bundle
    probability: bool = False
    name: str = "map"

    @property
    def store_url(self) -> str:
        """The Zarr that the tiles are written to."""
        return f"{self.run_dir}/{STORE}"

    def box(self, tile: TileKey) -> Box:
        """Return a tile's pixels."""
        return tile.box(self.tile_px)

    def tiles(self) -> Tiling:
        """Return the tiles that touch the outline, along a Z-order curve."""
        return tiling_in(self.run_dir, self.grid, self.tile_px)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        """Return all that decides this tile's bytes, by component."""
        core = self._core(tile)
        scenes = self._scenes(core) if core else None
        return {
            "format": ENGINE_FORMAT,
            "grid": [self.grid.crs, self.grid.resolution_yx, self.grid.anchor_xy],
            "tile": [str(tile), self.tile_px],
            "outline": hashlib.sha256(self.tiles().part(tile).wkb).hexdigest(),
            "spec": self.spec.digest(),
            "bundle": self.bundle.digest(),
            "probability": self.probability,
            "range": [d.isoformat() for d in scenes.time_range] if scenes is not None else [],
            "scenes": [s.digest() for s in scenes] if scenes is not None else [],
        }

    def needs(self, tile: TileKey) -> tuple[Unit, ...]:
        """Name the tiles of earlier stages that this one reads."""
        return ()

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        """Make one tile: read with halo, predict on the lattice, cut by the outline.

        Scenes whose files cannot be read are left out of the tile and listed.
        Inner graphs run on this worker's own threads and never go back to the scheduler.
        """
        core = self._core(tile)
        scenes = self._scenes(core) if core else None
        if scenes is None or not len(scenes):
            return TileOutput(self._blank(self.box(tile)), {"windows": 0, "scenes": 0, "pixels": 0})
        ids = frozenset(s.id for s in scenes)
        return without_unreadable(
            tile, ids, lambda gone: self._made(tile, core, scenes.without(gone), threads)
        )

    def _made(self, tile: TileKey, core: Box, scenes: ItemTable, threads: int) -> TileOutput:
        """Make a tile from some scenes."""
        box = self.box(tile)
        arrays = self._blank(box)
        outer = self.bundle.lattice.pad(core)
        chunks = (self.chunk_px, self.chunk_px)
        cube = open_cube(scenes, self.spec, grid=self.grid, box=outer, chunks_yx=chunks)
        mapped = predict(cube, self.bundle, core=core, probability=self.probability)
        names = [str(n) for n in mapped.data_vars]
        values = compute(*(mapped[n].data for n in names), scheduler="threads", num_workers=threads)
        inside = inside_outline(self._outline(), self.grid, core)
        at = core.slices_in(box)
        for name, value in zip(names, values, strict=True):
            np.copyto(arrays[name][(..., *at)], value, where=inside)
        counts = {
            "windows": self.bundle.lattice.count(core),
            "scenes": len(scenes),
            "pixels": int((arrays["label"] != 0).sum()),
        }
        return TileOutput(arrays, counts)

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
        return outline_in(self.run_dir, self.grid.crs)

    def _core(self, tile: TileKey) -> Box:
        """Return the part of a tile for which an answer is wanted: the bounds of the outline in it."""
        part = self.tiles().part(tile)
        if part.is_empty:
            return Box(0, 0, 0, 0)
        return self.grid.box_of_bounds(part.bounds) & self.box(tile)

    def _scenes(self, core: Box) -> ItemTable:
        """Return the scenes that may touch the core and its halo.

        Without composites every scene is a date of the cube, whether it touches this tile or not.
        """
        table = items_in(self.run_dir, ITEMS_FILE)
        if self.spec.period is None:
            return table
        return table.in_bounds(self.grid.bounds_of_box(self.bundle.lattice.pad(core)), self.grid.crs)
