"""Reducers: a raster at half, quarter, ... resolution, each pixel from the full-resolution ones below it.

The reduced pixel of a class is the majority of all pixels under it, not the majority of majorities, which
can name a class that holds a quarter of them. All levels come from one pass: the counts of a square are
the sums of its four quarters' counts, so a row of squares is counted once and handed upward::

    rows of pixels ──► counts of 8 x 8 ──► pairs of rows add up: 16 x 16 ──► 32 x 32 ──► ...
                       (2 x 2 and 4 x 4 on the way)       one row of counts per level is held
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.values.errors import InputError

_LEAF_PX = 8
_MOST = 1 << 15  # counts of a square of this side still fit into 32 bits


def mode_blocks(label: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Reduce labels to the commonest one of each ``factor x factor`` block.

    Args:
        label: (y, x) uint8, 0 = no data.
        factor: Side of a block in pixels.

    Returns:
        (ceil(y / factor), ceil(x / factor)) uint8. No-data pixels have no vote; ties go to the lowest
        value; a block without data stays 0; blocks at the lower and right edge use the pixels they have.

    Raises:
        InputError: If the factor is not positive.

    >>> mode_blocks(np.array([[1, 1, 0], [2, 2, 0], [3, 0, 7]], np.uint8), 2)
    array([[1, 0],
           [3, 7]], dtype=uint8)
    """
    _check_factor(factor)
    reduced: NDArray[np.uint8] = _mode(np.ascontiguousarray(label, np.uint8), factor)
    return reduced


def mean_blocks(values: NDArray[Any], factor: int, no_data: int | None) -> NDArray[Any]:
    """Reduce amounts to the mean of each ``factor x factor`` block, rounded half up.

    Args:
        values: (y, x), uint8 or another integer type up to 32 bits.
        factor: Side of a block in pixels.
        no_data: Value that is left out of the mean, and the answer where nothing else is there; None
            takes every pixel.

    Returns:
        (ceil(y / factor), ceil(x / factor)) of the same type.

    Raises:
        InputError: If the factor is not positive.

    >>> mean_blocks(np.array([[1, 2, 255], [1, 2, 255]], np.uint8), 2, 255)
    array([[  2, 255]], dtype=uint8)
    """
    _check_factor(factor)
    reduced: NDArray[Any] = _mean(np.ascontiguousarray(values), factor, _missing(no_data))
    return reduced


def nearest_blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Reduce a raster to the pixel in the middle of each block; of the four in the middle the lower right.

    Args:
        values: (y, x).
        factor: Side of a block in pixels.

    Returns:
        (ceil(y / factor), ceil(x / factor)); a block at the edge whose middle lies outside gives its last pixel.

    Raises:
        InputError: If the factor is not positive.

    >>> nearest_blocks(np.arange(12).reshape(3, 4), 2).tolist()
    [[5, 7], [9, 11]]
    """
    _check_factor(factor)
    rows, cols = (
        np.minimum(np.arange(0, n, factor) + factor // 2, n - 1) for n in (values.shape[0], values.shape[1])
    )
    return values[np.ix_(rows, cols)]


def mode_levels(label: NDArray[np.uint8], factors: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Reduce labels to several resolutions in one pass; each level is that of `mode_blocks`.

    Args:
        label: (y, x) uint8, 0 = no data.
        factors: Powers of two from 2 on, in rising order.

    Returns:
        One array per factor.

    Raises:
        InputError: If a factor is not a power of two.

    >>> [level.tolist() for level in mode_levels(np.array([[1, 1, 2], [3, 3, 2]], np.uint8), (2, 4))]
    [[[1, 2]], [[1]]]
    """
    steps = _steps(factors)
    if not steps:
        return []
    steps = max(steps, _LEAF_PX.bit_length() - 1)
    padded = _padded(np.asarray(label, np.uint8), 1 << steps, 0)
    there = _occurring(padded)
    there[0] = True  # no data is slot 0, whether or not it occurs
    present = np.flatnonzero(there).astype(np.uint8)
    offsets, size = _offsets(padded.shape, steps)
    flat = np.zeros(size, np.uint8)
    _mode_levels(padded, steps, present, offsets, flat)
    return _cut(flat, offsets, padded.shape, label.shape, factors)


def mean_levels(values: NDArray[Any], factors: Sequence[int], no_data: int | None) -> list[NDArray[Any]]:
    """Reduce amounts to several resolutions in one pass; each level is that of `mean_blocks`.

    Args:
        values: (y, x), of an integer type up to 32 bits.
        factors: Powers of two from 2 on, in rising order.
        no_data: As for `mean_blocks`.

    Returns:
        One array per factor.

    Raises:
        InputError: If a factor is not a power of two.
    """
    steps = _steps(factors)
    if not steps:
        return []
    height, width = values.shape
    shape = tuple(-(-n >> steps) << steps for n in values.shape)
    offsets, size = _offsets(shape, steps)
    flat = np.zeros(size, values.dtype)
    _mean_levels(np.ascontiguousarray(values), steps, _missing(no_data), offsets, flat)
    return _cut(flat, offsets, shape, (height, width), factors)


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise InputError("overview factor must be positive", found=factor, mend="use 2, 4, 8, ...")


def _missing(no_data: int | None) -> int:
    return 2**40 if no_data is None else no_data  # no integer of 32 bits is it


def _steps(factors: Sequence[int]) -> int:
    """Return how often the largest factor halves."""
    if any(f < 2 or f & (f - 1) or f > _MOST for f in factors):
        raise InputError(
            "overview levels are powers of two", found=tuple(factors), limit=_MOST, mend="use 2, 4, 8, ..."
        )
    return max(factors).bit_length() - 1 if factors else 0


def _padded(values: NDArray[Any], multiple: int, fill: int) -> NDArray[Any]:
    """Grow an array at its lower and right edge to whole multiples; without need it is not copied."""
    height, width = (-(-n // multiple) * multiple for n in values.shape)
    if (height, width) == values.shape:
        return np.ascontiguousarray(values)
    padded = np.full((height, width), fill, values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


def _offsets(shape: tuple[int, ...], steps: int) -> tuple[NDArray[np.int64], int]:
    """Return where each level begins in one flat buffer, and the buffer's length."""
    sizes = [(shape[0] >> k) * (shape[1] >> k) for k in range(1, steps + 1)]
    return np.cumsum([0, *sizes[:-1]]).astype(np.int64), sum(sizes)


def _cut(
    flat: NDArray[Any],
    offsets: NDArray[np.int64],
    padded: tuple[int, ...],
    shape: tuple[int, ...],
    factors: Sequence[int],
) -> list[NDArray[Any]]:
    levels = []
    for factor in factors:
        k = factor.bit_length() - 1
        rows, cols = padded[0] >> k, padded[1] >> k
        level = flat[offsets[k - 1] : offsets[k - 1] + rows * cols].reshape(rows, cols)
        levels.append(level[: -(-shape[0] // factor), : -(-shape[1] // factor)])
    return levels


@njit(nogil=True, cache=True)
def _mode(label, factor):  # type: ignore[no-untyped-def]
    height, width = label.shape
    rows, cols = -(-height // factor), -(-width // factor)
    out = np.zeros((rows, cols), np.uint8)
    counts = np.zeros(256, np.int64)
    for row in range(rows):
        y0, y1 = row * factor, min((row + 1) * factor, height)
        for col in range(cols):
            x0, x1 = col * factor, min((col + 1) * factor, width)
            first = label[y0, x0]
            uniform = True
            for y in range(y0, y1):
                for x in range(x0, x1):
                    uniform &= label[y, x] == first
            if uniform:  # most blocks of a map: no vote to count
                out[row, col] = first
                continue
            best, winner = 0, 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    counts[label[y, x]] += 1
            for y in range(y0, y1):
                for x in range(x0, x1):
                    value = label[y, x]
                    votes = counts[value]
                    counts[value] = 0  # the first pixel of a class speaks for it and clears its count
                    if value and (votes > best or (votes == best and value < winner)):
                        best, winner = votes, value
            out[row, col] = winner
    return out


@njit(nogil=True, cache=True)
def _mean(values, factor, missing):  # type: ignore[no-untyped-def]
    height, width = values.shape
    rows, cols = -(-height // factor), -(-width // factor)
    out = np.empty((rows, cols), values.dtype)
    for row in range(rows):
        y0, y1 = row * factor, min((row + 1) * factor, height)
        for col in range(cols):
            x0, x1 = col * factor, min((col + 1) * factor, width)
            total, count = 0, 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    keep = values[y, x] != missing
                    total += values[y, x] * keep
                    count += keep
            out[row, col] = (2 * total + count) // (2 * count) if count else missing
    return out


@njit(nogil=True, cache=True)
def _occurring(label):  # type: ignore[no-untyped-def]
    """Return which of the 256 labels occur."""
    there = np.zeros(256, np.bool_)
    for y in range(label.shape[0]):
        last = label[y, 0]
        there[last] = True
        for x in range(label.shape[1]):
            if label[y, x] != last:
                last = label[y, x]
                there[last] = True
    return there


@njit(nogil=True, cache=True)
def _commonest(a, b, c, d):  # type: ignore[no-untyped-def]
    """Return the commonest of four labels: no data (0) has no vote, ties go to the lowest."""
    # Sorted by five exchanges, equal labels stand side by side.
    if a > b:
        a, b = b, a
    if c > d:
        c, d = d, c
    if a > c:
        a, c = c, a
    if b > d:
        b, d = d, b
    if b > c:
        b, c = c, b
    if b == 0:  # one or two votes, or none
        return c if c else d
    if a == 0:
        return c if c == d and b != c else b
    if a == b:
        return a
    if b == c:
        return b
    return c if c == d else a


@njit(nogil=True, cache=True)
def _is_uniform(label, y, x):  # type: ignore[no-untyped-def]
    """Tell whether a leaf holds one label only."""
    first = label[y, x]
    for row in range(y, y + _LEAF_PX):
        different = False
        for col in range(x, x + _LEAF_PX):
            different |= label[row, col] != first
        if different:
            return False
    return True


@njit(nogil=True, cache=True)
def _fill_leaf(value, y, x, width, offsets, flat):  # type: ignore[no-untyped-def]
    """Write levels 2 and 4 of a leaf that holds one label."""
    half, quarter = width >> 1, width >> 2
    for row in range(y >> 1, (y >> 1) + 4):
        start = offsets[0] + row * half + (x >> 1)
        flat[start : start + 4] = value
    for row in range(y >> 2, (y >> 2) + 2):
        start = offsets[1] + row * quarter + (x >> 2)
        flat[start : start + 2] = value


@njit(nogil=True, cache=True)
def _count_leaf(label, y, x, tables, part, counts, flat):  # type: ignore[no-untyped-def]
    """Write levels 2 and 4 of a leaf of several labels and add its votes to `counts`; `part` is zero again."""
    slots, present, offsets = tables
    half, quarter = label.shape[1] >> 1, label.shape[1] >> 2
    for y4 in range(y, y + _LEAF_PX, 4):
        for x4 in range(x, x + _LEAF_PX, 4):
            for y2 in range(y4, y4 + 4, 2):
                for x2 in range(x4, x4 + 4, 2):
                    a, b = label[y2, x2], label[y2, x2 + 1]
                    c, d = label[y2 + 1, x2], label[y2 + 1, x2 + 1]
                    flat[offsets[0] + (y2 >> 1) * half + (x2 >> 1)] = _commonest(a, b, c, d)
                    part[slots[a]] += 1
                    part[slots[b]] += 1
                    part[slots[c]] += 1
                    part[slots[d]] += 1
            best, winner = 0, 0
            for slot in range(len(part)):
                votes = part[slot]
                part[slot] = 0
                counts[slot] += votes
                if slot and votes > best:  # slot 0 is no data; the slots rise with the values
                    best, winner = votes, slot
            flat[offsets[1] + (y4 >> 2) * quarter + (x4 >> 2)] = present[winner]


@njit(nogil=True, cache=True)
def _mode_levels(label, steps, present, offsets, flat):  # type: ignore[no-untyped-def]
    height, width = label.shape
    n = len(present)
    slots = np.zeros(256, np.int64)
    for slot in range(n):
        slots[present[slot]] = slot
    begins = np.zeros(steps + 2, np.int64)  # of each level's row of counts
    for k in range(3, steps + 1):
        begins[k + 1] = begins[k] + (width >> k) * n
    counts, part = np.zeros(begins[steps + 1], np.int32), np.zeros(n, np.int32)
    for y in range(0, height, _LEAF_PX):
        for x in range(0, width, _LEAF_PX):
            begin = (x >> 3) * n
            if _is_uniform(label, y, x):
                _fill_leaf(label[y, x], y, x, width, offsets, flat)
                counts[begin + slots[label[y, x]]] += _LEAF_PX * _LEAF_PX
            else:
                _count_leaf(label, y, x, (slots, present, offsets), part, counts[begin : begin + n], flat)
        _hand_up(y >> 3, width, (present, begins, offsets), counts, flat)


@njit(nogil=True, cache=True)
def _hand_up(row, width, tables, counts, flat):  # type: ignore[no-untyped-def]
    """Decide a full row of each level, from 8 upward, add its counts to the row above it and clear them."""
    present, begins, offsets = tables
    n, steps = len(present), len(offsets)
    for k in range(3, steps + 1):
        cols = width >> k
        for col in range(cols):
            at, above = begins[k] + col * n, begins[k + 1] + (col >> 1) * n
            best, winner = 0, 0
            for slot in range(n):
                votes = counts[at + slot]
                counts[at + slot] = 0
                if k < steps:
                    counts[above + slot] += votes
                if slot and votes > best:
                    best, winner = votes, slot
            flat[offsets[k - 1] + row * cols + col] = present[winner]
        if row % 2 == 0:  # its sister below is still to come
            return
        row //= 2


@njit(nogil=True, cache=True)
def _mean_levels(values, steps, missing, offsets, flat):  # type: ignore[no-untyped-def]
    height, width = values.shape
    rows, wide = -(-height >> steps) << steps, -(-width >> steps) << steps
    begins = np.zeros(steps + 2, np.int64)
    for k in range(1, steps + 1):
        begins[k + 1] = begins[k] + (wide >> k)
    totals, kept = np.zeros(begins[steps + 1], np.int64), np.zeros(begins[steps + 1], np.int64)
    for y in range(rows):
        if y < height:
            for x in range(width):
                keep = values[y, x] != missing
                totals[x >> 1] += values[y, x] * keep
                kept[x >> 1] += keep
        if y % 2:
            _mean_up(y // 2, wide, missing, (begins, offsets), totals, kept, flat)


@njit(nogil=True, cache=True)
def _mean_up(row, wide, missing, tables, totals, kept, flat):  # type: ignore[no-untyped-def]
    """As `_hand_up`, from 2 upward."""
    begins, offsets = tables
    steps = len(offsets)
    for k in range(1, steps + 1):
        cols, whole = wide >> k, 1 << (2 * k)
        for col in range(cols):
            at, above = begins[k] + col, begins[k + 1] + (col >> 1)
            total, count = totals[at], kept[at]
            totals[at] = 0
            kept[at] = 0
            if k < steps:
                totals[above] += total
                kept[above] += count
            if count == whole:  # a shift is a division that rounds down
                flat[offsets[k - 1] + row * cols + col] = (total + (whole >> 1)) >> (2 * k)
            elif count:
                flat[offsets[k - 1] + row * cols + col] = (2 * total + count) // (2 * count)
            else:
                flat[offsets[k - 1] + row * cols + col] = missing
        if row % 2 == 0:
            return
        row //= 2
