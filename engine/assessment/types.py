"""What travels in an assessment: strata, a sample with its answers, an estimate with its interval.

::

    map ── strata (pixels, hectares) ── points drawn ── answers ─► Sample ── estimators ─► Estimate
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.values.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

UNANSWERED = 0
"""Reference class of a point that nobody could or did interpret (the label of no data, never a class)."""

CONFIDENCE = 0.95
"""Share of samples whose intervals hold the truth, where nothing else is asked."""


@dataclass(frozen=True)
class Stratum:
    """One part of the population from which points were drawn by themselves.

    Attributes:
        name: Of the class, region or class-in-region; a simple random sample has one stratum.
        pixels: Of the population, what a point was drawn from; a design weighs with them.
        hectares: What they cover, on the ellipsoid where the caller can say so; shares of area weigh with them.
        clusters: Clusters (primary units) in the stratum, where the design draws clusters first; 0 = it does not.
        mapped: Class value that the map has in the whole stratum; 0 = several, or not known. Lets a stratum with a
            single point leave the user's accuracies of other classes alone.
    """

    name: str
    pixels: int
    hectares: float
    clusters: int = 0
    mapped: int = 0

    def __post_init__(self) -> None:
        if self.pixels < 0 or not self.hectares >= 0:
            raise InputError(
                "a stratum cannot be smaller than nothing",
                where=f"stratum {self.name}",
                found=f"{self.pixels} pixels, {self.hectares} ha",
                limit="0 or more",
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """Points with what the map and the reference say of them, and the strata that they were drawn from.

    A reference of `UNANSWERED` (0) is a point without an answer: `answered` leaves those out.

    Attributes:
        strata: The whole population, in the order that `stratum` counts; also strata without any point.
        stratum: (N,) intp, index into `strata`.
        mapped: (N,) int64, class value of the map at the point; need not be the stratum's class.
        reference: (N,) int64, class value that the interpreter gave, 0 = no answer.
        cluster: (N,) of any kind, names the cluster (primary unit) of the point; None = points are drawn singly.
        cluster_pixels: (N,) int64, pixels of the population in the point's cluster; with `cluster` only.
        weight: (N,) float64, pixels of the population that each point stands for, where points of a stratum were drawn
            with unequal chances (a data set of somebody else's design); None = equal chances, the strata tell.
        region: (N,) of text, the domain in which the point lies, if any was asked for.
        confidence: (N,) float64, 0..1, what the map says of itself at the point; NaN = not known.
        observations: (N,) float64, clear observations at the point; NaN = not known.
    """

    strata: tuple[Stratum, ...]
    stratum: NDArray[np.intp]
    mapped: NDArray[np.int64]
    reference: NDArray[np.int64]
    cluster: NDArray[Any] | None = None
    cluster_pixels: NDArray[np.int64] | None = None
    weight: NDArray[np.float64] | None = None
    region: NDArray[Any] | None = None
    confidence: NDArray[np.float64] | None = None
    observations: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.stratum)
        wrong = {name: len(values) for name, values in self._columns().items() if len(values) != n}
        if wrong:
            raise InputError("columns of a sample differ in length", found=wrong, limit=n)
        if n and not (self.stratum.min() >= 0 and self.stratum.max() < len(self.strata)):
            raise InputError(
                "a point lies in a stratum that is not told",
                where="sample.stratum",
                found=int(self.stratum.max()),
                limit=f"0..{len(self.strata) - 1}",
            )

    def __len__(self) -> int:
        return len(self.stratum)

    def _columns(self) -> dict[str, NDArray[Any]]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "strata"}
        return {name: values for name, values in named.items() if values is not None}

    @classmethod
    def of(
        cls,
        strata: Iterable[Stratum],
        stratum: ArrayLike,
        mapped: ArrayLike,
        reference: ArrayLike,
        **more: ArrayLike | None,
    ) -> Sample:
        """Make a sample of plain columns; strata are given by name or by their number.

        >>> forest = Stratum("forest", 90, 0.9)
        >>> Sample.of([forest, Stratum("field", 10, 0.1)], ["forest", "field"], [1, 2], [1, 1]).stratum.tolist()
        [0, 1]

        Raises:
            InputError: If a stratum is not known, told twice, or columns differ in length.
        """
        strata = tuple(strata)
        return cls(
            strata=strata,
            stratum=_indices(strata, np.asarray(stratum)),
            mapped=np.asarray(mapped, np.int64),
            reference=np.asarray(reference, np.int64),
            **{k: _column(k, v) for k, v in more.items() if v is not None},
        )

    @classmethod
    def from_frame(cls, strata: Iterable[Stratum], frame: pd.DataFrame) -> Sample:
        """Make a sample of a table with the columns `stratum` (names), `mapped`, `reference`, and any others.

        Args:
            strata: All strata of the design.
            frame: Columns named as the fields of this class; those that are not fields are passed over.

        Raises:
            InputError: If a column that is needed is missing, or a stratum is not known.
        """
        known = {f.name for f in fields(cls)} - {"strata"}
        missing = [c for c in ("stratum", "mapped", "reference") if c not in frame]
        if missing:
            raise InputError("the table of points lacks columns", where=", ".join(missing), found=list(frame))
        return cls.of(strata, **{c: frame[c].to_numpy() for c in frame if c in known})

    def to_frame(self) -> pd.DataFrame:
        """Return the points as a table that `from_frame` reads."""
        import pandas as pd

        names = np.array([s.name for s in self.strata], object)
        return pd.DataFrame({**self._columns(), "stratum": names[self.stratum]})

    def where(self, chosen: NDArray[Any]) -> Sample:
        """Return the chosen points (a mask or indices) with the same strata.

        A subset by something else than chance is no sample of the population: estimate domains with
        `engine.assessment.domains`, which keeps all points.
        """
        return replace(self, **{name: values[chosen] for name, values in self._columns().items()})

    def answered(self) -> tuple[Sample, int]:
        """Return the points with an answer, and how many have none.

        To leave them out is right where points miss by chance inside their stratum; it is told, never silent.
        """
        kept = self.reference != UNANSWERED
        return self.where(kept), int(len(self) - kept.sum())

    @property
    def points(self) -> NDArray[np.int64]:
        """Points in each stratum, (H,) int64."""
        return np.bincount(self.stratum, minlength=len(self.strata))

    @property
    def classes(self) -> tuple[int, ...]:
        """Class values that the map or the reference names, rising; no data is none."""
        return tuple(int(v) for v in np.union1d(self.mapped, self.reference) if v != UNANSWERED)


@dataclass(frozen=True)
class Estimate:
    """A figure of the population, how far chance may have moved it, and why something cannot be said.

    Attributes:
        value: The estimate; None where there is nothing to estimate from (no point of the class).
        standard_error: In the unit of the value; None where it cannot be had (one point in a stratum, ...).
        low: Lower end of the interval; None as the standard error.
        high: Upper end of the interval.
        n: Points that it rests on: those that can move the figure (of the class, of the region).
        note: What a reader must know: why there is no standard error, that it is likely too small, ...
    """

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ""

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit (a share of the area to hectares).

        >>> Estimate(0.25, 0.01, 0.23, 0.27, 640).scaled(200).value
        50.0
        """

        def times(part: float | None) -> float | None:
            return None if part is None else part * factor

        return replace(
            self,
            value=times(self.value),
            standard_error=times(self.standard_error),
            low=times(self.low),
            high=times(self.high),
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON; null where nothing can be said."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "note" or self.note}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Estimate:
        """Read what `as_json` wrote."""
        return cls(**{f.name: told[f.name] for f in fields(cls) if f.name in told})

    def line(self, digits: int = 3) -> str:
        """Return the figure with its interval as text.

        >>> Estimate(0.9471, 0.0094, 0.9287, 0.9654, 640).line()
        '0.947 (0.929 to 0.965)'
        >>> Estimate(None, None, None, None, 0, "no point of the class").line()
        '-'
        """
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def _indices(strata: tuple[Stratum, ...], told: NDArray[Any]) -> NDArray[np.intp]:
    if told.dtype.kind in "iu":
        return told.astype(np.intp)
    place = {s.name: i for i, s in enumerate(strata)}
    if len(place) < len(strata):
        raise InputError("strata of one name", where="strata", found=[s.name for s in strata])
    unknown = sorted({str(name) for name in told.tolist()} - set(place))
    if unknown:
        raise InputError("points in strata that the design does not know", found=unknown, limit=list(place))
    return np.array([place[str(name)] for name in told.tolist()], np.intp)


def _column(name: str, values: ArrayLike) -> NDArray[Any]:
    numbers = {"weight", "confidence", "observations"}
    kind = np.int64 if name == "cluster_pixels" else np.float64 if name in numbers else None
    return np.asarray(values, kind)
