"""The block split: anchored to the grid, without leaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import distance_transform_cdt

from engine.values.grid import Box
from training.splits import LEFT_OUT, TEST, TRAIN, VAL, Split

_splits = st.builds(
    Split,
    block_px=st.integers(6, 24),
    buffer_px=st.integers(0, 5),
    val=st.sampled_from([0.2, 0.4]),
    test=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
_boxes = st.builds(
    lambda y, x, h, w: Box(y, x, y + h, x + w),
    st.integers(-200, 200), st.integers(-200, 200), st.integers(1, 90), st.integers(1, 90),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(split=_splits, box=_boxes)
def test_parts_are_further_apart_than_the_buffer(split: Split, box: Box) -> None:
    parts = split.parts(box)
    assert parts.shape == box.shape_yx
    for part in (TRAIN, VAL, TEST):
        others = (parts != part) & (parts != LEFT_OUT)
        if others.any() and (parts == part).any():
            apart = distance_transform_cdt(~others, metric="chessboard")
            assert apart[parts == part].min() > split.buffer_px


@settings(max_examples=60, deadline=None)
@given(split=_splits, box=_boxes, data=st.data())
def test_a_pixel_has_one_part_whatever_box_asks(split: Split, box: Box, data: st.DataObject) -> None:
    y0, x0 = data.draw(st.integers(box.y0, box.y1 - 1)), data.draw(st.integers(box.x0, box.x1 - 1))
    inner = Box(y0, x0, data.draw(st.integers(y0 + 1, box.y1)), data.draw(st.integers(x0 + 1, box.x1)))
    np.testing.assert_array_equal(split.parts(inner), split.parts(box)[inner.slices_in(box)])


def test_every_kept_pixel_has_its_blocks_part() -> None:
    split, box = Split(block_px=16, buffer_px=3, val=0.3, test=0.2), Box(-40, 7, 60, 120)
    parts = split.parts(box)
    for (i, j), part in np.ndenumerate(parts):
        if part != LEFT_OUT:
            assert part == split.part_of_block((box.y0 + i) // 16, (box.x0 + j) // 16)


def test_shares_are_as_asked_and_seeds_differ() -> None:
    split = Split(block_px=1, buffer_px=0, val=0.2, test=0.1)
    parts = split.parts(Box(0, 0, 100, 100))
    assert np.mean(parts == VAL) == pytest.approx(0.2, abs=0.02)
    assert np.mean(parts == TEST) == pytest.approx(0.1, abs=0.02)
    other = split.model_copy(update={"seed": 1}).parts(Box(0, 0, 100, 100))
    assert np.mean(parts != other) > 0.2


def test_the_smaller_parts_stay_whole() -> None:
    split, box = Split(block_px=16, buffer_px=4, val=0.3), Box(0, 0, 160, 160)
    val_blocks = sum(split.part_of_block(r, c) == VAL for r in range(10) for c in range(10))
    assert (split.parts(box) == VAL).sum() == val_blocks * 256


def test_shares_must_leave_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match="nothing to train"):
        Split(val=0.6, test=0.4)
