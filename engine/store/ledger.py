"""The ledger: one small record per finished tile, the only truth about what is done.

A record is written after its tile's shards were written and read back, so that a tile without one is
simply done again::

    ledger/<stage>/r0_c-1/r5_c-12.9f86d081884c7d65.json
           │       │      │      └ first 16 digits of the tile's key
           │       │      └ tile
           │       └ block of 16 x 16 tiles: nobody ever lists the whole ledger at once
           └ what the run makes: cube, map, ...

A tile's older records are removed before its pixels are overwritten, so a record never speaks of pixels
that are gone. Should a paused writer still leave an old one behind, the record of the highest epoch (see
`engine.store.lease`) is the one that counts.
"""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.store.objects import Folder
from engine.values.errors import DataError, InputError
from engine.values.grid import TileKey
from engine.values.redact import without_secrets

BLOCK_TILES = 16
"""Tiles along the side of a ledger folder; at most 256 tiles in each."""

_BLOCKS_KEPT = 8
_KEY_DIGITS = 16


@dataclass(frozen=True)
class Gap:
    """Something that could not be read or made, in words a machine can sort.

    Attributes:
        tile: Where, as ``r<row>_c<col>``.
        item: Catalogue item concerned, empty when the whole tile failed.
        asset: Band or file concerned.
        kind: Class of the error, e.g. ``DataError`` or ``quarantined``.
        message: The error in full, but for secrets: signatures and tokens are cut out.
    """

    tile: str
    item: str
    asset: str
    kind: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_secrets(self.message))


@dataclass(frozen=True)
class TileRecord:
    """What is known of a finished tile.

    Attributes:
        tile: Which tile.
        key: sha256 (hex) over everything that made it.
        attempt: 1 for the first try.
        checksums: Variable to checksum of the bytes that were read back.
        seconds: Wall-clock time of the tile on its worker.
        peak_bytes: Highest resident memory of the worker process during the tile.
        counts: Free numbers, e.g. windows, pixels, items.
        finished_utc: ISO 8601 time of the worker's clock; for people, never compared.
        worker: Name of the worker.
        engine: Version of the software and of its format.
        epoch: Number of the run's holding of the folder; of a tile's records the highest counts.
        gaps: What the tile had to do without.
        inputs: Component of the key to the first digits of its sha256: tells what changed since.
    """

    tile: TileKey
    key: str
    attempt: int
    checksums: Mapping[str, str] = field(hash=False)
    seconds: float
    peak_bytes: int
    counts: Mapping[str, float] = field(hash=False)
    finished_utc: str
    worker: str
    engine: str
    epoch: int = 1
    gaps: tuple[Gap, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> bytes:
        """Write the record as JSON with sorted keys."""
        return json.dumps(asdict(self) | {"tile": str(self.tile)}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TileRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: If the bytes are not a whole record.
        """
        try:
            fields = json.loads(data)
            gaps = tuple(Gap(**g) for g in fields.pop("gaps"))
            return cls(**fields | {"tile": TileKey.parse(fields["tile"]), "gaps": gaps})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a tile record: {error}") from error


def block_of(tile: TileKey) -> str:
    """Name the ledger folder of a tile.

    >>> block_of(TileKey(5, -12))
    'r0_c-1'
    """
    return str(TileKey(tile.row // BLOCK_TILES, tile.col // BLOCK_TILES))


@dataclass(frozen=True)
class Ledger:
    """The records of one stage of a run.

    Attributes:
        url: The run's folder, local or any fsspec URL.
        stage: What is being made, e.g. ``cube`` or ``map``.
    """

    url: str
    stage: str

    @property
    def folder(self) -> Folder:
        """Where the records lie."""
        return Folder(self.url).child("ledger", self.stage)

    def commit(self, record: TileRecord) -> TileRecord:
        """Make a tile done, exactly once.

        Args:
            record: The tile's record; its shards must have been written and read back.

        Returns:
            The record that stands: this one, or an equal one that another attempt wrote first.

        Raises:
            DataError: If another attempt with the same key gave other bytes.
        """
        name, data = _name(record.tile, record.key), record.to_json()
        if self.folder.create(name, data):
            return record
        standing = _parse(name, self.folder.read(name) or b"")
        if standing is None:  # torn by a crash
            self.folder.replace(name, data)
            return record
        if dict(standing.checksums) != dict(record.checksums):
            raise DataError(
                "two attempts of one tile gave different bytes",
                where=str(record.tile),
                found=dict(record.checksums),
                limit=dict(standing.checksums),
                mend="make the tile's computation deterministic, then run without resume",
            )
        return standing

    def clear(self, tile: TileKey, epoch: int) -> None:
        """Remove a tile's records of earlier epochs, because its pixels are about to be overwritten."""
        for record in self._of_tile(tile):
            if record.epoch < epoch:
                self.folder.remove(_name(tile, record.key))

    def done(self, tile: TileKey, key: str) -> TileRecord | None:
        """Return the record of a tile whose pixels were made from exactly this key, None when there is none."""
        _name(tile, key)
        newest = max(self._of_tile(tile), key=_age, default=None)
        return newest if newest is not None and newest.key == key else None

    def records(self) -> Iterator[TileRecord]:
        """Yield the record of each tile, folder by folder; at most one folder is held in memory."""
        for block in self.folder.names():
            yield from self.block(block).values()

    def _of_tile(self, tile: TileKey) -> Iterator[TileRecord]:
        return self._read(block_of(tile), f"{tile}.")

    def block(self, block: str) -> dict[TileKey, TileRecord]:
        """Return the record that counts of each tile in a folder."""
        return {record.tile: record for record in sorted(self._read(block, ""), key=_age)}

    def _read(self, block: str, prefix: str) -> Iterator[TileRecord]:
        folder = self.folder.child(block)
        contents = folder.read_all(n for n in folder.names() if n.startswith(prefix))
        parsed = (_parse(f"{block}/{name}", contents[name]) for name in sorted(contents))
        return (record for record in parsed if record is not None)


class Lookup:
    """Records looked up tile by tile; each ledger folder is read about once if neighbours come together.

    Args:
        ledger: Whose records; at most 8 folders (2048 tiles) are held in memory.
    """

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._held: OrderedDict[str, dict[TileKey, TileRecord]] = OrderedDict()

    def of(self, tile: TileKey) -> TileRecord | None:
        """Return the record that counts of a tile, None when there is none."""
        block = block_of(tile)
        if block not in self._held:
            self._held[block] = self._ledger.block(block)
        self._held.move_to_end(block)
        if len(self._held) > _BLOCKS_KEPT:
            self._held.popitem(last=False)
        return self._held[block].get(tile)


def _age(record: TileRecord) -> tuple[TileKey, int]:
    return record.tile, record.epoch


def _name(tile: TileKey, key: str) -> str:
    if len(key) < _KEY_DIGITS:
        raise InputError(
            "a tile's key must be a sha256 in hex", where=str(tile), found=key, limit="64 digits"
        )
    return f"{block_of(tile)}/{tile}.{key[:_KEY_DIGITS]}.json"


def _parse(name: str, data: bytes) -> TileRecord | None:
    try:
        return TileRecord.from_json(data)
    except ValueError as error:
        warnings.warn(f"ledger record {name} is damaged ({error}); its tile counts as not done", stacklevel=3)
        return None


def as_dict(record: TileRecord) -> dict[str, Any]:
    """Return a record as plain JSON values, for reports and ``--json``."""
    fields: dict[str, Any] = json.loads(record.to_json())
    return fields
