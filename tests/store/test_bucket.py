"""Shards in a bucket: a writer that sleeps between any two requests changes nothing after a take-over."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.store import regions, remote
from engine.store.layout import StoreSpec, Variable, create
from engine.store.objects import Folder
from engine.store.regions import (
    close_epoch,
    open_epoch,
    read_back,
    read_region,
    write_region,
)
from engine.store.remote import MemoryObjects, S3Objects, objects_at
from engine.values.errors import ConflictError, DataError, RetryableError
from engine.values.grid import Box, Grid

SPEC = StoreSpec(Grid.make("EPSG:32633", 10), Box(0, 0, 64, 128), 32, (Variable("label", "uint8", 0),), 16)
TILE = Box(0, 64, 64, 128)
SHARDS = ["label/c/0/2", "label/c/0/3", "label/c/1/2", "label/c/1/3"]
BLANK = np.zeros(TILE.shape_yx, np.uint8)
Values = dict[str, np.ndarray]


def _values(seed: int | None) -> Values:
    if seed is None:
        return {"label": BLANK}
    return {"label": np.random.default_rng(seed).integers(1, 9, TILE.shape_yx, dtype=np.uint8)}


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    base = f"memory://{tmp_path}" if request.param == "memory" else request.getfixturevalue("s3_folder")
    create(f"{base}/map.zarr", SPEC)
    return f"{base}/map.zarr"


def _beside(url: str) -> list[str]:
    return list(Folder(f"{url.rpartition('/')[0]}/.map.zarr.staging").names())


def test_an_epoch_opens_and_closes(url: str) -> None:
    open_epoch(url, 3)
    written = write_region(url, TILE, _values(1), 3)
    assert read_back(url, TILE, written) == written
    assert _beside(url) == ["gate-3"]
    open_epoch(url, 3)
    close_epoch(url, 3)
    assert _beside(url) == []
    with pytest.raises(ConflictError, match="epoch 3 is closed"):
        write_region(url, TILE, _values(2), 3)
    read_back(url, TILE, written)


def test_later_epochs_are_respected_and_earlier_ones_closed(url: str) -> None:
    open_epoch(url, 1)
    open_epoch(url, 2)
    assert _beside(url) == ["gate-2"]
    with pytest.raises(ConflictError, match="epoch 2 is open"):
        open_epoch(url, 1)
    with pytest.raises(ConflictError, match="epoch 2 is open"):
        write_region(url, TILE, _values(1), 1)
    assert Folder(url).read_all(SHARDS) == {}


def test_shards_are_the_bytes_that_zarr_writes_on_a_disk(url: str, tmp_path: Path) -> None:
    local = str(tmp_path / "map.zarr")
    create(local, SPEC)
    for where in (url, local):
        write_region(where, TILE, _values(4))
    assert Folder(url).read_all(SHARDS) == Folder(local).read_all(SHARDS)
    assert len(Folder(url).read_all(SHARDS)) == len(SHARDS)


@pytest.mark.parametrize("epoch", [None, 1])
def test_no_data_is_not_written_where_nothing_was(url: str, epoch: int | None) -> None:
    open_epoch(url, 1)
    written = write_region(url, TILE, _values(None), epoch)
    assert Folder(url).read_all(SHARDS) == {}
    write_region(url, TILE, _values(1))
    assert write_region(url, TILE, _values(None)) == written
    assert read_back(url, TILE, written) == written
    assert sum(map(len, Folder(url).read_all(SHARDS).values())) < 1000, "some hundred bytes stay"


class _Asleep:
    """Lets something happen just before the n-th call of a method, counted over all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], before: int):
        self.calls: list[str] = []
        self.happens, self.before, self.inside = happens, before, False
        for owner in (MemoryObjects, S3Objects):
            for name in ("seen", "put_all", "names"):
                monkeypatch.setattr(owner, name, self._slow(getattr(owner, name)))

    def _slow(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.inside:  # what happens meanwhile, and what a call calls, is not counted
                return method(*args)
            self.inside = True
            try:
                self.calls.append(method.__name__)
                if len(self.calls) == self.before:
                    self.happens()
                return method(*args)
            finally:
                self.inside = False

        return call


STEPS = ["seen", "names", "put_all"]
"""What a writer asks, in this order: see, look at the gate, put."""


SLEEPS = list(itertools.product(["memory"], [1, 2, 3, 4], [None, 2, 7], [None, 1], [None, 7]))
SLEEPS += [
    ("s3", step, newer, 1, before)
    for step, newer, before in [(1, 2, 7), (2, 2, None), (3, None, None), (3, 2, None), (3, 7, 7), (4, 2, 7)]
]


@pytest.mark.parametrize(("url", "step", "newer", "slow", "before"), SLEEPS, indirect=["url"])
def test_a_writer_that_sleeps_anywhere_changes_nothing_after_a_take_over(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    newer: int | None,
    slow: int | None,
    before: int | None,
) -> None:
    """Another epoch opens and writes before each request of the slow writer: with data, without, as before."""
    if before is not None:
        write_region(url, TILE, _values(before))
    open_epoch(url, 1)
    after: list[dict[str, str]] = []

    def take_over() -> None:
        open_epoch(url, 2)
        after.append(write_region(url, TILE, _values(newer), 2))

    with monkeypatch.context() as patch:
        asleep = _Asleep(patch, take_over, step)
        if step == 4 or (step == 3 and slow is None and before is None):  # awake, or nothing to put
            write_region(url, TILE, _values(slow), 1)
        else:
            with pytest.raises(ConflictError, match="took this store over"):
                write_region(url, TILE, _values(slow), 1)
    if step == 4:
        assert asleep.calls == STEPS
        take_over()
    assert read_back(url, TILE, after[0]) == after[0]
    with pytest.raises(ConflictError):
        write_region(url, TILE, _values(slow), 1)
    read_back(url, TILE, after[0])


@pytest.mark.parametrize("step", [2, 3])
def test_a_take_over_in_the_middle_of_the_new_writer_is_tried_again(
    url: str, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The sleeper wakes between the new writer's look and its put."""
    open_epoch(url, 1)
    objects, base = objects_at(url)
    open_epoch(url, 2)

    def wakes() -> None:  # it had looked at the gate before epoch 2 opened
        objects.put(f"{base}/{SHARDS[0]}", b"late", "*")

    with monkeypatch.context() as patch:
        _Asleep(patch, wakes, step)
        with pytest.raises(RetryableError, match="another attempt"):
            write_region(url, TILE, _values(2), 2)
    written = write_region(url, TILE, _values(2), 2)
    assert read_back(url, TILE, written) == written


def test_a_shard_of_a_later_epoch_is_read_by_all(url: str) -> None:
    import xarray as xr

    open_epoch(url, 5)
    written = write_region(url, TILE, _values(3), 5)
    assert read_back(url, TILE, written) == written
    seen = xr.open_zarr(url, consolidated=False)["label"].to_numpy()
    assert np.array_equal(seen[:, 64:], _values(3)["label"])
    assert not seen[:, :64].any()


def test_two_attempts_of_one_tile_agree(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_epoch(url, 1)
    with monkeypatch.context() as patch:
        _Asleep(patch, lambda: write_region(url, TILE, _values(1), 1) and None, 3)  # type: ignore[func-returns-value]
        written = write_region(url, TILE, _values(1), 1)
    assert read_back(url, TILE, written) == written


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("put", range(5))
def test_a_kill_between_shards_leaves_each_old_or_new(
    url: str, monkeypatch: pytest.MonkeyPatch, put: int
) -> None:
    open_epoch(url, 1)
    write_region(url, TILE, _values(1), 1)
    old, done = Folder(url).read_all(SHARDS), []
    owner, name = (S3Objects, "_put") if url.startswith("s3") else (MemoryObjects, "put")
    original = getattr(owner, name)

    def killed(*args: Any) -> Any:
        done.append(args)
        if len(done) > put:
            raise _KilledError
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_AT_ONCE", 1)
        patch.setattr(owner, name, killed)
        if put < 4:
            with pytest.raises(_KilledError):
                write_region(url, TILE, _values(2), 1)
        else:
            write_region(url, TILE, _values(2), 1)
    now = Folder(url).read_all(SHARDS)
    written = write_region(url, TILE, _values(2), 1)
    new = Folder(url).read_all(SHARDS)
    assert read_back(url, TILE, written) == written
    assert all(now[s] in (old[s], new[s]) for s in SHARDS)
    assert sum(now[s] == new[s] for s in SHARDS) == put


@pytest.fixture
def any_url(folder_url: str) -> str:
    create(f"{folder_url}/map.zarr", SPEC)
    return f"{folder_url}/map.zarr"


@pytest.mark.parametrize("harm", ["a byte", "gone", "cut", "empty"])
def test_a_damaged_shard_is_named(any_url: str, harm: str) -> None:
    written = write_region(any_url, TILE, _values(1))
    folder, name = Folder(any_url), SHARDS[2]
    data = bytearray(folder.read(name) or b"")
    data[len(data) // 3] ^= 1
    if harm == "gone":
        folder.remove(name)
    else:
        folder.replace(name, {"a byte": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[harm])
    with pytest.raises(DataError) as found:
        read_back(any_url, TILE, written)
    assert "label" in str(found.value)
    assert name in str(found.value)
    write_region(any_url, TILE, _values(1))
    assert read_back(any_url, TILE, written) == written


def test_a_lost_network_is_no_damage(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import EndpointConnectionError

    written = write_region(url, TILE, _values(1))

    def lost(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://nowhere")

    monkeypatch.setattr(regions, "_checksum_of", lost)
    with pytest.raises(RetryableError, match="cannot be reached"):
        read_back(url, TILE, written)


def test_types_with_wide_numbers_and_more_dimensions(url: str) -> None:
    from engine.store.layout import Dim

    wide = StoreSpec(
        SPEC.grid,
        SPEC.box,
        32,
        (Variable("value", "float32", float("nan"), (Dim("band", ("a", "b"), chunk=1),)),),
        16,
    )
    store = url.replace("map.zarr", "cube.zarr")
    create(store, wide)
    values = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    values[1] = np.nan
    written = write_region(store, TILE, {"value": values})
    assert read_back(store, TILE, written) == written
    assert np.array_equal(read_region(store, TILE)["value"], values, equal_nan=True)
    write_region(store, TILE, {"value": np.full_like(values, np.nan)})
    assert np.isnan(read_region(store, TILE)["value"]).all()
