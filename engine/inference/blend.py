"""Pure kernels of prediction: windows in, exact integer sums out.

No Dask and no I/O here. Shapes: T dates, C bands, K outputs, W window, all arrays (…, y, x).

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

A network whose output is coarser by a factor f (``Frame.factor``) is cut out of the fine pixels and added
up on the coarse ones: windows and their distance are whole multiples of f. A pixel-wise network (window 1)
has no windows: the pixels asked for are evaluated in rows of `ROWS`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.inference.loops import add_weighted, put_pixels, take_pixels
from engine.inference.sharing import share
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from engine.values.planes import Group

ROWS = 4096
"""Pixels of one evaluation of a pixel-wise network; the last ones are filled up with zeros."""

Border = Literal["reflect", "edge", "missing"]
"""What lies beyond the input: its mirror image, its last pixel again, or no data."""

Run = Callable[[NDArray[np.uint16]], NDArray[np.int32]]
"""A device lane: (B, T, C, W, W) uint16 cube values to (B, K, W / f, W / f) int32, 0..65535."""

_PAD_MODES: dict[Border, Any] = {"reflect": "reflect", "edge": "edge", "missing": "constant"}


@dataclass(frozen=True)
class Frame:
    """What is known and what is wanted.

    Attributes:
        outer: Pixels for which there is input; beyond it the border rule applies.
        core: Pixels for which an answer is wanted, inside `outer`.
        lattice: The windows.
        border: What lies beyond `outer`.
        factor: Input pixels per output pixel, along each axis; `outer`, `core` and the lattice are whole
            multiples of it.
        wanted: (y, x) bool over the core's output pixels, those that are asked for; None: all of them.
        groups: Group of each plane of the input (`engine.values.planes`); None: all are optical.

    Raises:
        InputError: If a box or the lattice is no multiple of the factor, or the mask is not of the core.
    """

    outer: Box
    core: Box
    lattice: Lattice
    border: Border = "reflect"
    factor: int = 1
    wanted: NDArray[np.bool_] | None = field(default=None, compare=False)
    groups: tuple[Group, ...] | None = None

    def __post_init__(self) -> None:
        sides = {"window": self.lattice.window_px, "overlap": self.lattice.overlap_px}
        sides |= {
            f"{name}.{k}": getattr(getattr(self, name), k) for name in ("outer", "core") for k in _EDGES
        }
        uneven = {k: v for k, v in sides.items() if v % self.factor}
        if uneven:
            raise InputError(
                "the network's output is coarser than its input, and these are no multiples of the factor",
                where=", ".join(uneven),
                found=list(uneven.values()),
                limit=f"multiples of {self.factor} px",
            )
        if self.wanted is not None and self.wanted.shape != self.output_box(self.core).shape_yx:
            raise InputError(
                "the mask of wanted pixels is not of the core",
                where="wanted",
                found=self.wanted.shape,
                limit=self.output_box(self.core).shape_yx,
            )

    @property
    def reach_px(self) -> int:
        """Input pixels beyond a block that its windows may look at."""
        return self.lattice.window_px - self.factor

    @functools.cached_property
    def small(self) -> Frame:
        """The same in output pixels; itself where the factor is 1."""
        if self.factor == 1:
            return self
        outer, core = self.output_box(self.outer), self.output_box(self.core)
        return Frame(outer, core, self.lattice.coarser(self.factor), self.border, 1, self.wanted, self.groups)

    def output_box(self, box: Box) -> Box:
        """Return the output pixels of a box whose sides are multiples of the factor."""
        f = self.factor
        return Box(box.y0 // f, box.x0 // f, box.y1 // f, box.x1 // f)

    def windows_of(self, block: Box) -> list[tuple[int, int]]:
        """List the origins (y, x) of the windows that `block` evaluates.

        A window belongs to the block that holds its origin; one that starts before `outer` belongs to
        the first block. Every window that the core needs is in exactly one block's list.
        """
        rows = [y for y in self._rows() if block.y0 <= max(y, self.outer.y0) < block.y1]
        cols = [x for x in self._cols() if block.x0 <= max(x, self.outer.x0) < block.x1]
        return [(y, x) for y in rows for x in cols]

    def asked(self, has_data: NDArray[np.bool_], extent: Box) -> NDArray[np.bool_]:
        """Tell which output pixels of an extent need an answer: wanted ones of the core that have data.

        Args:
            has_data: (y, x) bool over the extent's output pixels.
            extent: In input pixels.
        """
        asked = np.zeros_like(has_data)
        small, core = self.output_box(extent), self.output_box(self.core)
        inside = small & core
        if inside:
            at = inside.slices_in(small)
            asked[at] = has_data[at]
            if self.wanted is not None:
                asked[at] &= self.wanted[inside.slices_in(core)]
        return asked

    def count(self) -> int:
        """Return how many windows, or rows of pixels, are evaluated where there is data everywhere."""
        small = self.small
        if self.lattice.window_px == 1:
            n = small.core.area_px if self.wanted is None else int(self.wanted.sum())
            return -(-n // ROWS)
        rows, cols = small._rows(), small._cols()
        if self.wanted is None:
            return len(rows) * len(cols)
        # Sums over the upper left rectangle of each corner: a window's pixels are four of them.
        corner = np.zeros(tuple(n + 1 for n in self.wanted.shape), np.int64)
        np.cumsum(np.cumsum(self.wanted, 0, dtype=np.int64), 1, out=corner[1:, 1:])
        margin, side = small.lattice.margin_px, small.lattice.window_px
        (y0, y1), (x0, x1) = (
            np.clip([np.add(starts, margin), np.add(starts, side - margin)], lo, hi) - lo
            for starts, lo, hi in (
                (rows, small.core.y0, small.core.y1),
                (cols, small.core.x0, small.core.x1),
            )
        )
        found = (
            corner[np.ix_(y1, x1)] - corner[np.ix_(y0, x1)] - corner[np.ix_(y1, x0)] + corner[np.ix_(y0, x0)]
        )
        return int((found > 0).sum())

    def weight_sums(self, block: Box) -> NDArray[np.int32]:
        """Return the summed weight of the windows over each pixel of a block, (y, x) int32.

        0 only where no window answers: outside the core.
        """
        lattice = self.lattice
        if lattice.window_px == 1:  # no windows: what is asked for is answered
            return lattice.weight_sums(block)
        rows, cols = self._rows(), self._cols()
        all_rows = {lattice.origin(k) for k in lattice.touching(block.y0, block.y1)}
        all_cols = {lattice.origin(k) for k in lattice.touching(block.x0, block.x1)}
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
        return [self.lattice.origin(k) for k in self.lattice.needed(core, outer)]

    def _cols(self) -> list[int]:
        core, outer = (self.core.x0, self.core.x1), (self.outer.x0, self.outer.x1)
        return [self.lattice.origin(k) for k in self.lattice.needed(core, outer)]


_EDGES = ("y0", "x0", "y1", "x1")


def valid_pixels(
    values: NDArray[np.uint16], factor: int = 1, groups: tuple[Group, ...] | None = None
) -> NDArray[np.bool_]:
    """Tell where at least one date has all bands, (T, C, y, x) uint16 with 0 = no data -> (y, x) bool.

    With groups: where a date has all of its optical or all of its radar planes (of layers alone: any). With a
    factor: where any of its ``factor x factor`` pixels does, per output pixel.
    """
    valid = np.zeros(values.shape[-2:], np.bool_)
    for planes in _counting(groups):
        for date in values:
            valid[date[planes].all(axis=0)] = True
    if factor == 1:
        return valid
    height, width = values.shape[2] // factor, values.shape[3] // factor
    return np.asarray(valid.reshape(height, factor, width, factor).any(axis=(1, 3)), np.bool_)


def _counting(groups: tuple[Group, ...] | None) -> list[Any]:
    """Return the sets of planes each of which makes a date count.

    >>> _counting(("optical", "radar", "optical", "static")), _counting(("static", "static"))
    ([[0, 2], [1]], [[0], [1]])
    """
    if groups is None:
        return [slice(None)]
    sets = [[i for i, g in enumerate(groups) if g == name] for name in ("optical", "radar")]
    return [planes for planes in sets if planes] or [[i] for i in range(len(groups))]


def window_sums(
    values: NDArray[np.uint16], extent: Box, block: Box, frame: Frame, lane: tuple[Run, int, int]
) -> NDArray[np.int32]:
    """Evaluate the windows of one block and add them up.

    Args:
        values: (T, C, y, x) uint16 over `extent`, 0 = no data.
        extent: The block and as much of its right and lower neighbours as there is.
        block: The pixels whose windows are evaluated here.
        frame: Input, wanted pixels and lattice.
        lane: The runner, its fixed batch and the number of outputs K.

    Returns:
        (K + 1, y, x) int32 over the output pixels of `extent`: weighted sums, and last 1 where a pixel of
        `block` is asked for and has data.
    """
    run, batch, n_outputs = lane
    small, place = frame.small, frame.output_box(extent)
    sums = np.zeros((n_outputs + 1, *place.shape_yx), np.int32)
    asked = frame.asked(valid_pixels(values, frame.factor, frame.groups), extent)
    own = frame.output_box(block).slices_in(place)
    sums[n_outputs][own] = asked[own]
    if frame.lattice.window_px == 1:
        _add_pixels(sums, values, asked, own, run, batch)
        return sums
    origins = [o for o in frame.windows_of(block) if _is_asked(asked, extent, o, frame)]
    weights = small.lattice.weights().astype(np.int32)
    adding = threading.Lock()

    def one(number: int) -> None:
        some = origins[number * batch : (number + 1) * batch]
        p_BKHW = run(np.stack([_cut_window(values, extent, o, frame) for o in some]))
        with adding:
            for (y, x), p_KHW in zip(some, p_BKHW, strict=True):
                at = y // frame.factor - place.y0, x // frame.factor - place.x0
                add_weighted(sums, p_KHW, weights, *at)

    share(-(-len(origins) // batch), one)
    return sums


def _add_pixels(
    sums: NDArray[np.int32],
    values: NDArray[np.uint16],
    asked: NDArray[np.bool_],
    own: tuple[slice, slice],
    run: Run,
    batch: int,
) -> None:
    """Evaluate the block's pixels that are asked for, in rows of fixed length."""
    weight = np.int32(Lattice(1, 0).weights()[0, 0])
    ys, xs = np.nonzero(asked[own])
    ys, xs = ys + (own[0].start or 0), xs + (own[1].start or 0)

    def one(number: int) -> None:
        first = number * batch * ROWS
        parts = [slice(n, n + ROWS) for n in range(first, min(first + batch * ROWS, len(ys)), ROWS)]
        rows_BTCN = np.zeros((len(parts), *values.shape[:2], ROWS), np.uint16)
        for at, rows_TCN in zip(parts, rows_BTCN, strict=True):
            take_pixels(values, ys[at], xs[at], rows_TCN)
        for at, p_KHW in zip(parts, run(rows_BTCN[..., None]), strict=True):
            put_pixels(sums, ys[at], xs[at], p_KHW[:, :, 0], weight)

    share(-(-len(ys) // (batch * ROWS)), one)


def _window_box(origin: tuple[int, int], frame: Frame) -> Box:
    y, x = origin
    return Box(y, x, y + frame.lattice.window_px, x + frame.lattice.window_px)


def _is_asked(asked: NDArray[np.bool_], extent: Box, origin: tuple[int, int], frame: Frame) -> bool:
    """A window without one pixel that is asked for is not evaluated; no such pixel can miss it."""
    answers = _window_box(origin, frame).pad(-frame.lattice.margin_px)
    inside, place = frame.output_box(answers & extent), frame.output_box(extent)
    return bool(asked[inside.slices_in(place)].any())


def _cut_window(
    values: NDArray[np.uint16], extent: Box, origin: tuple[int, int], frame: Frame
) -> NDArray[np.uint16]:
    """Cut one window, continued beyond `outer` by the border rule, (T, C, W, W)."""
    window = _window_box(origin, frame)
    inside = window & frame.outer
    part = values[(..., *inside.slices_in(extent))]
    if inside == window:
        return part
    pad_y = (inside.y0 - window.y0, window.y1 - inside.y1)
    pad_x = (inside.x0 - window.x0, window.x1 - inside.x1)
    return np.pad(part, ((0, 0), (0, 0), pad_y, pad_x), mode=_PAD_MODES[frame.border])
