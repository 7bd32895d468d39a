"""Pure kernels of prediction: windows in, exact integer sums out, classes from sums.

No Dask and no I/O here. Shapes: T dates, C bands, K classes, W window, all arrays (…, y, x).

One block of the cube evaluates the windows that start in it (●) and so needs up to W - 1 rows and
columns of its right and lower neighbours. Its sums reach as far; what lies beyond the block is its
spill, which the neighbours add::

      ┌───────────────┬────────┐
      │ own           │ spill  │  own    rows [0, h)      columns [0, w)
      │   ●━━━━━━┓    │ right  │  right  rows [0, h)      columns [w, w + W - 1)
      │   ┃      ┃    │        │  below  rows [h, ...)    columns [0, w)
      ├───┃──────┃────┼────────┤  corner rows [h, ...)    columns [w, ...)
      │ sp┗━━━━━━┛low │ corner │
      └───────────────┴────────┘

Integer sums do not depend on the order of adding, so any chunking gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.grid import Box
from engine.values.lattice import PROBABILITY_ONE, Lattice

CONFIDENCE_ONE = 250
"""Value of probability 1 in the uint8 outputs."""

CONFIDENCE_NO_DATA = 255

Run = Callable[[NDArray[np.uint16]], NDArray[np.int32]]
"""A device lane: (B, T, C, W, W) uint16 cube values to (B, K, W, W) int32 probabilities, 0..65535."""


@dataclass(frozen=True)
class Frame:
    """What is known and what is wanted.

    Attributes:
        outer: Pixels for which there is input; beyond it the border rule applies (reflection).
        core: Pixels for which an answer is wanted, inside `outer`.
        lattice: The windows.
    """

    outer: Box
    core: Box
    lattice: Lattice

    def windows_of(self, block: Box) -> list[tuple[int, int]]:
        """List the origins (y, x) of the windows that `block` evaluates.

        A window belongs to the block that holds its origin; one that starts before `outer` belongs to
        the first block. Every window that the core needs is in exactly one block's list.
        """
        rows = [y for y in self._rows() if block.y0 <= max(y, self.outer.y0) < block.y1]
        cols = [x for x in self._cols() if block.x0 <= max(x, self.outer.x0) < block.x1]
        return [(y, x) for y in rows for x in cols]

    def weight_sums(self, block: Box) -> NDArray[np.int32]:
        """Return the summed weight of the windows over each pixel of a block, (y, x) int32.

        0 only where no window answers: outside the core.
        """
        lattice, stride = self.lattice, self.lattice.stride_px
        rows, cols = self._rows(), self._cols()
        all_rows = {k * stride for k in lattice.touching(block.y0, block.y1)}
        all_cols = {k * stride for k in lattice.touching(block.x0, block.x1)}
        if all_rows <= set(rows) and all_cols <= set(cols):
            return lattice.weight_sums(block)
        sums = np.zeros(block.shape_yx, np.int32)
        for y in all_rows & set(rows):
            for x in all_cols & set(cols):
                window = Box(y, x, y + lattice.window_px, x + lattice.window_px)
                both = window & block
                sums[both.slices_in(block)] += lattice.weights()[both.slices_in(window)]
        return sums

    def _rows(self) -> list[int]:
        core, outer = (self.core.y0, self.core.y1), (self.outer.y0, self.outer.y1)
        return [k * self.lattice.stride_px for k in self.lattice.needed(core, outer)]

    def _cols(self) -> list[int]:
        core, outer = (self.core.x0, self.core.x1), (self.outer.x0, self.outer.x1)
        return [k * self.lattice.stride_px for k in self.lattice.needed(core, outer)]


def valid_pixels(values: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Tell where at least one date has all bands, (T, C, y, x) uint16 with 0 = no data -> (y, x) bool."""
    valid = np.zeros(values.shape[-2:], np.bool_)
    for date in values:
        valid |= date.all(axis=0)
    return valid


def window_sums(
    values: NDArray[np.uint16], extent: Box, block: Box, frame: Frame, lane: tuple[Run, int, int]
) -> NDArray[np.int32]:
    """Evaluate the windows of one block and add them up.

    Args:
        values: (T, C, y, x) uint16 over `extent`, 0 = no data.
        extent: The block and as much of its right and lower neighbours as there is.
        block: The pixels whose windows are evaluated here.
        frame: Input, wanted pixels and lattice.
        lane: The runner, its fixed batch and the number of classes K.

    Returns:
        (K + 1, y, x) int32 over `extent`: weighted probability sums, and last 1 where a pixel of
        `block` has data.
    """
    run, batch, n_classes = lane
    sums = np.zeros((n_classes + 1, *extent.shape_yx), np.int32)
    has_data = valid_pixels(values)
    own = block.slices_in(extent)
    sums[n_classes][own] = has_data[own]
    origins = [o for o in frame.windows_of(block) if _holds_data(has_data, extent, o, frame)]
    weights = frame.lattice.weights().astype(np.int32)
    for some in _batches(origins, batch):
        x_BTCHW = np.stack([_cut_window(values, extent, o, frame) for o in some])
        for origin, p_KHW in zip(some, run(x_BTCHW), strict=True):
            _add_window(sums, extent, origin, p_KHW, weights)
    return sums


def _batches(origins: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(origins), size):
        yield origins[start : start + size]


def _window_box(origin: tuple[int, int], frame: Frame) -> Box:
    y, x = origin
    return Box(y, x, y + frame.lattice.window_px, x + frame.lattice.window_px)


def _holds_data(has_data: NDArray[np.bool_], extent: Box, origin: tuple[int, int], frame: Frame) -> bool:
    """A window without one valid pixel is not evaluated; no valid pixel can miss it."""
    inside = _window_box(origin, frame) & extent
    return bool(has_data[inside.slices_in(extent)].any())


def _cut_window(
    values: NDArray[np.uint16], extent: Box, origin: tuple[int, int], frame: Frame
) -> NDArray[np.uint16]:
    """Cut one window, reflected at the edge of `outer`, (T, C, W, W)."""
    window = _window_box(origin, frame)
    inside = window & frame.outer
    part = values[(..., *inside.slices_in(extent))]
    if inside == window:
        return part
    pad_y = (inside.y0 - window.y0, window.y1 - inside.y1)
    pad_x = (inside.x0 - window.x0, window.x1 - inside.x1)
    return np.pad(part, ((0, 0), (0, 0), pad_y, pad_x), mode="reflect")


def _add_window(
    sums: NDArray[np.int32],
    extent: Box,
    origin: tuple[int, int],
    p_KHW: NDArray[np.int32],
    weights: NDArray[np.int32],
) -> None:
    y, x = origin
    at_y, at_x = y - extent.y0, x - extent.x0
    _add_weighted(sums, p_KHW, weights, at_y, at_x)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _add_weighted(
    sums: NDArray[np.int32],
    p_KHW: NDArray[np.int32],
    weights: NDArray[np.int32],
    at_y: int,
    at_x: int,
) -> None:
    """Add ``p * weight`` where the window lies inside `sums`; all in int32, exact."""
    n_classes, window, _ = p_KHW.shape
    y_lo, y_hi = max(0, -at_y), min(window, sums.shape[1] - at_y)
    x_lo, x_hi = max(0, -at_x), min(window, sums.shape[2] - at_x)
    for k in range(n_classes):
        for y in range(y_lo, y_hi):
            for x in range(x_lo, x_hi):
                sums[k, at_y + y, at_x + x] += p_KHW[k, y, x] * weights[y, x]


def classes_from_sums(
    sums: NDArray[np.int32],
    weight_sums: NDArray[np.int32],
    labels: NDArray[np.uint8],
    with_probability: bool,
) -> NDArray[np.uint8]:
    """Turn sums into the map: label, confidence and, if wanted, the probability of each class.

    Args:
        sums: (K + 1, y, x) int32 from `window_sums`, spills added; the last plane tells data.
        weight_sums: (y, x) int32, the summed weights (`Frame.weight_sums`); 0 = not answered.
        labels: (K,) uint8, the label of each class.
        with_probability: Add K planes.

    Returns:
        (2 or 2 + K, y, x) uint8: label (0 = no data; ties to the lowest class index), confidence and
        probabilities 0..250 rounded half up (255 = no data).
    """
    n_classes = sums.shape[0] - 1
    out = np.empty((2 + (n_classes if with_probability else 0), *sums.shape[1:]), np.uint8)
    _decide(sums, weight_sums, labels, out)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _decide(
    sums: NDArray[np.int32],
    weight_sums: NDArray[np.int32],
    labels: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    n_classes = sums.shape[0] - 1
    for y in range(sums.shape[1]):
        for x in range(sums.shape[2]):
            if sums[n_classes, y, x] == 0 or weight_sums[y, x] == 0:
                out[0, y, x] = 0
                out[1:, y, x] = CONFIDENCE_NO_DATA
                continue
            best = 0
            for k in range(1, n_classes):
                if sums[k, y, x] > sums[best, y, x]:
                    best = k
            scale = np.int64(weight_sums[y, x]) * PROBABILITY_ONE
            out[0, y, x] = labels[best]
            out[1, y, x] = _to_uint8(sums[best, y, x], scale)
            for k in range(out.shape[0] - 2):
                out[2 + k, y, x] = _to_uint8(sums[k, y, x], scale)


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _to_uint8(value: np.int32, scale: np.int64) -> np.uint8:
    """``250 * value / scale`` rounded half up, in exact integers, at most 250."""
    scaled = (2 * CONFIDENCE_ONE * np.int64(value) + scale) // (2 * scale)
    return np.uint8(scaled if scaled < CONFIDENCE_ONE else CONFIDENCE_ONE)
