"""The bootstrap: what estimates would have been had other units been drawn.

Two of them. `bootstrap` draws groups (blocks of a grid, fields) with replacement and adds up what they hold: for scores
of counted pixels, because neighbours are no independent witnesses (Efron 1979, Ann. Stat. 7:1-26). `resampled` keeps
to a sample's design: in each stratum n - 1 of its n units (points, or whole clusters) are drawn with replacement and
weigh n / (n - 1) (Rao and Wu 1988, J. Am. Stat. Assoc. 83:231-241; Rao, Wu and Yue 1992, Surv. Methodol. 18:209-217).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.types import CONFIDENCE, Estimate, Sample
from engine.assessment.variance import Weighing
from engine.values.errors import InputError

REPLICATES = 1000


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


@dataclass(frozen=True)
class Resampled:
    """Figures of a sample with intervals from the bootstrap, one for each class where that makes sense.

    Attributes:
        overall: Share of the area that is mapped right.
        users: Per class.
        producers: Per class.
        f1: Per class.
        iou: Per class.
        area_shares: Per class.
        mean_f1: Over the classes that occur in the reference.
        mean_iou: Over the same.
    """

    overall: Estimate
    users: dict[int, Estimate]
    producers: dict[int, Estimate]
    f1: dict[int, Estimate]
    iou: dict[int, Estimate]
    area_shares: dict[int, Estimate]
    mean_f1: Estimate
    mean_iou: Estimate


def resampled(
    sample: Sample,
    classes: Iterable[int] = (),
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = CONFIDENCE,
) -> Resampled:
    """Bootstrap the accuracies and areas of a sample by its own design; clusters are drawn whole.

    Standard errors are the spread of the replicates, intervals their percentiles. It ignores how large a part of the
    population was drawn, so it errs to the safe side in small ones; a stratum with one unit only never varies.

    Args:
        sample: As `engine.assessment.stratified.accuracy` takes it.
        classes: Values in the order wished for.
        replicates: How often units are drawn.
        seed: Of the draws.
        level: Of the intervals.

    Raises:
        InputError: If no point has an answer, or there are too few replicates.
    """
    if replicates < 2:
        raise InputError("too few replicates for a spread", where="replicates", found=replicates, limit=2)
    weighing = Weighing.of(sample)
    classes = tuple(dict.fromkeys((*classes, *sample.classes)))
    unit_UKK = _unit_matrices(weighing, classes)
    k, flat_UC = len(classes), unit_UKK.reshape(len(unit_UKK), -1)
    rng, at_once = np.random.default_rng(seed), max(1, _NUMBERS // len(flat_UC))
    several = [min(at_once, replicates - done) for done in range(0, replicates, at_once)]
    drawn_RKK = np.concatenate([_times(weighing, n, rng) @ flat_UC for n in several]).reshape(-1, k, k)
    spread, value = _figures(drawn_RKK), _figures(unit_UKK.sum(axis=0)[None])
    n = len(weighing.sample)
    told = {name: _told(value[name][0], spread[name], n, level) for name in value}
    each = {name: dict(zip(classes, rows, strict=False)) for name, rows in told.items()}
    return Resampled(
        overall=told["overall"][0],
        users=each["users"],
        producers=each["producers"],
        f1=each["f1"],
        iou=each["iou"],
        area_shares=each["area_shares"],
        mean_f1=told["mean_f1"][0],
        mean_iou=told["mean_iou"][0],
    )


_NUMBERS = 4_000_000
"""How often a unit was drawn: so many numbers are held at once."""


def _unit_matrices(weighing: Weighing, classes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the weight of each pair of classes in each unit, (U, K, K), map by reference."""
    place, k = {c: i for i, c in enumerate(classes)}, len(classes)
    sample = weighing.sample
    row = np.array([place[int(v)] for v in sample.mapped], np.intp)
    column = np.array([place[int(v)] for v in sample.reference], np.intp)
    units = int(weighing.unit[-1]) + 1
    matrices = np.zeros((units, k, k))
    np.add.at(matrices, (weighing.unit, row, column), weighing.weight)
    return matrices


def _times(weighing: Weighing, replicates: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each unit counts in each replicate, (R, U)."""
    parts = []
    for n in weighing.units:
        if n == 1:
            parts.append(np.ones((replicates, 1)))
        elif n > 1:
            parts.append(rng.multinomial(n - 1, np.full(n, 1 / n), size=replicates) * (n / (n - 1)))
    return np.concatenate(parts, axis=1)


def _figures(matrices_RKK: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return each figure of each matrix, (R, K) or (R, 1); NaN where a class does not occur."""
    hit = np.diagonal(matrices_RKK, axis1=1, axis2=2)
    mapped, real, total = matrices_RKK.sum(axis=2), matrices_RKK.sum(axis=1), matrices_RKK.sum(axis=(1, 2))
    f1, iou = _ratio(2 * hit, mapped + real), _ratio(hit, mapped + real - hit)
    there = real > 0
    several = np.maximum(there.sum(axis=1), 1)
    return {
        "overall": (hit.sum(axis=1) / total)[:, None],
        "users": _ratio(hit, mapped),
        "producers": _ratio(hit, real),
        "f1": f1,
        "iou": iou,
        "area_shares": real / total[:, None],
        "mean_f1": (np.where(there, f1, 0).sum(axis=1) / several)[:, None],
        "mean_iou": (np.where(there, iou, 0).sum(axis=1) / several)[:, None],
    }


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return found


def _told(
    value_K: NDArray[np.float64], drawn_RK: NDArray[np.float64], n: int, level: float
) -> list[Estimate]:
    told = []
    for k, value in enumerate(value_K):
        drawn = drawn_RK[:, k][~np.isnan(drawn_RK[:, k])]
        if np.isnan(value):
            told.append(Estimate(None, None, None, None, n, "no point to estimate from"))
            continue
        low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
        told.append(Estimate(float(value), float(drawn.std(ddof=1)), float(low), float(high), n))
    return told
