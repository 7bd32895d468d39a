"""Objects of a map: connected regions of one class, found row by row from runs of equal pixels.

A row is cut into runs; a run takes the number of the first run of its class above it that it touches, or a new one;
numbers that turn out to be one object are united (two-pass labelling with a union-find forest: Rosenfeld and Pfaltz
1966, J. ACM 13:471; runs: He, Chao and Suzuki 2008, IEEE TIP 17:749)::

    classes                numbers of runs           after uniting 2 with 0
    a a b b a              0 0 1 1 2                 0: ten pixels of a
    a b b a a              0 1 1 2 2                 1: four pixels of b
    a a a a b              0 0 0 0 3                 3: one pixel of b

(the last row's first run touches 0 and 2). A run is a record (first column, class, number) of a table (run, 3) int32;
a last record (width, -1, -1) closes each row. Class -1 = hidden: no data or masked, never part of an object, number -1.
Numbers follow from the classes alone, so a second pass over the same rows gives the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError

HIDDEN = -1
"""Class and number of a run that belongs to no object."""

_EIGHT_TIMES = np.uint64(0x0101010101010101)  # one byte, repeated in a word


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _cut_row(
    row: NDArray[np.uint8], words: NDArray[np.uint64], width: int, hidden: int, runs: NDArray[np.int32]
) -> int:
    """Cut a row into runs; return how many.

    A record is written for each pixel, and stays if the pixel begins a run: no branch that could be mispredicted.
    Eight pixels of the class before them are passed over at once.

    Args:
        row: (x,), padded to whole words.
        words: The same memory as 64-bit words.
        width: Columns that count.
        hidden: Class that belongs to no object; -1 for none.
        runs: (at least width + 1, 3), filled.
    """
    n, last = 0, np.int32(-2)
    pattern = ~words[0]
    for k in range((width + 7) >> 3):
        if words[k] == pattern:
            continue
        for x in range(k << 3, min((k << 3) + 8, width)):
            value = np.int32(row[x])
            runs[n, 0], runs[n, 1] = x, HIDDEN if value == hidden else value
            n += value != last
            last = value
        pattern = np.uint64(last) * _EIGHT_TIMES
    return n


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _cut_masked_row(
    row: NDArray[np.uint8], mask: NDArray[np.uint8], width: int, hidden: int, runs: NDArray[np.int32]
) -> int:
    """Cut a row into runs, hidden where the mask is 0; return how many."""
    n, last = 0, np.int32(-2)
    for x in range(width):
        value = np.int32(row[x])
        if mask[x] == 0 or value == hidden:
            value = np.int32(HIDDEN)
        runs[n, 0], runs[n, 1] = x, value
        n += value != last
        last = value
    return n


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def cut_rows(
    label: NDArray[np.uint8], mask: NDArray[np.uint8], hidden: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Cut rows into runs of equal class, not yet numbered.

    Args:
        label: (y, x), contiguous.
        mask: (y, x), 0 = hidden; (0, x) for no mask.
        hidden: Class that belongs to no object; -1 for none.

    Returns:
        (run, 3) int32 records with a closing one after each row, and (y + 1,) where each row's begin.
    """
    height, width = label.shape
    row = np.zeros((width // 8 + 1) * 8, np.uint8)
    words = row.view(np.uint64)
    records = np.empty((max(4 * (width + 1), height * width // 32), 3), np.int32)
    rows = np.zeros(height + 1, np.int64)
    n = 0
    for y in range(height):
        if n + width + 1 > len(records):
            larger = np.empty((2 * len(records), 3), np.int32)
            larger[:n] = records[:n]
            records = larger
        row[:width] = label[y]
        if len(mask):
            n += _cut_masked_row(row, mask[y], width, hidden, records[n:])
        else:
            n += _cut_row(row, words, width, hidden, records[n:])
        records[n, 0], records[n, 1], records[n, 2] = width, HIDDEN, HIDDEN
        n += 1
        rows[y + 1] = n
    return records[:n], rows


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def root_of(parents: NDArray[np.int32], number: int) -> int:
    """Return the number that stands for this one's object; shortens the way to it."""
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def number_row(
    above: NDArray[np.int32],
    runs: NDArray[np.int32],
    parents: NDArray[np.int32],
    n: int,
    way: tuple[int, bool],
) -> int:
    """Number the runs of a row after those of the row above.

    Args:
        above: (run, 3), the numbered row above with its closing record; only a closing record above the first row.
        runs: (run, 3), filled: the numbers.
        parents: The forest, one entry for each number; room for the new ones.
        n: Numbers given so far.
        way: 1 where corners touch and 0 where only edges do; whether numbers that meet are united (the first pass).

    Returns:
        Numbers given now.
    """
    corner, unites = way
    j, last = 0, len(above) - 1
    for i in range(len(runs) - 1):
        start, value, end = runs[i, 0], runs[i, 1], runs[i + 1, 0]
        if value == HIDDEN:
            runs[i, 2] = HIDDEN
            continue
        while j < last and above[j + 1, 0] + corner <= start:
            j += 1
        own = HIDDEN
        k = j
        while k < last and above[k, 0] < end + corner:
            if above[k, 1] == value:
                if own == HIDDEN:
                    own = above[k, 2]
                elif unites and parents[above[k, 2]] != parents[own]:
                    a, b = root_of(parents, above[k, 2]), root_of(parents, own)
                    parents[max(a, b)] = min(a, b)
            k += 1
        if own == HIDDEN:
            own = n
            n += 1
            if unites:
                parents[own] = own
        runs[i, 2] = own
    return n


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def number_rows(
    cut: tuple[NDArray[np.int32], NDArray[np.int64]],
    above: NDArray[np.int32],
    parents: NDArray[np.int32],
    n: int,
    way: tuple[int, bool],
) -> int:
    """Number the runs of rows that follow each other; arguments as for `number_row`, `cut` from `cut_rows`."""
    records, rows = cut
    for y in range(len(rows) - 1):
        n = number_row(above, records[rows[y] : rows[y + 1]], parents, n, way)
        above = records[rows[y] : rows[y + 1]]
    return n


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def flatten(parents: NDArray[np.int32], dense: bool) -> int:
    """Point each number of a forest straight to its root, or to the root's rank among the roots; count the roots.

    A root has the lowest number of its object, so one pass in ascending order is enough.
    """
    n = 0
    for i in range(len(parents)):
        if parents[i] == i:
            parents[i] = n if dense else i
            n += 1
        else:
            parents[i] = parents[parents[i]]
    return n


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _measure(
    records: NDArray[np.int32], rows: NDArray[np.int64], objects: NDArray[np.int32], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
    """Give each record its object; return the objects' sizes, classes, and whether they touch the edge."""
    sizes, classes, at_edge = np.zeros(n, np.int64), np.zeros(n, np.int32), np.zeros(n, np.bool_)
    height = len(rows) - 1
    for y in range(height):
        for i in range(rows[y], rows[y + 1] - 1):
            if records[i, 2] == HIDDEN:
                continue
            own = objects[records[i, 2]]
            records[i, 2] = own
            sizes[own] += records[i + 1, 0] - records[i, 0]
            classes[own] = records[i, 1]
            if y == 0 or y == height - 1 or i == rows[y] or i == rows[y + 1] - 2:
                at_edge[own] = True
    return sizes, classes, at_edge


class Runs(NamedTuple):
    """A map cut into runs that know their objects.

    Attributes:
        records: (run, 3) int32: first column, class, object; a closing record after each row.
        rows: (y + 1,) int64: where each row's records begin.
        sizes_px: (object,) int64: pixels of each object.
        classes: (object,) int32.
        at_edge: (object,) bool: touches the first or last row or column, so it may go on outside.
    """

    records: NDArray[np.int32]
    rows: NDArray[np.int64]
    sizes_px: NDArray[np.int64]
    classes: NDArray[np.int32]
    at_edge: NDArray[np.bool_]


def find_runs(label: NDArray[np.uint8], connectivity: int = 4) -> Runs:
    """Cut a map into runs and find the objects that they belong to.

    Args:
        label: (y, x) classes, 0 = no data.
        connectivity: 4: pixels of an object share edges; 8: corners join too.

    Returns:
        Runs; objects are numbered in the order of their first pixels, row by row.

    Raises:
        InputError: If the array is not one of bytes, (y, x).
    """
    check_classes(label)
    width = label.shape[1]
    records, rows = cut_rows(np.ascontiguousarray(label), np.empty((0, width), np.uint8), NO_DATA_LABEL)
    parents = np.empty(len(records), np.int32)
    n = number_rows((records, rows), first_above(width), parents, 0, (int(connectivity == 8), True))
    parents = parents[:n]
    n = flatten(parents, True)
    return Runs(records, rows, *_measure(records, rows, parents, n))


def check_classes(label: NDArray[Any], shape_yx: tuple[int, int] | None = None) -> None:
    """Make sure that an array holds classes, for the kernels trust it.

    Raises:
        InputError: If it is not (y, x) of the expected shape, or not of bytes.
    """
    if label.ndim != 2 or shape_yx not in (None, label.shape):
        expected = shape_yx or "(y, x)"
        raise InputError("classes have another shape than expected", found=label.shape, limit=expected)
    if label.dtype != np.uint8:
        mend = "number the classes 1 to 255, 0 = no data, and convert to uint8"
        raise InputError("classes are bytes", found=label.dtype, limit="uint8", mend=mend)


def first_above(width: int) -> NDArray[np.int32]:
    """Return what stands above the first row: a closing record only."""
    return np.array([[width, HIDDEN, HIDDEN]], np.int32)


@dataclass(frozen=True)
class Objects:
    """The objects of a map.

    Attributes:
        number: (y, x) int32: object of each pixel, counted from 0 in the order of their first pixels; -1 = no data.
        sizes_px: (object,) int64.
        classes: (object,) int32: class of each object.
    """

    number: NDArray[np.int32]
    sizes_px: NDArray[np.int64]
    classes: NDArray[np.int32]


def find_objects(label: NDArray[np.uint8], connectivity: int = 4) -> Objects:
    """Find the connected regions of one class.

    Args:
        label: (y, x) classes, 0 = no data.
        connectivity: 4: pixels of an object share edges; 8: corners join too.

    >>> found = find_objects(np.array([[1, 1, 2], [0, 2, 1]], np.uint8))
    >>> found.number.tolist(), found.sizes_px.tolist(), found.classes.tolist()
    ([[0, 0, 1], [-1, 2, 3]], [2, 1, 1, 1], [1, 2, 2, 1])
    >>> find_objects(np.array([[1, 1, 2], [0, 2, 1]], np.uint8), connectivity=8).sizes_px.tolist()
    [3, 2]
    """
    runs = find_runs(label, connectivity)
    number = np.empty(label.shape, np.int32)
    _paint_numbers(runs.records, runs.rows, number)
    return Objects(number, runs.sizes_px, runs.classes)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _paint_numbers(records: NDArray[np.int32], rows: NDArray[np.int64], number: NDArray[np.int32]) -> None:
    for y in range(len(rows) - 1):
        for i in range(rows[y], rows[y + 1] - 1):
            number[y, records[i, 0] : records[i + 1, 0]] = records[i, 2]
