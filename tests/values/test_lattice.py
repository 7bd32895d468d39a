"""Window arithmetic against brute force, and kernels that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.values.errors import BudgetError, InputError
from engine.values.grid import Box
from engine.values.lattice import PROBABILITY_ONE, WEIGHT_MAX, Lattice

axes = st.tuples(st.integers(-200, 200), st.integers(0, 90)).map(lambda t: (t[0], t[0] + t[1]))
lattices = st.builds(
    lambda w, o, k: Lattice(w, min(o, w - max(1, w // 6)) // 2 * 2, k),
    st.integers(2, 40),
    st.integers(0, 40),
    st.sampled_from(["hann", "radial", "trim"]),
)


@given(lattices, axes)
def test_touching_and_starting_equal_brute_force(lattice: Lattice, axis: tuple[int, int]) -> None:
    lo, hi = axis
    stride, window = lattice.stride_px, lattice.window_px
    numbers = range(-400, 400)
    half = lattice.overlap_px // 2 if lattice.kernel == "trim" else 0  # only centres answer, and are anchored
    answered = {k: range(k * stride, k * stride + window - 2 * half) for k in numbers}
    assert list(lattice.touching(lo, hi)) == [
        k for k, pixels in answered.items() if hi > lo and pixels[0] < hi and pixels[-1] >= lo
    ]
    assert [lattice.origin(k) for k in (-1, 0, 2)] == [k * stride - half for k in (-1, 0, 2)]
    assert list(lattice.starting_in(lo, hi)) == [k for k in numbers if lo <= k * stride - half < hi]


@given(lattices, st.tuples(axes, axes))
def test_weight_sums_equal_the_sum_of_all_windows(
    lattice: Lattice, box_axes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    (y0, y1), (x0, x1) = box_axes
    y1, x1 = min(y1, y0 + 30), min(x1, x0 + 30)
    box = Box(y0, x0, y1, x1)
    total = np.zeros(box.shape_yx, np.int64)
    outer = lattice.pad(box)
    big = np.zeros(outer.shape_yx, np.int64)
    for ky in lattice.touching(y0, y1):
        for kx in lattice.touching(x0, x1):
            y, x = lattice.origin(ky) - outer.y0, lattice.origin(kx) - outer.x0
            big[y : y + lattice.window_px, x : x + lattice.window_px] += lattice.weights()
    total = big[box.slices_in(outer)] if box else total
    np.testing.assert_array_equal(lattice.weight_sums(box), total)
    assert (total > 0).all()
    assert lattice.count(box) == len(lattice.touching(y0, y1)) * len(lattice.touching(x0, x1))


@given(lattices, st.integers(-60, 60), st.integers(1, 80), st.integers(0, 30), st.integers(0, 30))
def test_needed_windows_answer_for_every_pixel(
    lattice: Lattice, lo: int, size: int, before: int, after: int
) -> None:
    core = (lo, lo + size)
    outer = (lo - before, lo + size + after)
    needed = lattice.needed(core, outer)
    line = lattice.weights().max(axis=0)
    weight = np.zeros(size)
    for k in needed:
        first = lattice.origin(k)
        for pixel in range(first, first + lattice.window_px):
            if core[0] <= pixel < core[1]:
                weight[pixel - lo] += line[pixel - first]
    assert (weight > 0).all()
    assert set(needed) <= set(lattice.touching(*core))
    if lattice.kernel != "trim" and min(before, after) >= lattice.window_px:
        assert needed == list(lattice.touching(*core))


@given(lattices)
def test_sums_never_overflow_int32(lattice: Lattice) -> None:
    assert lattice.cover_max * WEIGHT_MAX * PROBABILITY_ONE < 2**31
    span = Box(0, 0, 2 * lattice.window_px, 2 * lattice.window_px)
    assert int(lattice.weight_sums(span).max()) <= lattice.cover_max * WEIGHT_MAX


def test_trim_lets_exactly_one_window_speak() -> None:
    assert np.unique(Lattice(20, 6, "trim").weight_sums(Box(-40, -40, 40, 40))).tolist() == [1]


@given(st.integers(1, 12), st.integers(0, 10), st.integers(1, 6), st.integers(-9, 9), st.integers(-9, 9))
def test_tiles_of_whole_strides_share_no_trimmed_window(
    stride: int, half: int, per_side: int, row: int, col: int
) -> None:
    if -(-(stride + 2 * half) // stride) > 11:
        return  # refused: too many windows over a pixel
    lattice, side = Lattice(stride + 2 * half, 2 * half, "trim"), stride * per_side
    tile = Box(row * side, col * side, (row + 1) * side, (col + 1) * side)
    assert lattice.count(tile) == per_side**2
    assert lattice.pad(tile) == tile.pad(half)


@pytest.mark.parametrize("kernel", ["hann", "radial"])
def test_kernels_are_symmetric_highest_in_the_middle_and_never_zero(kernel: str) -> None:
    weights = Lattice(16, 8, kernel).weights()  # type: ignore[arg-type]
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(weights, weights[::-1])
    assert weights.min() >= 1
    assert weights[7, 7] == weights.max()


def test_radial_is_one_minus_radius_clipped_at_its_floor() -> None:
    weights = Lattice(4, 0, "radial").weights()
    expected = np.rint(255 * np.maximum(1 - np.hypot(0.25, 0.25), 0.05))
    assert weights[1, 1] == expected
    assert weights[0, 0] == np.rint(255 * 0.05)


@pytest.mark.parametrize(("args", "error"), [((8, 8), InputError), ((8, -1), InputError)])
def test_bad_lattices_are_refused(args: tuple[int, int], error: type[Exception]) -> None:
    with pytest.raises(error, match="overlap"):
        Lattice(*args)


def test_too_much_overlap_would_overflow_and_is_refused() -> None:
    with pytest.raises(BudgetError, match="128 windows"):
        Lattice(256, 240)


def test_odd_trim_overlap_is_refused() -> None:
    with pytest.raises(InputError, match="even number"):
        Lattice(16, 5, "trim")
