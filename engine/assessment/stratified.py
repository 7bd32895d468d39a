"""Accuracy and area of each class from a sample of known design, with standard errors and intervals.

The estimators are those of Stehman 2014 (Int. J. Remote Sens. 35:4923-4939): indicators and ratios of them, weighted
by what each point stands for. Where the strata are the map's classes they are those of Olofsson et al. 2014 (Remote
Sens. Environ. 148:42-57, equations 1-11) and Card 1982 (Photogramm. Eng. Remote Sens. 48:431-439); one stratum is a
simple random sample; clusters drawn first go the same way (`engine.assessment.variance`).

Rows of a matrix are the map, columns the reference, as in those papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.confusion import KAPPA_NOTE
from engine.assessment.intervals import Kind
from engine.assessment.types import CONFIDENCE, Estimate, Sample
from engine.assessment.variance import Weighing

PerClass = dict[int, Estimate]


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What a sample says of a map.

    Attributes:
        classes: Class values, the order of rows and columns.
        counts: (K, K) int64, answered points; rows map, columns reference.
        shares: (K, K) float64, estimated shares of the area, sum 1.
        overall: Share of the area that is mapped right.
        users: Of what is mapped as the class, the share that is the class (precision).
        producers: Of what is the class, the share that is mapped so (recall).
        f1: Harmonic mean of both.
        iou: Intersection over union of class and mapped class.
        area_shares: Share of the area that is the class, whatever the map says ("area-adjusted").
        areas_ha: The same in hectares, of the strata that have points.
        kappa: Only if asked for.
        unanswered: Points left out because nobody answered them.
        notes: What a reader must know of the whole.
    """

    classes: tuple[int, ...]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]
    overall: Estimate
    users: PerClass
    producers: PerClass
    f1: PerClass
    iou: PerClass
    area_shares: PerClass
    areas_ha: PerClass
    kappa: Estimate | None = None
    unanswered: int = 0
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """Answered points."""
        return int(self.counts.sum())

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON, classes as text of their values."""
        per_class = ("users", "producers", "f1", "iou", "area_shares", "areas_ha")
        told: dict[str, Any] = {
            "classes": list(self.classes),
            "points": self.points,
            "unanswered": self.unanswered,
            "counts": self.counts.tolist(),
            "shares": self.shares.tolist(),
            "overall": self.overall.as_json(),
            "notes": list(self.notes),
        }
        for name in per_class:
            told[name] = {str(c): e.as_json() for c, e in getattr(self, name).items()}
        return told | ({"kappa": self.kappa.as_json()} if self.kappa else {})


def accuracy(
    sample: Sample,
    classes: Iterable[int] = (),
    *,
    kind: Kind = "wilson",
    level: float = CONFIDENCE,
    with_kappa: bool = False,
    inside_N: NDArray[np.bool_] | None = None,
) -> Accuracy:
    """Estimate all accuracies and areas from a sample.

    Args:
        sample: Points with their answers, and all strata of the design.
        classes: Values in the order wished for; classes that occur in the sample and are not named come after them.
        kind: Of the intervals.
        level: Of the intervals.
        with_kappa: Estimate Cohen's kappa too.
        inside_N: (N,) points of the sample in a part of the area (a domain); the estimates then speak of that part.

    Raises:
        InputError: If no point has an answer, or the design is not told in full.
    """
    inside = np.ones(len(sample), bool) if inside_N is None else np.asarray(inside_N, bool)
    weighing = Weighing.of(replace(sample, region=inside), kind=kind, level=level)
    classes = tuple(dict.fromkeys((*classes, *sample.classes)))
    table = _Table(weighing, classes)
    shares = table.shares()
    return Accuracy(
        classes=classes,
        counts=table.counts(),
        shares=shares,
        overall=table.overall(),
        users=table.each(table.user),
        producers=table.each(table.producer),
        f1=table.each(table.f1),
        iou=table.each(table.iou),
        area_shares=table.each(table.area),
        areas_ha=table.hectares(whole=inside_N is None),
        kappa=table.kappa(shares) if with_kappa else None,
        unanswered=int(((sample.reference == 0) & inside).sum()),
        notes=tuple(_notes(weighing)),
    )


class _Table:
    """Indicators of each point: mapped as, is, is right; of the points inside the domain."""

    def __init__(self, weighing: Weighing, classes: Sequence[int]) -> None:
        sample = weighing.sample
        assert sample.region is not None
        self.weighing, self.classes = weighing, classes
        self.inside: NDArray[np.bool_] = sample.region
        self.whole = bool(self.inside.all())
        self.mapped, self.reference = sample.mapped, sample.reference
        self.right = (self.mapped == self.reference) & self.inside
        self.stratum_class = np.array([s.mapped for s in weighing.strata])

    def each(self, figure: Callable[[int], Estimate]) -> PerClass:
        return {c: figure(c) for c in self.classes}

    def is_mapped(self, c: int) -> NDArray[np.bool_]:
        return (self.mapped == c) & self.inside

    def is_really(self, c: int) -> NDArray[np.bool_]:
        return (self.reference == c) & self.inside

    def overall(self) -> Estimate:
        return self.weighing.ratio(self.right, self.inside)

    def user(self, c: int) -> Estimate:
        elsewhere = (self.stratum_class != 0) & (self.stratum_class != c)
        return self.weighing.ratio(self.right & self.is_mapped(c), self.is_mapped(c), elsewhere)

    def producer(self, c: int) -> Estimate:
        return self.weighing.ratio(self.right & self.is_really(c), self.is_really(c))

    def f1(self, c: int) -> Estimate:
        both = self.is_mapped(c).astype(np.float64) + self.is_really(c)
        return self.weighing.ratio(2.0 * (self.right & self.is_mapped(c)), both)

    def iou(self, c: int) -> Estimate:
        return self.weighing.ratio(self.right & self.is_mapped(c), self.is_mapped(c) | self.is_really(c))

    def area(self, c: int) -> Estimate:
        return self.weighing.ratio(self.is_really(c), self.inside)

    def hectares(self, *, whole: bool) -> PerClass:
        """Return areas: a share of the known total, or of a part whose size is estimated too (a domain)."""
        if whole:
            return {c: self.area(c).scaled(self.weighing.hectares) for c in self.classes}
        total = self.weighing.hectares
        everywhere = np.ones(len(self.inside))
        return {c: self.weighing.ratio(self.is_really(c), everywhere).scaled(total) for c in self.classes}

    def _index(self, values: NDArray[np.int64]) -> NDArray[np.intp]:
        place = {c: i for i, c in enumerate(self.classes)}
        return np.array([place[int(v)] for v in values[self.inside]], np.intp)

    def _matrix(self, weights: NDArray[Any]) -> NDArray[Any]:
        k = len(self.classes)
        pairs = self._index(self.mapped) * k + self._index(self.reference)
        return np.bincount(pairs, weights=weights[self.inside], minlength=k * k).reshape(k, k)

    def counts(self) -> NDArray[np.int64]:
        return self._matrix(np.ones(len(self.inside))).astype(np.int64)

    def shares(self) -> NDArray[np.float64]:
        matrix = self._matrix(self.weighing.weight)
        total = matrix.sum()
        return matrix / total if total else matrix

    def kappa(self, shares: NDArray[np.float64]) -> Estimate:
        """Estimate Cohen's kappa, linearised (Stehman 1996, Remote Sens. Environ. 58:169-176, for strata)."""
        rows, columns, agree = shares.sum(axis=1), shares.sum(axis=0), float(np.trace(shares))
        chance = float(rows @ columns)
        n = int(self.inside.sum())
        if n == 0 or chance >= 1:
            return Estimate(None, None, None, None, n, "one class only: kappa is not defined")
        value = (agree - chance) / (1 - chance)
        met = np.zeros(len(self.inside))
        met[self.inside] = columns[self._index(self.mapped)] + rows[self._index(self.reference)]
        slope = (self.right * (1 - chance) - (1 - agree) * met) / (1 - chance) ** 2
        base = (agree * (1 - chance) - 2 * chance * (1 - agree)) / (1 - chance) ** 2
        z = np.where(self.inside, slope - base, 0.0) / self.weighing.total(self.inside)
        found = self.weighing.told(value, z, n)
        return replace(found, note="; ".join(filter(None, (found.note, KAPPA_NOTE))))


def _notes(weighing: Weighing) -> Iterable[str]:
    unseen = weighing.unseen
    if unseen:
        total = sum(s.hectares for s in weighing.strata)
        share = sum(s.hectares for s in unseen) / total if total else 0.0
        names = ", ".join(s.name for s in unseen)
        yield f"no answered point in {names} ({share:.1%} of the area): the estimates speak of the rest"
