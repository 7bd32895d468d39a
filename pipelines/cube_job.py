"""The staged cube as a tile job: what a tile needs, what it is made of, what it writes.

Which pixels are staged does not depend on the tiles: every fixed block of the grid whose surroundings,
`halo_px` on each side, meet the outline, cut to the area's bounds padded by `halo_px`::

      ┌───────────────────────┐  box: bounds + halo
      │ ▒▒▒▒▒▒▒▒▒▒▒▒          │
      │ ▒▒▒▒████████▒▒▒▒      │  ██ outline
      │ ▒▒▒▒▒▒██████████▒▒    │  ▒▒ blocks that a map of the outline may look at
      │     ▒▒▒▒▒▒██████▒▒    │     blocks left out: no data
      └───────────────────────┘

A tile makes the time steps of its stage only; what an earlier stage wrote is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.archive.items import ItemRecord, ItemTable
from engine.archive.warp import pipeline
from engine.cube.cube import open_cube
from engine.cube.plan import BLOCK_PX
from engine.cube.stored import STORE
from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.readable import without_unreadable
from engine.store.layout import StoreSpec, Variable, open_spec
from engine.store.storespec import TIME
from engine.values.grid import Box, Grid, TileKey
from engine.values.spec import ENGINE_FORMAT, CubeSpec
from engine.values.tiling import Reach, Tiling
from pipelines.tile_inputs import items_in, tiling_in


@dataclass(frozen=True)
class CubeJob:
    """Stage some time steps of a cube tile by tile.

    Attributes:
        run_dir: Run folder with the scenes and the outline.
        grid: Where pixels lie.
        cube_box: Global pixels that the cube covers.
        spec: The cube.
        halo_px: Pixels around the outline that belong to it.
        tile_px: Side of a tile in pixels.
        chunk_px: Side of a piece inside a tile; changes no value.
        steps: First time step of the store that this stage writes, and the one after the last.
        items: File of the scenes in the run folder.
        outline: File of the outline in the run folder.
        radar: File of the radar scenes in the run folder, empty for a cube without radar.
        name: Stage of the ledger.
    """

    run_dir: str
    grid: Grid
    cube_box: Box
    spec: CubeSpec
    halo_px: int
    tile_px: int
    chunk_px: int
    steps: tuple[int, int]
    items: str
    outline: str
    radar: str = ""
    name: str = "cube"

    @classmethod
    def of_plan(cls, run_dir: str, plan: Mapping[str, Any]) -> CubeJob:
        """Return the job of a stage from its frozen plan."""
        config, grid = plan["config"], plan["grid"]
        return cls(
            run_dir=run_dir,
            grid=Grid(grid["crs"], tuple(grid["resolution_yx"]), tuple(grid["anchor_xy"])),
            cube_box=Box(**plan["box"]),
            spec=CubeSpec.model_validate(config["cube"]).model_copy(update={"season": None}),
            halo_px=config["halo_px"],
            tile_px=plan["tile_px"],
            chunk_px=config["chunk_px"],
            steps=tuple(plan["steps"]),
            items=plan["items"],
            outline=plan["outline"],
            radar=plan["radar"] or "",
            name=plan["stage"],
        )

    @property
    def store_url(self) -> str:
        """The Zarr that the tiles are written to."""
        return f"{self.run_dir}/{STORE}"

    def box(self, tile: TileKey) -> Box:
        """Return a tile's pixels."""
        return tile.box(self.tile_px)

    def tiles(self) -> Tiling:
        """Return the tiles that hold a wanted block, along a Z-order curve."""
        reach = Reach(self.cube_box, BLOCK_PX, self.halo_px)
        return tiling_in(self.run_dir, self.outline, self.grid, self.tile_px, reach)

    def blocks(self, tile: TileKey) -> list[Box]:
        """Return the parts of a tile that are staged, one for each wanted block of the grid."""
        return self.tiles().blocks(tile)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        """Return all that decides this tile's bytes, by component."""
        blocks = self.blocks(tile)
        scenes = self._scenes(_around(blocks))
        return {
            "format": ENGINE_FORMAT,
            "grid": [self.grid.crs, self.grid.resolution_yx, self.grid.anchor_xy],
            "tile": [str(tile), self.tile_px],
            "blocks": [[b.y0, b.x0, b.y1, b.x1] for b in blocks],
            "spec": self.spec.digest(),
            "steps": self.steps,
            "range": [d.isoformat() for d in scenes.time_range],
            "scenes": [s.digest() for s in scenes],
            "radar": [s.digest() for s in self._radar_near(_around(blocks))],
            "proj": pipelines_of(scenes, self.grid.crs),
        }

    def needs(self, tile: TileKey) -> tuple[Unit, ...]:
        """A cube is made from the archive alone."""
        return ()

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        """Make one tile's time steps.

        The inner graph runs on this worker's own threads, and its pieces are put straight into place, so
        the tile lies in memory once. Scenes whose files cannot be read are left out and listed; not without
        a period, when a scene left out would be a time step left out: then the tile fails.
        """
        blocks = self.blocks(tile)
        core = _around(blocks)
        near = () if self.spec.period is None else (*self._scenes(core), *self._radar_near(core))
        ids = frozenset(s.id for s in near)
        return without_unreadable(tile, ids, lambda gone: self._made(tile, blocks, threads, gone))

    def _made(self, tile: TileKey, blocks: list[Box], threads: int, gone: frozenset[str]) -> TileOutput:
        """Make a tile's time steps without some scenes."""
        scenes, radar = self._scenes(_around(blocks)).without(gone), self._radar()
        box, core = self.box(tile), _around(blocks)
        wanted = self._variables(open_spec(self.store_url))
        arrays = {v.name: _blank(v, box, self.steps) for v in wanted}
        counts = {"scenes": len(scenes), "steps": self.steps[1] - self.steps[0], "pixels": 0}
        if not len(scenes):
            return TileOutput(arrays, counts, steps=self.steps)
        chunks = (self.chunk_px, self.chunk_px)
        radar = None if radar is None else radar.without(gone)
        cube = open_cube(scenes, self.spec, grid=self.grid, box=core, chunks_yx=chunks, sentinel1=radar)
        _fill(arrays, cube, core.slices_in(box), threads)
        _leave_out(arrays, wanted, box, blocks)
        return TileOutput(arrays, counts | {"pixels": sum(b.area_px for b in blocks)}, steps=self.steps)

    def _variables(self, layout: StoreSpec) -> list[Variable]:
        """Return what this stage writes: arrays without time are made once, by the first."""
        return [v for v in layout.variables if v.grows or self.steps[0] == 0]

    def _scenes(self, core: Box) -> ItemTable:
        """Return the scenes that may touch some pixels.

        Without composites every scene is a time step, whether it touches this tile or not.
        """
        table = items_in(self.run_dir, self.items)
        if self.spec.period is None:
            return table
        return table.in_bounds(self.grid.bounds_of_box(core), self.grid.crs)

    def _radar(self) -> ItemTable | None:
        """Return all radar scenes, None for a cube without radar."""
        return items_in(self.run_dir, self.radar) if self.radar else None

    def _radar_near(self, core: Box) -> Iterable[ItemRecord]:
        radar = self._radar()
        return () if radar is None else radar.in_bounds(self.grid.bounds_of_box(core), self.grid.crs)


def pipelines_of(scenes: ItemTable | None, crs: str) -> dict[str, str]:
    """Return PROJ's transformation from each CRS of some scenes into the grid's."""
    return {source: pipeline(source, crs) for source in sorted({s.crs for s in scenes or ()})}


def _around(blocks: list[Box]) -> Box:
    """Return the smallest box that holds some blocks."""
    rows, cols = [(b.y0, b.y1) for b in blocks], [(b.x0, b.x1) for b in blocks]
    return Box(
        min(a for a, _ in rows), min(a for a, _ in cols), max(b for _, b in rows), max(b for _, b in cols)
    )


def _blank(variable: Variable, box: Box, steps: tuple[int, int]) -> NDArray[Any]:
    """Return a variable's array over a tile, all no data; of time only this stage's steps."""
    lead = (steps[1] - steps[0] if d.name == TIME else len(d.labels) for d in variable.dims)
    return np.full((*lead, *box.shape_yx), variable.no_data, variable.dtype)


def _fill(
    arrays: Mapping[str, NDArray[Any]], cube: xr.Dataset, at: tuple[slice, slice], threads: int
) -> None:
    """Compute a lazy cube into arrays."""
    sources = [da.asarray(cube[name].data) for name in arrays]
    targets = [array[(..., *at)] for array in arrays.values()]
    da.store(sources, targets, lock=False, scheduler="threads", num_workers=threads)


def _leave_out(
    arrays: Mapping[str, NDArray[Any]], variables: list[Variable], box: Box, blocks: list[Box]
) -> None:
    """Set to no data what lies between the wanted blocks."""
    unwanted = np.ones(box.shape_yx, np.bool_)
    for block in blocks:
        unwanted[block.slices_in(box)] = False
    if unwanted.any():
        for variable in variables:
            arrays[variable.name][..., unwanted] = variable.no_data
