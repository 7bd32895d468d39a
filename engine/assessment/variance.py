"""How points count for the population, and how far chance moves what is made of them: one formula for all designs.

Each accuracy and each share of area is a ratio of two totals over the population (Stehman 2014, Int. J. Remote Sens.
35:4923-4939, equations 23-30; Särndal, Swensson and Wretman 1992, section 5.6)::

    R = Y / X,   Y = sum of w y,   X = sum of w x,   V(R) = V(sum of w z),   z = (y - R x) / X

so that one estimator of the variance of a total serves them all:

- points drawn singly, strata h (Cochran 1977, section 5.3): V = sum of A_h² (1 - n_h/N_h) s²_h / n_h;
- clusters drawn first, points in them then (Cochran 1977, equation 11.24; Särndal et al. 1992, result 4.3.1): between
  clusters A² (1 - a/A) s²/a of their estimated totals, plus A/a times the variance inside each cluster;
- points or clusters of unequal weight, as if drawn with replacement (Särndal et al. 1992, section 2.9): V = sum of
  n/(n-1) times the squared deviations of the weighted units of a stratum: a little too large, never too small.

Degrees of freedom after Satterthwaite 1946 (Cochran 1977, equation 5.16); with clusters, no more than those that hold
any of what is estimated leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.assessment.intervals import Kind, around, quantile, wilson
from engine.assessment.types import CONFIDENCE, Estimate, Sample, Stratum
from engine.values.errors import InputError

Floats = NDArray[np.float64]

NO_ERROR = 1e-12
"""A standard error that is rounding only."""

ALIKE = "no interval: no two points of a stratum differ, so that a standard error of 0 says nothing"


@dataclass(frozen=True)
class Spread:
    """Variance of a total, and how well it is known.

    Attributes:
        variance: Of the total; None where a stratum has too few points to say.
        freedom: Degrees of freedom.
        short: Names of the strata that have too few points.
    """

    variance: float | None
    freedom: float
    short: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Weighing:
    """Answered points of a sample with what each stands for.

    Attributes:
        sample: The answered points, in rising order of strata (and clusters).
        kind: Of the intervals.
        level: Of the intervals.
    """

    sample: Sample
    kind: Kind = "wilson"
    level: float = CONFIDENCE

    @classmethod
    def of(cls, sample: Sample, *, kind: Kind = "wilson", level: float = CONFIDENCE) -> Weighing:
        """Weigh the answered points of a sample.

        Raises:
            InputError: If no point has an answer, or a design of clusters does not tell their number or sizes.
        """
        answered, _ = sample.answered()
        if not len(answered):
            raise InputError("no point has an answer", where="sample", found=f"{len(sample)} points")
        _check_clusters(answered)
        keys = (answered.stratum,) if answered.cluster is None else (answered.cluster, answered.stratum)
        return cls(answered.where(np.lexsort(keys)), kind, level)

    @property
    def strata(self) -> tuple[Stratum, ...]:
        """Strata of the sample."""
        return self.sample.strata

    @cached_property
    def unit(self) -> NDArray[np.intp]:
        """Index of the unit that was drawn first (the cluster, else the point), rising, (N,)."""
        s = self.sample
        if s.cluster is None:
            return np.arange(len(s))
        new = np.ones(len(s), bool)
        new[1:] = (s.cluster[1:] != s.cluster[:-1]) | (s.stratum[1:] != s.stratum[:-1])
        return np.cumsum(new) - 1

    @cached_property
    def _first(self) -> NDArray[np.intp]:
        return np.searchsorted(self.unit, np.arange(self.unit[-1] + 1))

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """Units drawn in each stratum, (H,): points, or clusters."""
        return np.bincount(self.sample.stratum[self._first], minlength=len(self.strata))

    @cached_property
    def population(self) -> NDArray[np.int64]:
        """Units in each stratum, (H,): pixels, or clusters."""
        drawn = self.sample.cluster is None
        return np.array([s.pixels if drawn else s.clusters for s in self.strata], np.int64)

    @cached_property
    def _scale(self) -> Floats:
        """Hectares per pixel of each stratum."""
        return np.array([s.hectares / s.pixels if s.pixels else 0.0 for s in self.strata])

    @cached_property
    def weight(self) -> Floats:
        """Hectares that each point stands for, (N,) float64."""
        s, h = self.sample, self.sample.stratum
        if s.weight is not None:
            return np.asarray(s.weight * self._scale[h], np.float64)
        times = self.population[h] / self.units[h]
        if s.cluster is not None and s.cluster_pixels is not None:
            times = times * s.cluster_pixels / np.bincount(self.unit)[self.unit]
        weight: Floats = times * self._scale[h]
        return weight

    @property
    def hectares(self) -> float:
        """Hectares of the strata with points: what the estimates speak of."""
        return float(sum(s.hectares for s, n in zip(self.strata, self.units, strict=True) if n))

    @property
    def unseen(self) -> tuple[Stratum, ...]:
        """Strata of some area without any answered point: no estimate speaks of them."""
        rows = zip(self.strata, self.units, strict=True)
        return tuple(s for s, n in rows if not n and s.pixels)

    def total(self, values_N: ArrayLike) -> float:
        """Return the estimated total over the population, in hectares."""
        return float(np.dot(self.weight, np.asarray(values_N, np.float64)))

    def spread(self, values_N: Floats, still_H: NDArray[np.bool_] | None = None) -> Spread:
        """Return the variance of the estimated total of values.

        Args:
            values_N: (N,) float64.
            still_H: (H,) strata known to hold one value only, which therefore cannot move the total.
        """
        if self.sample.weight is not None:
            part_H, freedom_H = self._weighted(values_N)
        elif self.sample.cluster is None:
            part_H, freedom_H = self._single(values_N)
        else:
            part_H, freedom_H = self._two_stage(values_N)
        part_H = part_H if still_H is None else np.where(still_H, 0.0, part_H)
        part_H = np.where(self.units > 0, part_H, 0.0)
        short = tuple(s.name for s, part in zip(self.strata, part_H, strict=True) if np.isnan(part))
        if short:
            return Spread(None, 0.0, short)
        told = part_H > 0
        loss = float((part_H[told] ** 2 / freedom_H[told]).sum())
        variance = float(part_H.sum())
        return Spread(variance, variance**2 / loss if loss > 0 else float("inf"))

    def _rest(self) -> Floats:
        """Share of units that was not drawn, (H,): the finite population correction."""
        return 1.0 - np.divide(
            self.units, self.population, where=self.population > 0, out=np.ones(len(self.strata))
        )

    def _single(self, values_N: Floats) -> tuple[Floats, Floats]:
        """Return parts of the variance and degrees of freedom of points drawn singly, (H,) each."""
        size_H = self.population * self._scale
        square_H = _squares(values_N, self.sample.stratum, len(self.strata))
        return _between(square_H, self.units, size_H, self._rest())

    def _weighted(self, values_N: Floats) -> tuple[Floats, Floats]:
        """Return parts of the variance and degrees of freedom of units of unequal weight, (H,) each."""
        h_U = self.sample.stratum[self._first]
        total_U = np.asarray(np.bincount(self.unit, weights=values_N * self.weight), np.float64)
        square_H = _squares(total_U * self.units[h_U].astype(np.float64), h_U, len(self.strata))
        ones = np.ones(len(self.strata))
        return _between(square_H, self.units, ones, ones)

    def _two_stage(self, values_N: Floats) -> tuple[Floats, Floats]:
        """Return parts of the variance and degrees of freedom where clusters are drawn first, (H,) each."""
        points_U = np.bincount(self.unit)
        first, h_U = self._first, self.sample.stratum[self._first]
        assert self.sample.cluster_pixels is not None
        pixels_U = self.sample.cluster_pixels[first]
        total_U = np.bincount(self.unit, weights=values_N) / points_U * pixels_U
        size_H = self.population * self._scale
        square_H = _squares(total_U, h_U, len(self.strata))
        inner_U = _inside(_squares(values_N, self.unit, len(points_U)), points_U, pixels_U)
        lone_H = np.bincount(h_U, weights=np.isnan(inner_U), minlength=len(self.strata)) > 0
        rest_H = np.where(lone_H, 1.0, self._rest())  # with replacement where no variance inside is known
        between_H, freedom_H = _between(square_H, self.units, size_H, rest_H)
        inner_H = np.bincount(h_U, weights=np.nan_to_num(inner_U), minlength=len(self.strata))
        times_H = np.divide(self.population, self.units, where=self.units > 0, out=np.zeros(len(self.strata)))
        return between_H + np.where(lone_H, 0.0, times_H * self._scale**2 * inner_H), freedom_H

    def ratio(self, y_N: ArrayLike, x_N: ArrayLike, still_H: NDArray[np.bool_] | None = None) -> Estimate:
        """Estimate a ratio of two totals that lies in 0..1, with standard error and interval.

        Args:
            y_N: (N,) what is above the line, 0 wherever `x_N` is.
            x_N: (N,) what is below it, 0 or more.
            still_H: (H,) strata in which neither can differ from 0.
        """
        y, x = np.asarray(y_N, np.float64), np.asarray(x_N, np.float64)
        n, below = int((x > 0).sum()), self.total(x)
        if below <= 0:
            return Estimate(None, None, None, None, n, "no point to estimate from")
        value = self.total(y) / below
        found, spread = self._deviation(value, (y - value * x) / below, n, still_H)
        if found.standard_error is None:
            return found
        if found.standard_error <= NO_ERROR:
            return self._without_error(found, x, still_H)
        freedom = min(spread.freedom, self._clusters_of(y))
        return self._with_ends(found, self.kind, freedom)

    def told(self, value: float, z_N: Floats, n: int) -> Estimate:
        """Make an estimate of a value that is no share, with a symmetric interval.

        Args:
            value: The estimate.
            z_N: (N,) its linearised variable: what each point adds to the deviation of a total.
            n: Points that the value rests on.
        """
        found, spread = self._deviation(value, z_N, n, None)
        if not found.standard_error or found.standard_error <= NO_ERROR:
            return replace(found, standard_error=found.standard_error and 0.0, note=found.note or ALIKE)
        return self._with_ends(found, "normal" if self.kind == "normal" else "t", spread.freedom)

    def _deviation(
        self, value: float, z_N: Floats, n: int, still_H: NDArray[np.bool_] | None
    ) -> tuple[Estimate, Spread]:
        spread = self.spread(z_N, still_H)
        if spread.variance is None:
            note = f"no standard error: one {self._unit_name} only in {', '.join(spread.short)}"
            return Estimate(value, None, None, None, n, note), spread
        return Estimate(value, float(np.sqrt(spread.variance)), None, None, n), spread

    def _with_ends(self, found: Estimate, kind: Kind, freedom: float) -> Estimate:
        assert found.value is not None
        assert found.standard_error is not None
        low, high = around(found.value, found.standard_error, kind=kind, level=self.level, freedom=freedom)
        return replace(found, low=low, high=high)

    @property
    def _unit_name(self) -> str:
        return "point" if self.sample.cluster is None else "cluster"

    def _clusters_of(self, y_N: Floats) -> float:
        """Return the degrees of freedom that the clusters with any of it leave (Korn and Graubard 1999)."""
        if self.sample.cluster is None:
            return float("inf")
        return max(1.0, len(np.unique(self.unit[y_N > 0])) - 1.0)

    def _without_error(self, found: Estimate, x_N: Floats, still_H: NDArray[np.bool_] | None) -> Estimate:
        """Say what can be said where no two points of a stratum differ."""
        value = found.value or 0.0
        found = replace(found, standard_error=0.0)
        plain = self.sample.cluster is None and self.sample.weight is None
        if plain and (self.units == self.population).all():
            return replace(found, low=value, high=value, note="every pixel was looked at")
        if NO_ERROR < value < 1 - NO_ERROR:
            return replace(found, note=ALIKE)
        if self.sample.cluster is None:
            # as if all that was not seen could hide behind the point that stands for most
            moving = np.ones(len(x_N), bool) if still_H is None else ~still_H[self.sample.stratum]
            alike = self.total(x_N) / (self.weight[moving].max() * x_N.max())
        else:
            alike = float(len(np.unique(self.unit[x_N > 0])))
        low, high = wilson(round(value), alike, quantile(self.level, float("inf")))
        note = f"all {found.n} points say the same: Wilson's interval of {alike:.1f} {self._unit_name}s"
        return replace(found, low=low, high=high, note=note)


def _check_clusters(sample: Sample) -> None:
    if sample.weight is not None and not (sample.weight > 0).all():
        raise InputError(
            "a point stands for some pixels", where="sample.weight", found=float(sample.weight.min())
        )
    if sample.cluster is None or sample.weight is not None:
        return
    if sample.cluster_pixels is None:
        raise InputError(
            "clusters without sizes", where="sample.cluster_pixels", mend="tell pixels of each cluster"
        )
    bare = [s.name for i, s in enumerate(sample.strata) if not s.clusters and (sample.stratum == i).any()]
    if bare:
        raise InputError(
            "number of clusters in the population is not told",
            where=", ".join(bare),
            mend="Stratum(clusters=)",
        )


def _squares(values: Floats, group: NDArray[np.intp], groups: int) -> Floats:
    """Return the sum of squared deviations from the mean in each group, (G,)."""
    n = np.maximum(np.bincount(group, minlength=groups), 1)
    mean = np.bincount(group, weights=values, minlength=groups) / n
    return np.asarray(np.bincount(group, weights=(values - mean[group]) ** 2, minlength=groups), np.float64)


def _between(
    square_H: Floats, n_H: NDArray[np.int64], size_H: Floats, rest_H: Floats
) -> tuple[Floats, Floats]:
    """Return size² · rest · s² / n for each stratum, NaN where n is 1 and more was there to draw; and n - 1."""
    freedom = np.maximum(n_H - 1, 1).astype(np.float64)
    part = size_H**2 * rest_H * square_H / freedom / np.maximum(n_H, 1)
    return np.where((n_H == 1) & (rest_H > 0), np.nan, part), freedom


def _inside(square_U: Floats, points_U: NDArray[np.int64], pixels_U: NDArray[np.int64]) -> Floats:
    """Return the variance of each cluster's estimated total, NaN where one point stands for several pixels."""
    rest = 1 - points_U / pixels_U
    found: Floats = pixels_U**2 * rest * square_U / np.maximum(points_U - 1, 1) / points_U
    return np.where((points_U == 1) & (rest > 0), np.nan, found)
