"""Scores where an item may have several classes, or where each class is a yes or no of its own.

Formulas: precision TP / (TP + FP), recall TP / (TP + FN), F1 their harmonic mean, IoU TP / (TP + FP + FN);
micro figures of the sums over classes, macro figures the mean over the classes of the truth (Sokolova and Lapalme
2009, Inf. Process. Manag. 45:427-437). Average precision is the sum over thresholds of precision times the gain in
recall, without interpolation; the area under the ROC curve counts ties by half (Hanley and McNeil 1982, Radiology
143:29-36).

Shape suffixes: N item, K class, R replicate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError

HALF = 0.5
"""Threshold of a class for which none is given and none can be chosen."""

PER_CLASS = ("precision", "recall", "f1", "iou", "average_precision", "roc_auc")
OVERALL = (
    "subset_accuracy",
    "hamming_loss",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "macro_iou",
    "mean_average_precision",
    "macro_roc_auc",
)


@dataclass(frozen=True, eq=False)
class Answers:
    """Truth and probability of each class for each item.

    Attributes:
        truth: (N, K) bool.
        score: (N, K) float64, 0..1: the more, the likelier.
    """

    truth: NDArray[np.bool_]
    score: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.truth.shape != self.score.shape:
            raise InputError(
                "truth and predictions differ in shape", found=self.score.shape, limit=self.truth.shape
            )
        if not np.isfinite(self.score).all():
            raise InputError(
                "a prediction is not a number", found=int((~np.isfinite(self.score)).sum()), limit=0
            )


@dataclass(frozen=True, eq=False)
class _Curve:
    """One class's items from the likeliest down; ties end together."""

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    truth: NDArray[np.bool_]
    score: NDArray[np.float64]

    @classmethod
    def of(cls, truth_N: NDArray[np.bool_], score_N: NDArray[np.float64]) -> _Curve:
        order = np.argsort(-score_N, kind="stable")
        ranked = score_N[order]
        ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.zeros(0, np.intp)
        return cls(order, ends, truth_N[order], ranked)

    def counts(self, weight_N: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return true and false positives at each distinct threshold, from the highest down."""
        weight = weight_N[self.order].astype(np.float64)
        hits = np.cumsum(weight * self.truth)[self.ends]
        return hits, np.cumsum(weight)[self.ends] - hits

    def average_precision(self, weight_N: NDArray[Any]) -> float:
        """Return the sum of precision times the gain in recall; NaN without a true item."""
        hits, false = self.counts(weight_N)
        if not len(hits) or not hits[-1]:
            return float("nan")
        gain = np.diff(hits, prepend=0.0) / hits[-1]
        seen = hits + false
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return float((gain * precision).sum())

    def roc_auc(self, weight_N: NDArray[Any]) -> float:
        """Return the area under the ROC curve; NaN where one of the kinds is missing."""
        hits, false = self.counts(weight_N)
        if not len(hits) or not hits[-1] or not false[-1]:
            return float("nan")
        y, x = np.append(0.0, hits) / hits[-1], np.append(0.0, false) / false[-1]
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


class MultiLabel:
    """Scores items again and again with other weights.

    Args:
        answers: Truth and probabilities.
        thresholds_K: (K,) a class is said from this probability on.
    """

    def __init__(self, answers: Answers, thresholds_K: NDArray[np.float64]) -> None:
        self.truth_NK = answers.truth
        self.said_NK = answers.score >= thresholds_K
        columns = zip(answers.truth.T, answers.score.T, strict=True)
        self._curves = [_Curve.of(truth, score) for truth, score in columns]

    def counts(self, weight_N: NDArray[Any]) -> NDArray[np.float64]:
        """Return true positives, false positives, false negatives, true negatives, (4, K) float64."""
        truth, said = self.truth_NK, self.said_NK
        cells = (truth & said, ~truth & said, truth & ~said, ~truth & ~said)
        return np.stack([weight_N @ cell.astype(np.float64) for cell in cells])

    def figures(self, weight_N: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the figures of each class (len(PER_CLASS), K), and the overall ones (len(OVERALL),); NaN = none.

        Args:
            weight_N: (N,) how often each item counts; None = once.
        """
        weight = np.ones(len(self.truth_NK)) if weight_N is None else weight_N.astype(np.float64)
        hit, false, missed, none = self.counts(weight)
        curves = [
            [c.average_precision(weight) for c in self._curves],
            [c.roc_auc(weight) for c in self._curves],
        ]
        own = [
            _ratio(hit, hit + false),
            _ratio(hit, hit + missed),
            _ratio(2 * hit, 2 * hit + false + missed),
            _ratio(hit, hit + false + missed),
        ]
        by_class = np.stack([*own, *(np.array(c, np.float64) for c in curves)])
        wrong = (self.truth_NK != self.said_NK).astype(np.float64)
        total = weight.sum()
        exact = weight @ (wrong.sum(axis=1) == 0)
        there = hit + missed > 0
        sums = hit.sum(), false.sum(), missed.sum()
        overall = [
            _ratio(exact, total),
            _ratio((false + missed).sum(), (hit + false + missed + none).sum()),
            _ratio(sums[0], sums[0] + sums[1]),
            _ratio(sums[0], sums[0] + sums[2]),
            _ratio(2 * sums[0], 2 * sums[0] + sums[1] + sums[2]),
            *(_mean(np.nan_to_num(row[there])) for row in by_class[:4]),
            *(_mean(row[~np.isnan(row)]) for row in by_class[4:]),
        ]
        return by_class, np.array(overall, np.float64)


def choose_thresholds(validation: Answers) -> NDArray[np.float64]:
    """Choose for each class the threshold with the highest F1, (K,).

    Thresholds lie midway between neighbouring probabilities of the validation; of equal ones that nearest
    to a half is taken. A class that never occurs there keeps a half.

    Args:
        validation: Items that take no part in the scores.

    >>> truth, score = np.array([[True], [False], [True]]), np.array([[0.9], [0.2], [0.4]])
    >>> choose_thresholds(Answers(truth, score)).tolist()
    [0.30000000000000004]
    """
    chosen = []
    for truth, score in zip(validation.truth.T, validation.score.T, strict=True):
        curve = _Curve.of(truth, score)
        hits, false = curve.counts(np.ones(len(truth)))
        if not len(hits) or not hits[-1]:
            chosen.append(HALF)
            continue
        f1 = 2 * hits / (hits[-1] + hits + false)
        distinct = curve.score[curve.ends]
        middle = np.append((distinct[:-1] + distinct[1:]) / 2, min(distinct[-1], HALF))
        best = f1 >= f1.max() - 1e-12
        chosen.append(float(min(middle[best], key=lambda t: abs(t - HALF))))
    return np.array(chosen)


def redraw(group_N: NDArray[Any], replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw groups with replacement, again and again (Efron 1979), and yield how often each item counts, (N,).

    Args:
        group_N: (N,) what belongs together: one group an item, or a field, a region, a farm.
        replicates: How often.
        seed: Of the draws.
    """
    _, index = np.unique(group_N, return_inverse=True)
    n = int(index.max()) + 1 if len(index) else 0
    rng = np.random.default_rng(seed)
    for _ in range(replicates if n else 0):
        yield rng.multinomial(n, np.full(n, 1 / n))[index]


def percentiles(drawn: list[NDArray[Any]], confidence: float = 0.95) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lower and upper percentile of replicates, figure by figure.

    NaN where all are, and where no replicate differs: a class that is always right in few items is right in each
    draw of them too, which says nothing of the next.
    """
    import warnings

    tail = 100 * (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        low, high = np.nanpercentile(np.array(drawn, np.float64), [tail, 100 - tail], axis=0)
    still = low == high
    return np.where(still, np.nan, low), np.where(still, np.nan, high)


def _ratio(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else float("nan")
