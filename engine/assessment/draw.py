"""Draw points from a map of any size, block by block: the same points however the map is cut.

Each pixel of the grid has a number that only a seed and its global row and column decide (`keys`); a stratum's sample
are its pixels with the smallest numbers. That is a simple random sample without replacement of each stratum, and::

    any blocks, any order, any number of workers  ->  the same points
    n + 100 points of a seed                      ->  hold its n points, in the same order

Only the best so far are held (a heap per stratum), so memory does not grow with the map. Clusters are squares of the
grid, numbered in the same way; their points are drawn in a second look at the drawn ones alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box

NOWHERE = -1
"""Stratum of pixels that are never drawn."""

ReadLabels = Callable[[Box], NDArray[np.uint8]]
"""Gives labels (y, x) uint8 over a box of the grid, 0 = no data."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_CLUSTERS = 0x5EED_C1A5_7E25
"""Sets the numbers of clusters apart from those of pixels of the same seed."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points that were drawn, stratum by stratum, the smallest number first.

    Attributes:
        row: (N,) int64, row of the grid.
        column: (N,) int64, column of the grid.
        stratum: (N,) intp, index of the stratum.
        mapped: (N,) uint8, the map's label at the point.
        key: (N,) uint64, the number by which it was drawn; its order is a random order inside the stratum.
        cluster: (N,) of `r<row>_c<column>` text, or None where points are drawn singly.
        cluster_pixels: (N,) int64, pixels of the population in the cluster, or None.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    stratum: NDArray[np.intp]
    mapped: NDArray[np.uint8]
    key: NDArray[np.uint64]
    cluster: NDArray[np.str_] | None = None
    cluster_pixels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.row)

    def first(self, n_each: Sequence[int]) -> Points:
        """Return the first points of each stratum: those of a smaller sample of the same seed."""
        rank = np.arange(len(self)) - np.searchsorted(self.stratum, self.stratum)
        kept = rank < np.asarray(n_each)[self.stratum]
        return Points(
            self.row[kept], self.column[kept], self.stratum[kept], self.mapped[kept], self.key[kept]
        )


@njit(nogil=True, cache=True, inline="always")
def _mixed(x: np.uint64) -> np.uint64:
    """Return the finalizer of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA): each bit moves all others."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _row_key(seed: np.uint64, row: np.int64) -> np.uint64:
    return _mixed(_mixed(seed + _GOLDEN) ^ np.uint64(row))


@njit(nogil=True, cache=True)
def _keys(seed: np.uint64, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    found = np.empty(len(rows), np.uint64)
    for i in range(len(rows)):
        found[i] = _mixed((_row_key(seed, rows[i]) + np.uint64(columns[i])) * _GOLDEN)
    return found


def keys(seed: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the numbers of pixels under a seed, (N,) uint64, evenly spread.

    Args:
        seed: Any whole number; its lowest 64 bits count.
        rows: (N,) int64, rows of the grid, also negative.
        columns: (N,) int64.
    """
    found: NDArray[np.uint64] = _keys(_seed(seed), np.asarray(rows, np.int64), np.asarray(columns, np.int64))
    return found


def _seed(seed: int) -> np.uint64:
    return np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)


@njit(nogil=True, cache=True, inline="always")
def _worse(keys, rows, columns, i, j):  # type: ignore[no-untyped-def]
    """Tell whether entry i comes after entry j; equal numbers go by row and column."""
    if keys[i] != keys[j]:
        return keys[i] > keys[j]
    if rows[i] != rows[j]:
        return rows[i] > rows[j]
    return columns[i] > columns[j]


@njit(nogil=True, cache=True, inline="always")
def _swap(keys, rows, columns, labels, i, j):  # type: ignore[no-untyped-def]
    keys[i], keys[j] = keys[j], keys[i]
    rows[i], rows[j] = rows[j], rows[i]
    columns[i], columns[j] = columns[j], columns[i]
    labels[i], labels[j] = labels[j], labels[i]


@njit(nogil=True, cache=True)
def _rise(keys, rows, columns, labels, start, at):  # type: ignore[no-untyped-def]
    """Let the entry at `start + at` rise in a heap whose worst entry is at `start`."""
    while at > 0:
        above = (at - 1) // 2
        if not _worse(keys, rows, columns, start + at, start + above):
            break
        _swap(keys, rows, columns, labels, start + at, start + above)
        at = above


@njit(nogil=True, cache=True)
def _sink(keys, rows, columns, labels, start, size):  # type: ignore[no-untyped-def]
    """Let the entry at `start` sink to its place."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _worse(keys, rows, columns, start + below + 1, start + below):
            below += 1
        if not _worse(keys, rows, columns, start + below, start + at):
            break
        _swap(keys, rows, columns, labels, start + below, start + at)
        at = below


@njit(nogil=True, cache=True)
def _offer(strata, values, y0, x0, seed, start, size, count, keys, rows, columns, labels):  # type: ignore[no-untyped-def]  # noqa: PLR0913
    """Offer all pixels of a block to the heaps of their strata, and count them."""
    height, width = values.shape
    for y in range(height):
        row = y0 + y
        row_key = _row_key(seed, row)
        for x in range(width):
            h = strata[values[y, x]]
            if h < 0:
                continue
            count[h] += 1
            first, room = start[h], start[h + 1] - start[h]
            if room == 0:
                continue
            column = x0 + x
            key = _mixed((row_key + np.uint64(column)) * _GOLDEN)
            if size[h] < room:
                at = size[h]
                size[h] += 1
                keys[first + at], rows[first + at] = key, row
                columns[first + at], labels[first + at] = column, values[y, x]
                _rise(keys, rows, columns, labels, first, at)
                continue
            worst = keys[first]
            tie = key == worst and (row < rows[first] or (row == rows[first] and column < columns[first]))
            if key < worst or tie:
                keys[first], rows[first], columns[first], labels[first] = key, row, column, values[y, x]
                _sink(keys, rows, columns, labels, first, size[h])


class Drawing:
    """A draw in progress: takes blocks in any order, holds the best points of each stratum.

    Args:
        stratum_of: Stratum (0, 1, ...) of each label; labels that are not named, and 0, are never drawn.
        room: Points wished for in each stratum; a sample of fewer is a part of it (`Points.first`).
        seed: Of the draw.

    Raises:
        InputError: If no data is given a stratum, or a number of points is negative.
    """

    def __init__(self, stratum_of: Mapping[int, int], room: Sequence[int], *, seed: int) -> None:
        if 0 in stratum_of:
            raise InputError("no data cannot be drawn", where="strata", found=0, limit="labels 1..255")
        if min(room, default=0) < 0:
            raise InputError("a stratum cannot have fewer than no points", where="points", found=min(room))
        self._strata = np.full(256, NOWHERE, np.int64)
        for label, stratum in stratum_of.items():
            self._strata[label] = stratum
        self._start = np.concatenate([[0], np.cumsum(np.asarray(room, np.int64))]).astype(np.int64)
        self._seed = _seed(seed)
        n = int(self._start[-1])
        self._size = np.zeros(len(room), np.int64)
        self._keys, self._labels = np.zeros(n, np.uint64), np.zeros(n, np.uint8)
        self._rows, self._columns = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.pixels = np.zeros(len(room), np.int64)

    def offer(self, labels: NDArray[np.uint8], box: Box) -> None:
        """Take the labels of a box, (y, x) uint8. Each pixel of the map is to be offered once."""
        if labels.shape != box.shape_yx:
            raise InputError("labels do not fill their box", found=labels.shape, limit=box.shape_yx)
        _offer(
            self._strata,
            labels,
            box.y0,
            box.x0,
            self._seed,
            self._start,
            self._size,
            self.pixels,
            self._keys,
            self._rows,
            self._columns,
            self._labels,
        )

    def points(self) -> Points:
        """Return the points so far, in the order in which they were drawn."""
        stratum = np.repeat(np.arange(len(self._size)), self._size)
        rank = np.arange(len(stratum)) - np.searchsorted(stratum, stratum)
        held = self._start[:-1][stratum] + rank
        order = np.lexsort((self._columns[held], self._rows[held], self._keys[held], stratum))
        at = held[order]
        return Points(self._rows[at], self._columns[at], stratum[order], self._labels[at], self._keys[at])

    def join(self, other: Drawing) -> None:
        """Take what another drawing of the same design found in other blocks."""
        self.pixels += other.pixels
        both = _joined(self.points(), other.points())
        kept = both.first(np.diff(self._start).tolist())
        self._size[:] = np.bincount(kept.stratum, minlength=len(self._size))
        for h in range(len(self._size)):
            # falling numbers are a heap with the worst on top
            inside = np.flatnonzero(kept.stratum == h)[::-1]
            at = slice(int(self._start[h]), int(self._start[h]) + len(inside))
            self._keys[at], self._rows[at] = kept.key[inside], kept.row[inside]
            self._columns[at], self._labels[at] = kept.column[inside], kept.mapped[inside]


def _joined(a: Points, b: Points) -> Points:
    stratum, key = np.concatenate([a.stratum, b.stratum]), np.concatenate([a.key, b.key])
    row, column = np.concatenate([a.row, b.row]), np.concatenate([a.column, b.column])
    order = np.lexsort((column, row, key, stratum))
    mapped = np.concatenate([a.mapped, b.mapped])
    return Points(row[order], column[order], stratum[order], mapped[order], key[order])


def draw_stratified(
    blocks: Iterable[tuple[Box, NDArray[np.uint8]]],
    stratum_of: Mapping[int, int],
    n: int,
    share_out: Callable[[list[int]], list[int]],
    *,
    seed: int,
) -> tuple[list[int], Points]:
    """Count the strata of a map and draw points in them, in one look at each block.

    Args:
        blocks: Boxes and their labels (y, x) uint8; each pixel once, in any order.
        stratum_of: Stratum (0, 1, ...) of each label; one stratum for all makes a simple random sample.
        n: Points in all; no stratum gets more.
        share_out: From the pixels of each stratum to its points (`engine.assessment.designs.allocate`).
        seed: Of the draw.

    Returns:
        Pixels of each stratum, and the points.
    """
    drawing = Drawing(stratum_of, [n] * (max(stratum_of.values(), default=-1) + 1), seed=seed)
    for box, labels in blocks:
        drawing.offer(labels, box)
    pixels = [int(v) for v in drawing.pixels]
    return pixels, drawing.points().first(share_out(pixels))


@dataclass(frozen=True)
class Clusters:
    """Squares of the grid that hold pixels of the population, and how many each holds.

    Attributes:
        side_px: Their side; they stand on whole multiples of it, whatever the map's box is.
        row: (A,) int64, row of squares, counted from the grid's anchor.
        column: (A,) int64.
        pixels: (A,) int64, at least 1.
    """

    side_px: int
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    pixels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def drawn(self, n: int, *, seed: int) -> NDArray[np.intp]:
        """Return the indices of n clusters drawn at random, those of a smaller draw of the seed first."""
        number = keys(seed ^ _CLUSTERS, self.row, self.column)
        return np.lexsort((self.column, self.row, number))[:n]

    def box(self, index: int) -> Box:
        """Return the pixels of a cluster."""
        y, x = int(self.row[index]) * self.side_px, int(self.column[index]) * self.side_px
        return Box(y, x, y + self.side_px, x + self.side_px)


def count_clusters(
    blocks: Iterable[tuple[Box, NDArray[np.uint8]]], side_px: int, classes: Iterable[int] = ()
) -> Clusters:
    """Count the pixels of the population in each square of the grid; blocks may cut squares, in any order.

    Args:
        blocks: Boxes and their labels (y, x) uint8.
        side_px: Side of the squares.
        classes: Labels of the population; none = all but no data.

    Raises:
        InputError: If the side is not positive.
    """
    if side_px < 1:
        raise InputError("a cluster has a side of at least one pixel", where="side_px", found=side_px)
    wanted = np.zeros(256, bool)
    wanted[list(classes) or slice(1, None)] = True
    parts = [np.zeros((3, 0), np.int64)]
    parts += [_squares_of(box, wanted[labels], side_px) for box, labels in blocks if box]
    row, column, pixels = np.concatenate(parts, axis=1)
    order = np.lexsort((column, row))
    row, column, pixels = row[order], column[order], pixels[order]
    new = np.ones(len(row), bool)
    new[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    total = np.add.reduceat(pixels, np.flatnonzero(new)) if len(pixels) else pixels
    return Clusters(side_px, row[new], column[new], total)


def _squares_of(box: Box, inside: NDArray[np.bool_], side_px: int) -> NDArray[np.int64]:
    """Return row, column and pixels of the squares of which a box holds some, (3, S) int64."""
    first_y, first_x = box.y0 // side_px, box.x0 // side_px
    lines_y = np.maximum(np.arange(first_y, -(-box.y1 // side_px)) * side_px - box.y0, 0)
    lines_x = np.maximum(np.arange(first_x, -(-box.x1 // side_px)) * side_px - box.x0, 0)
    # sums of whole numbers, across first: reduceat walks memory in its order
    across = np.add.reduceat(inside, lines_x, axis=1, dtype=np.int32)
    count = np.add.reduceat(across, lines_y, axis=0, dtype=np.int64)
    y, x = np.nonzero(count)
    return np.stack([y + first_y, x + first_x, count[y, x]])


def draw_in_clusters(
    read: ReadLabels,
    clusters: Clusters,
    n_clusters: int,
    points_each: int,
    *,
    seed: int,
    classes: Iterable[int] = (),
) -> Points:
    """Draw clusters, then points in each: read the drawn clusters only.

    Args:
        read: Labels over a box, no data outside the map.
        clusters: All clusters of the population.
        n_clusters: To draw; all of them where there are fewer.
        points_each: Points in each; all its pixels where it has fewer.
        seed: Of both stages.
        classes: As given to `count_clusters`.
    """
    labels = list(classes) or list(range(1, 256))
    parts = []
    for index in clusters.drawn(n_clusters, seed=seed):
        drawing = Drawing(dict.fromkeys(labels, 0), [points_each], seed=seed)
        drawing.offer(read(clusters.box(int(index))), clusters.box(int(index)))
        parts.append((int(index), drawing.points()))
    if not parts:
        raise InputError("no cluster to draw from", where="clusters", found=f"{len(clusters)} clusters")
    several = [len(p) for _, p in parts]
    at = np.repeat([i for i, _ in parts], several)
    names = np.array([f"r{clusters.row[i]}_c{clusters.column[i]}" for i, _ in parts])
    points = [p for _, p in parts]
    return Points(
        np.concatenate([p.row for p in points]),
        np.concatenate([p.column for p in points]),
        np.concatenate([p.stratum for p in points]),
        np.concatenate([p.mapped for p in points]),
        np.concatenate([p.key for p in points]),
        cluster=np.repeat(names, several),
        cluster_pixels=clusters.pixels[at],
    )
