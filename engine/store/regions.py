"""Write and read rectangles of a store: whole shards only, checked by reading them back.

A shard is one file, so two writers of the same shard would each lose the other's pixels; a region of
whole shards has one writer. Old shards are deleted first: zarr would read each of them before replacing
it whole, and could not replace a damaged one at all. It then writes a local shard beside its place and
renames it, so a killed writer leaves no shard or a whole one, and perhaps a ``.partial`` file, which the
next writer of the same region clears away.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.store.layout import StoreSpec, Variable, open_store
from engine.store.objects import Folder, local_path
from engine.values.errors import DataError, InputError
from engine.values.grid import Box


def write_region(url: str, box: Box, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Write whole shards of some variables and force them to disk. Nothing is read back yet.

    Args:
        url: The store.
        box: Whole shards, in global pixel indices.
        arrays: Variable name to array (extra dims..., y, x) of the variable's dtype, covering `box`.

    Returns:
        Variable to checksum of what was handed in; `read_back` proves that it arrived.

    Raises:
        InputError: If the box is not whole shards of the store, or an array has another shape or dtype.
    """
    root, spec = open_store(url, "r+")
    _require_whole_shards(spec, box)
    for name, array in arrays.items():
        _require_fit(spec.variable(name), box, array)
    where = box.slices_in(spec.box)
    for name, array in arrays.items():
        shards = _shard_names(spec, spec.variable(name), box)
        _clear(url, shards)
        root[name][(..., *where)] = array
        _flush(url, shards)
    return {name: checksum(array) for name, array in arrays.items()}


def read_back(url: str, box: Box, expected: Mapping[str, str]) -> dict[str, str]:
    """Read a region again from the store and compare it with what should be there.

    Args:
        url: The store.
        box: The region that was written.
        expected: Variable to checksum, from `write_region` or from a tile's record.

    Returns:
        Variable to checksum of what was read.

    Raises:
        DataError: If a variable cannot be decoded or its checksum differs.
    """
    found = {}
    for name, wanted in expected.items():
        try:
            found[name] = checksum(read_region(url, box, [name])[name])
        except InputError:
            raise
        except Exception as error:  # a damaged shard fails in whichever codec meets it first
            raise DataError(
                "the store cannot be read back", where=f"{name} {box}", found=repr(error), mend=_MEND
            ) from error
        if found[name] != wanted:
            raise DataError(
                "the store gives back other bytes than were written",
                where=f"{name} {box}",
                found=found[name],
                limit=wanted,
                mend=_MEND,
            )
    return found


def read_region(url: str, box: Box, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read any box inside a store.

    Args:
        url: The store.
        box: Global pixel indices.
        names: Variables, None for all.

    Returns:
        Variable name to array (extra dims..., y, x) in the variable's dtype; no-data where nothing was
        written.

    Raises:
        InputError: If the box reaches outside the store or a name is unknown.
    """
    root, spec = open_store(url)
    where = box.slices_in(spec.box)
    wanted = [v.name for v in spec.variables] if names is None else list(names)
    return {name: np.asarray(root[spec.variable(name).name][(..., *where)]) for name in wanted}


def checksum(array: NDArray[Any]) -> str:
    """Return blake2b (16 bytes, hex) over shape, dtype and the bytes in C order.

    >>> checksum(np.zeros((2, 3), np.uint8)) == checksum(np.zeros((3, 2), np.uint8))
    False
    """
    digest = hashlib.blake2b(f"{array.shape} {array.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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


def _require_fit(variable: Variable, box: Box, array: NDArray[Any]) -> None:
    shape = variable.lead_shape + box.shape_yx
    if array.shape != shape or array.dtype != np.dtype(variable.dtype):
        raise InputError(
            "an array does not fit its variable",
            where=f"{variable.name} {box}",
            found=f"{array.dtype} {array.shape}",
            limit=f"{variable.dtype} {shape}",
        )


def _shard_names(spec: StoreSpec, variable: Variable, box: Box) -> list[str]:
    """List the objects of a region's shards, written or not, as names inside the store."""
    lead = tuple(-(-len(d.labels) // d.chunk_len) for d in variable.dims)
    corners = [
        ((b.y0 - spec.box.y0) // spec.shard_px, (b.x0 - spec.box.x0) // spec.shard_px)
        for b in box.blocks(spec.shard_px)
    ]
    return [
        "/".join([variable.name, "c", *map(str, (*step, *corner))])
        for step in np.ndindex(*lead)
        for corner in corners
    ]


def _clear(url: str, shards: list[str]) -> None:
    """Delete old shards, and what killed writers left beside them (``3.<random>.partial``)."""
    for shard in shards:
        Folder(url).remove(shard)
    root = local_path(url)
    if root is None:
        return
    for folder in {(root / shard).parent for shard in shards}:
        for left in folder.glob("*.partial"):
            if str((folder / left.name.split(".")[0]).relative_to(root)) in shards:
                left.unlink(missing_ok=True)


def _flush(url: str, shards: list[str]) -> None:
    """Force written shards and their names to disk, so that no record outlives its pixels in a power cut."""
    root = local_path(url)
    if root is None:
        return
    files = [f for shard in shards if (f := root / shard).exists()]  # nothing but no-data: no file
    for path in [*files, *{f.parent for f in files}]:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
