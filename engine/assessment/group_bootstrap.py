"""The bootstrap by groups that are no part of the design: fields, farms, days of an interpreter.

Groups may reach across strata. They are drawn with replacement over the whole sample (Efron 1979, Ann. Stat. 7:1-26);
in each replicate a stratum's points weigh by the stratum's area over how many of them there are now, as they do after
stratifying a sample afterwards. Where the design itself draws clusters, `engine.assessment.bootstrap` is the one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.confusion import Scores
from engine.assessment.multilabel import percentiles, redraw
from engine.assessment.types import CONFIDENCE, Estimate, Sample
from engine.values.errors import InputError

FIGURES = ("users", "producers", "f1", "iou", "area_shares")

_FEW = 20


def group_bootstrap(
    sample: Sample,
    group_N: NDArray[Any],
    classes: Sequence[int],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = CONFIDENCE,
) -> dict[str, Any]:
    """Return figures with standard errors and intervals: ``overall``, and of each class those of `FIGURES`.

    Args:
        sample: Points drawn singly; those without an answer are left out.
        group_N: (N,) what belongs together.
        classes: Class values, in the order of the figures.
        replicates: How often groups are drawn.
        seed: Of the draws.
        level: Of the intervals.

    Raises:
        InputError: If there are fewer than two groups or replicates.
    """
    kept = np.flatnonzero(sample.reference != 0)
    group, sample = np.asarray(group_N)[kept], sample.where(kept)
    groups = len(np.unique(group))
    if groups < 2 or replicates < 2:
        raise InputError(
            "too little to draw from", where="bootstrap", found=f"{groups} groups, {replicates} draws"
        )
    values = tuple(dict.fromkeys((*classes, *sample.classes, 0)))
    cells = _Cells(sample, values)
    value = cells.figures(np.ones(len(sample)))
    drawn = [cells.figures(weights) for weights in redraw(group, replicates, seed)]
    low, high = percentiles(drawn, level)
    spread = _spread(np.array(drawn))
    note = f"only {groups} groups: likely too narrow" if groups < _FEW else ""

    def told(i: int) -> Estimate:
        if np.isnan(value[i]):
            return Estimate(None, None, None, None, len(sample), "no point to estimate from")
        if np.isnan(low[i]):
            still = "no draw differs: the interval is not known"
            return Estimate(float(value[i]), None, None, None, len(sample), still)
        return Estimate(float(value[i]), float(spread[i]), float(low[i]), float(high[i]), len(sample), note)

    k = len(values)
    per_class = {
        name: {c: told(1 + f * k + values.index(c)) for c in classes} for f, name in enumerate(FIGURES)
    }
    return {"groups": groups, "overall": told(0), **per_class}


def _spread(drawn_RF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation of each figure over the replicates that have it, NaN for fewer than two."""
    known = ~np.isnan(drawn_RF)
    several = known.sum(axis=0) > 1
    out = np.full(drawn_RF.shape[1], np.nan)
    out[several] = np.nanstd(drawn_RF[:, several], axis=0, ddof=1)
    return out


class _Cells:
    """Counts points by stratum, mapped class and reference class."""

    def __init__(self, sample: Sample, values: Sequence[int]) -> None:
        place = {v: i for i, v in enumerate(values)}
        self.k, self.strata = len(values), len(sample.strata)
        row = np.array([place[int(v)] for v in sample.mapped], np.intp)
        column = np.array([place[int(v)] for v in sample.reference], np.intp)
        self.cell = (sample.stratum * self.k + row) * self.k + column
        self.hectares = np.array([s.hectares for s in sample.strata])

    def figures(self, weight_N: NDArray[Any]) -> NDArray[np.float64]:
        """Return overall accuracy, then each figure of each class, (1 + 5 K,); NaN where there is none."""
        n = self.strata * self.k**2
        counts = np.bincount(self.cell, weight_N, minlength=n).reshape(self.strata, -1)
        points = counts.sum(axis=1)
        scale = np.divide(self.hectares, points, out=np.zeros(self.strata), where=points > 0)
        matrix = (scale @ counts).reshape(self.k, self.k)
        scores = Scores.of(matrix.T)
        area = matrix.sum(axis=0) / matrix.sum()
        own = (scores.precision, scores.recall, scores.f1, scores.iou, area)
        return np.concatenate([[scores.accuracy], np.ravel(own)])
