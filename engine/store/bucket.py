"""Whole shards put into a bucket, so that a writer which slept past its lease changes nothing.

An object store has no rename and no gate that could be taken away from a writer. It has conditions: a put
is refused unless the object still is what the writer saw (`engine.store.remote`). The epoch of the run that
may write is an object beside the store, ``.map.zarr.staging/gate-7``. Every writer goes this way::

    encode ──► see ──► gate? ──► put if unchanged ──► gate? ──► read back, record
               │ tag and content of each shard           │
               └ before the first look at the gate       └ closed: put back what was seen, if still ours

Writer A of epoch 1 falls asleep after its first look at the gate; epoch 2 opens; B of epoch 2 makes the tile::

    A  see(t0)  gate 1 open   z z z z z z z z z z z z z z z z z z   put if t0   gate 1 closed
    ·                    gate 2 opens                                  │
    B                                  see(t)  gate 2 open  put if t   │
                                   1             2              3  ◄── when does A's put arrive?

1. Before B sees: t is A's tag, and B writes over what A wrote.
2. After B sees: B is refused; its tile is tried again, from the start.
3. After B's put: t0 is not what stands there, so A is refused, looks at the gate and stops.

What A cannot see is a shard that B left exactly as A had seen it (B's bytes are those that A was about to
replace, or B had no data for a shard that was not there). Then A's put goes through. But A looks at the gate
once more, finds it closed, and puts back what it saw, on condition that its own bytes still stand there; and
what it saw is what B wants. So three things must meet for a wrong shard to stay: a writer that sleeps
between two requests, runs of different plans around it that agree on the old bytes, and a kill of the woken
writer before it tidies up. ``landweave verify`` then names the shard. All else is excluded by the order of
the requests alone, without clocks.

A kill leaves each shard old or new, and the tile without a record, so it is made again. Two attempts of one
tile in one epoch are deterministic: the bytes are equal, and a refused put whose bytes stand there already
is a success; were they not, the one that comes too late is refused and told to try again.

A shard without data is not written where there was none. Where there was one, an object with nothing but
no-data takes its place (some hundred bytes): a delete knows no condition on every server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
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
    require_conditions(url)
    gates = _gates(url)
    _require_newest(url, epoch, _open(gates))
    gates.create(f"gate-{epoch}", b"")
    opened = _open(gates)
    _require_newest(url, epoch, opened)
    for older in [e for e in opened if e < epoch]:
        gates.remove(f"gate-{older}")


def close_gate(url: str, epoch: int) -> None:
    """Give the right to put shards back."""
    _gates(url).remove(f"gate-{epoch}")


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
    shards = {join(base, name): data for part in parts for name, data in _encoded(part)}
    seen = objects.seen(shards)
    _require_open(url, epoch)
    put = {key: p for key, data in shards.items() if (p := _needed(data, seen.get(key)))}
    stand = objects.put_all(put)
    try:
        _require_open(url, epoch)
    except ConflictError:
        objects.put_all({key: Put(_before(seen.get(key), shards[key]), tag) for key, tag in stand.items()})
        raise
    if late := sorted(put.keys() - stand.keys()):
        raise RetryableError(
            "another attempt is writing the same shard",
            where=", ".join(late[:3]),
            found=f"{len(late)} of {len(put)} shards changed meanwhile",
            mend="run the same command again, if it is not tried again by itself",
        )


@dataclass(frozen=True)
class _Encoded:
    """A shard as bytes; `data` is None when all is no-data, which `blank` writes out."""

    data: bytes | None
    blank: Callable[[], bytes]


def _needed(shard: _Encoded, seen: Seen | None) -> Put | None:
    """Return what has to be put for a shard, None when it stands as it should."""
    if seen is None:
        return None if shard.data is None else Put(shard.data, ABSENT)
    data = shard.blank() if shard.data is None else shard.data
    return None if seen.data == data else Put(data, seen.tag)


def _before(seen: Seen | None, shard: _Encoded) -> bytes:
    return shard.blank() if seen is None else seen.data


def _encoded(part: Part) -> Iterator[tuple[str, _Encoded]]:
    """Yield the shards of a part as zarr writes them."""
    written = _stored(part.array, part.where, part.values, empty=False)
    blank = cache(lambda: _blank(part))
    for shard in part.shards:
        yield shard, _Encoded(written.get(shard.partition("/")[2]), blank)


def _blank(part: Part) -> bytes:
    """Return a shard that holds nothing but no-data."""
    first = tuple(slice(w.start, w.start + n) for w, n in zip(part.where, part.array.shards, strict=True))
    values = np.full(part.array.shards, part.array.fill_value, part.array.dtype)
    (data,) = _stored(part.array, first, values, empty=True).values()
    return data


def _stored(array: Any, where: Where, values: NDArray[Any], *, empty: bool) -> dict[str, bytes]:
    prototype = default_buffer_prototype()
    held: Any = dict(array.metadata.to_buffer_dict(prototype))
    config: Any = {"write_empty_chunks": empty}
    zarr.open_array(MemoryStore(held), mode="r+", config=config)[where] = values
    return {name: buffer.to_bytes() for name, buffer in held.items() if name.startswith("c/")}


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
