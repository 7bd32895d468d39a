"""Mapping and gather: positions against pyproj, values against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.archive.gather import gather
from engine.archive.mapping import mapping_of
from engine.values.grid import Box, Grid

UTM = "EPSG:32633"
TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 5900040.0)


def truth_of(grid: Grid, block: Box) -> np.ndarray:
    y, x = grid.centres(block)
    to_file = Transformer.from_crs(grid.crs, UTM, always_xy=True)
    east, north = np.asarray(to_file.transform(*np.meshgrid(x, y)))
    return np.stack([(5900040 - north) / 10, (east - 300000) / 10])


@settings(max_examples=15)
@given(
    st.sampled_from([("EPSG:3035", 10.0), ("EPSG:32632", 10.0), ("EPSG:3035", 60.0), ("EPSG:4326", 1e-4), (UTM, 7.0)]),
    st.floats(11, 19), st.floats(45, 58),
)  # fmt: skip
def test_positions_are_those_of_pyproj(kind: tuple[str, float], lon: float, lat: float) -> None:
    grid = Grid.make(*kind)
    x, y = Transformer.from_crs(4326, grid.crs, always_xy=True).transform(lon, lat)
    row, col = (int(-y // kind[1]) // 512 * 512, int(x // kind[1]) // 512 * 512)
    block = Box(row, col, row + 512, col + 512)
    found = mapping_of(UTM, TRANSFORM, grid, block)
    assert found.lines is not None
    assert np.abs(found.positions(block) - truth_of(grid, block)).max() < 1e-6
    part = Box(row + 100, col + 7, row + 131, col + 500)
    assert np.array_equal(found.positions(part), found.positions(block)[:, 100:131, 7:500])


def test_where_no_polynomial_holds_each_pixel_is_transformed() -> None:
    grid = Grid.make("EPSG:4326", 0.1)  # a block of 51 degrees
    block = Box(-1024, 0, -512, 512)
    found = mapping_of(UTM, TRANSFORM, grid, block)
    assert found.lines is None
    truth = truth_of(grid, block)
    known = np.isfinite(truth)
    assert np.array_equal(np.isfinite(found.positions(block)), known)
    assert 0 < known.mean() < 1
    part = Box(-900, 50, -700, 60)
    cut = found.positions(block)[:, *part.slices_in(block)]
    assert np.array_equal(found.positions(part), cut, equal_nan=True)
    assert np.allclose(found.positions(block)[known], truth[known], atol=1e-6)


@pytest.mark.parametrize(
    ("crs", "pixel", "ratio"),
    [(UTM, 20, 2.0), (UTM, 10.4, 1.0), (UTM, 5, 1.0), ("EPSG:3035", 10, 1.0), ("EPSG:3035", 40, 4.0)],
)
def test_how_far_kernels_reach(crs: str, pixel: float, ratio: float) -> None:
    grid = Grid.make(crs, pixel)
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(13, 53)
    row, col = (int(-y // pixel) // 512 * 512, int(x // pixel) // 512 * 512)
    found = mapping_of(UTM, TRANSFORM, grid, Box(row, col, row + 512, col + 512)).ratio_yx
    assert np.allclose(found, ratio, rtol=2e-3)


def weights(size: int, at: np.ndarray, ratio: float, cubic: bool) -> np.ndarray:
    """(position, pixel): the kernel written down as a matrix."""
    d = np.abs((np.arange(size)[None] + 0.5 - at[:, None]) / ratio)
    if not cubic:
        return np.maximum(0, 1 - d)
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0))


@settings(max_examples=30)
@given(st.integers(0, 9), st.floats(1, 5), st.booleans(), st.booleans())
def test_values_are_those_of_the_kernel(seed: int, ratio: float, cubic: bool, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    pixels: Any = rng.integers(1, 60000, (40, 50))
    if not cubic:
        pixels[rng.random((40, 50)) < 0.2] = 0
    rows, cols = np.sort(rng.uniform(10.5, 29.5, 8)), np.sort(rng.uniform(10.5, 39.5, 9))
    wy, wx = weights(40, rows, ratio, cubic), weights(50, cols, ratio, cubic)
    truth = (wy @ pixels @ wx.T) / (wy @ (pixels > 0) @ wx.T)
    truth[pixels[np.ix_(rows.astype(int), cols.astype(int))] == 0] = 0
    where = np.stack(np.meshgrid(rows, cols, indexing="ij"))
    stored = pixels.astype(np.uint16) if whole else np.where(pixels == 0, np.nan, pixels).astype(np.float32)
    out = np.zeros((8, 9), np.uint16) if whole else np.full((8, 9), np.nan, np.float32)
    gather(stored, where, "cubic" if cubic else "bilinear", (ratio, ratio), out)
    if whole:
        assert np.abs(out - np.where(truth == 0, 0, truth.clip(1, 65535))).max() <= 0.5001
    else:
        assert np.allclose(np.nan_to_num(out), truth, rtol=1e-5, atol=0.01)


def test_cubic_is_linear_where_a_pixel_is_missing() -> None:
    pixels = np.array([[0, 10, 20, 40, 80, 160]], np.uint16).repeat(6, 0)
    where = np.array([[[3.0, 3.0]], [[2.2, 3.9]]])
    out = {how: np.zeros((1, 2), np.uint16) for how in ("bilinear", "cubic")}
    for how, values in out.items():
        gather(pixels, where, how, (1, 1), values)
    assert out["cubic"][0, 0] == out["bilinear"][0, 0] == 17
    assert out["cubic"][0, 1] != out["bilinear"][0, 1]


def test_positions_beyond_the_edge_or_unknown_are_no_data() -> None:
    pixels = np.full((4, 4), 9, np.uint16)
    where = np.array([[[-0.01, 0.0, 3.99, 4.0, np.inf, np.nan]], [[1.0, 0.0, 3.99, 1.0, 1.0, 1.0]]])
    for how in ("nearest", "bilinear", "cubic"):
        out = np.zeros((1, 6), np.uint16)
        gather(pixels, where, how, (1, 1), out)
        assert out.tolist() == [[0, 9, 9, 0, 0, 0]]


def test_a_turned_file() -> None:
    turned = tuple(Affine(10, 0, 300000, 0, -10, 5900040) @ Affine.rotation(30))[:6]
    grid = Grid.make(UTM, 10)
    block = Box(-590336, 29696, -589824, 30208)
    found = mapping_of(UTM, turned, grid, block)
    y, x = grid.centres(block)
    col, row = ~Affine(*turned) @ tuple(np.meshgrid(x, y))  # type: ignore[operator]
    assert np.abs(found.positions(block) - np.stack([row, col])).max() < 1e-6
    assert found.ratio_yx == (1.0, 1.0)
