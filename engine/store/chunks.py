"""Inner chunks of a stored array, decompressed straight to where they are wanted.

Zarr reads a region by way of an array of its own for each chunk and each shard. Whoever wants whole chunks,
as a training loader does, saves those copies: here a chunk of a local shard goes from the file through the
decompressor into the caller's memory (`benchmarks/loader_speed.py`: more than twice zarr's rate a core).
Shards are laid out as version 1.0 of Zarr's ``sharding_indexed`` codec says: chunks in any order, then for each
its offset and length as two little-endian uint64, then a CRC-32C of those.

Stores elsewhere, and arrays that are packed in another way, are read through zarr.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from engine.store.layout import open_group
from engine.store.objects import local_path
from engine.store.remote import network
from engine.values.errors import DataError, InputError

_NOTHING = 2**64 - 1
_CHECKSUM_BYTES = 4

Decompress = Callable[[bytes, NDArray[Any]], Any]


class Chunks:
    """One array of a store, by inner chunks; for any number of threads. Pickles as url and name.

    Args:
        url: Local path or fsspec URL of the group.
        name: Name of the array.

    Raises:
        InputError: If there is no such array.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        try:
            self._array = open_group(url)[name]
        except (FileNotFoundError, KeyError) as error:
            raise InputError("there is no such array", where=f"{url}/{name}") from error
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype: np.dtype[Any] = self._array.dtype
        self.chunk_shape: tuple[int, ...] = tuple(self._array.chunks)
        self._decompress = _decompressor(self._array)
        self._folder = local_path(url)

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunks, (self.url, self.name)

    @property
    def direct(self) -> bool:
        """Whether chunks come straight from local shards, past zarr."""
        return self._decompress is not None and self._folder is not None

    def read_into(self, index: tuple[int, ...], out: NDArray[Any]) -> None:
        """Read one chunk; what was never written is the fill value.

        Args:
            index: Number of the chunk along each dimension.
            out: C-contiguous, of the chunk's shape and the array's dtype.

        Raises:
            DataError: If the shard is damaged; names file and chunk.
        """
        if self._decompress is None or self._folder is None:
            self._through_zarr(index, out)
            return
        per_shard = [s // c for s, c in zip(self._array.shards, self.chunk_shape, strict=True)]
        shard = [i // n for i, n in zip(index, per_shard, strict=True)]
        inner = np.ravel_multi_index([i % n for i, n in zip(index, per_shard, strict=True)], per_shard)
        path = Path(self._folder, self.name, "c", *map(str, shard))
        packed = _packed_chunk(path, int(np.prod(per_shard)), int(inner))
        if packed is None:
            out[...] = self._array.fill_value
            return
        try:
            self._decompress(packed, out)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                "a chunk does not decompress", where=f"{path} [{inner}]", found=str(error)
            ) from error

    def _through_zarr(self, index: tuple[int, ...], out: NDArray[Any]) -> None:
        where = tuple(
            slice(i * c, min((i + 1) * c, n))
            for i, c, n in zip(index, self.chunk_shape, self.shape, strict=True)
        )
        with network(self.url):
            found = self._array[where]
        out[tuple(slice(0, n) for n in found.shape)] = found


def _packed_chunk(path: Path, n_chunks: int, inner: int) -> bytes | None:
    """Read the bytes of one chunk of a shard file; None where nothing was written."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(file)
        index = _index_of(str(path), found.st_ino, found.st_mtime_ns, found.st_size, n_chunks)
        offset, length = (int(n) for n in index[inner])
        if offset == _NOTHING:
            return None
        packed = os.pread(file, length, offset)
    finally:
        os.close(file)
    if len(packed) != length:
        raise DataError(
            "a shard is cut short", where=str(path), found=f"{len(packed)} B", limit=f"{length} B"
        )
    return packed


@functools.lru_cache(maxsize=4096)
def _index_of(path: str, inode: int, changed_ns: int, size: int, n_chunks: int) -> NDArray[np.uint64]:
    """Read a shard's index, (chunk, 2) offset and length; a shard that was replaced is another file."""
    length = 16 * n_chunks
    with Path(path).open("rb") as file:
        file.seek(max(0, size - length - _CHECKSUM_BYTES))
        tail = file.read()
    index, checksum = tail[:length], tail[length:]
    if int.from_bytes(checksum, "little") != google_crc32c.value(index) or len(index) != length:
        raise DataError(
            "the index of a shard is damaged", where=path, mend="make this tile again: `landweave verify`"
        )
    return np.frombuffer(index, "<u8").reshape(n_chunks, 2)


def _decompressor(array: Any) -> Decompress | None:
    """Return what unpacks a chunk of this array, None for a packing that only zarr knows."""
    import numcodecs  # type: ignore[import-untyped]
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return None
    sharding, whole = codecs[0], [n % s for n, s in zip(array.shape, array.shards, strict=True)]
    usual = [type(c) for c in sharding.index_codecs] == [BytesCodec, Crc32cCodec]
    if not usual or str(sharding.index_location.value) != "end" or any(whole) or len(sharding.codecs) != 2:
        return None
    plain, packer = sharding.codecs
    little = isinstance(plain, BytesCodec) and (plain.endian is None or plain.endian.value == "little")
    if not little or array.metadata.chunk_key_encoding.to_dict() != _KEYS or np.little_endian is False:
        return None
    known: dict[type, Decompress] = {
        BloscCodec: numcodecs.blosc.decompress,
        ZstdCodec: numcodecs.zstd.decompress,
    }
    return known.get(type(packer))


_KEYS = {"name": "default", "configuration": {"separator": "/"}}
