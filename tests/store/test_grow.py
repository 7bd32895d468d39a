"""A store grows along time: old steps untouched, readers see the old axis or the new one, at any kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from engine.store import grow
from engine.store.grow import extend, followed_by
from engine.store.layout import Dim, Series, StoreSpec, Variable, codec_of, create, open_spec
from engine.store.regions import read_back, read_region, write_region
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid

GRID, BOX, TILE = Grid.make("EPSG:32633", 10), Box(0, 0, 64, 128), Box(0, 64, 64, 128)
BANDS = Dim("band", ("red", "nir"))


def _spec(*months: int, bands: Dim = BANDS, shard_px: int = 64) -> StoreSpec:
    bounds = tuple((f"2023-{m:02}-01", f"2023-{m + 1:02}-01") for m in months)
    time = Dim("time", tuple(a for a, _ in bounds), 1, bounds, {"standard_name": "time"})
    variables = (
        Variable("reflectance", "uint16", 0, (time, bands)),
        Variable("index", "float32", float("nan"), (time,)),
        Variable("height", "float32", float("nan")),
    )
    angle = Dim("encoding", ("sin", "cos"))
    values = tuple(float(np.float32(v)) for m in months for v in (m / 7, -m / 3))
    series = (Series("day_of_year", "float32", (time, angle), values),)
    return StoreSpec(GRID, BOX, shard_px, variables, chunk_px=32, series=series)


def _arrays(steps: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "reflectance": rng.integers(1, 9999, (steps, 2, 64, 64), dtype=np.uint16),
        "index": rng.random((steps, 64, 64), np.float32),
    }


def _files(url: str) -> dict[str, bytes]:
    root = Path(url)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def _months(url: str, *, consolidated: bool | None = None) -> list[int]:
    """Read a store with xarray alone, everything in it, and return the months of its axis."""
    opened = xr.open_zarr(url, chunks=None, consolidated=consolidated).load()
    months = opened.time.dt.month.values.tolist()
    assert opened.time_bnds.dt.month.values[:, 0].tolist() == months
    np.testing.assert_allclose(opened.day_of_year.values[:, 0], np.array(months) / 7, rtol=1e-6)
    return months


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "cube.zarr") if request.param == "local" else f"memory://{tmp_path}/cube.zarr"


def test_new_steps_come_after_the_old_ones(url: str) -> None:
    create(url, _spec(3, 4))
    early = _arrays(2, 0)
    first = write_region(url, TILE, early | {"height": np.ones((64, 64), np.float32)})
    longer = followed_by(_spec(3, 4), _spec(5, 6, 7))
    assert longer.to_dict() == _spec(3, 4, 5, 6, 7).to_dict()
    extend(url, longer, {"told": "later"})
    assert open_spec(url).to_dict() == longer.to_dict()
    assert _months(url) == [3, 4, 5, 6, 7]
    assert not read_region(url, TILE, ["reflectance"], (2, 5))["reflectance"].any()
    late = _arrays(3, 1)
    second = write_region(url, TILE, late, steps=(2, 5))
    assert read_back(url, TILE, second, (2, 5)) == second
    times = {n: first[n] for n in ("reflectance", "index")}
    assert read_back(url, TILE, times, (0, 2)) == times
    assert read_back(url, TILE, {"height": first["height"]}) == {"height": first["height"]}
    for name, array in read_region(url, TILE).items():
        if name != "height":
            np.testing.assert_array_equal(array, np.concatenate([early[name], late[name]]))
    assert xr.open_zarr(url).attrs["told"] == "later"


def test_a_grown_store_is_the_store_of_the_whole_time(tmp_path: Path) -> None:
    grown, whole = str(tmp_path / "grown"), str(tmp_path / "whole")
    create(grown, _spec(3, 4))
    extend(grown, _spec(3, 4, 5), {})
    create(whole, _spec(3, 4, 5))
    mine, theirs = _files(grown), _files(whole)
    assert json.loads(mine.pop("zarr.json")) == json.loads(theirs.pop("zarr.json"))
    assert mine == theirs


class Killed(BaseException):
    pass


def _kill(*_: Any, **__: Any) -> None:
    raise Killed


def _then_kill(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> None:
        function(*args)
        raise Killed

    return run


POINTS = ["nothing", "one array", "arrays", "series", "labels", "commit"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_readers_see_one_axis_and_the_next_attempt_ends_the_same(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, url = str(tmp_path / "whole"), str(tmp_path / "cube.zarr")
    for place in (whole, url):
        create(place, _spec(3, 4))
        write_region(place, TILE, _arrays(2, 0))
    before = read_region(url, TILE)
    extend(whole, _spec(3, 4, 5, 6), {"told": 1})
    with monkeypatch.context() as patch:
        match point:
            case "nothing":
                patch.setattr(grow, "_resize", _kill)
            case "one array":
                patch.setattr(grow, "_resize", _then_kill(grow._resize))
            case "arrays":
                patch.setattr(grow, "write_labels", _kill)
            case "series":
                import engine.store.layout as layout

                patch.setattr(layout, "_label_values", _kill)
            case "labels":
                patch.setattr(grow, "write_labels", _then_kill(grow.write_labels))
            case "commit":
                patch.setattr(grow, "commit", _then_kill(grow.commit))
        with pytest.raises(Killed):
            extend(url, _spec(3, 4, 5, 6), {"told": 1})
    old = point != "commit"
    assert _months(url) == ([3, 4] if old else [3, 4, 5, 6])
    assert len(open_spec(url).dims["time"].labels) == (2 if old else 4)
    for name, array in read_region(url, TILE, steps=(0, 2)).items():
        np.testing.assert_array_equal(array, before[name])
    extend(url, _spec(3, 4, 5, 6), {"told": 1})
    assert _files(url) == _files(whole)


def test_an_interrupted_growth_may_be_followed_by_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "cube.zarr")
    create(url, _spec(3, 4))
    with monkeypatch.context() as patch:
        patch.setattr(grow, "write_labels", _then_kill(grow.write_labels))
        with pytest.raises(Killed):
            extend(url, _spec(3, 4, 5, 6, 7), {})
    write_region(url, TILE, _arrays(2, 0))  # the spec, not the length of the arrays, says what there is
    extend(url, _spec(3, 4, 9), {})
    assert _months(url) == _months(url, consolidated=False) == [3, 4, 9]


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (_spec(5, bands=Dim("band", ("red", "blue"))), "variables"),
        (_spec(5, shard_px=32), "shard_px"),
        (replace(_spec(5), grid=Grid.make("EPSG:32632", 10)), "grid"),
        (replace(_spec(5), box=Box(0, 0, 64, 64)), "box"),
        (replace(_spec(5), series=()), "series"),
    ],
)
def test_something_else_does_not_follow(later: StoreSpec, words: str) -> None:
    with pytest.raises(ConflictError, match=f"something else .*{words}"):
        followed_by(_spec(3, 4), later)


def test_an_axis_that_is_not_continued_is_refused(tmp_path: Path) -> None:
    url = str(tmp_path)
    create(url, _spec(3, 4))
    before = _files(url)
    with pytest.raises(ConflictError, match="not the beginning"):
        extend(url, _spec(3, 5, 6), {})
    assert _files(url) == before
    with pytest.raises(InputError, match="can grow"):
        followed_by(replace(_spec(3), variables=(Variable("height", "float32", 0.0),), series=()), _spec(4))


@pytest.mark.parametrize("steps", [(0, 3), (1, 1), (-1, 1)])
def test_steps_outside_the_axis_are_refused(steps: tuple[int, int], tmp_path: Path) -> None:
    create(str(tmp_path), _spec(3, 4))
    with pytest.raises(InputError, match="time steps"):
        write_region(str(tmp_path), TILE, _arrays(2, 0), steps=steps)
    with pytest.raises(InputError, match="does not fit"):
        write_region(str(tmp_path), TILE, _arrays(2, 0), steps=(0, 1))


@pytest.mark.parametrize("codec", ["zstd:1", "zstd:3", "blosc-lz4:5", "blosc-zstd:1", ""])
def test_each_variable_may_have_its_codec(codec: str, tmp_path: Path) -> None:
    spec = _spec(3, 4)
    first = replace(spec.variables[0], codec=codec)
    create(str(tmp_path), replace(spec, variables=(first, *spec.variables[1:])))
    written = write_region(str(tmp_path), TILE, _arrays(2, 0))
    assert read_back(str(tmp_path), TILE, written) == written
    used = zarr.open_group(tmp_path, mode="r")["reflectance"].compressors
    assert [c.to_dict() for c in used] == [c.to_dict() for c in codec_of(codec, np.dtype("uint16"))]


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(InputError, match="no such codec"):
        codec_of("gzip:3", np.dtype("uint16"))
