"""Stores that are given other words or a bigger area: the same shards, whatever is killed on the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - adds the accessor
import xarray as xr

from engine.store import layout, objects, widen
from engine.store.layout import Dim, StoreSpec, Variable, create, open_spec, update_attrs
from engine.store.objects import Folder, local_path
from engine.store.regions import open_epoch, read_back, read_region, write_region
from engine.store.remote import MemoryObjects, S3Objects, objects_at
from engine.store.widen import fit
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid

NAMES = Dim("class", ("water", "forest"), chunk=1)
SPEC = StoreSpec(
    Grid.make("EPSG:32633", 10),
    Box(0, 32, 64, 128),
    32,
    (
        Variable("label", "uint8", 0, attrs={"flag_meanings": "water forest"}),
        Variable("probability", "uint8", 255, (NAMES,)),
    ),
    16,
    title="a district",
)
BIGGER = replace(SPEC, box=Box(-32, -64, 96, 128), title="two districts")
"""Further up by one shard, to the left by three, down by one."""

TILE = Box(0, 64, 64, 128)
RESTATED = replace(
    SPEC,
    title="a county",
    variables=(
        replace(SPEC.variables[0], attrs={"flag_meanings": "lake wood", "flag_colors": "#00f #0f0"}),
        replace(SPEC.variables[1], dims=(replace(NAMES, labels=("lake", "wood")),)),
    ),
)


@pytest.fixture
def url(folder_url: str) -> str:
    return f"{folder_url}/map.zarr"


def _filled(url: str, epoch: int | None = None) -> dict[str, str]:
    rng = np.random.default_rng(1)
    create(url, SPEC)
    update_attrs(url, {"landweave_note": "kept"})
    values = {
        "label": rng.integers(1, 9, TILE.shape_yx, dtype=np.uint8),
        "probability": rng.integers(0, 251, (2, *TILE.shape_yx), dtype=np.uint8),
    }
    return write_region(url, TILE, values, epoch)


def _shards(url: str) -> list[bytes]:
    return sorted(v for k, v in _files(url).items() if k.startswith(("label/c", "probability/c")))


def _files(url: str) -> dict[str, bytes]:
    path = local_path(url)
    if path is not None:
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    at, key = objects_at(url)
    return Folder(url).read_all(at.keys(key))


def _beside(url: str) -> list[str]:
    """List what lies beside a store, itself included; some servers go on listing folders that are empty."""
    parent = url.rpartition("/")[0]
    if local_path(parent) is not None:
        return list(Folder(parent).names())
    at, key = objects_at(parent)
    return sorted({name.split("/")[0] for name in at.keys(key)})


def test_a_new_store_is_made_and_the_same_one_left(url: str) -> None:
    assert fit(url, SPEC) == "new"
    written = _filled(url)
    before = _files(url)
    assert fit(url, SPEC) == "same"
    assert _files(url) == before
    assert read_back(url, TILE, written) == written


def test_other_words_change_no_shard(url: str) -> None:
    written = _filled(url)
    before = _shards(url)
    assert fit(url, RESTATED) == "restated"
    assert fit(url, RESTATED) == "same"
    assert open_spec(url) == RESTATED
    assert _shards(url) == before
    assert read_back(url, TILE, written) == written
    for consolidated in (True, False):
        seen = xr.open_zarr(url, consolidated=consolidated)
        assert seen["label"].attrs["flag_meanings"] == "lake wood"
        assert seen["label"].attrs["nodata"] == 0
        assert list(seen["class"].values) == ["lake", "wood"]
        assert seen.attrs["title"] == "a county"
        assert seen.attrs["landweave_note"] == "kept"
        assert seen.rio.crs.to_epsg() == 32633


def test_a_bigger_area_keeps_every_shard(url: str) -> None:
    written = _filled(url)
    before, was = _shards(url), xr.open_zarr(url).load()
    assert fit(url, BIGGER) == "grown"
    assert fit(url, BIGGER) == "same"
    assert open_spec(url) == BIGGER
    assert _shards(url) == before
    assert _beside(url) == ["map.zarr"]
    assert read_back(url, TILE, written) == written
    for consolidated in (True, False):
        now = xr.open_zarr(url, consolidated=consolidated)
        assert now.sizes["y"], now.sizes["x"] == (128, 192)
        cut = now.sel(y=was.y, x=was.x).load()
        for name in ("label", "probability"):
            np.testing.assert_array_equal(cut[name].values, was[name].values)
        assert cut["label"].dtype == np.uint8
        assert now.attrs["landweave_note"] == "kept"
        assert tuple(now.rio.bounds()) == (-640.0, -960.0, 1280.0, 320.0)
    outside = read_region(url, BIGGER.box)
    assert int((outside["label"] != 0).sum()) == TILE.area_px
    new = Box(-32, -64, 0, -32)
    again = write_region(url, new, {"label": np.ones(new.shape_yx, np.uint8)})
    assert read_back(url, new, again) == again
    assert read_back(url, TILE, written) == written


def test_a_store_that_covers_more_keeps_its_box(url: str) -> None:
    fit(url, BIGGER)
    smaller = replace(SPEC, title=BIGGER.title)
    assert fit(url, smaller) == "same"
    assert fit(url, replace(RESTATED, title=BIGGER.title)) == "restated"
    assert open_spec(url).box == BIGGER.box


def test_bigger_and_reworded_at_once(url: str) -> None:
    written = _filled(url)
    assert fit(url, replace(RESTATED, box=Box(0, 0, 64, 32))) == "grown"
    assert open_spec(url) == replace(RESTATED, box=Box(0, 0, 64, 128))
    assert read_back(url, TILE, written) == written


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (replace(SPEC, grid=Grid.make("EPSG:32632", 10)), "grid"),
        (replace(SPEC, chunk_px=32), "chunk_px"),
        (replace(SPEC, variables=SPEC.variables[:1]), "variables"),
        (replace(SPEC, box=BIGGER.box, shard_px=64), "shard_px"),
    ],
)
def test_another_store_is_refused_and_left_alone(url: str, other: StoreSpec, word: str) -> None:
    _filled(url)
    before = _files(url)
    with pytest.raises(ConflictError, match=word):
        fit(url, other)
    assert _files(url) == before


def test_overviews_of_the_old_area_are_left_behind(url: str) -> None:
    _filled(url)
    Folder(url).replace("overviews/zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    update_attrs(url, {"multiscales": {"layout": []}})
    fit(url, BIGGER)
    assert "multiscales" not in xr.open_zarr(url).attrs
    assert not [n for n in _files(url) if n.startswith("overviews")]


def test_a_writer_that_knows_the_old_numbers_is_fenced(url: str) -> None:
    open_epoch(url, 1)
    written = _filled(url, 1)
    fit(url, BIGGER)
    with pytest.raises(ConflictError, match="epoch 1 is closed"):
        write_region(url, TILE, {"label": np.ones(TILE.shape_yx, np.uint8)}, 1)
    assert read_back(url, TILE, written) == written


class _KilledError(Exception):
    pass


@contextmanager
def _killed_at(step: int) -> Iterator[list[str]]:
    """Let nothing more happen from the n-th step on: renames, links, puts, copies, deletes, markings."""
    done: list[str] = []

    def guard(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) > step:
                raise _KilledError
            return original(*args, **kwargs)

        patch.setattr(owner, name, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.store.remote._AT_ONCE", 1)
        for owner, names in [
            (os, ("link",)),
            (Path, ("rename", "unlink")),
            (shutil, ("rmtree",)),
            (layout, ("commit",)),
            (widen, ("create", "update_attrs", "close_all_epochs")),
            (MemoryObjects, ("put",)),
            (S3Objects, ("_put", "_call")),
            (objects, ("_write_temporary",)),
        ]:
            for name in names:
                guard(owner, name)
        guard(MemoryObjects, "delete")
        yield done


def _steps(url: str) -> int:
    """Count the steps of an undisturbed growth."""
    _filled(url)
    with _killed_at(10**9) as done:
        assert fit(url, BIGGER) == "grown"
    return len(done)


def test_killed_at_any_step_it_goes_on(folder_url: str) -> None:
    """One kill a growth: at the last steps, where stores change places, and spread over those before."""
    steps = _steps(f"{folder_url}/undisturbed/map.zarr")
    assert steps > 10
    wanted = _files(f"{folder_url}/undisturbed/map.zarr")
    spread = {*range(0, steps, steps // 6), *(() if folder_url.startswith("s3") else range(steps - 8, steps))}
    for step in sorted(spread):
        url = f"{folder_url}/{step}/map.zarr"
        written = _filled(url)
        shards = set(_shards(url))
        with pytest.raises(_KilledError), _killed_at(step):
            fit(url, BIGGER)
        try:
            assert set(_shards(url)) <= shards
            old = open_spec(url)
        except InputError:
            pass  # between two stores there may be none, but never a wrong one
        else:
            assert old in (SPEC, BIGGER)
            assert read_back(url, TILE, written) == written
        assert fit(url, BIGGER) in ("grown", "same")
        assert read_back(url, TILE, written) == written
        assert _files(url) == wanted, f"killed at step {step}"
        assert _beside(url) == ["map.zarr"]


def test_killed_again_and_again_it_ends(folder_url: str) -> None:
    url = f"{folder_url}/map.zarr"
    written = _filled(url)
    for step in range(0, 400, 23):
        try:
            with _killed_at(step):
                fit(url, BIGGER)
        except _KilledError:
            continue
        break
    assert fit(url, BIGGER) == "same"
    assert read_back(url, TILE, written) == written
    assert _beside(url) == ["map.zarr"]


def test_a_disk_without_links_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    url = str(tmp_path / "map.zarr")
    written = _filled(url)
    with monkeypatch.context() as patch:
        patch.setattr(widen.os, "link", refuse)
        patch.setattr(objects.os, "link", lambda a, b: shutil.copyfile(a, b))
        fit(url, BIGGER)
    assert read_back(url, TILE, written) == written
