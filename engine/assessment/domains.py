"""Accuracy in parts of the area: regions, grades of confidence, numbers of observations.

A part (a domain) is estimated with all points, those outside counting 0 (Cochran 1977, section 5A.14; Särndal, Swensson
and Wretman 1992, section 10.3): how many points fall into a part is chance too, and belongs into the error. To take the
points of a part for a sample of their own would forget it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.assessment.intervals import Kind
from engine.assessment.stratified import Accuracy, accuracy
from engine.assessment.types import CONFIDENCE, Sample
from engine.values.errors import InputError

NOT_KNOWN = "not known"
"""Part of the points whose number is not known."""


def by_part(
    sample: Sample,
    part_N: ArrayLike,
    classes: Iterable[int] = (),
    *,
    kind: Kind = "wilson",
    level: float = CONFIDENCE,
) -> dict[str, Accuracy]:
    """Estimate accuracies and areas in each part of the area, in rising order of names.

    Hectares are estimated with the part's size; where the part's true size is known, `area_shares` times it is
    closer.

    Args:
        sample: All points, with all strata of the design.
        part_N: (N,) of text, the part in which each point lies; empty text = in none.
        classes: Values in the order wished for.
        kind: Of the intervals.
        level: Of the intervals.

    Raises:
        InputError: If parts and points differ in number, or no point has an answer.
    """
    part = np.asarray(part_N).astype(str)
    if len(part) != len(sample):
        raise InputError(
            "parts and points differ in number", where="parts", found=len(part), limit=len(sample)
        )
    classes = tuple(dict.fromkeys((*classes, *sample.classes)))
    return {
        name: accuracy(sample, classes, kind=kind, level=level, inside_N=part == name)
        for name in np.unique(part).tolist()
        if name
    }


def by_region(
    sample: Sample, classes: Iterable[int] = (), *, level: float = CONFIDENCE
) -> dict[str, Accuracy]:
    """Estimate accuracies and areas in each region that the sample names.

    Raises:
        InputError: If the sample names no regions.
    """
    if sample.region is None:
        raise InputError("the sample names no regions", where="sample.region", mend="a column `region`")
    return by_part(sample, sample.region, classes, level=level)


def graded(values_N: ArrayLike, edges: Sequence[float]) -> NDArray[np.str_]:
    """Name the grade of each number, half open but for the last; numbers outside and NaN are `NOT_KNOWN`.

    >>> graded([0.5, 0.8, 1.0, float("nan")], [0, 0.8, 1]).tolist()
    ['0 to 0.8', '0.8 to 1', '0.8 to 1', 'not known']

    Raises:
        InputError: If edges do not rise, or are fewer than two.
    """
    values, ends = np.asarray(values_N, np.float64), np.asarray(edges, np.float64)
    if len(ends) < 2 or not (np.diff(ends) > 0).all():
        raise InputError("edges of grades must rise", where="edges", found=list(edges), limit="two or more")
    names = [f"{a:g} to {b:g}" for a, b in pairwise(ends.tolist())]
    place = np.clip(np.searchsorted(ends, values, side="right") - 1, 0, len(names) - 1)
    known = (values >= ends[0]) & (values <= ends[-1])
    return np.where(known, np.array(names)[place], NOT_KNOWN)
