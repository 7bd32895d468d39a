"""The minimum mapping unit of a whole array by scipy and sorting: what the step is held against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.refine.mmu import MmuStep
from engine.values.grid import Box

Tile = int | tuple[int, int]


def numbered(label: NDArray[np.uint8], connectivity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return objects, counted from 1, 0 = no data, and the class of each object."""
    number, classes = np.zeros(label.shape, np.int64), [0]
    for value in np.unique(label[label > 0]):
        found, n = ndimage.label(label == value, np.ones((3, 3)) if connectivity == 8 else None)
        number[found > 0] = found[found > 0] + len(classes) - 1
        classes += [int(value)] * n
    return number, np.array(classes)


def merged(label: NDArray[np.uint8], step: MmuStep) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the refined classes and which pixels are small and left."""
    number, classes = numbered(label, step.connectivity)
    sizes = np.bincount(number.ravel(), minlength=len(classes))
    settled = np.where(sizes >= np.array(step.least_px)[classes], classes, 0)
    a, b = (
        np.concatenate([x.ravel(), y.ravel()])
        for x, y in ((number[:, :-1], number[:-1]), (number[:, 1:], number[1:]))
    )
    touching = (a != b) & (a > 0) & (b > 0)
    a, b = a[touching], b[touching]
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    for _ in range(step.rounds):
        counts = (settled[a] == 0) & (settled[b] > 0) & ~np.isin(settled[b], step.never_into)
        votes, edges = np.unique(a[counts] * 256 + settled[b[counts]], return_counts=True)
        best = np.lexsort((votes % 256, -edges, votes // 256))
        first = np.ones(len(best), bool)
        first[1:] = np.diff(votes[best] // 256) > 0
        settled[votes[best][first] // 256] = votes[best][first] % 256
    left = (settled == 0) & (classes > 0)
    return np.where(left, classes, settled)[number].astype(np.uint8), left[number]


def tiles(shape_yx: tuple[int, int], tile: Tile) -> Iterator[Box]:
    """Yield the boxes that cut an array into tiles of one size."""
    height, width = tile if isinstance(tile, tuple) else (tile, tile)
    whole = Box(0, 0, *shape_yx)
    for y in range(0, shape_yx[0], height):
        for x in range(0, shape_yx[1], width):
            yield whole & Box(y, x, y + height, x + width)
