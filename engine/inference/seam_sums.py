"""How much a map changes across each of its lines: whole numbers, summed piece by piece.

A line is the border between pixel rows (or columns) ``l - 1`` and ``l``. It is cut into pieces that are
whole parts of a tile's side (of two tiles' or more in a very large map), so that the borders of a tile are
whole pieces::

           tile c      tile c + 1
      ────┬───────────┬───────────┬──   a line between rows, T = 256: pieces of 64 px
          ├──┼──┼──┼──┼──┼──┼──┼──┤
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.values.errors import InputError

Axis = Literal["y", "x"]
AXES: tuple[Axis, Axis] = ("y", "x")

_PIECE_PX = 64
_MOST_PIECES = 64  # a line; bounds the memory: 64 * (height + width) * 8 bytes a layer


@dataclass(frozen=True)
class Measure:
    """How the change across a pixel pair is counted.

    Attributes:
        classes: True: a pair counts 1 if its values differ; False: by its absolute step.
        no_data: Value of pixels that take no part.
        unit: What one counted step is worth.
        total: Type of the sums.
    """

    classes: bool
    no_data: int
    unit: float
    total: type[np.signedinteger[Any]] = np.int32


def measure_of(name: str, dtype: np.dtype[Any]) -> Measure:
    """Return the measure of a map's layer.

    Args:
        name: ``label`` holds classes, any other amounts.
        dtype: uint8 (0..250, 255 = no data; labels: 0 = no data) or int16 (-32768 = no data).

    Raises:
        InputError: If the layer is of another type.
    """
    if name == "label":
        return Measure(True, 0, 1.0)
    if dtype == np.uint8:
        return Measure(False, 255, 1 / 250)
    if dtype == np.int16:  # -32767..32767 is the declared range
        return Measure(False, -32768, 1 / 65534, np.int64)
    raise InputError("no seam statistic for this type", where=name, found=dtype, limit="uint8 or int16")


def piece_px(length_px: int, tile_px: int) -> int:
    """Return the length of the pieces that a line of `length_px` is cut into.

    >>> piece_px(1000, 256), piece_px(10980, 2048), piece_px(700_000, 2048)
    (64, 256, 12288)
    """
    least = max(_PIECE_PX, -(-length_px // _MOST_PIECES))
    if least >= tile_px:
        return -(-least // tile_px) * tile_px
    return next(tile_px // m for m in range(tile_px // least, 0, -1) if tile_px % m == 0)


@dataclass(frozen=True)
class Pieces:
    """How a block's pixels fall into pieces of lines.

    Attributes:
        first_yx: Row and column of the block's first pixel, counted from where the first piece begins.
        piece_yx: Length of a piece along y (of lines between columns) and along x (between rows).
        overlap_yx: 1 where the first row (column) belongs to the block before: it serves the pairs across
            its far edge only.
    """

    first_yx: tuple[int, int] = (0, 0)
    piece_yx: tuple[int, int] = (_PIECE_PX, _PIECE_PX)
    overlap_yx: tuple[int, int] = (0, 0)

    def count(self, shape_yx: tuple[int, int]) -> tuple[int, int]:
        """Return how many pieces, from the first on, reach the end of an array (y, x)."""
        y, x = (f + n for f, n in zip(self.first_yx, shape_yx, strict=True))
        return -(-y // self.piece_yx[0]), -(-x // self.piece_yx[1])


def line_sums(
    values: NDArray[Any], measure: Measure, pieces: Pieces | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum over each piece of each line of an array the valid pairs and how much they differ.

    Args:
        values: (y, x) uint8 or int16.
        measure: What counts as a difference.
        pieces: Where the pieces begin and end; None: 64 px from the array's corner.

    Returns:
        Rows (2, y, pieces along x) and columns (2, x, pieces along y) of the measure's type: number of
        pairs, and their differences, across the line before each row (column); 0 for the first. An int32
        piece may hold 8.4 million steps of 255.

    >>> rows, cols = line_sums(np.array([[1, 1], [2, 0]], np.uint8), Measure(True, 0, 1.0))
    >>> rows[..., 0].tolist(), cols[..., 0].tolist()
    ([[0, 1], [0, 1]], [[0, 1], [0, 0]])
    """
    pieces = pieces or Pieces()
    along_y, along_x = pieces.count((values.shape[0], values.shape[1]))
    rows = np.zeros((2, values.shape[0], along_x), measure.total)
    cols = np.zeros((2, values.shape[1], along_y), measure.total)
    where = (*pieces.first_yx, *pieces.piece_yx, *pieces.overlap_yx)
    _sum_lines(np.ascontiguousarray(values), measure.no_data, measure.classes, where, rows, cols)
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
