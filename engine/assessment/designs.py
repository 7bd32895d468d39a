"""How many points, and where: allocation to strata, and the sample size for an error that is aimed at.

- the size for a standard error of the overall accuracy: Cochran 1977, equation 5.25; Olofsson et al. 2014 (Remote
  Sens. Environ. 148:42-57), equation 13;
- the size for a share (a class's user's accuracy): Cochran 1977, equations 4.1 and 4.2;
- clusters: the design effect 1 + (m - 1) rho (Kish 1965, section 5.4; Särndal et al. 1992, section 8.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.assessment.intervals import quantile
from engine.assessment.types import CONFIDENCE
from engine.values.errors import InputError

Rule = Literal["equal", "proportional", "neyman", "rare"]
"""`equal`: as many for each stratum. `proportional`: by size. `neyman`: by size times spread, least variance of one
overall figure (Neyman 1934). `rare`: a fixed number for each rare stratum, the rest by size (Olofsson et al. 2014,
section 5.1.2): good for areas and for user's accuracies of rare classes at once."""

FEWEST = 2
"""Points without which a stratum has no standard error."""

RARE_SHARE = 0.05
"""A stratum with less of the area is rare, where nothing else is said."""

RARE_POINTS = 75
"""For each rare stratum: Olofsson et al. 2014 advise 50 to 100."""


def allocate(
    pixels: Sequence[int],
    n: int,
    rule: Rule = "rare",
    *,
    accuracies: Sequence[float] | None = None,
    rare_points: int = RARE_POINTS,
    rare_share: float = RARE_SHARE,
) -> list[int]:
    """Spread n points over strata; whole numbers that sum to n wherever the strata have room.

    A stratum gets at least two points and at most all its pixels; an empty one gets none.

    Args:
        pixels: Of each stratum.
        n: Points in all.
        rule: See `Rule`.
        accuracies: Expected user's accuracy of each stratum, 0..1; for `neyman`.
        rare_points: For `rare`.
        rare_share: For `rare`.

    >>> allocate([200_000, 150_000, 3_200_000, 6_450_000], 640, rare_points=75)
    [75, 75, 162, 328]
    >>> allocate([200_000, 150_000, 3_200_000, 6_450_000], 641, "proportional")
    [13, 10, 205, 413]

    Raises:
        InputError: If n is too small for the strata, or what a rule needs is missing.
    """
    size = np.asarray(pixels, np.float64)
    least = np.minimum(size, FEWEST)
    if n < least.sum() or size.sum() == 0:
        raise InputError(
            "too few points for the strata",
            where="points",
            found=n,
            limit=f"at least {int(max(least.sum(), 1))}",
        )
    if rule == "rare":
        is_rare = size < rare_share * size.sum()
        least = np.where(is_rare, np.minimum(size, max(rare_points, FEWEST)), least)
        if least.sum() > n:
            raise InputError(
                "rare strata alone need more points",
                where="points",
                found=n,
                limit=f"at least {int(least.sum())}",
                mend="more points, or fewer for each rare stratum",
            )
        return _spread(np.where(is_rare, 0.0, size), n, least, size)
    return _spread(_importance(size, rule, accuracies), n, least, size)


def _importance(
    size: NDArray[np.float64], rule: Rule, accuracies: Sequence[float] | None
) -> NDArray[np.float64]:
    if rule == "equal":
        return (size > 0).astype(np.float64)
    if rule == "proportional":
        return size
    if rule == "neyman":
        if accuracies is None or len(accuracies) != len(size):
            raise InputError(
                "Neyman's allocation needs the accuracy expected in each stratum",
                where="accuracies",
                found=None if accuracies is None else len(accuracies),
                limit=len(size),
            )
        return size * deviations(accuracies)
    raise InputError("unknown rule of allocation", where="rule", found=rule, limit=get_args(Rule))


def _spread(
    importance: NDArray[np.float64], n: int, least: NDArray[np.float64], most: NDArray[np.float64]
) -> list[int]:
    """Spread n by importance between bounds: strata at a bound are fixed, the rest shares what is left."""
    n = min(n, int(most.sum()))
    fixed = np.where(importance > 0, np.nan, least)
    while True:
        free = np.isnan(fixed)
        left = n - np.nansum(fixed)
        want = np.where(free, importance, 0.0)
        want = left * want / want.sum() if want.sum() else want
        over, under = free & (want > most), free & (want < least)
        if over.any():
            fixed = np.where(over, most, fixed)
        elif under.any():
            fixed = np.where(under, least, fixed)
        else:
            break
    whole = np.where(free, np.floor(want), fixed)
    rest = np.where(free, want - whole, -1.0)
    short = n - int(whole.sum())
    # ties of the rest go to the first stratum; what no free stratum can hold goes where there is room
    order = [int(i) for i in np.argsort(-rest, kind="stable") if whole[i] < most[i]]
    while short > 0 and order:
        for i in order:
            if short > 0 and whole[i] < most[i]:
                whole[i] += 1
                short -= 1
        order = [i for i in order if whole[i] < most[i]]
    return [int(v) for v in whole]


def deviations(shares: ArrayLike) -> NDArray[np.float64]:
    """Return the standard deviation of a yes or no that is yes in a share of the cases."""
    p = np.asarray(shares, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("an accuracy is a share", where="accuracies", found=p.tolist(), limit="0..1")
    found: NDArray[np.float64] = np.sqrt(p * (1 - p))
    return found


def size_for_overall(pixels: Sequence[int], accuracies: Sequence[float], standard_error: float) -> int:
    """Return the points that a standard error of the overall accuracy needs, allocated by Neyman's rule.

    The same number serves the area of a class: give the share of each stratum that is the class.

    Args:
        pixels: Of each stratum.
        accuracies: Expected user's accuracy of each stratum.
        standard_error: Aimed at, 0..1.

    The example of Olofsson et al. 2014, section 5.1.1:

    >>> size_for_overall([200_000, 150_000, 3_200_000, 6_450_000], [0.7, 0.6, 0.9, 0.95], 0.01)
    641

    Raises:
        InputError: If the error is not positive, or lengths differ.
    """
    size = np.asarray(pixels, np.float64)
    s = deviations(accuracies)
    if standard_error <= 0 or len(s) != len(size):
        raise InputError(
            "cannot aim at this error", where="standard_error", found=standard_error, limit="above 0"
        )
    w = size / size.sum()
    return max(1, ceil((w @ s) ** 2 / (standard_error**2 + (w @ s**2) / size.sum()) - 1e-9))


def size_for_share(share: float, half_width: float, pixels: int, level: float = CONFIDENCE) -> int:
    """Return the points that an interval `share ± half_width` needs: of one class's user's accuracy, in its stratum.

    Args:
        share: Expected; 0.5 is the worst case.
        half_width: Aimed at, 0..1.
        pixels: Of the stratum.
        level: Of the interval.

    >>> size_for_share(0.5, 0.05, 10**9), size_for_share(0.5, 0.05, 1000)
    (385, 278)

    Raises:
        InputError: If the half width is not positive.
    """
    if half_width <= 0:
        raise InputError("cannot aim at this error", where="half_width", found=half_width, limit="above 0")
    wished = (quantile(level, float("inf")) * float(deviations([share])[0]) / half_width) ** 2
    return min(pixels, max(FEWEST, ceil(wished / (1 + (wished - 1) / pixels) - 1e-9))) if pixels else 0


def clusters_for(points: int, points_each: int, correlation: float) -> int:
    """Return the clusters whose points say as much as so many points drawn singly.

    Args:
        points: That a simple random sample would need.
        points_each: In each cluster.
        correlation: Of errors inside a cluster (rho), 0 = none, 1 = all points of a cluster say the same.

    >>> clusters_for(400, 10, 0.0), clusters_for(400, 10, 0.1), clusters_for(400, 10, 1.0)
    (40, 76, 400)
    """
    if points_each < 1 or not 0 <= correlation <= 1:
        raise InputError(
            "not a design of clusters", where="clusters", found=f"{points_each} points, rho {correlation}"
        )
    return max(FEWEST, ceil(points * (1 + (points_each - 1) * correlation) / points_each - 1e-9))


@dataclass(frozen=True)
class Expected:
    """Standard errors that a design promises if the map is as good as was assumed.

    Attributes:
        overall: Of the overall accuracy.
        users: Of each class's user's accuracy.
        producers: Of each class's producer's accuracy.
        areas: Of each class's share of the area.
    """

    overall: float
    users: tuple[float, ...]
    producers: tuple[float, ...]
    areas: tuple[float, ...]


def expected(pixels: Sequence[int], shares_HK: ArrayLike, points: Sequence[int]) -> Expected:
    """Return the standard errors that points of strata = map classes promise (Olofsson et al. 2014, equations 5-10).

    Args:
        pixels: Of each stratum, the map's classes in order.
        shares_HK: (H, K), the share of stratum h that is expected to be class k; rows sum to 1, H = K.
        points: In each stratum.

    Raises:
        InputError: If rows do not sum to 1, or a stratum has fewer than two points.
    """
    p = np.asarray(shares_HK, np.float64)
    size, n = np.asarray(pixels, np.float64), np.asarray(points, np.float64)
    if p.shape != (len(size), len(size)) or not np.allclose(p.sum(axis=1), 1):
        raise InputError(
            "not shares of the strata", where="shares", found=p.shape, limit="rows that sum to 1"
        )
    if (n < FEWEST).any():
        raise InputError(
            "too few points", where="points", found=list(points), limit=f"at least {FEWEST} each"
        )
    w, rest = size / size.sum(), 1 - n / size
    users = np.diag(p)
    noise = (rest / (n - 1))[:, None] * p * (1 - p)
    area = w @ p
    producers = np.divide(w * users, area, out=np.zeros(len(w)), where=area > 0)
    own = w**2 * (1 - producers) ** 2 * np.diag(noise)
    others = producers**2 * ((w**2) @ noise - w**2 * np.diag(noise))
    spread = np.divide(np.sqrt(own + others), area, out=np.zeros(len(w)), where=area > 0)
    return Expected(
        overall=sqrt(float(w**2 @ np.diag(noise))),
        users=tuple(np.sqrt(np.diag(noise)).tolist()),
        producers=tuple(spread.tolist()),
        areas=tuple(np.sqrt((w**2) @ noise).tolist()),
    )
