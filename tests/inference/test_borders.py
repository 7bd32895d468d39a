"""What a window sees beyond the input: mirror image, last pixels or nothing, for any cube, also one pixel of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.inference.blend import Border, Frame
from engine.inference.decide import Layers
from engine.inference.predict import predict_array
from engine.values.grid import Box
from engine.values.head import ONE_CLASS
from engine.values.lattice import Kernel, Lattice
from tests.inference.fakes import mirror, probabilities

Window = NDArray[np.uint16]


@dataclass
class Watching:
    """A lane that remembers what it is shown."""

    batch: int = 3
    n_classes: int = 4
    seen: list[Window] = field(default_factory=list)

    def run(self, x_BTCHW: Window) -> NDArray[np.int32]:
        self.seen += list(x_BTCHW)
        return np.stack([probabilities(x) for x in x_BTCHW])


def lane_of(lane: Watching) -> Watching:
    return lane


def beyond(values: Window, frame: Frame, origin: tuple[int, int]) -> Window:
    """Cut a window pixel by pixel: each index folded, held or empty outside of the window's own input."""
    size, outer = frame.lattice.window_px, frame.outer
    planes = values
    for axis, first, lo, hi in ((2, origin[0], outer.y0, outer.y1), (3, origin[1], outer.x0, outer.x1)):
        lo_in, hi_in = max(lo, first), min(hi, first + size)
        wanted = np.arange(first, first + size)
        if frame.border == "reflect":
            index = mirror(first, first + size, lo_in, hi_in)
        else:
            index = np.clip(wanted, lo_in, hi_in - 1)
        planes = planes.take(index - lo, axis=axis)
        if frame.border == "missing":
            outside = (wanted < lo) | (wanted >= hi)
            planes[(slice(None), slice(None), *((outside,) if axis == 2 else (slice(None), outside)))] = 0
    return planes


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([(8, 4), (16, 6), (12, 0), (20, 8)]),
    st.sampled_from(["hann", "trim"]),
    st.sampled_from(["reflect", "edge", "missing"]),
)
def test_every_window_is_continued_as_the_rule_says(
    where: tuple[int, int, int, int], sides: tuple[int, int], kernel: Kernel, border: Border
) -> None:
    y0, x0, height, width = where
    outer = Box(y0, x0, y0 + height, x0 + width)
    values = np.random.default_rng(height * width).integers(1, 5000, (1, 2, height, width)).astype(np.uint16)
    frame, lane = Frame(outer, outer, Lattice(*sides, kernel), border), Watching()
    packed = predict_array(
        da.from_array(values), frame, partial(lane_of, lane), Layers(ONE_CLASS, (1, 2, 3, 4))
    )
    labels = np.asarray(packed.compute(scheduler="sync"))[0]
    assert (labels > 0).all()  # every pixel is answered, however small the cube is
    origins = frame.windows_of(outer)
    assert len(origins) == len(lane.seen) == frame.count()
    for origin, window in zip(origins, lane.seen, strict=True):
        np.testing.assert_array_equal(window, beyond(values, frame, origin))


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 40), st.integers(20, 40), st.sampled_from(["reflect", "edge", "missing"]))
def test_where_no_window_reaches_far_out_it_is_the_padded_cube(
    height: int, width: int, border: Border
) -> None:
    """numpy.pad of the whole cube: the same wherever a window lies in it by at least half."""
    lattice, outer = Lattice(16, 8), Box(0, 0, height, width)
    values = np.random.default_rng(1).integers(1, 5000, (1, 1, height, width)).astype(np.uint16)
    mode = {"reflect": "reflect", "edge": "edge", "missing": "constant"}[border]
    padded = np.pad(values, ((0, 0), (0, 0), (16, 16), (16, 16)), mode=mode)  # type: ignore[call-overload]
    frame, lane = Frame(outer, outer, lattice, border), Watching()
    packed = predict_array(
        da.from_array(values), frame, partial(lane_of, lane), Layers(ONE_CLASS, (1, 2, 3, 4))
    )
    packed.compute(scheduler="sync")
    for (y, x), window in zip(frame.windows_of(outer), lane.seen, strict=True):
        assert min(y + 16, height) - max(y, 0) > 8
        np.testing.assert_array_equal(window, padded[:, :, y + 16 : y + 32, x + 16 : x + 32])


@pytest.mark.parametrize("border", ["reflect", "edge", "missing"])
def test_a_cube_of_one_pixel_has_an_answer(border: Border) -> None:
    values = np.full((1, 1, 1, 1), 700, np.uint16)
    frame, lane = Frame(Box(5, 5, 6, 6), Box(5, 5, 6, 6), Lattice(8, 4), border), Watching()
    packed = predict_array(
        da.from_array(values), frame, partial(lane_of, lane), Layers(ONE_CLASS, (1, 2, 3, 4))
    )
    assert packed.compute(scheduler="sync")[0, 0, 0] > 0
    assert len(lane.seen) == frame.count() == 4
    for window in lane.seen:
        assert np.unique(window).tolist() == ([0, 700] if border == "missing" else [700])
