"""Objects are scipy's connected components, class by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.windows import Window

from engine.refine.objects import HIDDEN, cut_rows, find_objects, find_runs
from tests.refine.whole_array import numbered

MAPS = arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 35)),
    elements=st.sampled_from([0, 1, 1, 1, 2, 255]),
)


@settings(max_examples=60)
@given(MAPS, st.sampled_from([4, 8]))
def test_objects_are_the_connected_components(label: NDArray[np.uint8], connectivity: int) -> None:
    found = find_objects(label, connectivity)
    number, classes = numbered(label, connectivity)
    assert ((found.number == HIDDEN) == (label == 0)).all()
    pairs = np.unique(np.stack([found.number[label > 0], number[label > 0]]), axis=1)
    assert pairs.shape[1] == len(found.sizes_px) == len(classes) - 1  # one to one
    sizes = np.bincount(number.ravel(), minlength=len(classes))
    assert (found.sizes_px[pairs[0]] == sizes[pairs[1]]).all()
    assert (found.classes[pairs[0]] == classes[pairs[1]]).all()
    _, first = np.unique(found.number[label > 0], return_index=True)
    assert (np.diff(first) > 0).all()  # in the order of their first pixels


@settings(max_examples=40)
@given(MAPS, st.sampled_from([4, 8]))
def test_objects_at_the_edge_are_those_with_a_pixel_there(
    label: NDArray[np.uint8], connectivity: int
) -> None:
    rim = np.ones(label.shape, bool)
    rim[1:-1, 1:-1] = False
    number = find_objects(label, connectivity).number
    expected = np.zeros(number.max() + 1, bool)
    expected[number[rim & (number >= 0)]] = True
    assert (find_runs(label, connectivity).at_edge == expected).all()


@settings(max_examples=40)
@given(MAPS, st.sampled_from([-1, 0, 2]), st.booleans(), st.randoms())
def test_runs_say_what_the_row_says(label: NDArray[np.uint8], hidden: int, masked: bool, random) -> None:
    mask = np.array([[random.random() < 0.7 for _ in row] for row in label], np.uint8)
    shown = np.ones_like(mask) if not masked else mask
    records, rows = cut_rows(label, mask if masked else mask[:0], hidden)
    for y, row in enumerate(label):
        mine = records[rows[y] : rows[y + 1]]
        classes = np.where((shown[y] == 0) | (row == hidden), HIDDEN, row.astype(int))
        assert (np.repeat(mine[:-1, 1], np.diff(mine[:, 0])) == classes).all()
        assert (mine[1:-1, 1] != mine[:-2, 1]).all()
        assert mine[-1].tolist() == [len(row), HIDDEN, HIDDEN]


@pytest.mark.parametrize("connectivity", [4, 8])
def test_objects_of_a_real_mask(real_data: Path, connectivity: int) -> None:
    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as file:
        label = file.read(1, window=Window(9000, 4500, 1400, 900)) + 1
    number, classes = numbered(label, connectivity)
    found = find_objects(label, connectivity)
    assert len(found.sizes_px) == len(classes) - 1 > 30
    sizes = np.bincount(number.ravel(), minlength=len(classes))[1:]
    assert sorted(found.sizes_px.tolist()) == sorted(sizes.tolist())
