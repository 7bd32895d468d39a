from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.store.view import in_flight, open_view
from engine.values.classes import ClassScheme
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from tests.products.mapstore import GRID, write_map

SCHEME = ClassScheme.from_names(["wheat", "maize"])


@pytest.fixture
def store(tmp_path: Path) -> tuple[str, Box]:
    rng = np.random.default_rng(0)
    layers = {
        n: rng.integers(1, 3, (90, 70), dtype=np.uint8) for n in ("label", "observations", "confidence")
    }
    layers["probability"] = rng.integers(0, 251, (2, 90, 70), dtype=np.uint8)
    return str(tmp_path / "map.zarr"), write_map(tmp_path / "map.zarr", layers, SCHEME, shard_px=64)


def _consolidate(url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(url)


def test_reads_by_global_pixels(store: tuple[str, Box]) -> None:
    url, box = store
    view = open_view(url)
    assert (view.grid, view.box) == (GRID, box)
    assert view.variables == ("confidence", "label", "observations", "probability")
    part = Box(box.y0 + 10, box.x0 + 5, box.y0 + 90, box.x0 + 65)
    whole = zarr.open_group(url, mode="r")
    np.testing.assert_array_equal(view.read("label", part), whole["label"][10:90, 5:65])
    np.testing.assert_array_equal(view.read("probability", part), whole["probability"][:, 10:90, 5:65])


def test_knows_classes_from_amounts_and_their_no_data(store: tuple[str, Box]) -> None:
    view = open_view(store[0])
    assert [view.is_classes(n) for n in ("label", "confidence")] == [True, False]
    assert [view.no_data(n) for n in ("label", "confidence", "observations")] == [0, 255, None]
    zarr.open_group(store[0], mode="r+", use_consolidated=False)["observations"].attrs["nodata"] = 7
    _consolidate(store[0])
    assert open_view(store[0]).no_data("observations") == 7


def test_counts_on_the_grid_it_is_given_or_was_made_on(store: tuple[str, Box]) -> None:
    url, box = store
    shifted = Grid(GRID.crs, GRID.resolution_yx, (500_000.0, 5_000_000.0))
    expected = Box(box.y0 + 500_000, box.x0 - 50_000, box.y1 + 500_000, box.x1 - 50_000)
    assert open_view(url, shifted).box == expected
    fields = {"crs": GRID.crs, "resolution_yx": [10.0, 10.0], "anchor_xy": [500_000.0, 5_000_000.0]}
    root = zarr.open_group(url, mode="r+", use_consolidated=False)
    root.attrs["landweave"] = {"spec": {"grid": fields}}
    _consolidate(url)
    assert open_view(url).box == expected


def test_refuses_what_does_not_fit(store: tuple[str, Box], tmp_path: Path) -> None:
    url, box = store
    view = open_view(url)
    with pytest.raises(InputError, match="outside"):
        view.read("label", box.pad(1))
    with pytest.raises(InputError, match="no such variable"):
        view.read("labels", box)
    with pytest.raises(InputError, match="not inside"):
        view.crop(box.pad(1))
    with pytest.raises(DataError, match="does not lie on the grid"):
        open_view(url, Grid(GRID.crs, (10.0, 10.0), (3.0, 0.0)))
    with pytest.raises(DataError, match="does not lie on the grid"):
        open_view(url, Grid("EPSG:32634", (10.0, 10.0)))
    zarr.open_group(str(tmp_path / "bare.zarr"), mode="w")
    with pytest.raises(DataError, match="not a map"):
        open_view(str(tmp_path / "bare.zarr"))
    assert view.crop(None) == box


def test_in_flight_keeps_order_and_bounds_the_waiting() -> None:
    started = []

    def work(i: int) -> int:
        started.append(i)
        return i * i

    results = in_flight(work, range(50), workers=2)
    assert next(results) == 0
    assert len(started) <= 4
    assert list(results) == [i * i for i in range(1, 50)]
