"""How much of each pixel lies in a polygon: exact areas in whole numbers, the same for any box.

Vertices are put on a lattice of 16384 parts of a pixel (0.6 mm of 10 m); from there on everything is integer
arithmetic, and depends on an edge alone, not on the box, the polygon or the direction it is walked in::

           ╱│         an edge adds, in each row that it crosses, the area between itself and the right border
          ╱ │         of its pixel, and full height to all pixels right of it; downward edges count plus, upward
         ╱▒▒│▒▒▒▒▒    ones minus. A sum along the row gives the part of each pixel that lies inside.
        ╱▒▒▒│▒▒▒▒▒

So neighbours that share an edge share each of its pixels without a gap or an overlap: the parts of all units
of a country add up to the country's, to the last digit. The signed sum of trapezoids is the old way of measuring
land (the shoelace formula), cut at pixel borders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

SUB = 16384
"""Parts of a pixel's side."""

FULL = 2 * SUB * SUB
"""Of a pixel that lies wholly inside: twice its area in square parts."""

LONGEST_PX = 4096
"""Longer edges are halved: the products below stay within 64 bits."""

EDGE = np.dtype([("x0", np.int64), ("y0", np.int64), ("x1", np.int64), ("y1", np.int64), ("sign", np.int64)])
"""An edge, its upper end first (y grows downward), in parts of a pixel counted from the grid's anchor. `sign` is +1
where the polygon lies right of it, -1 where left."""


def edges_of(ring_px: NDArray[np.float64], *, hole: bool = False) -> NDArray[Any]:
    """Return the edges of a ring that are not level, sorted nohow.

    Args:
        ring_px: (N, 2) x and y (downward) in pixels from the grid's anchor, closed: the last is the first.
        hole: Whether the ring is cut out; its direction of walking means nothing.

    Returns:
        (M,) of `EDGE`.

    >>> edges_of(np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]], float))["sign"].tolist()
    [1, -1]
    """
    points = np.rint(ring_px * SUB).astype(np.int64)
    near = (points - points[:1]).astype(np.float64)  # only the sign is wanted
    doubled = float((near[:-1, 1] * near[1:, 0] - near[1:, 1] * near[:-1, 0]).sum())
    sloping = points[:-1, 1] != points[1:, 1]
    start, end = points[:-1][sloping], points[1:][sloping]
    down = start[:, 1] < end[:, 1]
    upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    edges = np.empty(len(upper), EDGE)
    edges["x0"], edges["y0"], edges["x1"], edges["y1"] = upper[:, 0], upper[:, 1], lower[:, 0], lower[:, 1]
    edges["sign"] = np.where(down, 1, -1) * int(np.sign(doubled)) * (-1 if hole else 1)
    return _halved(edges[edges["sign"] != 0])


def _halved(edges: NDArray[Any]) -> NDArray[Any]:
    """Halve edges until none is too long; both sides of a border are halved in the same places."""
    span = np.maximum(edges["y1"] - edges["y0"], np.abs(edges["x1"] - edges["x0"]))
    if not len(edges) or span.max() <= LONGEST_PX * SUB:
        return edges
    long = span > LONGEST_PX * SUB
    upper, lower = edges[long].copy(), edges[long].copy()
    upper["x1"], upper["y1"] = (upper["x0"] + upper["x1"]) // 2, (upper["y0"] + upper["y1"]) // 2
    lower["x0"], lower["y0"] = upper["x1"], upper["y1"]
    return _halved(np.concatenate([edges[~long], upper, lower]))


@njit(nogil=True, cache=True)
def add_edges(edges: NDArray[Any], y0: int, x0: int, out: NDArray[np.int32]) -> None:
    """Add what edges contribute to the pixels of a box; the running sum along each row is the coverage.

    Args:
        edges: (M,) of `EDGE`; those that do not meet the box's rows are passed over.
        y0: First row of the box.
        x0: First column of the box.
        out: (y, x) int32, added to. Sums may run over on the way: they are right modulo 2**32, and a coverage is
            far below.
    """
    height, width = out.shape
    top, bottom, left, right = y0 * SUB, (y0 + height) * SUB, x0 * SUB, (x0 + width) * SUB
    for n in range(edges.shape[0]):
        e = edges[n]
        if e.y1 <= top or e.y0 >= bottom or (e.x0 >= right and e.x1 >= right):
            continue
        first, last = max(e.y0, top) // SUB, (min(e.y1, bottom) - 1) // SUB
        if e.x0 <= left and e.x1 <= left:  # passes left of the box: all of the row lies right of it
            for row in range(first, last + 1):
                high = min(e.y1, (row + 1) * SUB) - max(e.y0, row * SUB)
                out[row - y0, 0] += e.sign * high * 2 * SUB
            continue
        x_next = _at(max(e.y0, first * SUB), e)
        for row in range(first, last + 1):
            ya, yb = max(e.y0, row * SUB), min(e.y1, (row + 1) * SUB)
            xa, x_next = x_next, _at(yb, e)
            _add_row(min(xa, x_next), max(xa, x_next), (yb - ya) * e.sign, x0, out[row - y0])


@njit(nogil=True, cache=True, inline="always")
def _at(y: int, e: Any) -> int:
    """Return where an edge crosses a level."""
    if y == e.y0:
        return e.x0
    if y == e.y1:
        return e.x1
    high = e.y1 - e.y0
    return e.x0 + (2 * (y - e.y0) * (e.x1 - e.x0) + high) // (2 * high)


@njit(nogil=True, cache=True)
def _add_row(xl: int, xr: int, high: int, x0: int, row: NDArray[np.int32]) -> None:
    """Add a piece of an edge that stays within one row, from xl to xr, `high` parts of it (signed)."""
    end = x0 + row.shape[0]
    if xl >= end * SUB:
        return
    wide, col = xr - xl, max(xl // SUB, x0)
    done = 0 if xl >= col * SUB else _share(min(col * SUB, xr) - xl, wide, high)
    if done != 0:  # what lies left of the box covers its first pixel, and so all others, to full width
        row[0] += done * 2 * SUB
    while col < end and done != high:
        at = max(xl, col * SUB)
        to = min(xr, (col + 1) * SUB)
        part = _share(to - xl, wide, high) - done
        past = at + to - 2 * col * SUB  # twice the mean distance from the pixel's left border
        row[col - x0] += part * (2 * SUB - past)
        if col + 1 < end:
            row[col + 1 - x0] += part * past
        done += part
        col += 1


@njit(nogil=True, cache=True, inline="always")
def _share(along: int, wide: int, high: int) -> int:
    """Return the height that a piece has gained after `along` of its width, rounded alike for both signs."""
    if along >= wide:
        return high
    up = (2 * along * abs(high) + wide) // (2 * wide)
    return up if high >= 0 else -up


@njit(nogil=True, cache=True)
def coverage(edges: NDArray[Any], y0: int, x0: int, shape_yx: tuple[int, int]) -> NDArray[np.int32]:
    """Return the part of each pixel of a box that lies inside, (y, x) int32 in `FULL`.

    Args:
        edges: (M,) of `EDGE`, all of the polygon's edges that meet the box's rows.
        y0: First row of the box.
        x0: First column of the box.
        shape_yx: Rows and columns of the box.
    """
    out = np.zeros(shape_yx, np.int32)
    add_edges(edges, y0, x0, out)
    for row in range(shape_yx[0]):
        for col in range(1, shape_yx[1]):
            out[row, col] += out[row, col - 1]
    return out


@njit(nogil=True, cache=True)
def add_tally(
    labels: NDArray[np.uint8], area: NDArray[np.int32], inside: NDArray[np.int32], out: NDArray[np.int64]
) -> None:
    """Add up covered area per label over a box, exactly: ``high * 2**32 + low`` in `FULL` units of area.

    Args:
        labels: (y, x) uint8.
        area: (y, x) int32, area of each pixel in whole units.
        inside: (y, x) int32, what `add_edges` has added up: differences of coverage along each row.
        out: (256, 2) int64, high and low part; the low part is left below 2**32.
    """
    whole = np.zeros(256, np.int64)
    for row in range(labels.shape[0]):
        run = np.int32(0)
        for col in range(labels.shape[1]):
            run = np.int32(run + inside[row, col])
            if run == FULL:
                whole[labels[row, col]] += area[row, col]
            elif run != 0:
                product = np.int64(run) * np.int64(area[row, col])
                out[labels[row, col], 0] += product >> 32
                out[labels[row, col], 1] += product & 0xFFFFFFFF
    _carry(whole, out)


@njit(nogil=True, cache=True)
def add_whole(
    labels: NDArray[np.uint8], area: NDArray[np.int32], out: NDArray[np.int64], pixels: NDArray[np.int64]
) -> None:
    """Add up the whole area of each label over a box, as `add_tally` does of what is covered, and its pixels.

    Args:
        labels: (y, x) uint8.
        area: (y, x) int32, area of each pixel in whole units.
        out: (256, 2) int64, as of `add_tally`.
        pixels: (256,) int64, added to.
    """
    whole = np.zeros(256, np.int64)
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            whole[labels[row, col]] += area[row, col]
            pixels[labels[row, col]] += 1
    _carry(whole, out)


@njit(nogil=True, cache=True)
def _carry(whole: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Add whole pixels (times `FULL`, which is 2**29) and carry the low parts over."""
    for value in range(out.shape[0]):
        low = out[value, 1] + ((whole[value] & 7) << 29)
        out[value, 0] += (whole[value] >> 3) + (low >> 32)
        out[value, 1] = low & 0xFFFFFFFF
