from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store import regions
from engine.store.layout import Dim, StoreSpec, Variable, create
from engine.store.regions import checksum, close_epoch, open_epoch, read_back, read_region, write_region
from engine.values.errors import ConflictError, DataError, InputError
from engine.values.grid import Box, Grid

SPEC = StoreSpec(
    Grid.make("EPSG:32633", 10),
    Box(-64, 0, 64, 192),
    64,
    (
        Variable("label", "uint8", 0),
        Variable("probability", "uint8", 255, (Dim("class", ("a", "b", "c"), chunk=1),)),
    ),
    chunk_px=32,
)
TILE = Box(-64, 64, 0, 128)


def _arrays(seed: int = 0, box: Box = TILE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "label": rng.integers(0, 9, box.shape_yx, dtype=np.uint8),
        "probability": rng.integers(0, 251, (3, *box.shape_yx), dtype=np.uint8),
    }


@pytest.fixture
def url(folder_url: str) -> str:
    url = f"{folder_url}/map.zarr"
    create(url, SPEC)
    return url


def _shard(url: str) -> Path:
    return Path(url, "label", "c", "0", "1")


def test_a_region_comes_back_as_it_was_written(url: str) -> None:
    arrays = _arrays()
    written = write_region(url, TILE, arrays)
    assert written == {name: checksum(array) for name, array in arrays.items()}
    assert read_back(url, TILE, written) == written
    for name, array in read_region(url, TILE).items():
        assert np.array_equal(array, arrays[name])


def test_only_the_region_is_touched(url: str) -> None:
    write_region(url, TILE, _arrays())
    whole = read_region(url, SPEC.box, ["label"])["label"]
    expected = np.zeros(SPEC.box.shape_yx, np.uint8)
    expected[0:64, 64:128] = _arrays()["label"]
    assert np.array_equal(whole, expected)


@settings(max_examples=25, deadline=None)
@given(y=st.integers(-64, 63), x=st.integers(0, 191), h=st.integers(1, 128), w=st.integers(1, 192))
def test_any_box_inside_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, y: int, x: int, h: int, w: int
) -> None:
    url = str(tmp_path_factory.getbasetemp() / "whole.zarr")
    create(url, SPEC)
    whole = _arrays(3, SPEC.box)
    write_region(url, SPEC.box, whole)
    box = Box(y, x, y + h, x + w) & SPEC.box
    got = read_region(url, box)
    ys, xs = box.slices_in(SPEC.box)
    assert np.array_equal(got["label"], whole["label"][ys, xs])
    assert np.array_equal(got["probability"], whole["probability"][:, ys, xs])


@pytest.mark.parametrize(
    "box",
    [Box(-64, 64, 0, 127), Box(-63, 64, 1, 128), Box(0, 0, 64, 256), Box(64, 0, 128, 64), Box(0, 0, 0, 0)],
)
def test_half_shards_are_refused_with_numbers(url: str, box: Box) -> None:
    with pytest.raises(InputError) as refused:
        write_region(url, box, {"label": np.zeros(box.shape_yx, np.uint8)})
    assert "64" in str(refused.value)


@pytest.mark.parametrize(
    "array", [np.zeros((64, 63), np.uint8), np.zeros((64, 64), np.int16), np.zeros((1, 64, 64), np.uint8)]
)
def test_arrays_that_do_not_fit_are_refused_before_anything_is_written(url: str, array: np.ndarray) -> None:
    with pytest.raises(InputError):
        write_region(url, TILE, {**_arrays(), "label": array})
    assert (read_region(url, TILE)["probability"] == 255).all()


def test_unknown_variables_and_boxes_outside_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        write_region(url, TILE, {"nothing": np.zeros((64, 64), np.uint8)})
    with pytest.raises(InputError):
        read_region(url, TILE, ["nothing"])
    with pytest.raises(InputError):
        read_region(url, SPEC.box.pad(1))


def test_no_data_needs_no_files_and_erases_what_was_there(tmp_path: Path) -> None:
    url = str(tmp_path)
    create(url, SPEC)
    blank = {"label": np.zeros((64, 64), np.uint8), "probability": np.full((3, 64, 64), 255, np.uint8)}
    written = write_region(url, TILE, blank)
    assert read_back(url, TILE, written) == written
    assert not _shard(url).exists()
    write_region(url, TILE, _arrays())
    assert _shard(url).exists()
    read_back(url, TILE, write_region(url, TILE, blank))
    assert (read_region(url, TILE)["label"] == 0).all()
    assert not _shard(url).exists()


def test_other_bytes_are_noticed(url: str) -> None:
    written = write_region(url, TILE, _arrays(0))
    write_region(url, TILE, _arrays(1))
    with pytest.raises(DataError, match="other bytes"):
        read_back(url, TILE, written)


@pytest.mark.parametrize("keep", [0, 10, 700, -1])
def test_a_truncated_shard_is_noticed_and_repaired_by_writing_again(tmp_path: Path, keep: int) -> None:
    url = str(tmp_path)
    create(url, SPEC)
    written = write_region(url, TILE, _arrays())
    shard = _shard(url)
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DataError):
        read_back(url, TILE, written)
    write_region(url, TILE, _arrays())
    assert read_back(url, TILE, written) == written


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    url = str(tmp_path)
    create(url, SPEC)
    written = write_region(url, TILE, _arrays())
    data = bytearray(_shard(url).read_bytes())
    data[len(data) // 3] ^= 4
    _shard(url).write_bytes(data)
    with pytest.raises(DataError):
        read_back(url, TILE, written)


def _staged(url: str) -> list[str]:
    return sorted(p.name for p in Path(url).parent.glob(".*.staging/*"))


def test_a_lone_writer_leaves_nothing_beside_the_store(tmp_path: Path) -> None:
    url = str(tmp_path / "map.zarr")
    create(url, SPEC)
    write_region(url, TILE, _arrays())
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]


def test_an_epoch_opens_and_closes(tmp_path: Path) -> None:
    url = str(tmp_path / "map.zarr")
    create(url, SPEC)
    open_epoch(url, 3)
    written = write_region(url, TILE, _arrays(), 3)
    assert read_back(url, TILE, written) == written
    assert _staged(url) == ["gate-3"]
    close_epoch(url, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]
    with pytest.raises(ConflictError):
        write_region(url, TILE, _arrays(1), 3)
    read_back(url, TILE, written)


def test_leftovers_of_earlier_epochs_are_cleared_and_later_ones_respected(tmp_path: Path) -> None:
    url = str(tmp_path / "map.zarr")
    create(url, SPEC)
    open_epoch(url, 1)
    staging = tmp_path / ".map.zarr.staging"
    (staging / "work-1-killed" / "label").mkdir(parents=True)
    (staging / "lone-other").mkdir()
    open_epoch(url, 2)
    assert _staged(url) == ["gate-2", "lone-other"]
    open_epoch(url, 2)
    with pytest.raises(ConflictError, match="epoch 2 is open"):
        open_epoch(url, 1)


@pytest.mark.parametrize(
    ("moment", "seed"),
    [
        ("_stage", 1),
        ("_stage", None),
        ("_publish", 1),
        ("_publish", None),
        ("_sync", 1),
        ("replace", 1),
        ("replace", None),
        ("replace out of the gate", 1),
    ],
)
def test_a_writer_that_sleeps_anywhere_moves_nothing_after_a_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, seed: int | None
) -> None:
    """Another epoch opens and writes just before each step of the slow writer."""
    url = str(tmp_path / "map.zarr")
    create(url, SPEC)
    open_epoch(url, 1)
    slow = {
        "label": np.zeros((64, 64), np.uint8) if seed is None else _arrays(seed)["label"],
    }
    write_region(url, TILE, _arrays(5), 1)
    after: list[dict[str, str]] = []

    def asleep(function: Callable[..., Any]) -> Callable[..., Any]:
        def woken(*args: Any, **kwargs: Any) -> Any:
            ripe = "gate" not in moment or "gate-1" in str(args[0])
            if not after and ripe:
                after.append({})
                open_epoch(url, 2)
                after[0] = write_region(url, TILE, _arrays(2), 2)
            return function(*args, **kwargs)

        return woken

    owner = regions if moment.startswith("_") else Path
    name = moment.split()[0]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, asleep(getattr(owner, name)))
        with pytest.raises(ConflictError, match="took this store over"):
            write_region(url, TILE, slow, 1)
    assert read_back(url, TILE, after[0]) == after[0]


def test_a_checksum_tells_shape_type_and_content_apart() -> None:
    a = np.arange(6, dtype=np.uint8)
    sums = {checksum(v) for v in (a, a.reshape(2, 3), a.reshape(3, 2), a.astype(np.int8), a[::-1])}
    assert len(sums) == 5
    assert checksum(np.asfortranarray(a.reshape(2, 3))) == checksum(a.reshape(2, 3))
