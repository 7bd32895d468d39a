"""The walk of a run: its tiles one by one, those on record skipped, each after what it needs.

The last stage leads. Before each of its tiles come the tiles of earlier stages that it needs, so a map
begins as soon as the first corner of its cube is there::

    cube   1 2 4 6 ...        order of the walk: cube, cube, map, cube, map, cube, map ...
    map      3 5 7 ...

Nothing here grows with the area but one bit for each tile of an earlier stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.runs.events import RunOptions
from engine.runs.machine import Planned, Skipped, Unit
from engine.runs.tile import TileJob, TileList, digests_of, key_of
from engine.store.ledger import Ledger, Lookup, TileRecord
from engine.values.grid import TileKey


@dataclass(frozen=True)
class Step:
    """One tile of the walk.

    Attributes:
        event: What the machine is told.
        record: The tile's record, if it has one.
        why: Why a tile on record is made again; empty when it is not.
    """

    event: Planned | Skipped
    record: TileRecord | None = None
    why: str = ""


class Walk:
    """The tiles of all stages in an order that can be handed out.

    Args:
        jobs: The stages; each needs only earlier ones.
        run_dir: The run's folder, where the ledger lies.
        options: Whether tiles on record are kept.
        only: Tiles of the last stage to make; None for all.
    """

    def __init__(
        self, jobs: Sequence[TileJob], run_dir: str, options: RunOptions, only: TileList | None = None
    ):
        self.jobs, self.options, self.only = {job.name: job for job in jobs}, options, only
        self.last = jobs[-1]
        self._tiles: dict[str, TileList] = {job.name: job.tiles() for job in jobs}
        self._records = {name: Lookup(Ledger(run_dir, name)) for name in self.jobs}
        self._seen = {name: TileSet() for name in self.jobs if name != self.last.name}

    def total(self, stage: str) -> int:
        """Return how many tiles a stage has, or of an earlier stage, when only some are made, had so far."""
        if self.only is None:
            return len(self._tiles[stage])
        return len(self.only) if stage == self.last.name else len(self._seen[stage])

    def __iter__(self) -> Iterator[Step]:
        for tile in self._tiles[self.last.name] if self.only is None else self.only:
            yield from self._visit(Unit(self.last.name, tile))
        if self.only is None:
            for stage in self._seen:
                for tile in self._tiles[stage]:
                    yield from self._visit(Unit(stage, tile))

    def _visit(self, unit: Unit) -> Iterator[Step]:
        """Yield what a unit needs, then itself; nothing if it was visited before."""
        seen = self._seen.get(unit.stage)
        if seen is not None and not seen.add(unit.tile):
            return
        job = self.jobs[unit.stage]
        record = self._records[unit.stage].of(unit.tile) if self.options.resume else None
        why = "" if record is None else self._why(job, record)
        if record is not None and not why:
            yield Step(Skipped(unit), record)
            return
        needs = frozenset(job.needs(unit.tile))
        for need in sorted(needs):
            yield from self._visit(need)
        yield Step(Planned(unit, needs), record, why)

    def _why(self, job: TileJob, record: TileRecord) -> str:
        """Say why a tile on record has to be made again, empty when it has not."""
        inputs = job.inputs(record.tile)
        if record.key != key_of(inputs):
            return ", ".join(changed(record, digests_of(inputs))) or "key"
        return "gaps" if record.gaps and self.options.redo_gaps else ""


def changed(record: TileRecord, digests: dict[str, str]) -> list[str]:
    """Name the components of a tile's key that differ from its record's."""
    names = sorted(set(record.inputs) | set(digests))
    return [n for n in names if record.inputs.get(n) != digests.get(n)]


class TileSet:
    """A set of tiles, about one bit each where they lie together.

    >>> tiles = TileSet()
    >>> tiles.add(TileKey(3, -4)), tiles.add(TileKey(3, -4)), len(tiles)
    (True, False, 1)
    """

    _SIDE = 32

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, tile: TileKey) -> bool:
        """Add a tile; tell whether it is new."""
        block = tile.row // self._SIDE, tile.col // self._SIDE
        bit = 1 << (tile.row % self._SIDE * self._SIDE + tile.col % self._SIDE)
        bits = self._blocks.get(block, 0)
        self._blocks[block] = bits | bit
        self._count += not bits & bit
        return not bits & bit
