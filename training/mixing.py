"""How well an order of patches is mixed: a figure between 0 (one place after the other) and 1 (as if drawn at random).

A fast loader can be had by giving neighbours one after the other; batches that are all alike then teach less.
So speed is only ever told together with this figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RUN_BATCHES = 8
_CELLS = 64


@dataclass(frozen=True)
class Mixing:
    """How well mixed an order is, each against random orders of the same patches; sampling lets it pass 1 a little.

    Attributes:
        within: Mean distance of two patches of a batch.
        along: Entropy of the places in runs of 8 batches; the area is cut into about 64 places.
    """

    within: float
    along: float

    @property
    def quality(self) -> float:
        """The lesser of the two, at most 1."""
        return min(1.0, self.within, self.along)


def mixing(corners: NDArray[np.int64], bounds: NDArray[np.int64], seed: int = 0) -> Mixing:
    """Measure an order.

    Args:
        corners: (n, 2) row and column of each patch, in the order in which they are given.
        bounds: Where in this order each batch begins, and the end.
        seed: Of the random orders it is compared with.

    >>> rng = np.random.default_rng(0)
    >>> y, x = np.mgrid[:64, :64].reshape(2, -1)
    >>> sweep, batches = np.stack([y, x], axis=1), np.arange(0, 64 * 64 + 1, 16)
    >>> mixing(sweep, batches).quality < 0.3, mixing(rng.permutation(sweep), batches).quality > 0.95
    (True, True)
    """
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(len(corners)) for _ in range(8)]
    cells = _cells(corners)
    distance = np.mean([_within(corners[order], bounds) for order in shuffled])
    entropy = np.mean([_along(cells[order], bounds) for order in shuffled])
    return Mixing(
        float(_within(corners, bounds) / distance) if distance > 0 else 1.0,
        float(_along(cells, bounds) / entropy) if entropy > 0 else 1.0,
    )


def _within(corners: NDArray[np.int64], bounds: NDArray[np.int64]) -> float:
    """Return the mean distance of patches that are one, two or three apart in the same batch."""
    batch = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    found = []
    for gap in (1, 2, 3):
        alike = batch[gap:] == batch[:-gap]
        step = (corners[gap:] - corners[:-gap])[alike].astype(np.float64)
        found.append(np.hypot(step[:, 0], step[:, 1]))
    every = np.concatenate(found)
    return float(every.mean()) if len(every) else 0.0


def _along(cells: NDArray[np.int64], bounds: NDArray[np.int64]) -> float:
    """Return the mean entropy of the cells in runs of batches, in nats."""
    starts = bounds[:-1:_RUN_BATCHES]
    found = []
    for lo, hi in zip(starts, [*starts[1:], bounds[-1]], strict=True):
        counts = np.unique(cells[lo:hi], return_counts=True)[1]
        shares = counts / counts.sum()
        found.append(float(-(shares * np.log(shares)).sum()))
    return float(np.mean(found))


def _cells(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut the area into about 64 places of one size, 8 along each axis."""
    least = corners.min(axis=0)
    side = np.maximum(1, -(-(np.ptp(corners, axis=0) + 1) // int(_CELLS**0.5)))
    row, col = ((corners - least) // side).T
    found: NDArray[np.int64] = row * _CELLS + col
    return found
