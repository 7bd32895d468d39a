"""Patches are what prediction sees, bit by bit; a cluster that reads the blocks changes nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster

from engine.cube.stored import open_stored
from engine.inference.lane import Lane
from engine.inference.predict import predict
from engine.values.errors import InputError, SpecError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from tests.inference.bundles import network, random_bundle
from tests.training.stored import Made, cube_of, labels_of, put
from training.batch import Batch
from training.loader import LoaderOptions, loader
from training.samples import Patches
from training.sources import source_of

SIDE, STRIDE = 32, 16
LARGE = Made(box=Box(-1010, 2000, -450, 2570), n_dates=2, bands=("blue", "green", "nir"))


def coded() -> xr.Dataset:
    """Values of chance with gaps; two bands of the first date say row and column, so that a window tells its place."""
    cube = cube_of(LARGE)
    values = cube["reflectance"].values
    rows, cols = np.mgrid[: values.shape[2], : values.shape[3]] + 1
    values[0, 0], values[0, 1] = rows, cols
    return cube


class Seen:
    """Windows that prediction has looked at, by their place; those that reach beyond the cube are left out."""

    def __init__(self) -> None:
        self.windows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, x_BTCHW: np.ndarray, values: torch.Tensor, valid: torch.Tensor) -> None:
        for x, v, ok in zip(x_BTCHW, values.numpy(), valid.numpy(), strict=True):
            y0, x0 = int(x[0, 0, 0, 0]) - 1, int(x[0, 1, 0, 0]) - 1
            inside = (x[0, 0, :, 0] == np.arange(y0, y0 + SIDE) + 1).all()
            inside &= (x[0, 1, 0] == np.arange(x0, x0 + SIDE) + 1).all()
            if inside:
                place = y0 + LARGE.box.y0, x0 + LARGE.box.x0
                self.windows[place] = x.copy(), v.copy(), ok.copy()


def test_a_thousand_patches_are_bit_by_bit_what_prediction_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(coded(), LARGE, tmp_path, shard_px=256, chunk_px=64)
    net = network(width=4, stem=4, depth=2)
    spec = CubeSpec(bands=LARGE.bands)
    bundle = random_bundle(tmp_path / "b", net, spec=spec, lattice=Lattice(SIDE, SIDE - STRIDE))
    seen, own = Seen(), Lane.prepared

    def prepared(lane: Lane, x_BTCHW: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        found = own(lane, x_BTCHW)
        seen.add(x_BTCHW, *found)
        return found

    monkeypatch.setattr(Lane, "prepared", prepared)
    predict(open_stored(url), bundle)["label"].compute(scheduler="threads")

    draw = Patches(patch_px=SIDE, draw="lattice", overlap_px=SIDE - STRIDE, shift=False)
    options = LoaderOptions(draw=draw, batch=16, buffer_bytes=30 * 64 * 64 * 12, places=3)
    compared = 0
    for batch in loader(url, labels_of(LARGE, known=1.0), options):
        values, valid = batch.prepared(bundle.normalisation)
        for i, place in enumerate(batch.place.tolist()):
            if tuple(place) not in seen.windows:
                continue
            x, v, ok = seen.windows[tuple(place)]
            assert batch.x[i].numpy().tobytes() == x.tobytes()
            assert values[i].numpy().tobytes() == np.ascontiguousarray(v).tobytes()
            assert valid[i].numpy().tobytes() == np.ascontiguousarray(ok).tobytes()
            compared += 1
    assert compared >= 1000
    assert compared == len(seen.windows)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as found,
    ):
        yield found


@pytest.mark.parametrize("kind", ["stored", "lazy"])
def test_a_cluster_gives_the_same_batches(client: Client, tmp_path: Path, kind: str) -> None:
    made = Made(radar=True, layers=True)
    cube: Any = cube_of(made).chunk({"y": 60, "x": 70})
    if kind == "stored":
        cube = put(cube, made, tmp_path)
    draw = Patches(patch_px=24, per_epoch=40)
    options = LoaderOptions(draw=draw, batch=4, buffer_bytes=14 * 60 * 70 * 46, places=2, threads=2)
    here = list(loader(cube, labels_of(made), options))
    there = list(loader(cube, labels_of(made), options, client=client))
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        _require_equal(a, b)


def _require_equal(a: Batch, b: Batch) -> None:
    for name, value in vars(a).items():
        assert value is not None
        np.testing.assert_array_equal(value.numpy(), getattr(b, name).numpy(), err_msg=name)


def test_never_more_blocks_are_under_way_than_threads(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made()
    url = put(cube_of(made), made, tmp_path)
    under_way, most = 0, 0
    own = Client.submit

    def submit(self: Client, *args: Any, **kwargs: Any) -> Any:
        nonlocal under_way, most
        future = own(self, *args, **kwargs)
        under_way += 1
        most = max(most, under_way)
        result = future.result

        def waited() -> Any:
            nonlocal under_way
            found = result()
            under_way -= 1
            return found

        future.result = waited
        return future

    monkeypatch.setattr(Client, "submit", submit)
    options = LoaderOptions(draw=Patches(patch_px=24, per_epoch=40), buffer_bytes=1 << 24, threads=3)
    assert len(list(loader(url, labels_of(made), options, client=client))) == 5
    assert 1 <= most <= 3


def test_sources_travel_and_tell_their_shape(tmp_path: Path) -> None:
    made = Made(radar=True, layers=True)
    source = pickle.loads(pickle.dumps(source_of(put(cube_of(made), made, tmp_path))))
    shape = source.shape
    assert shape.box == made.box
    assert shape.days.tolist() == [60, 91, 121]
    assert shape.pixel_bytes == 3 * (2 * 3 + 4 * 2) + 4
    assert shape.block_bytes == 32 * 32 * shape.pixel_bytes
    assert shape.edges_y[0] == -512  # whole shards
    block = source.read(1, 2)
    assert block.box == Box(-480, 320, -448, 352)
    np.testing.assert_array_equal(
        block.x, cube_of(made)["reflectance"].values[..., block.box.y0 + 500 :, 20:][..., :32, :32]
    )


def test_what_is_no_cube_is_refused(tmp_path: Path) -> None:
    cube = cube_of(Made())
    with pytest.raises(SpecError, match="uint16"):
        source_of(cube.astype(np.float32))
    with pytest.raises(InputError, match="no variable 'reflectance'"):
        source_of(cube[["observations"]])
    with pytest.raises(InputError, match="no store"):
        source_of(tmp_path / "nothing.zarr")
