"""Coarser outputs, pixel-wise networks and wanted pixels: the same values however the cube is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.inference.blend import ROWS, Frame
from engine.inference.blocks import predict_array
from engine.inference.decide import Layers
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.head import ONE_CLASS
from engine.values.lattice import Kernel, Lattice
from tests.inference.fakes import FakeLane, evaluations, mirror, oracle_map, probabilities, random_cube, used

LAYERS = Layers(ONE_CLASS, (1, 2, 3, 4), ("probability",))
BOX = Box(-37, 15, 34, 75)


def mapped(values: NDArray[np.uint16], frame: Frame, chunk: int, lane: object) -> NDArray[np.uint8]:
    array = da.from_array(values, chunks=(1, 2, chunk, chunk))
    return np.asarray(predict_array(array, frame, partial(_same, lane), LAYERS).compute(scheduler="sync"))


def _same(lane: object) -> object:
    return lane


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.integers(5, 80), st.integers(0, 9), st.sampled_from(["hann", "trim"]), st.booleans())
def test_windows_without_a_wanted_pixel_are_not_evaluated(
    tmp_path: Path, chunk: int, seed: int, kernel: Kernel, halo: bool
) -> None:
    rng = np.random.default_rng(seed)
    core = Box(-20, 30, 20, 70) if halo else BOX
    wanted = np.zeros(core.shape_yx, np.bool_)
    y, x = rng.integers(0, 30, 2)
    wanted[y : y + 9, x : x + 4] = True
    frame = Frame(BOX, core, Lattice(16, 6, kernel), wanted=wanted)
    values = random_cube(seed, BOX)
    log = tmp_path / f"{chunk}-{seed}-{kernel}-{halo}"
    log.unlink(missing_ok=True)
    expected, windows = oracle_map(values, frame)
    np.testing.assert_array_equal(mapped(values, frame, chunk, FakeLane(str(log))), expected)
    assert evaluations(log) == windows <= frame.count()
    everything, _ = oracle_map(values, replace(frame, wanted=None))
    np.testing.assert_array_equal(expected[:, wanted], everything[:, wanted])


@given(st.integers(0, 2**32 - 1))
def test_windows_are_counted_as_they_are_evaluated_where_data_are_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.random(BOX.shape_yx) < rng.choice([0.0, 0.001, 0.01, 0.5])
    frame = Frame(BOX, BOX, Lattice(16, 6), wanted=wanted)
    _, windows = oracle_map(np.ones((1, 1, *BOX.shape_yx), np.uint16), frame)
    assert frame.count() == windows


@dataclass
class CoarseLane(FakeLane):
    """The stand-in network on the mean of each 4 x 4 pixels."""

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        side = x_BTCHW.shape[-1] // 4
        means = x_BTCHW.reshape(*x_BTCHW.shape[:3], side, 4, side, 4).mean((4, 6)).astype(np.uint16)
        return np.stack([probabilities(x) for x in means])


@pytest.mark.parametrize("chunk", [7, 16, 30, 100])
def test_an_output_coarser_than_the_input_is_blended_on_its_own_pixels(chunk: int, tmp_path: Path) -> None:
    outer, core = Box(-40, 16, 40, 96), Box(-20, 32, 24, 84)
    frame = Frame(outer, core, Lattice(32, 12), factor=4)
    values = random_cube(5, outer)
    found = mapped(values, frame, chunk, CoarseLane(str(tmp_path / "log")))
    assert found.shape == (6, 11, 13)
    np.testing.assert_array_equal(found, _coarse_oracle(values, frame))


def _coarse_oracle(values: NDArray[np.uint16], frame: Frame) -> NDArray[np.uint8]:
    """Window by window over the whole array, then cut."""
    small, lattice, outer = frame.small, frame.lattice, frame.outer
    sums = np.zeros((4, *small.outer.shape_yx), np.int64)
    weights = np.zeros(small.outer.shape_yx, np.int64)
    kernel = small.lattice.weights().astype(np.int64)
    lane = CoarseLane("")
    for ky in used((frame.core.y0, frame.core.y1), (outer.y0, outer.y1), lattice):
        for kx in used((frame.core.x0, frame.core.x1), (outer.x0, outer.x1), lattice):
            y, x, size = ky * lattice.stride_px, kx * lattice.stride_px, lattice.window_px
            inside = Box(y, x, y + size, x + size) & outer
            rows = mirror(y, y + size, inside.y0, inside.y1) - outer.y0
            cols = mirror(x, x + size, inside.x0, inside.x1) - outer.x0
            (p_KHW,) = lane.run(values[None][..., rows[:, None], cols])
            window = Box(y // 4, x // 4, (y + size) // 4, (x + size) // 4)
            at, cut = (window & small.outer).slices_in(small.outer), (window & small.outer).slices_in(window)
            sums[(slice(None), *at)] += (p_KHW * kernel)[(slice(None), *cut)]
            weights[at] += kernel[cut]
    wanted = small.core.slices_in(small.outer)
    valid = values.all(axis=1).any(axis=0)
    valid = valid.reshape(valid.shape[0] // 4, 4, -1, 4).any(axis=(1, 3))[wanted]
    sums, weights = sums[(slice(None), *wanted)], weights[wanted]
    share = np.floor(250 * sums / (weights * 65535.0) + 0.5)
    planes = [sums.argmax(0) + 1, share.max(0), *share]
    return np.stack([np.where(valid, p, 0 if i == 0 else 255) for i, p in enumerate(planes)]).astype(np.uint8)


def test_what_does_not_divide_by_the_factor_is_refused() -> None:
    with pytest.raises(InputError, match="coarser than its input") as caught:
        Frame(Box(0, 0, 64, 64), Box(0, 2, 64, 64), Lattice(32, 12), factor=4)
    assert "core.x0" in str(caught.value)
    with pytest.raises(InputError, match="mask of wanted pixels"):
        Frame(BOX, BOX, Lattice(32, 12), wanted=np.ones((3, 3), np.bool_))


class PixelLane:
    """A network on single pixels, in whole numbers."""

    batch = 1

    def __init__(self) -> None:
        self.rows = 0

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        assert x_BTCHW.shape == (1, 2, 3, ROWS, 1)
        self.rows += 1
        return pixel_answers(x_BTCHW[0])[None]


def pixel_answers(x_TCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
    plane = x_TCHW.astype(np.int64).sum((0, 1))
    scores = np.stack([plane * (k + 3) % 997 + 1 for k in range(4)])
    return (scores * 65535 // scores.sum(0)).astype(np.int32)


@pytest.mark.parametrize("chunk", [9, 33, 80])
def test_a_pixel_wise_network_sees_each_wanted_pixel_once_and_no_halo(chunk: int) -> None:
    values, lane = random_cube(4, BOX), PixelLane()
    wanted = np.random.default_rng(1).random(BOX.shape_yx) < 0.4
    frame = Frame(BOX, BOX, Lattice(1, 0), wanted=wanted)
    found = mapped(values, frame, chunk, lane)
    p_KHW = pixel_answers(values)
    asked = wanted & values.all(axis=1).any(axis=0)
    share = np.floor(250 * p_KHW / 65535 + 0.5)
    planes = [p_KHW.argmax(0) + 1, share.max(0), *share]
    expected = np.stack([np.where(asked, p, 0 if i == 0 else 255) for i, p in enumerate(planes)])
    np.testing.assert_array_equal(found, expected)
    assert lane.rows <= -(-BOX.shape_yx[0] // chunk) * -(-BOX.shape_yx[1] // chunk)
    assert Lattice(1, 0).pad(BOX) == BOX
