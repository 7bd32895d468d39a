"""Row pieces: how the kernels of a composite walk over a stack of dates.

A kernel takes a piece of one row of pixels at a time (all its dates and bands fit into the L2 cache) and
works along x, where LLVM finds SIMD instructions. Each pixel is on its own, so the pieces change no value.
Kernels release the GIL and start no threads; `by_rows` cuts the rows among as many threads as it is given.

Numba keeps compiled kernels beside their file until that file changes, not one that it calls into: after a
change of a kernel here, delete ``engine/cube/__pycache__``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

TILE_PX = 512
"""Pixels of a row piece in integer kernels: 36 dates x 10 bands take 369 kB."""


def by_rows(kernel: Callable[[int, int], None], height: int, threads: int = 1) -> None:
    """Run ``kernel(y0, y1)`` over all rows, in this thread or cut among several.

    >>> by_rows(lambda y0, y1: print(y0, y1), 8)
    0 8
    """
    if threads <= 1 or height <= 1:
        kernel(0, height)
        return
    n = min(height, 4 * threads)  # more pieces than threads: rows under clouds are done sooner
    edges = [height * i // n for i in range(n + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(kernel, edges[:-1], edges[1:]))


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def load_piece(
    stack: NDArray[np.uint16], y: int, x0: int, values: NDArray[np.uint16], sizes: NDArray[np.int32]
) -> None:
    """Copy a row piece out of a stack, missing dates as zeros in all bands.

    One pass over the stack: its planes lie whole powers of two apart, so what was read once has left the
    caches' few ways when it is wanted again.

    Args:
        stack: (time, band, y, x), 0 in any band = missing.
        y: Row.
        x0: First column.
        values: (band, time, x), filled as far as `sizes` is long.
        sizes: (x,), filled with the number of clear dates.
    """
    n_dates, n_bands = stack.shape[:2]
    n = len(sizes)
    sizes[:] = 0
    mask = np.empty(n, np.uint16)
    for t in range(n_dates):
        mask[:] = np.uint16(0xFFFF)
        for b in range(n_bands):
            source, target = stack[t, b, y, x0 : x0 + n], values[b, t]
            for i in range(n):
                value = source[i]
                target[i] = value
                mask[i] = min(mask[i], value)
        for i in range(n):
            clear = mask[i] != 0
            mask[i] = np.uint16(0xFFFF) if clear else np.uint16(0)
            sizes[i] += np.int32(clear)
        for b in range(n_bands):
            target = values[b, t]
            for i in range(n):
                target[i] &= mask[i]


@lru_cache(maxsize=64)
def sorting_network(n: int, percent: int) -> NDArray[np.uintp]:
    """Return the comparators that sort `n` values as far as a percentile needs.

    Batcher's odd-even merge sort (Batcher 1968, AFIPS SJCC 32:307) for the next power of two, less what
    lies beyond `n`, and less what reaches no rank that the percentile of 1..n clear dates can ask for
    when missing values come first.

    Returns:
        (comparator, 2) positions; the smaller value goes to the first.

    >>> sorting_network(3, 100).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    size = 1 << max(0, n - 1).bit_length()
    pairs = [(i, i + k) for p, k in _stages(size) for i in _lower(size, p, k) if i + k < n]
    needed = {rank for clear in range(1, n + 1) for rank in _ranks_of(n, clear, percent)}
    kept = []
    for a, b in reversed(pairs):
        if a in needed or b in needed:
            kept.append((a, b))
            needed |= {a, b}
    return np.array(kept[::-1], np.uintp).reshape(-1, 2)


def _stages(size: int) -> list[tuple[int, int]]:
    """List the (length of sorted runs, distance compared) of each stage."""
    powers = [1 << i for i in range(size.bit_length() - 1)]
    return [(p, k) for p in powers for k in reversed(powers) if k <= p]


def _lower(size: int, p: int, k: int) -> list[int]:
    """List the positions that one stage compares with those `k` further on."""
    starts = (i + j for j in range(k % p, size - k, 2 * k) for i in range(min(k, size - j - k)))
    return [i for i in starts if i // (2 * p) == (i + k) // (2 * p)]


def _ranks_of(n: int, clear: int, percent: int) -> tuple[int, int]:
    """Return the two positions between which a percentile lies, missing values sorted to the front."""
    lower = n - clear + percent * (clear - 1) // 100
    return lower, min(lower + 1, n - 1)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def sort_columns(flat: NDArray[np.float64], network: NDArray[np.uintp], width: int, n: int) -> None:
    """Sort the columns of a (rank, x) array of any number type, given flat with rows of `width`.

    Flat and with unsigned positions, so that LLVM sees plain arrays and turns it into vector minima and
    maxima over the first `n` columns.
    """
    width_u, n_u = np.uintp(width), np.uintp(n)
    for c in range(len(network)):
        p, q = network[c, 0] * width_u, network[c, 1] * width_u
        for i in range(n_u):
            a, b = flat[p + i], flat[q + i]
            flat[p + i] = min(a, b)
            flat[q + i] = max(a, b)
