"""The refined map as a tile job: what a tile needs, what it is made of, what it writes.

::

    map.zarr ──► tile + reach of the steps ──► steps, block by block ──► refined.zarr: label, confidence, changed,
                                                                         and the map's other flat layers as they are

A tile's key holds the keys of the map's tiles within reach, so it is made again exactly when one of them is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.cube.masks import inside_outline
from engine.refine.around import Around
from engine.refine.chain import (
    CHANGED,
    CHANGED_NO_DATA,
    Chain,
    RefineSpec,
    finished,
)
from engine.refine.source import StoreSource, beside
from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.tile import key_of
from engine.store.layout import StoreSpec, Variable, open_spec
from engine.store.ledger import Gap, Ledger, Lookup, TileRecord
from engine.store.regions import read_region
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid, TileKey, tiles_over
from engine.values.spec import ENGINE_FORMAT
from engine.values.tiling import Tiling
from pipelines.run_folder import MAP
from pipelines.tile_inputs import SHARD_MAX_PX, outline_in, tiling_in

if TYPE_CHECKING:  # workers that refine a map that is there need no torch
    from pipelines.map_job import MapJob

REFINED = "refined"
BLOCK_PX = 2048
"""Side of a block of a tile that is made at once, in pixels; changes no value."""

MISSING = "missing"
"""Kind of the gap of a refined tile beside which a tile of the map is missing."""


def refined_stage(map_stage: str) -> str:
    """Name the stage that refines a map.

    >>> refined_stage("map"), refined_stage("map-b")
    ('refined', 'refined-b')
    """
    return f"{REFINED}{map_stage.removeprefix(MAP)}"


@dataclass(frozen=True)
class RefineJob:
    """Refine a map tile by tile.

    Attributes:
        run_dir: Run folder with the map and the outline.
        grid: Where pixels lie.
        tile_px: Side of a tile in pixels.
        spec: The steps.
        digest: Hash of the steps and of the files that they read.
        scheme: The map's classes.
        outline: File of the outline in the run folder.
        map_stage: Stage of the map that is refined; its store has this name.
        map_tile_px: Side of the map's tiles.
        epoch: The lease's epoch: while it holds, the map's records change only as this run changes them.
        whole: Hash of all of the map's records, for a sieve, whose answer depends on all of it; else empty.
        map: The map's own job where the same run makes the map; None where it is there already.
        block_px: Side of a block that is made at once.
    """

    run_dir: str
    grid: Grid
    tile_px: int
    spec: RefineSpec
    digest: str
    scheme: ClassScheme
    outline: str
    map_stage: str
    map_tile_px: int
    epoch: int
    whole: str = ""
    map: MapJob | None = None
    block_px: int = BLOCK_PX

    def __getstate__(self) -> dict[str, Any]:  # what was looked up stays behind
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    @property
    def name(self) -> str:
        """Name of the stage: ``refined``, or ``refined-<version>`` of the map."""
        return refined_stage(self.map_stage)

    @property
    def store_url(self) -> str:
        """The Zarr that the tiles are written to."""
        return f"{self.run_dir}/{self.name}.zarr"

    @property
    def map_url(self) -> str:
        """The map's Zarr."""
        return f"{self.run_dir}/{self.map_stage}.zarr"

    @property
    def sieved_url(self) -> str:
        """Where a sieve's answer lies until the tiles have taken it over."""
        return f"{self.run_dir}/{self.name}-sieved.zarr"

    def box(self, tile: TileKey) -> Box:
        """Return a tile's pixels."""
        return tile.box(self.tile_px)

    def tiles(self) -> Tiling:
        """Return the tiles that touch the outline, along a Z-order curve."""
        return tiling_in(self.run_dir, self.outline, self.grid, self.tile_px)

    def core(self, tile: TileKey) -> Box:
        """Return the part of a tile that the outline's bounds touch."""
        part = self.tiles().part(tile)
        if part.is_empty:
            return Box(0, 0, 0, 0)
        return self.grid.box_of_bounds(part.bounds) & self.box(tile)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        """Return all that decides this tile's bytes, by component."""
        return {
            "format": ENGINE_FORMAT,
            "grid": [self.grid.crs, self.grid.resolution_yx, self.grid.anchor_xy],
            "tile": [str(tile), self.tile_px],
            "steps": self.digest,
            "classes": self.scheme.digest(),
            "map": self.whole or {str(near): self._key(near) for near in self._near(tile)},
        }

    def needs(self, tile: TileKey) -> tuple[Unit, ...]:
        """Name the map's tiles within reach, where this run makes them."""
        return () if self.map is None else tuple(Unit(self.map_stage, near) for near in self._near(tile))

    def _near(self, tile: TileKey) -> Iterator[TileKey]:
        """Yield the map's tiles that can change something in one of these."""
        core = self.core(tile)
        tiles = tiling_in(self.run_dir, self.outline, self.grid, self.map_tile_px)
        yield from (near for near in tiles_over(self._within(core), self.map_tile_px) if near in tiles)

    def _within(self, core: Box) -> Box:
        """Return the pixels that steps may look at for some."""
        return core.pad(self.chain.reach_px) if core else core

    def _key(self, tile: TileKey) -> str:
        """Return the key of one of the map's tiles, empty where it is not there and this run does not make it."""
        if self.map is not None:
            return self._keys(tile)
        record = self._record(tile)
        return "" if record is None else record.key

    @functools.cached_property
    def _keys(self) -> Any:
        job = self.map
        assert job is not None  # who asks has looked
        return functools.lru_cache(maxsize=4096)(lambda tile: key_of(job.inputs(tile)))

    def _record(self, tile: TileKey) -> TileRecord | None:
        """Return the record of one of the map's tiles."""
        if self.map is None:
            return self._records.of(tile)
        return Ledger(self.run_dir, self.map_stage).done(tile, self._keys(tile))

    @functools.cached_property
    def _records(self) -> Lookup:
        return Lookup(Ledger(self.run_dir, self.map_stage))

    @property
    def chain(self) -> Chain:
        """The steps, made for this map."""
        return self._chain

    @functools.cached_property
    def _chain(self) -> Chain:
        return self.spec.made(self.around)

    @property
    def around(self) -> Around:
        """What the steps are told of the map."""
        bounds = outline_in(self.run_dir, self.outline, self.grid.crs).bounds
        return Around.of(self.scheme, self.grid, self.grid.box_of_bounds(bounds), self.inside)

    def inside(self, box: Box) -> NDArray[np.bool_]:
        """Tell which pixels of a box lie in the outline, (y, x) bool."""
        return inside_outline(outline_in(self.run_dir, self.outline, self.grid.crs), self.grid, box)

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        """Refine one tile, block by block, with at most so many threads."""
        box, core = self.box(tile), self.core(tile)
        arrays = {
            v.name: np.full(box.shape_yx, v.no_data, v.dtype) for v in open_spec(self.store_url).variables
        }
        if core:
            self._fill(arrays, box, core, threads)
        return TileOutput(arrays, self._counts(arrays), gaps=tuple(self._gaps(tile)))

    def _fill(self, arrays: Mapping[str, NDArray[Any]], box: Box, core: Box, threads: int) -> None:
        source = StoreSource(self.map_url, self.spec.reads, self._within(core))
        refined = self.chain.over(source)
        if self.spec.sieve is not None:
            refined = beside(source, StoreSource(self.sieved_url, ("label",)))

        def make(block: Box) -> None:
            layers, at = finished(refined(block)), block.slices_in(box)
            for name in arrays.keys() & layers.keys():
                arrays[name][at] = layers[name]

        blocks = list(core.blocks(self.block_px))
        if threads > 1 and len(blocks) > 1:
            with ThreadPoolExecutor(threads, "landweave-refine") as pool:
                list(pool.map(make, blocks))
        else:
            for block in blocks:
                make(block)
        kept = [n for n in arrays if n not in (*source.names, CHANGED)]
        for name, values in read_region(self.map_url, core, kept).items():
            arrays[name][core.slices_in(box)] = values

    def _counts(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Count the pixels that have a class, and those that each step was the last to change."""
        found = np.bincount(arrays[CHANGED].ravel(), minlength=256)[:CHANGED_NO_DATA]
        steps = {name: int(found[number]) for number, name in enumerate(self.spec.names, 1)}
        pixels = int(np.count_nonzero(arrays["label"]))
        return {"pixels": pixels, "changed": int(found[1:].sum()), **steps}

    def _gaps(self, tile: TileKey) -> Iterator[Gap]:
        """Yield what the map's tiles within reach do without, once each: this tile does without it too."""
        seen: set[Gap] = set()
        for near in self._near(tile):
            record = self._record(near)
            gaps = [_missing(self.map_stage, near)] if record is None else record.gaps
            for gap in (replace(g, tile=str(tile)) for g in gaps):
                if gap not in seen:
                    seen.add(gap)
                    yield gap

    def store_spec(self, title: str) -> StoreSpec:
        """Describe the Zarr: the map's own layers but for those of each class, and what was changed."""
        there = open_spec(self.map_url)
        bounds = outline_in(self.run_dir, self.outline, self.grid.crs).bounds
        whole = self.grid.box_of_bounds(bounds).snap_out(self.tile_px)
        shard = min(self.tile_px, SHARD_MAX_PX)
        chunk = next(c for c in (256, 128, 64, 32, 16) if shard % c == 0)
        kept = (v for v in there.variables if not v.dims)
        changed = Variable(CHANGED, "uint8", CHANGED_NO_DATA, attrs=self.spec.changed_attributes())
        return StoreSpec(self.grid, whole, shard, (*kept, changed), chunk_px=chunk, title=title)


def _missing(stage: str, tile: TileKey) -> Gap:
    return Gap(
        "", "", f"{stage} {tile}", MISSING, "the map has no such tile yet: its pixels count as no data"
    )
