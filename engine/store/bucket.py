"""Whole shards put into a bucket, so that a writer which slept past its lease changes nothing.

An object store has no rename and no gate that could be taken away from a writer. It has conditions: a put
is refused unless the object still is what the writer saw (`engine.store.remote`). The epoch of the run that
may write is an object beside the store, ``.map.zarr.staging/gate-7``. Every writer goes this way::

    encode ──► see ──► gate? ──► put, if unchanged since seen ──► read back ──► record
               │       │         └ refused: closed gate, or another attempt
               │       └ the newest gate must be the own one
               └ tags of the shards, before the look at the gate

Writer A of epoch 1 falls asleep after its look at the gate; epoch 2 opens; B of epoch 2 makes the tile::

    A  see(t0)  gate 1 newest   z z z z z z z z z z z z z z z z z z z   put if t0
    ·                      gate 2 opens                                   ▲
    B                                 see(t)  gate 2 newest  put if t ──► t2
                              1              2              3             when does A's put arrive?

1. Before B sees: t is A's, and B puts its own over it.
2. Between: B is refused, and its tile is tried again from the start.
3. After B's put: t2 stands there and not t0, so A is refused, looks at the gate and stops.

The third holds only if t2 can never be t0, although a tag is a hash of the content and B's pixels may well
be those that A saw. So each shard of an epoch above 1 carries its epoch: eight bytes between chunks and
index, where no reader looks (the index gives offsets and lengths). And where B has no data, it puts a shard
that says so, with its epoch, even where there was none: an absence has no tag to tell it from the absence
that A saw. Epoch 1 has nobody before it, so the shards of a run that went through in one go are the very
bytes of a local store, and those without data are not written at all.

No clock is compared, and it does not matter how long a put is under way: the server decides when it
arrives. A kill leaves each shard old or new, and the tile without a record, so it is made again. Two
attempts of one tile in one epoch are deterministic: a refused put whose bytes stand there already is a
success. Where they differ after all (one met a gap), the one that comes too late is told to try again, and
finds the tile on record.

Nothing is deleted, because a delete knows no condition on some servers: a shard that lost its data becomes
one that holds nothing but no-data, some hundred bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from engine.store.objects import Folder, join
from engine.store.remote import ABSENT, Put, Seen, objects_at, require_conditions
from engine.values.errors import ConflictError, RetryableError

Where = tuple[slice, ...]


@dataclass(frozen=True)
class Part:
    """What is written of one array.

    Attributes:
        array: The Zarr array of the store.
        where: Whole shards of it.
        shards: Their names inside the store, such as ``label/c/3/5``.
        values: Their pixels.
    """

    array: Any
    where: Where
    shards: Sequence[str]
    values: NDArray[Any]


def open_gate(url: str, epoch: int) -> None:
    """Let writers of an epoch put shards, and those of earlier ones no longer.

    Raises:
        ConflictError: If a later epoch is open.
        InputError: If the object store ignores the conditions of a put.
    """
    gates = _gates(url)
    require_conditions(gates.url)
    _require_newest(url, epoch, _open(gates))
    gates.create(f"gate-{epoch}", b"")
    opened = _open(gates)
    _require_newest(url, epoch, opened)
    for older in [e for e in opened if e < epoch]:
        gates.remove(f"gate-{older}")


def close_gate(url: str, epoch: int) -> None:
    """Give the right to put shards back."""
    _gates(url).remove(f"gate-{epoch}")


def close_gates(url: str) -> None:
    """Take the right to put shards from all epochs."""
    for epoch in _open(_gates(url)):
        close_gate(url, epoch)


def put_shards(url: str, parts: Sequence[Part], epoch: int | None) -> None:
    """Put whole shards of some arrays in the order of the module's drawing.

    Args:
        url: The store, on an object store.
        parts: What to write.
        epoch: The run's epoch, whose gate is open; None for a lone writer without a lease.

    Raises:
        ConflictError: If the epoch's gate is closed.
        RetryableError: If another attempt wrote one of the shards meanwhile, or the network failed.
    """
    objects, base = objects_at(url)
    shards = {join(base, name): data for part in parts for name, data in _encoded(part, epoch)}
    seen = objects.seen(shards)
    _require_open(url, epoch)
    puts = {key: p for key, shard in shards.items() if (p := _needed(shard, seen.get(key), epoch))}
    late = sorted(puts.keys() - objects.put_all(puts).keys())
    if late:
        _require_open(url, epoch)
        raise RetryableError(
            "another attempt is writing the same shard",
            where=", ".join(late[:3]),
            found=f"{len(late)} of {len(puts)} shards changed meanwhile",
            mend="run the same command again, if it is not tried again by itself",
        )


@dataclass(frozen=True)
class _Shard:
    """A shard as bytes, and whether it holds anything but no-data."""

    data: bytes
    blank: bool


def _needed(shard: _Shard, seen: Seen | None, epoch: int | None) -> Put | None:
    """Return what has to be put for a shard, None when it stands as it should."""
    if seen is None:
        return None if shard.blank and (epoch or 1) == 1 else Put(shard.data, ABSENT)
    return None if seen.data == shard.data else Put(shard.data, seen.tag)


def _encoded(part: Part, epoch: int | None) -> Iterator[tuple[str, _Shard]]:
    """Yield the shards of a part as zarr writes them, into a copy of the array that has nothing else."""
    held: Any = dict(part.array.metadata.to_buffer_dict(default_buffer_prototype()))
    zarr.open_array(MemoryStore(held), mode="r+")[part.where] = part.values
    index_bytes = _INDEX_ENTRY * _chunks(part.array) + _CHECKSUM
    for shard in part.shards:
        written = held.get(shard.partition("/")[2])
        data = _blank(part.array) if written is None else written.to_bytes()
        yield shard, _Shard(_stamped(data, index_bytes, epoch), written is None)


_INDEX_ENTRY, _CHECKSUM = 16, 4
"""Bytes of a shard's index: an offset and a length per chunk, then CRC-32C (Zarr v3, "Sharding codec")."""


def _chunks(array: Any) -> int:
    return math.prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))


def _blank(array: Any) -> bytes:
    """Return a shard that holds nothing but no-data: an index that says of each chunk that it is not there."""
    index = b"\xff" * _INDEX_ENTRY * _chunks(array)
    return index + google_crc32c.value(index).to_bytes(_CHECKSUM, "little")


def _stamped(shard: bytes, index_bytes: int, epoch: int | None) -> bytes:
    r"""Put the epoch between chunks and index; a first epoch leaves a shard as it is.

    >>> _stamped(b"chunks-index", 5, 1)
    b'chunks-index'
    >>> _stamped(b"chunks-index", 5, 0x616C736F)[7:]
    b'\x00\x00\x00\x00alsoindex'
    """
    if epoch is None or epoch == 1:
        return shard
    return shard[:-index_bytes] + epoch.to_bytes(8, "big") + shard[-index_bytes:]


def _gates(url: str) -> Folder:
    parent, _, name = url.rstrip("/").rpartition("/")
    return Folder(parent).child(f".{name}.staging")


def _open(gates: Folder) -> list[int]:
    return [int(name.removeprefix("gate-")) for name in gates.names() if name.startswith("gate-")]


def _require_open(url: str, epoch: int | None) -> None:
    if epoch is None:
        return
    opened = _open(_gates(url))
    _require_newest(url, epoch, opened)
    if epoch not in opened:
        raise _closed(url, epoch, f"epoch {epoch} is closed")


def _require_newest(url: str, epoch: int, opened: Sequence[int]) -> None:
    if (newest := max(opened, default=0)) > epoch:
        raise _closed(url, epoch, f"epoch {newest} is open")


def _closed(url: str, epoch: int | None, found: str) -> ConflictError:
    return ConflictError(
        "another run took this store over; this writer must stop",
        where=url,
        found=found,
        limit=f"epoch {epoch}",
        mend="let the other run finish; it goes on from the records of this one",
    )
