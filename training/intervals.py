"""Scores with intervals: the bootstrap over blocks, because neighbouring pixels are no independent witnesses.

Shape suffixes: G group (block of the grid, region, field), K class, R replicate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.bootstrap import REPLICATES, Interval, bootstrap
from engine.assessment.confusion import Scores, confusion

__all__ = ["FEWEST_GROUPS", "REPLICATES", "Interval", "bootstrap", "confusions", "score_intervals"]

FEWEST_GROUPS = 5
"""Below, the bootstrap says less than it seems to."""


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
