"""GDAL's sieve of a run's map: in one process for the whole map, then tile by tile into the refined store.

::

    map.zarr ──► sieve, strip by strip ──► refined-sieved.zarr ──► tiles: written, read back, recorded

What lies between is removed when every tile has taken its part over. Killed before, the sieve begins again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.refine.source import StoreSource, rows_of
from engine.runs.driver import RunSummary
from engine.runs.tile import key_of
from engine.store.layout import StoreSpec, Variable, create, open_spec
from engine.store.ledger import Ledger, Lookup
from engine.store.objects import local_path
from engine.store.regions import write_region
from engine.store.remote import storage_options
from engine.values.area import Area
from engine.values.grid import Box, TileKey
from pipelines.refine_job import RefineJob
from pipelines.tile_stage import Around, run_jobs


def run_refined(job: RefineJob, area: Area, around: Around) -> tuple[float, RunSummary]:
    """Run a refinement whose plan is frozen; a sieve first makes its answer, if any tile still needs it.

    Returns:
        Surface of the outline in square kilometres, and how the stage ended.
    """
    if job.spec.sieve is not None and _wanted(job, around):
        sieve_map(job)
    km2, (summary,) = run_jobs([job], area, around)
    if summary.exit_code == 0:
        _remove(job.sieved_url)
    return km2, summary


def _wanted(job: RefineJob, around: Around) -> bool:
    """Tell whether some tile will be made."""
    if not around.options.resume:
        return True
    records = Lookup(Ledger(job.run_dir, job.name))
    tiles: Iterable[TileKey] = job.tiles() if around.only is None else around.only
    for tile in tiles:
        record = records.of(tile)
        if record is None or record.gaps or record.key != key_of(job.inputs(tile)):
            return True
    return False


def sieve_map(job: RefineJob) -> None:
    """Sieve a run's map into a store of labels."""
    assert job.spec.sieve is not None  # who calls has looked
    there = open_spec(job.map_url)
    spec = StoreSpec(there.grid, there.box, there.shard_px, (Variable("label", "uint8", 0),), there.chunk_px)
    _remove(job.sieved_url)
    create(job.sieved_url, spec)
    rows = _ShardRows(job.sieved_url, spec)
    read = rows_of(StoreSource(job.map_url, ("label",)), spec.box)
    job.spec.sieve.made(job.around).run(read, rows.write, spec.box.shape_yx)


class _ShardRows:
    """Gathers rows until they fill a row of shards, and writes that."""

    def __init__(self, url: str, spec: StoreSpec) -> None:
        self.url, self.box, self.height = url, spec.box, spec.shard_px
        self.rows = np.zeros((self.height, spec.box.shape_yx[1]), np.uint8)
        self.filled = self.done = 0

    def write(self, y0: int, rows: NDArray[Any]) -> None:
        """Take the next rows; the box is whole shards, so that the last one fills a row of shards too."""
        while len(rows):
            part = rows[: self.height - self.filled]
            self.rows[self.filled : self.filled + len(part)] = part
            self.filled, rows = self.filled + len(part), rows[len(part) :]
            if self.filled == self.height:
                top = self.box.y0 + self.done
                for x0 in range(self.box.x0, self.box.x1, self.height):
                    shard = Box(top, x0, top + self.height, x0 + self.height)
                    at = slice(x0 - self.box.x0, x0 - self.box.x0 + self.height)
                    write_region(self.url, shard, {"label": self.rows[:, at]})
                self.done, self.filled = self.done + self.height, 0


def _remove(url: str) -> None:
    """Remove a store, if it is there."""
    if (path := local_path(url)) is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    from fsspec.core import url_to_fs

    files, path_there = url_to_fs(url, **storage_options(url))
    if files.exists(path_there):
        files.rm(path_there, recursive=True)
