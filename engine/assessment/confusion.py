"""Scores of counted answers: what a confusion matrix says of its own pixels (rows truth, columns prediction).

They describe what was counted and nothing else. Where points are a sample of a map, counts of strata of different size
say little of the map: `engine.assessment.stratified` estimates it, with errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KAPPA_NOTE = (
    "kappa corrects for a chance that is no part of mapping and is told by no user's question; "
    "report the accuracies (Pontius and Millones 2011, Int. J. Remote Sens. 32:4407-4429)"
)


def confusion(truth: NDArray[Any], predicted: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """Count pairs of class indices; a truth outside ``0..n_classes - 1`` is not annotated.

    Args:
        truth: Class indices, any shape.
        predicted: Class indices, the same shape.
        n_classes: K.

    Returns:
        (K, K) int64, truth by prediction.

    >>> confusion(np.array([0, 1, 1, 255]), np.array([0, 1, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    known = truth < n_classes
    pairs = truth[known].astype(np.int64) * n_classes + predicted[known].astype(np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def weighted(
    truth: NDArray[Any], predicted: NDArray[Any], weights: NDArray[Any], n_classes: int
) -> NDArray[np.float64]:
    """Sum weights of pairs of class indices, as `confusion` counts them.

    Args:
        truth: Class indices, any shape.
        predicted: Class indices, the same shape.
        weights: What each counts, the same shape: hectares, inverse probabilities of being drawn.
        n_classes: K.

    Returns:
        (K, K) float64, truth by prediction; `Scores.of` takes it too.

    >>> weighted(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0.5, 2.0, 1.0]), 2).tolist()
    [[0.5, 0.0], [1.0, 2.0]]
    """
    known = truth < n_classes
    pairs = truth[known].astype(np.int64) * n_classes + predicted[known].astype(np.int64)
    sums = np.bincount(pairs, weights=weights[known], minlength=n_classes**2)
    return np.asarray(sums, np.float64).reshape(n_classes, n_classes)


def kappa(matrix_KK: NDArray[Any]) -> float:
    """Return Cohen's kappa of a matrix (Cohen 1960, Educ. Psychol. Meas. 20:37-46), for those who ask: `KAPPA_NOTE`.

    NaN where one class is all there is.

    >>> round(kappa(np.array([[20, 5], [10, 15]])), 4)
    0.4
    """
    total = float(matrix_KK.sum())
    agree = float(np.trace(matrix_KK)) / total if total else float("nan")
    chance = float(matrix_KK.sum(axis=0) @ matrix_KK.sum(axis=1)) / total**2 if total else float("nan")
    return (agree - chance) / (1 - chance) if chance < 1 else float("nan")


@dataclass(frozen=True)
class Scores:
    """Scores over annotated pixels; per-class values are NaN for classes that do not occur.

    Attributes:
        accuracy: Overall accuracy, 0..1.
        mean_iou: Mean of `iou` over the classes of the truth.
        mean_f1: Mean of `f1` over the classes of the truth.
        iou: Intersection over union of each class.
        f1: Harmonic mean of precision and recall of each class.
        precision: User's accuracy of each class.
        recall: Producer's accuracy of each class.
        support: Annotated pixels of each class.
    """

    accuracy: float
    mean_iou: float
    mean_f1: float
    iou: tuple[float, ...]
    f1: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    support: tuple[int, ...]

    @classmethod
    def of(cls, matrix_KK: NDArray[Any]) -> Scores:
        """Compute scores of counts, or of weights.

        >>> Scores.of(np.array([[3, 1], [0, 4]])).accuracy
        0.875
        """
        hit = np.diag(matrix_KK)
        return cls._counted(
            hit, matrix_KK.sum(axis=1), matrix_KK.sum(axis=0), float(_ratio(hit.sum(), matrix_KK.sum()))
        )

    @classmethod
    def of_several(cls, counts_K22: NDArray[np.int64]) -> Scores:
        """Compute scores where an item may have several classes; accuracy is the share of right answers.

        Args:
            counts_K22: For each class the confusion of no and yes, truth by prediction.

        >>> Scores.of_several(np.array([[[3, 1], [0, 4]]])).iou
        (0.8,)
        """
        hit, truth, predicted = (
            counts_K22[:, 1, 1],
            counts_K22[:, 1].sum(axis=1),
            counts_K22[:, :, 1].sum(axis=1),
        )
        right = hit.sum() + counts_K22[:, 0, 0].sum()
        return cls._counted(hit, truth, predicted, float(_ratio(right, counts_K22.sum())))

    @classmethod
    def _counted(cls, hit: Any, truth: Any, predicted: Any, accuracy: float) -> Scores:
        hit = hit.astype(np.float64)
        iou, f1 = _ratio(hit, truth + predicted - hit), _ratio(2 * hit, truth + predicted)
        there = truth > 0
        return cls(
            accuracy=accuracy,
            mean_iou=float(iou[there].mean()) if there.any() else float("nan"),
            mean_f1=float(f1[there].mean()) if there.any() else float("nan"),
            iou=tuple(iou.tolist()),
            f1=tuple(f1.tolist()),
            precision=tuple(_ratio(hit, predicted).tolist()),
            recall=tuple(_ratio(hit, truth).tolist()),
            support=tuple(truth.tolist()),
        )

    def as_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return rounded numbers with class names; None where a class does not occur."""
        rows = zip(self.iou, self.f1, self.precision, self.recall, strict=True)
        return {
            "accuracy": _short(self.accuracy),
            "mean_iou": _short(self.mean_iou),
            "mean_f1": _short(self.mean_f1),
            "classes": {
                name: {
                    **dict(zip(("iou", "f1", "precision", "recall"), map(_short, row), strict=True)),
                    "pixels": n,
                }
                for name, row, n in zip(names, rows, self.support, strict=True)
            },
        }


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    found: NDArray[np.float64] = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return found


def _short(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
