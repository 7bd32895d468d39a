"""Write and read rectangles of a store: whole shards only, checked by reading them back.

A shard is one file, so two writers of the same shard would each lose the other's pixels; a region of
whole shards has one writer. On a local file system shards are written aside, forced to disk and then
moved into place, one by one, through a gate::

    .map.zarr.staging/work-7-<random>/label/c/3/5     written here by zarr
    .map.zarr.staging/gate-7/<random>                 moved through here
    map.zarr/label/c/3/5                              and there it is

so a killed writer leaves the old shard or the new one, never half a shard. The gate belongs to the epoch
of the run that may write (`engine.store.lease`). A run that takes over deletes the gates of earlier epochs
before it writes anything (`open_epoch`), and no writer ever makes a gate: one that slept meanwhile can move
nothing any more, whatever it had checked before it fell asleep. Object stores have no such gate; how shards
are put there is told in `engine.store.bucket`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.store.bucket import Part, close_gate, close_gates, open_gate, put_shards
from engine.store.layout import Dim, StoreSpec, Variable, open_store
from engine.store.objects import Folder, local_path
from engine.store.remote import network
from engine.store.storespec import TIME
from engine.values.errors import ConflictError, DataError, InputError, RetryableError
from engine.values.grid import Box


def open_epoch(url: str, epoch: int) -> None:
    """Let the writers of an epoch write, and no writer of an earlier one; clear what those left behind.

    Raises:
        ConflictError: If a later epoch is open already.
        InputError: If an object store ignores the conditions of a put.
    """
    staging = _staging(url)
    if staging is None:
        open_gate(url, epoch)
        return
    if (newest := max((_epoch_of(p) for p in _inside(staging)), default=0)) > epoch:
        raise _closed(url, epoch, f"epoch {newest} is open")
    for old in [p for p in _inside(staging) if _epoch_of(p) < epoch and not p.name.startswith(_LONE)]:
        revoked = old.rename(staging / f"revoked-0-{uuid.uuid4().hex}")  # at once, whatever is inside
        shutil.rmtree(revoked)
    (staging / f"gate-{epoch}").mkdir(parents=True, exist_ok=True)


def close_epoch(url: str, epoch: int) -> None:
    """Give the right to write back and leave nothing behind."""
    staging = _staging(url)
    if staging is None:
        close_gate(url, epoch)
        return
    for mine in [p for p in _inside(staging) if _epoch_of(p) == epoch]:
        shutil.rmtree(mine, ignore_errors=True)
    with contextlib.suppress(OSError):  # others write too
        staging.rmdir()


def close_all_epochs(url: str) -> None:
    """Take the right to write from all writers, for whoever holds the folder's lease and changes the store."""
    staging = _staging(url)
    if staging is None:
        close_gates(url)
        return
    for gate in [p for p in _inside(staging) if not p.name.startswith(_LONE)]:
        revoked = gate.rename(staging / f"revoked-0-{uuid.uuid4().hex}")
        shutil.rmtree(revoked)


Steps = tuple[int, int]
"""First step of the time axis and the one after the last; whole chunks."""


def write_region(
    url: str,
    box: Box,
    arrays: Mapping[str, NDArray[Any]],
    epoch: int | None = None,
    steps: Steps | None = None,
) -> dict[str, str]:
    """Write whole shards of some variables and force them to disk. Nothing is read back yet.

    Args:
        url: The store.
        box: Whole shards, in global pixel indices.
        arrays: Variable name to array (extra dims..., y, x) of the variable's dtype, covering `box`.
        epoch: The run's epoch, opened with `open_epoch`; None for a lone writer without a lease.
        steps: Steps of the time axis that the arrays cover; None for all.

    Returns:
        Variable to checksum of what was handed in; `read_back` proves that it arrived.

    Raises:
        InputError: If the box is not whole shards of the store, or an array has another shape or dtype.
        ConflictError: If a later epoch was opened.
        RetryableError: If another attempt wrote one of the shards meanwhile, or the network failed.
    """
    root, spec = open_store(url, "r+")
    _require_whole_shards(spec, box)
    for name, array in arrays.items():
        _require_fit(spec.variable(name), box, array, steps)
    parts = [_part(root, spec, spec.variable(name), box, array, steps) for name, array in arrays.items()]
    if (root_path := local_path(url)) is None:
        put_shards(url, parts, epoch)
    else:
        with _aside(url, epoch) as aside:
            for name, part in zip(arrays, parts, strict=True):
                _stage(root_path, aside.work, name, part.where, part.values)
                _publish(aside, root_path, list(part.shards))
    return {name: checksum(array) for name, array in arrays.items()}


def read_back(url: str, box: Box, expected: Mapping[str, str], steps: Steps | None = None) -> dict[str, str]:
    """Read a region again from the store and compare it with what should be there.

    Args:
        url: The store.
        box: The region that was written.
        expected: Variable to checksum, from `write_region` or from a tile's record.
        steps: Steps of the time axis that were written; None for all.

    Returns:
        Variable to checksum of what was read.

    Raises:
        DataError: If a variable cannot be decoded or its checksum differs.
    """
    found = {}
    for name, wanted in expected.items():
        try:
            found[name] = _checksum_stored(url, box, name, steps)
        except (InputError, RetryableError):
            raise
        except Exception as error:  # a damaged shard fails in whichever codec meets it first
            raise DataError(
                "the store cannot be read back",
                where=f"{name} {box}",
                found=f"{error!r} in {_suspects(url, box, name, steps)}",
                mend=_MEND,
            ) from error
        if found[name] != wanted:
            raise DataError(
                "the store gives back other bytes than were written",
                where=f"{name} {box}",
                found=f"{found[name]} in {_suspects(url, box, name, steps)}",
                limit=wanted,
                mend=_MEND,
            )
    return found


def _suspects(url: str, box: Box, name: str, steps: Steps | None) -> str:
    """Name the files of a region that may be damaged: those that cannot be decoded, else those missing, else all."""
    root, spec = open_store(url)
    shards = _shard_names(spec, spec.variable(name), box, steps)
    there = Folder(url).read_all(shards)
    broken = [s for s in there if not _decodes(root[name], s)]
    missing = [f"{s} (missing)" for s in shards if s not in there]
    suspects = broken or missing or shards
    more = f" and {len(suspects) - _NAMED} more" if len(suspects) > _NAMED else ""
    return f"{', '.join(suspects[:_NAMED])}{more}"


_NAMED = 4


def _decodes(array: Any, shard: str) -> bool:
    corner = [int(i) for i in shard.split("/")[2:]]
    where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(corner, array.shards, strict=True))
    try:
        np.asarray(array[where])
    except RetryableError:
        raise
    except Exception:  # whichever codec meets the damage first
        return False
    return True


def read_region(
    url: str, box: Box, names: Iterable[str] | None = None, steps: Steps | None = None
) -> dict[str, NDArray[Any]]:
    """Read any box inside a store.

    Args:
        url: The store.
        box: Global pixel indices.
        names: Variables, None for all.
        steps: Steps of the time axis, None for all.

    Returns:
        Variable name to array (extra dims..., y, x) in the variable's dtype; no-data where nothing was
        written.

    Raises:
        InputError: If the box reaches outside the store or a name is unknown.
    """
    root, spec = open_store(url)
    wanted = [v.name for v in spec.variables] if names is None else list(names)
    variables = [spec.variable(name) for name in wanted]
    with network(url):
        return {v.name: np.asarray(root[v.name][_index(spec, v, box, steps)]) for v in variables}


def checksum(array: NDArray[Any]) -> str:
    """Return blake2b (16 bytes, hex) over shape, dtype and the bytes in C order.

    >>> checksum(np.zeros((2, 3), np.uint8)) == checksum(np.zeros((3, 2), np.uint8))
    False
    """
    digest = _digest(array.shape, array.dtype)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digest(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return hashlib.blake2b(f"{shape} {dtype.str}".encode(), digest_size=16)


def _checksum_stored(url: str, box: Box, name: str, steps: Steps | None) -> str:
    root, spec = open_store(url)
    with network(url):
        return _checksum_of(root[name], spec, spec.variable(name), box, steps)


def _checksum_of(array: Any, spec: StoreSpec, variable: Variable, box: Box, steps: Steps | None) -> str:
    """Return the checksum of a stored region; step by step where shards hold one step each."""
    index = _index(spec, variable, box, steps)
    if not variable.dims or variable.dims[0].chunk_len > 1:
        return checksum(np.asarray(array[index]))
    lengths = tuple(i.stop - i.start for i in index)
    digest = _digest(lengths, np.dtype(variable.dtype))
    for step in range(index[0].start, index[0].stop):
        digest.update(np.ascontiguousarray(array[(step, *index[1:])]).data)
    return str(digest.hexdigest())


def _index(spec: StoreSpec, variable: Variable, box: Box, steps: Steps | None) -> tuple[slice, ...]:
    """Return the slices of a region in a variable's array.

    The array may be longer than the spec says, where a growing axis was interrupted.
    """
    where = box.slices_in(spec.box)
    return (*(slice(*_span(d, steps)) for d in variable.dims), *where)


def _span(dim: Dim, steps: Steps | None) -> Steps:
    """Return the steps wanted of one dimension."""
    length = len(dim.labels)
    if steps is None or dim.name != TIME:
        return 0, length
    first, end = steps
    if not 0 <= first < end <= length or first % dim.chunk_len or (end % dim.chunk_len and end != length):
        raise InputError(
            "time steps must be whole chunks inside the store",
            where=dim.name,
            found=f"{first}..{end}",
            limit=f"multiples of {dim.chunk_len} in 0..{length}",
        )
    return first, end


_MEND = "run the same command again: the tile is not recorded as done and will be rewritten"


def _require_whole_shards(spec: StoreSpec, box: Box) -> None:
    if not box or box != box.snap_out(spec.shard_px) or not spec.box.holds(box):
        raise InputError(
            "a region must be whole shards of the store",
            where=str(box),
            found=f"{box.shape_yx} px at ({box.y0}, {box.x0})",
            limit=f"multiples of {spec.shard_px} px inside {spec.box}",
            mend="make tiles a multiple of shard_px and cut them to the store's box",
        )


def _require_fit(variable: Variable, box: Box, array: NDArray[Any], steps: Steps | None) -> None:
    spans = [_span(d, steps) for d in variable.dims]
    shape = tuple(end - first for first, end in spans) + box.shape_yx
    if array.shape != shape or array.dtype != np.dtype(variable.dtype):
        raise InputError(
            "an array does not fit its variable",
            where=f"{variable.name} {box}",
            found=f"{array.dtype} {array.shape}",
            limit=f"{variable.dtype} {shape}",
        )


def _shard_names(spec: StoreSpec, variable: Variable, box: Box, steps: Steps | None = None) -> list[str]:
    """List the objects of a region's shards, written or not, as names inside the store."""
    spans = [(_span(d, steps), d.chunk_len) for d in variable.dims]
    lead = [range(first // chunk, -(-end // chunk)) for (first, end), chunk in spans]
    corners = [
        ((b.y0 - spec.box.y0) // spec.shard_px, (b.x0 - spec.box.x0) // spec.shard_px)
        for b in box.blocks(spec.shard_px)
    ]
    return [
        "/".join([variable.name, "c", *map(str, (*step, *corner))])
        for step in itertools.product(*lead)
        for corner in corners
    ]


def _part(
    root: Any, spec: StoreSpec, variable: Variable, box: Box, values: NDArray[Any], steps: Steps | None
) -> Part:
    where, shards = _index(spec, variable, box, steps), _shard_names(spec, variable, box, steps)
    return Part(root[variable.name], where, shards, values)


_LONE = "lone-"


@dataclass(frozen=True)
class _Aside:
    """Where shards of one region are written (`work`), and the folder they go through (`gate`)."""

    work: Path
    gate: Path


def _staging(url: str) -> Path | None:
    """Return the folder beside a local store where shards are written first."""
    return None if local_path(url) is None else _beside(url)


def _beside(url: str) -> Path:
    root = (local_path(url) or Path(url)).absolute()
    return root.parent / f".{root.name}.staging"


def _inside(staging: Path) -> list[Path]:
    return list(staging.iterdir()) if staging.is_dir() else []


def _epoch_of(path: Path) -> int:
    """Read the epoch out of ``gate-7`` or ``work-7-<random>``; a lone writer has none (0)."""
    return 0 if path.name.startswith(_LONE) else int(path.name.split("-")[1])


@contextlib.contextmanager
def _aside(url: str, epoch: int | None) -> Iterator[_Aside]:
    """Give a working folder of one's own and the gate, which only a lone writer makes itself."""
    staging, token = _beside(url), uuid.uuid4().hex
    lone = staging / f"{_LONE}{token}"
    aside = _Aside(lone / "work", lone / "gate")
    if epoch is None:
        aside.gate.mkdir(parents=True)
    else:
        aside = _Aside(staging / f"work-{epoch}-{token}", staging / f"gate-{epoch}")
    try:
        aside.work.mkdir()
        yield aside
    except FileNotFoundError as error:
        if aside.gate.is_dir():
            raise
        raise _closed(url, epoch, f"epoch {epoch} is closed") from error
    finally:
        shutil.rmtree(aside.work, ignore_errors=True)
        if epoch is None:
            shutil.rmtree(lone, ignore_errors=True)
            with contextlib.suppress(OSError):  # others write too
                staging.rmdir()


def _closed(url: str, epoch: int | None, found: str) -> ConflictError:
    return ConflictError(
        "another run took this store over; this writer must stop",
        where=url,
        found=found,
        limit=f"epoch {epoch}",
        mend="let the other run finish; it goes on from the records of this one",
    )


def _stage(root: Path, work: Path, name: str, where: tuple[slice, ...], array: NDArray[Any]) -> None:
    """Let zarr write the shards of one variable into a copy of its array that has nothing else."""
    (work / name).mkdir()
    shutil.copyfile(root / name / "zarr.json", work / name / "zarr.json")
    zarr.open_array(work / name, mode="r+")[where] = array


def _publish(aside: _Aside, root: Path, shards: list[str]) -> None:
    """Move shards into place; where there is nothing but no-data, move the old shard out.

    Each move is a rename from or to the gate, so it fails when the gate is gone.
    """
    for shard in shards:
        new, target, passing = aside.work / shard, root / shard, aside.gate / uuid.uuid4().hex
        if new.exists():
            _sync(new)
            new.replace(passing)
            target.parent.mkdir(parents=True, exist_ok=True)
            passing.replace(target)
        elif target.exists():
            target.replace(passing)
            passing.unlink()
    for folder in {(root / shard).parent for shard in shards}:
        if folder.is_dir():
            _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
