"""Chunks past zarr hold what zarr reads, whatever the codec; a damaged shard is told."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engine.store.chunks import Chunks
from engine.store.layout import codec_of
from engine.values.errors import DataError, InputError

SHAPE, CHUNK, SHARD = (3, 2, 32, 48), (1, 2, 8, 8), (1, 2, 16, 16)


def _make(folder: Path, codec: str, dtype: str = "uint16", **more: Any) -> tuple[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 200, SHAPE).astype(dtype)
    values[1] = 7  # a chunk of the fill value alone is not written
    values[2, :, :16, :16] = 7
    settings = {
        "chunks": CHUNK,
        "shards": SHARD,
        "fill_value": 7,
        "compressors": codec_of(codec, np.dtype(dtype)),
    }
    array = zarr.create_array(folder / "a.zarr" / "x", shape=SHAPE, dtype=dtype, **(settings | more))
    zarr.open_group(folder / "a.zarr", mode="a")
    array[...] = values
    return str(folder / "a.zarr"), values


def _require_equal(chunks: Chunks, values: np.ndarray) -> None:
    def check(index: tuple[int, ...]) -> None:
        out = np.zeros(chunks.chunk_shape, chunks.dtype)
        chunks.read_into(index, out)
        where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunks.chunk_shape, strict=True))
        part = values[where]
        np.testing.assert_array_equal(out[tuple(map(slice, part.shape))], part)

    counts = [-(-n // c) for n, c in zip(values.shape, chunks.chunk_shape, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, np.ndindex(*counts)))


@pytest.mark.parametrize("codec", ["blosc-lz4:5", "blosc-zstd:1", "zstd:3"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_chunk_is_what_zarr_reads(tmp_path: Path, codec: str, dtype: str) -> None:
    url, values = _make(tmp_path, codec, dtype)
    chunks = Chunks(url, "x")
    assert chunks.direct
    assert chunks.chunk_shape == CHUNK
    _require_equal(chunks, values)
    _require_equal(pickle.loads(pickle.dumps(chunks)), values)


@pytest.mark.parametrize(
    "more",
    [
        {"shards": None},
        {"compressors": None},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"shards": (1, 2, 24, 32)},  # does not divide the array
    ],
)
def test_other_layouts_go_through_zarr(tmp_path: Path, more: dict[str, Any]) -> None:
    url, values = _make(tmp_path, "zstd:1", **more)
    chunks = Chunks(url, "x")
    assert not chunks.direct
    _require_equal(chunks, values)


def test_a_store_elsewhere_goes_through_zarr() -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    group = zarr.open_group("memory://chunks.zarr", mode="w")
    group.create_array("x", shape=SHAPE, dtype="uint16", chunks=CHUNK, shards=SHARD)[...] = values
    chunks = Chunks("memory://chunks.zarr", "x")
    assert not chunks.direct
    _require_equal(chunks, values)


def test_a_shard_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    url, values = _make(tmp_path, "blosc-lz4:5")
    chunks = Chunks(url, "x")
    _require_equal(chunks, values)
    shard = next(p for p in sorted(Path(url, "x", "c").rglob("*")) if p.is_file())
    before = shard.read_bytes()
    zarr.open_group(url, mode="r+")["x"][...] = values[:, ::-1]
    _copy(shard).replace(shard)  # as the store's writers do it: another file in its place
    _require_equal(chunks, values[:, ::-1])
    assert shard.read_bytes() != before


def _copy(path: Path) -> Path:
    other = path.with_name("aside")
    other.write_bytes(path.read_bytes())
    return other


def _read_all(chunks: Chunks, out: np.ndarray) -> None:
    for y, x in np.ndindex(2, 2):
        chunks.read_into((0, 0, y, x), out)


def test_damage_is_told(tmp_path: Path) -> None:
    url, _ = _make(tmp_path, "blosc-lz4:5")
    shard = next(p for p in sorted(Path(url, "x", "c", "0").rglob("*")) if p.is_file())
    whole, out = shard.read_bytes(), np.zeros(CHUNK, np.uint16)
    for damaged, told in (
        (whole[:-7], "index of a shard is damaged"),
        (b"", "index of a shard is damaged"),
        (b"\0" * 40 + whole[40:], "does not decompress"),
    ):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=told):
            _read_all(Chunks(url, "x"), out)
    with pytest.raises(InputError, match="no such array"):
        Chunks(url, "y")
