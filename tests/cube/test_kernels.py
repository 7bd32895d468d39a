"""Masks and composites against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from engine.cube.composites import composite
from engine.cube.masks import CLOUDY, hidden_by_scl, scl_margin_px
from engine.values.spec import SclMask


def _by_hand(observations: np.ndarray, reducer: str) -> tuple[np.ndarray, np.ndarray]:
    _, n_bands, height, width = observations.shape
    out = np.zeros((n_bands, height, width), np.uint16)
    count = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            clear = [o[:, y, x].astype(float) for o in observations if (o[:, y, x] > 0).all()]
            count[y, x] = len(clear)
            if clear:
                stack = np.array(clear)
                value = {"median": np.median(stack, 0), "mean": stack.mean(0), "first": stack[0]}[reducer]
                out[:, y, x] = np.floor(value + 0.5)
    return out, count


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from(["median", "mean", "first"]),
)
def test_composites_equal_numpy_rounded_half_up(seed: int, dates: int, bands: int, reducer: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 65536, (dates, bands, 4, 5)).astype(np.uint16)
    values[rng.random(values.shape) < 0.2] = 0
    found, count = composite(values, reducer)  # type: ignore[arg-type]
    expected, expected_count = _by_hand(values, reducer)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(count, expected_count)


def test_median_of_large_values_does_not_overflow() -> None:
    values = np.full((4, 1, 1, 1), 65535, np.uint16)
    assert composite(values, "median")[0].item() == 65535
    assert composite(values, "mean")[0].item() == 65535


def test_counts_stop_at_255() -> None:
    assert composite(np.ones((300, 1, 1, 1), np.uint16), "median")[1].item() == 255


@pytest.mark.parametrize("dilate_m", [0.0, 20.0, 60.0])
def test_scl_mask_equals_binary_dilation(dilate_m: float) -> None:
    scl = np.random.default_rng(0).choice(
        [0, 1, 3, 4, 5, 8, 9, 10, 11], (60, 50), p=[0.02] * 5 + [0.02] * 3 + [0.84]
    )
    mask = SclMask(dilate_m=dilate_m)
    margin = scl_margin_px(mask, 20)
    cloudy = np.isin(scl, CLOUDY)
    if margin:
        cloudy = binary_dilation(cloudy, np.ones((2 * margin + 1,) * 2))
    expected = cloudy | np.isin(scl, (0, 1))
    cut = slice(margin, -margin or None)
    np.testing.assert_array_equal(hidden_by_scl(scl.astype(np.uint16), mask, 20), expected[cut, cut])


def test_only_listed_classes_hide() -> None:
    scl = np.array([[3, 4, 8, 9, 10, 11, 0]], np.uint16)
    hidden = hidden_by_scl(scl, SclMask(classes=(9, 11), dilate_m=0), 20)
    assert hidden.tolist() == [[False, False, False, True, False, True, False]]


def test_inside_outline_equals_every_centre_tested_for_any_cut() -> None:
    from shapely import contains_xy
    from shapely.geometry import Point, Polygon

    from engine.cube.masks import inside_outline
    from engine.values.grid import Box, Grid

    grid = Grid.make("EPSG:32633", 10)
    shape = Polygon([(500003, 5300001), (501777, 5300333), (501200, 5301901), (500100, 5301500)]).difference(
        Point(500900, 5300900).buffer(233)
    )
    box = Box(-530200, 49990, -529980, 50200)
    y, x = grid.centres(box)
    xx, yy = np.meshgrid(x, y)
    expected = contains_xy(shape, xx, yy)
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(inside_outline(shape, grid, box), expected)
    for tile in (37, 100):
        for part in box.blocks(tile):
            found = inside_outline(shape, grid, part)
            np.testing.assert_array_equal(found, expected[part.slices_in(box)])
