"""Scores with intervals: the bootstrap over blocks, because neighbouring pixels are no independent witnesses.

Shape suffixes: G group (block of the grid, region, field), K class, R replicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.metrics import Scores, confusion

REPLICATES = 1000
FEWEST_GROUPS = 5
"""Below, the bootstrap says less than it seems to."""


@dataclass(frozen=True)
class Interval:
    """A figure and where it may lie.

    Attributes:
        value: Over all groups.
        low: 2.5% of replicates lie below.
        high: 2.5% of replicates lie above.
        groups: How many groups were drawn from.
    """

    value: float
    low: float
    high: float
    groups: int

    def line(self) -> str:
        """Return the figure with its interval.

        >>> Interval(0.8512, 0.81, 0.88, 16).line()
        '0.851 (0.810 to 0.880)'
        """
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "groups": self.groups,
        }


def confusions(
    truth: NDArray[Any], predicted: NDArray[Any], group: NDArray[Any], n_classes: int
) -> NDArray[np.int64]:
    """Count pairs of class indices of each group, (G, K, K) int64; groups in rising order.

    Args:
        truth: (N,) class indices.
        predicted: (N,) class indices.
        group: (N,) names or numbers of groups.
        n_classes: K.
    """
    _, index = np.unique(group, return_inverse=True)
    matrices = np.zeros((int(index.max()) + 1 if len(index) else 0, n_classes, n_classes), np.int64)
    for g in range(len(matrices)):
        here = index == g
        matrices[g] = confusion(truth[here], predicted[here], n_classes)
    return matrices


def score_intervals(
    matrices_GKK: NDArray[np.int64], *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Interval]:
    """Return accuracy, mean F1 and mean IoU with 95% intervals (percentiles, groups drawn with replacement).

    Args:
        matrices_GKK: Confusion matrix of each group.
        replicates: How often groups are drawn.
        seed: Of the draws.

    Raises:
        InputError: If there is no group.
    """

    def figures(matrix_KK: NDArray[np.int64]) -> tuple[float, ...]:
        scores = Scores.of(matrix_KK)
        return scores.accuracy, scores.mean_f1, scores.mean_iou

    names = ("accuracy", "mean_f1", "mean_iou")
    return dict(zip(names, bootstrap(matrices_GKK, figures, replicates=replicates, seed=seed), strict=True))


def bootstrap(
    sums_G: NDArray[Any],
    figures: Callable[[Any], tuple[float, ...]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Interval]:
    """Draw groups with replacement, add up what they hold, and compute figures each time (Efron 1979).

    Args:
        sums_G: (G, ...) what adds up over groups.
        figures: From a sum to the figures.
        replicates: How often.
        seed: Of the draws.

    Raises:
        InputError: If there is no group.
    """
    n = len(sums_G)
    if n == 0:
        raise InputError("no group to draw from", where="intervals", found=0, limit="at least 1")
    rng = np.random.default_rng(seed)
    times_RG = rng.multinomial(n, np.full(n, 1 / n), size=replicates)
    drawn = [figures(np.tensordot(times, sums_G, axes=1)) for times in times_RG]
    low, high = np.nanpercentile(np.array(drawn), [2.5, 97.5], axis=0)
    values = figures(sums_G.sum(axis=0))
    rows = zip(values, low, high, strict=True)
    return [Interval(float(value), float(a), float(b), n) for value, a, b in rows]
