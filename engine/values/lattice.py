"""The window lattice: where a network looks, and with what weight its answers are blended.

Windows of `window_px` stand every ``stride = window - overlap`` pixels, anchored to the Grid and never
to a chunk, a tile or the area's box. Window ``k`` covers ``[k * stride, k * stride + window)`` on each
axis, for every whole number ``k``. With window 8 and overlap 3 (stride 5)::

      pixel   0    5    10   15   20
              ├────┼────┼────┼────┼────
      k = 0   ████████
      k = 1        ████████
      k = 2             ████████
      covered 22211222112221122211       each pixel by 1 or 2 windows per axis

Under ``trim`` only a window's centre answers, and the centres are what is anchored: centre ``k`` covers
``[k * stride, (k + 1) * stride)``, and its window half an overlap more on each side. Where the stride
divides a tile's side, a tile is answered by ``(side / stride) ** 2`` windows and no window twice. With
window 9 and overlap 4::

      pixel  -2   0    5    10   15
                  ├────┼────┼────┼──
      k = 0   ░░█████░░
      k = 1        ░░█████░░
      k = 2             ░░█████░░
      covered     11111111111111111      each pixel by the one window in whose centre it lies

A tile, what is read for it (its halo), and what lies beyond the archive's edge (`blend.Frame`)::

      ┌───────────────────────┐ outer: whole windows that touch the core, as far as there is input
      │   ┌───────────────┐   │ core: the tile's part of the outline
      │   │               │···│···  border: a window that reaches beyond `outer` is filled up with the
      │   │               │   │      mirror image of its own input (reflect), its last pixels again (edge)
      │   └───────────────┘   │      or no data (missing)
      └───────────────────────┘

A network with an output f times coarser than its input answers a window with ``window / f`` pixels a
side, and the same lattice divided by f blends them: window, overlap, core and outer are multiples of f.
A pixel-wise network has ``Lattice(1, 0)``: every pixel is its own window, and there is no halo.

What overlap? An answer near a window's edge is made from less than the network looks at. Half the overlap
should hold the network's effective receptive field, which is measured (`engine.inference.receptive`); the
edge then changes an answer by less than a thousandth of what the input does.

Which windows exist depends on nothing but the lattice, so the sums below are the same however an area
is cut. Weights are integers (1..255); probabilities are fixed-point (0..65535); the weighted sum over
all windows of a pixel is an exact int32, and it is divided by the exact integer weight sum, which
repeats every `stride` pixels. The bound: ``cover_max * 255 * 65535 < 2**31`` allows 128 windows a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import BudgetError, InputError
from engine.values.grid import Box

Kernel = Literal["hann", "radial", "trim"]

PROBABILITY_ONE = 65535
"""Fixed-point value of probability 1."""

WEIGHT_MAX = 255
_COVER_LIMIT = 128  # 128 * 255 * 65535 = 2_139_062_400 < 2**31 - 1
_RADIAL_FLOOR = 0.05


@dataclass(frozen=True)
class Lattice:
    """Window size, overlap and blending kernel, anchored to pixel (0, 0) of the Grid.

    Attributes:
        window_px: Side of the square window in pixels.
        overlap_px: Pixels that neighbouring windows share, 0 <= overlap < window.
        kernel: ``hann`` (raised cosine), ``radial`` (1 - r, clipped at a floor of 0.05) or ``trim``
            (only the centre answers, and is what is anchored; needs an even overlap).

    Raises:
        InputError: If the overlap does not fit the window.
        BudgetError: If more than 128 windows would cover a pixel (int32 would overflow).
    """

    window_px: int = 256
    overlap_px: int = 96
    kernel: Kernel = "hann"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_px < self.window_px:
            raise InputError(
                "overlap must lie in [0, window)",
                where="lattice.overlap_px",
                found=f"{self.overlap_px} px",
                limit=f"less than {self.window_px} px",
                mend="lower the overlap or enlarge the window",
            )
        if self.kernel == "trim" and self.overlap_px % 2:
            raise InputError(
                "the trim kernel cuts the overlap in half",
                where="lattice.overlap_px",
                found=f"{self.overlap_px} px",
                limit="an even number",
                mend=f"use {self.overlap_px + 1} px",
            )
        if self.kernel not in ("hann", "radial", "trim"):
            raise InputError("unknown kernel", found=self.kernel, limit="hann, radial or trim")
        if self.cover_max > _COVER_LIMIT:
            raise BudgetError(
                "too many windows cover a pixel for exact int32 sums",
                where="lattice",
                found=self.cover_max,
                limit=f"{_COVER_LIMIT} windows",
                mend="lower the overlap",
            )

    @property
    def stride_px(self) -> int:
        """Distance of neighbouring windows in pixels."""
        return self.window_px - self.overlap_px

    @property
    def cover_max(self) -> int:
        """Largest number of windows that cover one pixel."""
        return (-(-self.window_px // self.stride_px)) ** 2

    @property
    def reach_px(self) -> int:
        """Pixels that a window may extend beyond the pixel which holds its origin."""
        return self.window_px - 1

    @property
    def margin_px(self) -> int:
        """Pixels along each side of a window that never answer: half the overlap under ``trim``, else none."""
        return self.overlap_px // 2 if self.kernel == "trim" else 0

    def origin(self, k: int) -> int:
        """Return the first pixel of a window (one axis).

        >>> [Lattice(8, 2).origin(k) for k in (0, 1)], [Lattice(8, 2, "trim").origin(k) for k in (0, 1)]
        ([0, 6], [-1, 5])
        """
        return k * self.stride_px - self.margin_px

    def coarser(self, factor: int) -> Lattice:
        """Return the same windows in pixels that hold ``factor x factor`` of these; sides are multiples of it.

        >>> Lattice(32, 12).coarser(4)
        Lattice(window_px=8, overlap_px=3, kernel='hann')
        """
        return Lattice(self.window_px // factor, self.overlap_px // factor, self.kernel)

    def touching(self, lo: int, hi: int) -> range:
        """Return the windows (one axis) that answer for at least one pixel of ``[lo, hi)``.

        >>> Lattice(8, 3).touching(5, 10), Lattice(9, 4, "trim").touching(5, 10)
        (range(0, 2), range(1, 2))
        """
        if hi <= lo:
            return range(0)
        answers = self.window_px - 2 * self.margin_px  # pixels from k * stride on
        return range((lo - answers) // self.stride_px + 1, (hi - 1) // self.stride_px + 1)

    def needed(self, core: tuple[int, int], outer: tuple[int, int]) -> list[int]:
        """Return the windows (one axis) that answer for `core` when there is input over `outer` only.

        All that touch the core, but for those of which no more than the overlap lies inside `outer`: a
        neighbour sees all of that, and more around it. Where the core keeps a window's distance from the
        edge of `outer`, nothing is left out; nor under ``trim``, where no neighbour answers instead.

        >>> Lattice(8, 3).needed((0, 20), (0, 20)), list(Lattice(8, 3).touching(0, 20))
        ([0, 1, 2, 3], [-1, 0, 1, 2, 3])
        """
        touching = list(self.touching(*core))
        if self.kernel == "trim":
            return touching
        inside = [
            min(self.origin(k) + self.window_px, outer[1]) - max(self.origin(k), outer[0]) for k in touching
        ]
        least = min(self.overlap_px, max(inside, default=0) - 1)
        return [k for k, size in zip(touching, inside, strict=True) if size > least]

    def starting_in(self, lo: int, hi: int) -> range:
        """Return the windows (one axis) whose first pixel lies in ``[lo, hi)``.

        >>> Lattice(8, 3).starting_in(5, 11)
        range(1, 3)
        """
        first, last = (-(-(at + self.margin_px) // self.stride_px) for at in (lo, hi))
        return range(first, max(first, last))

    def span(self, lo: int, hi: int) -> tuple[int, int]:
        """Return the pixels (one axis) that all windows answering for ``[lo, hi)`` cover together."""
        windows = self.touching(lo, hi)
        if not windows:
            return lo, lo
        return self.origin(windows[0]), self.origin(windows[-1]) + self.window_px

    def pad(self, box: Box) -> Box:
        """Grow a box outward to whole windows: all input that its pixels depend on.

        >>> Lattice(8, 3).pad(Box(5, 5, 10, 10))
        Box(y0=0, x0=0, y1=13, x1=13)
        """
        (y0, y1), (x0, x1) = self.span(box.y0, box.y1), self.span(box.x0, box.x1)
        return Box(y0, x0, y1, x1)

    def count(self, box: Box) -> int:
        """Return how many windows answer for pixels of a box."""
        return len(self.touching(box.y0, box.y1)) * len(self.touching(box.x0, box.x1))

    def weights(self) -> NDArray[np.uint8]:
        """Return the blending kernel, (window, window), integers 0..255 (0 only for ``trim``)."""
        return _weights(self)

    def weight_sums(self, box: Box) -> NDArray[np.int32]:
        """Return the summed weight of all windows over each pixel of a box, (y, x), int32, always > 0."""
        table = _weight_table(self)
        rows = np.arange(box.y0, box.y1) % self.stride_px
        cols = np.arange(box.x0, box.x1) % self.stride_px
        return table[np.ix_(rows, cols)]

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("landweave.Lattice", self.window_px, self.overlap_px, self.kernel)


@lru_cache(maxsize=32)
def _weights(lattice: Lattice) -> NDArray[np.uint8]:
    """Build the integer kernel; pixel centres at (i + 0.5), so it is symmetric and never zero inside."""
    window = lattice.window_px
    centre = (np.arange(window) + 0.5) / window
    if lattice.kernel == "trim":
        line = np.zeros(window, np.uint8)
        line[lattice.overlap_px // 2 : lattice.overlap_px // 2 + lattice.stride_px] = 1
        weights = line[:, None] * line[None, :]
    elif lattice.kernel == "hann":
        line_f = np.sin(np.pi * centre) ** 2
        weights = _to_integers(line_f[:, None] * line_f[None, :])
    else:
        from_centre = np.abs(2 * centre - 1)
        radius = np.hypot(from_centre[:, None], from_centre[None, :])
        weights = _to_integers(np.clip(1 - radius, _RADIAL_FLOOR, 1))
    weights.setflags(write=False)
    return weights


def _to_integers(weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(weights * WEIGHT_MAX), 1, WEIGHT_MAX).astype(np.uint8)


@lru_cache(maxsize=32)
def _weight_table(lattice: Lattice) -> NDArray[np.int32]:
    """Fold the kernel onto one stride: entry (y % stride, x % stride) sums all windows over that pixel."""
    stride, window = lattice.stride_px, lattice.window_px
    folds = -(-window // stride)
    padded = np.zeros((folds * stride, folds * stride), np.int32)
    padded[:window, :window] = _weights(lattice)
    table = padded.reshape(folds, stride, folds, stride).sum(axis=(0, 2), dtype=np.int32)
    table.setflags(write=False)
    return table
