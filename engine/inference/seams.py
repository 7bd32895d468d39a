"""The seam statistic: does the map change more across window and tile borders than beside them?

A line is the border between pixel rows (or columns) ``l - 1`` and ``l``. Its rate is the share of pixel
pairs across it whose labels differ (or the mean step of confidence or probability), over pairs that are
valid on both sides. A map without seams has, on average, the same rate on a border as on the lines a few
pixels beside it, whatever the landscape::

        l-12 ... l-3        l        l+3 ... l+12
    ─────┼───────┼──────────╋─────────┼───────┼────     ╋ a window or tile border
         controls      (±2 left out)      controls

Lines are cut into pieces of 64 pixels or more (at most 32 a line). For a piece i of a line with n(i) pairs
and rate r(i), c(i) is the mean rate of the same piece of its control lines. Over a family of lines:

    difference = Σ n(i) (r(i) - c(i)) / Σ n(i)

A landscape is no coin toss (a field edge may run along a line for a kilometre), so its error is not taken
from a binomial law but is the largest of four:

- over pieces: the standard error of the weighted mean of ``r(i) - c(i)``. A seam raises all pieces, a
  field edge that happens to lie on a border raises one, and this error with it;
- within controls: the error if each piece were one more draw from among its own controls;
- over offsets: the same difference as if all borders stood d pixels aside, for each control offset d (its
  own control left out), as a root mean square: how large the statistic gets where there is no border;
- a floor: ``sqrt(expected transitions + 1)`` (Poisson) for labels, one stored step (1/250) in each pair
  independently for amounts; it keeps a map without any change from dividing by nothing.

``z = difference / error``. The ratio ``(Σ n r + 1) / (Σ n c + 1)`` says how much it matters. A family is
called a seam if ratio and z both pass their thresholds: in a large map a tiny difference becomes certain,
and in a small one a large difference happens by chance.

Sums are whole numbers per piece, so blocks may come in any size and order: the report is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.store.view import in_flight, open_view
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice

Axis = Literal["y", "x"]
AXES: tuple[Axis, Axis] = ("y", "x")

CONTROL_OFFSETS = tuple(d for d in range(-12, 13) if abs(d) >= 3)
"""Where a line's controls lie, in pixels from it."""

_KEEP_OFF_PX = 2  # a control stays this far from every border
_LEAST_CONTROLS = 6  # a line with fewer controls tells nothing
_LEAST_PIECES = 4  # below that there is no error over pieces to speak of
_PIECE_PX = 64
_MOST_PIECES = 32  # a line; bounds the memory: 32 * (height + width) * 8 bytes a layer
_AMOUNT_ONE = 250  # stored value of confidence or probability 1

_LAYERS = {"label": 0, "confidence": 255, "probability": 255}


@dataclass(frozen=True)
class Limits:
    """When a family of lines counts as a seam.

    Attributes:
        ratio: Rate on the lines over rate on the controls that must be passed.
        z: Difference over its error that must be passed.
    """

    ratio: float = 1.05
    z: float = 4.0


@dataclass(frozen=True)
class SeamFamily:
    """What was found on one family of lines.

    Attributes:
        family: ``lattice`` (window borders) or ``tile``.
        axis: ``y``: lines between rows; ``x``: between columns.
        measure: ``label`` (share of differing pairs), ``confidence`` or ``probability`` (mean absolute
            step, 0..1; probability over all classes).
        lines: Lines with enough controls; 0 means that nothing can be said.
        pairs: Valid pixel pairs across them.
        rate: On the lines.
        control_rate: On their controls, weighted as the lines.
        ratio: The two, with one event added to each.
        z: Difference over its error.
        seam: The verdict.
    """

    family: str
    axis: Axis
    measure: str
    lines: int
    pairs: int
    rate: float
    control_rate: float
    ratio: float
    z: float
    seam: bool


@dataclass(frozen=True)
class SeamReport:
    """The seam statistic of a map.

    Attributes:
        box: The pixels looked at.
        tile_px: Tile size.
        lattice: Window lattice.
        limits: Thresholds of the verdicts.
        families: One entry per family, axis and measure.
    """

    box: Box
    tile_px: int
    lattice: Lattice
    limits: Limits
    families: tuple[SeamFamily, ...]

    @property
    def seam(self) -> bool:
        """Whether any family shows a seam."""
        return any(f.seam for f in self.families)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"seam": self.seam, **asdict(self)}


def seam_lines(lattice: Lattice, tile_px: int, lo: int, hi: int) -> dict[str, NDArray[np.int64]]:
    """List the borders strictly inside ``[lo, hi)`` of one axis.

    Lattice lines are where a window begins to count or stops to: ``k * stride`` and ``k * stride +
    window``; for the trim kernel ``k * stride + overlap / 2``, where one window's part ends and the next
    one's begins. A line of both kinds counts with the tiles, so that a seam is blamed on one of them.

    Args:
        lattice: The window lattice.
        tile_px: Tile size.
        lo: First pixel.
        hi: Pixel after the last.

    >>> lines = seam_lines(Lattice(8, 3), 16, 0, 20)
    >>> lines["lattice"].tolist(), lines["tile"].tolist()
    ([3, 5, 8, 10, 13, 15, 18], [16])
    """
    trim = lattice.kernel == "trim"
    starts = (0,) if trim else (0, lattice.window_px)
    windows = np.concatenate([_multiples(lattice.stride_px, start, lo, hi) for start in starts])
    tiles = _multiples(tile_px, 0, lo, hi)
    return {"lattice": np.setdiff1d(windows, tiles), "tile": tiles}


def _multiples(step: int, start: int, lo: int, hi: int) -> NDArray[np.int64]:
    first = start - (start - lo - 1) // step * step  # the first one above lo
    return np.arange(first, hi, step, dtype=np.int64)


def piece_px(length_px: int) -> int:
    """Return the length of the pieces that a line of `length_px` is cut into.

    >>> piece_px(1000), piece_px(10980)
    (64, 344)
    """
    return max(_PIECE_PX, -(-length_px // _MOST_PIECES))


@dataclass(frozen=True)
class Pieces:
    """How a block's pixels fall into pieces of lines.

    Attributes:
        first_yx: Row and column of the block's first pixel, counted from the box's corner.
        piece_yx: Length of a piece along y (of lines between columns) and along x (between rows).
        overlap_yx: 1 where the first row (column) belongs to the block before: it serves the pairs across
            its far edge only.
    """

    first_yx: tuple[int, int] = (0, 0)
    piece_yx: tuple[int, int] = (_PIECE_PX, _PIECE_PX)
    overlap_yx: tuple[int, int] = (0, 0)

    def count(self, shape_yx: tuple[int, int]) -> tuple[int, int]:
        """Return how many pieces, from the box's corner on, reach the end of an array (y, x)."""
        y, x = (f + n for f, n in zip(self.first_yx, shape_yx, strict=True))
        return -(-y // self.piece_yx[0]), -(-x // self.piece_yx[1])


def line_sums(
    values: NDArray[np.uint8], no_data: int, *, classes: bool, pieces: Pieces | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sum over each piece of each line of an array the valid pairs and how much they differ.

    Args:
        values: (y, x) uint8.
        no_data: Value of pixels that take no part.
        classes: True counts differing pairs, False adds up absolute steps.
        pieces: Where the pieces begin and end; None: 64 px from the array's corner.

    Returns:
        Rows (2, y, pieces along x) and columns (2, x, pieces along y), int32: number of pairs, and their
        differences, across the line before each row (column); 0 for the first. A piece may hold up to
        8.4 million steps of 255.

    >>> rows, cols = line_sums(np.array([[1, 1], [2, 0]], np.uint8), 0, classes=True)
    >>> rows[..., 0].tolist(), cols[..., 0].tolist()
    ([[0, 1], [0, 1]], [[0, 1], [0, 0]])
    """
    pieces = pieces or Pieces()
    along_y, along_x = pieces.count(values.shape)
    rows = np.zeros((2, values.shape[0], along_x), np.int32)
    cols = np.zeros((2, values.shape[1], along_y), np.int32)
    where = (*pieces.first_yx, *pieces.piece_yx, *pieces.overlap_yx)
    _sum_lines(np.ascontiguousarray(values), no_data, classes, where, rows, cols)
    return rows, cols


@njit(nogil=True, cache=True)
def _sum_lines(values, no_data, classes, where, rows, cols):  # type: ignore[no-untyped-def]
    first_y, first_x, piece_y, piece_x, overlap_y, overlap_x = where
    height, width = values.shape
    of_x = (np.arange(width) + first_x) // piece_x
    for y in range(height):
        of_y = (y + first_y) // piece_y
        for x in range(width):
            here = np.int64(values[y, x])
            if here == no_data:
                continue
            if y > 0 and x >= overlap_x:
                above = np.int64(values[y - 1, x])
                if above != no_data:
                    rows[0, y, of_x[x]] += 1
                    rows[1, y, of_x[x]] += (here != above) if classes else abs(here - above)
            if x > 0 and y >= overlap_y:
                left = np.int64(values[y, x - 1])
                if left != no_data:
                    cols[0, x, of_y] += 1
                    cols[1, x, of_y] += (here != left) if classes else abs(here - left)


class SeamSums:
    """Sums per line of a box, filled block by block in any order.

    Args:
        box: All pixels that will be added.
    """

    def __init__(self, box: Box):
        self.box = box
        height, width = box.shape_yx
        self._piece_yx = (piece_px(height), piece_px(width))
        self._sums: dict[str, dict[Axis, NDArray[np.int32]]] = {}

    def add(self, block: Box, layers: Mapping[str, NDArray[np.uint8]]) -> None:
        """Add the pixels of a block.

        Args:
            block: Its box; each pixel of the whole belongs to one block.
            layers: ``label``, ``confidence`` (y, x), ``probability`` (class, y, x), any of them, uint8,
                covering `with_overlap(block)`.

        Raises:
            InputError: If an array does not cover that box.
        """
        padded = self.with_overlap(block)
        first = (padded.y0 - self.box.y0, padded.x0 - self.box.x0)
        overlap = (block.y0 - padded.y0, block.x0 - padded.x0)
        pieces = Pieces(first, self._piece_yx, overlap)
        for name, values in layers.items():
            if values.shape[-2:] != padded.shape_yx:
                raise InputError(
                    "a layer does not cover the block and its overlap",
                    where=name,
                    found=values.shape,
                    limit=padded.shape_yx,
                )
            of = self._of(name)
            for plane in values.reshape(-1, *padded.shape_yx):
                rows, cols = line_sums(plane, _LAYERS[name], classes=name == "label", pieces=pieces)
                of["y"][:, first[0] : first[0] + rows.shape[1], : rows.shape[2]] += rows
                of["x"][:, first[1] : first[1] + cols.shape[1], : cols.shape[2]] += cols

    def with_overlap(self, block: Box) -> Box:
        """Return a block with the row above and the column to the left, where the box has them."""
        return block.pad(1, 0) & self.box

    def report(self, lattice: Lattice, tile_px: int, limits: Limits | None = None) -> SeamReport:
        """Compare borders with their controls."""
        limits = limits or Limits()
        families = []
        spans = {"y": (self.box.y0, self.box.y1), "x": (self.box.x0, self.box.x1)}
        for axis in AXES:
            lines = seam_lines(lattice, tile_px, *spans[axis])
            borders = np.unique(np.concatenate(list(lines.values())))
            for family, measure in itertools.product(lines, sorted(self._sums)):
                found = _compare(
                    self._sums[measure][axis],
                    lines[family] - spans[axis][0],
                    borders - spans[axis][0],
                    measure,
                )
                seam = found["lines"] > 0 and found["ratio"] > limits.ratio and found["z"] > limits.z
                families.append(SeamFamily(family=family, axis=axis, measure=measure, seam=seam, **found))
        return SeamReport(self.box, tile_px, lattice, limits, tuple(families))

    def _of(self, name: str) -> dict[Axis, NDArray[np.int32]]:
        if name not in self._sums:
            height, width = self.box.shape_yx
            along_y, along_x = Pieces(piece_yx=self._piece_yx).count(self.box.shape_yx)
            self._sums[name] = {
                "y": np.zeros((2, height, along_x), np.int32),
                "x": np.zeros((2, width, along_y), np.int32),
            }
        return self._sums[name]


@dataclass(frozen=True)
class _Contrast:
    """Pieces of a family's lines beside their controls.

    Attributes:
        weight: (piece,) float64, valid pairs.
        rate: (piece,) float64, on the line.
        control_rates: (piece, offset) float64, 0 where `is_control` is False.
        is_control: (piece, offset) bool.
        lines: Number of lines that the pieces belong to.
    """

    weight: NDArray[np.float64]
    rate: NDArray[np.float64]
    control_rates: NDArray[np.float64]
    is_control: NDArray[np.bool_]
    lines: int

    @property
    def control(self) -> NDArray[np.float64]:
        """Mean rate of each piece's controls, (piece,)."""
        return self.control_rates.sum(1) / self.count

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of each piece's controls, (piece,)."""
        return self.is_control.sum(1)

    def mean(self, values: NDArray[np.float64]) -> float:
        """Return the weighted mean over pieces."""
        return float((self.weight * values).sum() / self.weight.sum())

    def error_over_pieces(self) -> float:
        """Return the standard error of the weighted mean of paired differences."""
        paired = self.rate - self.control
        n = paired.size
        spread = (self.weight**2 * (paired - self.mean(paired)) ** 2).sum() * n / (n - 1)
        return float(np.sqrt(spread) / self.weight.sum())

    def error_within_controls(self) -> float:
        """Return the error if each piece were one more draw from among its own controls."""
        squares = (self.control_rates - self.control[:, None]) ** 2
        variance = np.where(self.is_control, squares, 0.0).sum(1) / (self.count - 1) * (1 + 1 / self.count)
        return float(np.sqrt((self.weight**2 * variance).sum()) / self.weight.sum())

    def error_over_offsets(self) -> float:
        """Return the root mean square of the difference as if the borders stood at each offset."""
        others = (self.control_rates.sum(1, keepdims=True) - self.control_rates) / (self.count[:, None] - 1)
        moved = np.where(self.is_control, self.control_rates - others, 0.0)
        shares = np.where(self.is_control, self.weight[:, None], 0.0).sum(0)
        there = shares > 0
        placebo = (self.weight[:, None] * moved).sum(0)[there] / shares[there]
        return float(np.sqrt((placebo**2).mean()))


def _contrast(
    sums: NDArray[np.int32], lines: NDArray[np.int64], borders: NDArray[np.int64], unit: float
) -> _Contrast:
    """Set the pieces of some lines beside their controls; pieces with too few controls are left out.

    Args:
        sums: (2, line, piece) int32, pairs and differences of every line of the axis.
        lines: Indices of the family's lines.
        borders: Indices of all families' lines; controls keep off them.
        unit: What one stored difference is worth.
    """
    pairs = sums[0].astype(np.float64)
    rates = np.divide(sums[1] * unit, pairs, out=np.zeros_like(pairs), where=pairs > 0)
    at = lines[:, None] + np.asarray(CONTROL_OFFSETS)
    inside = (at >= 0) & (at < len(pairs)) & ~_near(borders, len(pairs))[np.clip(at, 0, len(pairs) - 1)]
    at = np.where(inside, at, 0)
    is_control = (inside[:, :, None] & (pairs[at] > 0)).swapaxes(1, 2)  # (line, piece, offset)
    kept = (pairs[lines] > 0) & (is_control.sum(-1) >= _LEAST_CONTROLS)
    is_control = is_control[kept]
    return _Contrast(
        weight=pairs[lines][kept],
        rate=rates[lines][kept],
        control_rates=np.where(is_control, rates[at].swapaxes(1, 2)[kept], 0.0),
        is_control=is_control,
        lines=int(kept.any(1).sum()),
    )


def _near(borders: NDArray[np.int64], n_lines: int) -> NDArray[np.bool_]:
    """Mark the lines too near a border to be a control."""
    near = (borders[:, None] + np.arange(-_KEEP_OFF_PX, _KEEP_OFF_PX + 1)).ravel()
    marked = np.zeros(n_lines, np.bool_)
    marked[near[(near >= 0) & (near < n_lines)]] = True
    return marked


def _compare(
    sums: NDArray[np.int32], lines: NDArray[np.int64], borders: NDArray[np.int64], measure: str
) -> dict[str, Any]:
    """Compare one family of lines with its controls; the module's docstring gives the formulas."""
    unit = 1.0 if measure == "label" else 1.0 / _AMOUNT_ONE
    pieces = _contrast(sums, lines, borders, unit)
    if pieces.weight.size < _LEAST_PIECES:
        return {"lines": 0, "pairs": 0, "rate": 0.0, "control_rate": 0.0, "ratio": 1.0, "z": 0.0}
    total = float(pieces.weight.sum())
    rate, control_rate = pieces.mean(pieces.rate), pieces.mean(pieces.control)
    floor = np.sqrt(control_rate * total + 1) / total if measure == "label" else unit / np.sqrt(total)
    error = max(
        pieces.error_over_pieces(), pieces.error_within_controls(), pieces.error_over_offsets(), floor
    )
    return {
        "lines": pieces.lines,
        "pairs": int(total),
        "rate": rate,
        "control_rate": control_rate,
        "ratio": (rate * total + 1) / (control_rate * total + 1),
        "z": (rate - control_rate) / float(error),
    }


def map_seams(
    map_url: str,
    lattice: Lattice,
    tile_px: int,
    box: Box | None = None,
    *,
    grid: Grid | None = None,
    block_px: int = 2048,
) -> SeamReport:
    """Compute the seam statistic of a map store, block by block.

    Args:
        map_url: The map store.
        lattice: Window lattice that made it.
        tile_px: Tile size that made it.
        box: Area to look at; None takes the whole store.
        grid: Grid that lattice and tiles are anchored to; None takes the store's own.
        block_px: Side of the blocks that are read.

    Returns:
        The report, the same for every `block_px`.

    Raises:
        InputError: If there is no map, or the box reaches outside it.
    """
    view = open_view(map_url, grid)
    sums = SeamSums(view.crop(box))
    names = [n for n in _LAYERS if n in view.variables]

    def read(block: Box) -> tuple[Box, dict[str, NDArray[np.uint8]]]:
        padded = sums.with_overlap(block)
        return block, {n: view.read(n, padded) for n in names}

    for block, layers in in_flight(read, sums.box.blocks(block_px), workers=1):
        sums.add(block, layers)
    return sums.report(lattice, tile_px)
