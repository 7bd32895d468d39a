"""Scores of tables with their uncertainty: units that belong together are drawn together.

Shape suffixes: N sample, U unit, K class, R draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A figure and what it may be.

    Attributes:
        value: Over all samples.
        low: 2.5% of the draws lie below.
        high: 2.5% of the draws lie above.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws_R: NDArray[np.float64]) -> Interval:
        """Take the percentiles of a bootstrap."""
        low, high = np.quantile(draws_R, [0.025, 0.975])
        return cls(value, float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def macro_f1(matrices_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean F1 over the classes of the truth, of one confusion matrix or of many (..., K, K).

    >>> macro_f1(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(3).item()
    0.873
    """
    hit = np.diagonal(matrices_KK, axis1=-2, axis2=-1).astype(np.float64)
    truth, told = matrices_KK.sum(axis=-1), matrices_KK.sum(axis=-2)
    f1 = np.divide(2 * hit, truth + told, out=np.zeros_like(hit), where=truth + told > 0)
    there = truth > 0
    found: NDArray[np.float64] = (f1 * there).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return found


def unit_matrices(
    units_N: NDArray[Any], truth_N: NDArray[Any], predicted_N: NDArray[Any], n_classes: int
) -> NDArray[np.int64]:
    """Return the confusion matrix of each unit, (U, K, K), units in alphabetical order."""
    names, unit_N = np.unique(units_N.astype(str), return_inverse=True)
    known_N = (truth_N >= 0) & (truth_N < n_classes)
    cell_N = (unit_N * n_classes + truth_N) * n_classes + predicted_N
    found = np.bincount(cell_N[known_N].astype(np.int64), minlength=len(names) * n_classes**2)
    return found.reshape(len(names), n_classes, n_classes)


def bootstrap(units: int, draws: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    """Draw units with replacement.

    Returns:
        (R, U) int64: how often each unit is in each draw. The same arguments give the same draws, so that two
        models are compared on the same ones.
    """
    drawn = np.random.default_rng(seed).integers(0, units, (draws, units))
    counts = np.zeros((draws, units), np.int64)
    np.add.at(counts, (np.arange(draws)[:, None], drawn), 1)
    return counts


def macro_f1_draws(matrices_UKK: NDArray[np.int64], counts_RU: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the macro F1 of each draw of units, (R,)."""
    return macro_f1(np.tensordot(counts_RU, matrices_UKK, axes=1))
