"""A cube read by blocks gives what the loaded one gives, holds little, and is refused when not even that fits."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from engine.values.errors import BudgetError
from engine.values.grid import Box
from tests.training.stored import Made, cube_of
from training.pixels import Loaded, Streamed, pixels_of
from training.sources import source_of

MADE = Made()
CUBE = cube_of(MADE)
LOADED = Loaded(CUBE["reflectance"].values, MADE.box)


def streamed(blocks: int = 9) -> Streamed:
    source = source_of(CUBE.chunk({"y": 33, "x": 41}))
    return Streamed(source, MADE.box, blocks * source.shape.block_bytes)


ROWS = st.tuples(st.integers(MADE.box.y0, MADE.box.y1 - 1), st.integers(1, 70))
COLS = st.tuples(st.integers(MADE.box.x0, MADE.box.x1 - 1), st.integers(1, 70))
PIXELS = streamed()


@given(rows=ROWS, cols=COLS)
def test_a_box_is_what_the_loaded_cube_has(rows: tuple[int, int], cols: tuple[int, int]) -> None:
    box = Box(rows[0], cols[0], rows[0] + rows[1], cols[0] + cols[1]) & MADE.box
    np.testing.assert_array_equal(PIXELS.cut(box), LOADED.cut(box))


def test_single_pixels_are_those_of_the_loaded_cube() -> None:
    rng = np.random.default_rng(0)
    ys, xs = rng.integers(0, 160, 500), rng.integers(0, 200, 500)
    np.testing.assert_array_equal(streamed().at(ys, xs), LOADED.at(ys, xs))


def test_a_sweep_reads_each_block_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = streamed(12)
    reads: list[tuple[int, int]] = []
    own = pixels.source.read

    def read(row: int, col: int) -> object:
        reads.append((row, col))
        return own(row, col)

    monkeypatch.setattr(pixels.source, "read", read)
    boxes = [b.pad(4) & MADE.box for b in MADE.box.blocks(20)]
    for box in pixels.sweep(reversed(boxes)):
        pixels.cut(box)
    assert len(set(reads)) == 5 * 5
    assert len(reads) <= 2 * 25


def test_memory_decides() -> None:
    lazy = CUBE.chunk({"y": 33, "x": 41})
    assert isinstance(pixels_of(lazy, MADE.box, None), Loaded)
    assert isinstance(pixels_of(lazy, MADE.box, CUBE["reflectance"].nbytes), Loaded)
    assert isinstance(pixels_of(lazy, MADE.box, CUBE["reflectance"].nbytes - 1), Streamed)
    assert isinstance(pixels_of(CUBE, MADE.box, 1), Loaded)  # it is in memory already
    with pytest.raises(BudgetError, match=r"neither do a few of its blocks.*chunks_yx"):
        pixels_of(lazy, MADE.box, 10_000)


def test_a_cube_without_coordinates_takes_the_labels_place() -> None:
    bare = xr.Dataset({"reflectance": CUBE["reflectance"].drop_vars(CUBE.coords)})
    pixels = pixels_of(bare.chunk({"y": 33, "x": 41}), MADE.box, CUBE["reflectance"].nbytes - 1)
    box = Box(MADE.box.y0 + 3, MADE.box.x0 + 5, MADE.box.y0 + 60, MADE.box.x0 + 90)
    np.testing.assert_array_equal(pixels.cut(box), LOADED.cut(box))
