"""What a sample says of the area of each class in each unit: mapped hectares put right, with an interval.

The sample tells what is really there where the map says i, ``p_ki``; the pixels tell exactly how much of i is mapped
in the unit, ``A_i``. For class k in unit u::

    synthetic   sum over i of A_i p_ki                                       as if the map erred in u as everywhere
    assisted    synthetic + sum over the points in u of w (is k - p_ki)      put right by what was seen in u itself

The second is the generalised regression estimator of a domain (Särndal, Swensson and Wretman 1992, section 10.6) with
the map as auxiliary: free of bias in u whatever the map's errors there, and closer than the points of u alone, because
only residuals ``e = is k - p_ki`` are left to chance. Its variance, with G as it is 1 or 0 (assisted or synthetic), is
that of the total of (result 6.6.1, with the g weights)::

    e_j (G [j in u] + (A_i - G Â_i) / N̂_i)   i: mapped at j;  N̂_i, Â_i: area of i by all points, by those in u

The synthetic estimate has a small error of chance, and a bias that no point in u can tell: its interval speaks of
chance alone, and holds the truth less often than it says where the map errs differently in u (section 10.5 there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.assessment.intervals import Kind, around
from engine.assessment.types import CONFIDENCE, Estimate, Sample
from engine.assessment.variance import Weighing
from engine.values.classes import ClassScheme
from engine.values.errors import InputError

Method = Literal["assisted", "synthetic", "sample"]
"""How an adjusted area was made; `sample`: of the whole map, by the sample's own estimator."""

FEWEST = 30
"""Answered points in a unit from which on it is estimated by itself: below, chance in the unit says more than the
unit, and the standard error of so few points is a guess."""


_MOST_MOVED = 0.01
_NOTHING = 1e-12
_UNSEEN = "the points agree: most of the error is what one point more might tell"


@dataclass(frozen=True)
class ClassArea:
    """The area of a class in a unit, mapped and put right.

    Attributes:
        value: Of the class.
        mapped: Hectares by counting pixels.
        adjusted: Hectares from the sample; None without one.
        method: How.
    """

    value: int
    mapped: float
    adjusted: Estimate | None = None
    method: Method | None = None

    @property
    def bias(self) -> float | None:
        """Hectares that counting pixels says too much (negative: too little)."""
        known = self.adjusted is not None and self.adjusted.value is not None
        return self.mapped - self.adjusted.value if known else None  # type: ignore[operator, union-attr]

    @property
    def bias_share(self) -> float | None:
        """The same as a part of the adjusted area; None where that is 0."""
        return self.bias / self.adjusted.value if self.bias is not None and self.adjusted.value else None  # type: ignore[union-attr]


class UnitEstimator:
    """Puts mapped areas of units right with one sample.

    Args:
        sample: Points with answers, and all strata of the design.
        classes: Class values to estimate; what else occurs in the sample comes after them.
        kind: Of the intervals.
        level: Of the intervals.
        fewest: Answered points from which on a unit is estimated by itself.

    Raises:
        InputError: If no point has an answer, or `fewest` is below 2.
    """

    def __init__(
        self,
        sample: Sample,
        classes: Sequence[int] = (),
        *,
        kind: Kind = "wilson",
        level: float = CONFIDENCE,
        fewest: int = FEWEST,
    ) -> None:
        if fewest < 2:
            raise InputError(
                "a unit needs points of its own", where="fewest", found=fewest, limit="2 or more"
            )
        numbered = replace(sample, region=np.arange(len(sample)))
        self._weighing, self._fewest = Weighing.of(numbered, kind=kind, level=level), fewest
        own = self._weighing.sample
        self.classes = tuple(dict.fromkeys((*classes, *own.classes)))
        assert own.region is not None
        self._number_N: NDArray[np.intp] = own.region
        place = {c: i for i, c in enumerate(self.classes)}
        self._mapped_N = np.array([place.get(int(v), -1) for v in own.mapped], np.intp)
        self._is_NK = own.reference[:, None] == np.array(self.classes)
        self._size_K = self._by_class(self._weighing.weight)
        self._share_KK = self._shares()

    def _by_class(self, weight_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up hectares that points stand for by what is mapped there, (K,)."""
        on = self._mapped_N >= 0  # elsewhere the map has no data
        found = np.bincount(self._mapped_N[on], weight_N[on], minlength=len(self.classes))
        return found.astype(np.float64)

    def _shares(self) -> NDArray[np.float64]:
        """Return what is really there (column) where each class is mapped (row); without points, what is mapped."""
        weight, k = self._weighing.weight, len(self.classes)
        found = np.stack([self._by_class(weight * self._is_NK[:, c]) for c in range(k)], axis=1)
        size = self._size_K[:, None]
        return np.where(size > 0, found / np.where(size > 0, size, 1), np.eye(k))

    def estimate(self, mapped: Mapping[int, float], inside_N: NDArray[np.bool_]) -> list[ClassArea]:
        """Estimate the area of each class in a unit.

        Args:
            mapped: Hectares of each class value that is mapped in the unit, no data left out.
            inside_N: (N,) points of the sample, as it was given, that lie in the unit.

        Returns:
            One for each of `classes`, and one for each other value that is mapped, without an estimate.

        Raises:
            InputError: If the points are another number.
        """
        inside = np.asarray(inside_N, bool)
        if inside.shape != (self._number_N.max(initial=-1) + 1,) and len(inside) <= self._number_N.max(
            initial=-1
        ):
            raise InputError("points and sample differ in number", where="inside_N", found=inside.shape)
        inside = inside[self._number_N] & (self._mapped_N >= 0)
        area_K = np.array([mapped.get(c, 0.0) for c in self.classes])
        assisted = int(inside.sum()) >= self._fewest
        rows = self._rows(area_K, inside, assisted=assisted)
        method: Method = "assisted" if assisted else "synthetic"
        found = [ClassArea(c, mapped.get(c, 0.0), rows[i], method) for i, c in enumerate(self.classes)]
        return found + [ClassArea(c, ha) for c, ha in mapped.items() if c not in self.classes]

    def _rows(
        self, area_K: NDArray[np.float64], inside_N: NDArray[np.bool_], *, assisted: bool
    ) -> list[Estimate]:
        """Estimate each class: hectares in the unit."""
        total, on = float(area_K.sum()), self._mapped_N >= 0
        n = int(inside_N.sum())
        if total <= 0:
            return [Estimate(0.0, 0.0, 0.0, 0.0, n, "nothing is mapped here") for _ in self.classes]
        weight, drawn = self._weighing.weight, float(assisted)
        own_K = self._by_class(weight * inside_N)
        size_K = np.where(self._size_K > 0, self._size_K, 1.0)
        g_N = drawn * inside_N + np.where(on, ((area_K - drawn * own_K) / size_K)[self._mapped_N], 0.0)
        residual_NK = np.where(on[:, None], self._is_NK - self._share_KK[self._mapped_N], 0.0)
        value_K = area_K @ self._share_KK + drawn * ((weight * inside_N) @ residual_NK)
        counted = n if assisted else int(on.sum())
        note = self._note(area_K)
        unseen_K = self._unseen(g_N) / total**2
        told = (
            self._told(float(value_K[c]) / total, residual_NK[:, c] * g_N / total, unseen_K[c], counted)
            for c in range(len(self.classes))
        )
        return [replace(t, note=_joined(t.note, note)).scaled(total) for t in told]

    def _unseen(self, g_N: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the variance of what no point has seen, hectares squared, (K,).

        Where all n points of a mapped class agree on a class, their residuals are 0, and so is their part of the
        variance: an interval of hardly any width around a figure that a few more points would move. In its place
        stands the variance as if one point more had been divided evenly among the K classes (the prior of Perks
        1947, J. Inst. Actuaries 73:285-334; for two classes Jeffreys').
        """
        on, k = self._mapped_N >= 0, len(self.classes)
        n_K1 = np.bincount(self._mapped_N[on], minlength=k)[:, None]
        part_KK = np.where(np.eye(k), (k - 1) / k, 1 / k) / (n_K1 + 1.0)
        agree_KK = (self._share_KK <= _NOTHING) | (self._share_KK >= 1 - _NOTHING)
        squared_K = self._by_class((self._weighing.weight * g_N) ** 2)
        return np.asarray(squared_K @ (agree_KK * part_KK * (1 - part_KK)))

    def _told(self, share: float, z_N: NDArray[np.float64], unseen: float, n: int) -> Estimate:
        """Make an estimate of a share of the unit, kept within 0..1.

        The interval is Student's t with no more degrees of freedom than the points leave: what is added to the map's
        own figure is no share of points, for which Wilson's would be made.

        Args:
            share: The estimate; chance may have carried it beyond 0..1.
            z_N: (N,) what each point adds to its deviation.
            unseen: Variance of what no point has seen.
            n: Points that it rests on.
        """
        spread, w = self._weighing.spread(z_N), self._weighing
        possible = -_NOTHING <= share <= 1 + _NOTHING
        value, note = min(1.0, max(0.0, share)), "" if possible else "kept within the unit's area"
        if spread.variance is None:
            lone = f"no standard error: one point only in {', '.join(spread.short)}"
            return Estimate(value, None, None, None, n, _joined(lone, note))
        error = float(np.sqrt(spread.variance + unseen))
        note = _joined(note, _UNSEEN if unseen > spread.variance else "")
        if error <= _NOTHING:
            return Estimate(value, 0.0, value, value, n, _joined("nothing of it is mapped here", note))
        kind: Kind = "normal" if w.kind == "normal" else "t"
        low, high = around(
            share, error, kind=kind, level=w.level, freedom=max(1.0, min(spread.freedom, n - 1.0))
        )
        return Estimate(value, error, min(1.0, max(0.0, low)), min(1.0, max(0.0, high)), n, note)

    def _note(self, area_K: NDArray[np.float64]) -> str:
        """Say which mapped classes no point speaks of."""
        bare = [
            str(c) for c, a, n in zip(self.classes, area_K, self._size_K, strict=True) if a > 0 and n <= 0
        ]
        return f"no point where the map says {', '.join(bare)}: taken as mapped" if bare else ""


def require_same_map(assessed: Mapping[int, int], found: Mapping[int, int]) -> list[str]:
    """Refuse a sample of another map than the one that was measured; return what to say of a small difference.

    Args:
        assessed: Pixels of each class when the sample was judged.
        found: Pixels of each class now.

    Raises:
        InputError: If more than a hundredth of the pixels are of another class.
    """
    total = sum(assessed.values())
    moved = sum(abs(assessed.get(v, 0) - found.get(v, 0)) for v in {*assessed, *found}) / 2
    share = moved / total if total else 1.0
    if share > _MOST_MOVED:
        raise InputError(
            "the assessment is of another map",
            where="pixels of each class",
            found=dict(sorted(found.items())),
            limit=dict(sorted(assessed.items())),
            mend="assess this map (landweave assess run), or name the one that was assessed (--store map)",
        )
    return [f"since the assessment {share:.2%} of the pixels have changed their class"] if moved else []


def classes_of(scheme: ClassScheme, assessed: ClassScheme) -> tuple[ClassScheme, dict[int, int]]:
    """Return the scheme that areas are told in, and the value there of each class of the map.

    It is the map's own, or, where the assessment was made of the classes' parents, the one a level up.

    Args:
        scheme: Of the map.
        assessed: Of the assessment.

    Raises:
        InputError: If the assessment is of other classes.
    """
    wanted = {(c.value, c.name) for c in assessed.classes}
    if wanted <= {(c.value, c.name) for c in scheme.classes}:
        return scheme, {v: v for v in scheme.values}
    broader, table = scheme.broader()
    if wanted <= {(c.value, c.name) for c in broader.classes}:
        return broader, table
    raise InputError(
        "the assessment is of other classes than the map",
        where="classes",
        found=", ".join(f"{v} {n}" for v, n in sorted(wanted)),
        limit=", ".join(f"{c.value} {c.name}" for c in scheme.classes),
        mend="name the map that was assessed, or give its class scheme (--classes)",
    )


def _joined(*notes: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, notes)))


def points_in(geometry: Any, crs: str, xy_N2: NDArray[np.float64], points_crs: str) -> NDArray[np.bool_]:
    """Tell which points lie in a unit, (N,) bool.

    Args:
        geometry: Shapely polygons.
        crs: Of the geometry.
        xy_N2: (N, 2) x and y, or longitude and latitude.
        points_crs: Of the points.

    Raises:
        InputError: If only a ballpark transformation is known between the two.
    """
    import shapely

    from engine.archive.warp import require_transform, same_crs

    if not same_crs(points_crs, crs):
        from pyproj import Transformer

        require_transform(points_crs, crs)
        moved = Transformer.from_crs(points_crs, crs, always_xy=True)
        xy_N2 = np.column_stack(moved.transform(xy_N2[:, 0], xy_N2[:, 1]))
    shapely.prepare(geometry)
    return np.asarray(shapely.contains_xy(geometry, xy_N2[:, 0], xy_N2[:, 1]))
