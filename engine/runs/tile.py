"""What a worker does for one tile: compute, write, read back, record. In this order, always.

A tile counts as done when its record is there. Older records go before the pixels are touched; the new
one comes after the read-back, the read-back after the write; and before both the write and the record the
worker makes sure that its run still holds the folder. Killed anywhere in between, the tile is simply done
again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from numpy.typing import NDArray

from engine.runs.machine import Unit
from engine.runs.meter import PeakMemory
from engine.store import lease
from engine.store.ledger import Gap, Ledger, TileRecord
from engine.store.refusals import refusals
from engine.store.regions import read_back, write_region
from engine.values.grid import Box, TileKey
from engine.values.spec import ENGINE_FORMAT


@dataclass(frozen=True)
class TileOutput:
    """What a tile's computation gives.

    Attributes:
        arrays: Variable to array (extra dims..., y, x) over the tile's box.
        counts: Free numbers for the record, e.g. windows, pixels, items.
        gaps: What the tile had to do without.
        steps: Steps of the store's time axis that the arrays cover, None for all.
    """

    arrays: Mapping[str, NDArray[Any]]
    counts: Mapping[str, float]
    gaps: tuple[Gap, ...] = ()
    steps: tuple[int, int] | None = None


class TileList(Protocol):
    """The tiles of a job: counted, and walked as often as wanted."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[TileKey]: ...


class TileJob(Protocol):
    """Something that is made tile by tile. It travels to the workers, so it is small and pickles."""

    @property
    def name(self) -> str:
        """Name of the stage, e.g. ``map``: names the ledger's folder."""

    @property
    def store_url(self) -> str:
        """The store that the tiles are written to; every worker must reach it."""

    def tiles(self) -> TileList:
        """Return all tiles, neighbours close together; a walk need not hold them all."""

    def inputs(self, tile: TileKey) -> Mapping[str, Any]:
        """Return everything that the tile's pixels depend on, as JSON values by component.

        The sha256 over it is the tile's key; the components tell why a tile is made again.
        """

    def needs(self, tile: TileKey) -> Iterable[Unit]:
        """Name the tiles of earlier stages that must be there before."""

    def box(self, tile: TileKey) -> Box:
        """Return the pixels that the tile writes: whole shards, cut to the store's box."""

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        """Make the tile's arrays with at most so many threads."""


@dataclass(frozen=True)
class TileTask:
    """One attempt at one tile.

    Attributes:
        tile: Which tile.
        attempt: 1 for the first try.
        run_dir: The run's folder.
        epoch: The lease's epoch under which the tile was handed out.
        threads: Threads that the tile may use.
        redo: Make it even if an earlier run recorded it.
    """

    tile: TileKey
    attempt: int
    run_dir: str
    epoch: int
    threads: int = 1
    redo: bool = False


def execute_tile(job: TileJob, task: TileTask) -> TileRecord:
    """Do everything for one tile on the worker that runs this.

    Returns:
        The record that stands in the ledger, a few hundred bytes.

    Raises:
        ConflictError: If another run took the folder over.
        InputError: If the arrays do not fit the store.
        RefusedError: If the disk is full, or the store may not be written to.
        DataError: If the store gives back other bytes than were written.
    """
    try:
        return _execute(job, task)
    except Exception as error:
        error.add_note(f"{_ON}{_worker_name()}")  # Dask does not tell the client who raised it
        raise


def _execute(job: TileJob, task: TileTask) -> TileRecord:
    ledger, begun = Ledger(task.run_dir, job.name), time.monotonic()
    lease.check(task.run_dir, task.epoch)
    inputs = job.inputs(task.tile)
    key = key_of(inputs)
    standing = ledger.done(task.tile, key)
    if standing is not None and (not task.redo or standing.epoch == task.epoch):
        return standing
    box = job.box(task.tile)
    with PeakMemory() as memory:
        output = job.compute(task.tile, task.threads)
        lease.check(task.run_dir, task.epoch)
        standing = ledger.done(task.tile, key)
        if standing is not None and standing.epoch == task.epoch:  # another attempt of this run was faster
            return standing
        with refusals(job.store_url):
            ledger.clear(task.tile, task.epoch)
            written = write_region(job.store_url, box, output.arrays, task.epoch, output.steps)
        checksums = read_back(job.store_url, box, written, output.steps)
    lease.check(task.run_dir, task.epoch)
    with refusals(task.run_dir):
        return ledger.commit(
            TileRecord(
                tile=task.tile,
                key=key,
                attempt=task.attempt,
                checksums=checksums,
                seconds=round(time.monotonic() - begun, 3),
                peak_bytes=memory.bytes,
                counts=dict(output.counts),
                finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                worker=_worker_name(),
                engine=engine_version(),
                epoch=task.epoch,
                gaps=output.gaps,
                inputs=digests_of(inputs),
            )
        )


def key_of(inputs: Mapping[str, Any]) -> str:
    """Return a tile's key: sha256 (hex) over its inputs as JSON with sorted keys.

    >>> key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def digests_of(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the first 12 hex digits of the sha256 of each component: enough to tell what changed."""
    return {name: key_of({name: value})[:12] for name, value in inputs.items()}


@functools.cache
def engine_version() -> str:
    """Return the software's version and the version of its format."""
    try:
        number = version("landweave")
    except PackageNotFoundError:  # run from a source tree
        number = "source"
    return f"{number}, format {ENGINE_FORMAT}"


_ON = "on worker "


def worker_of(error: BaseException | None) -> str:
    """Return the worker that an error of `execute_tile` comes from, empty where that is not known."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note.removeprefix(_ON) for note in notes if note.startswith(_ON)), "")


def _worker_name() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return "no worker"
