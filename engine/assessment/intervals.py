"""From an estimate and its standard error to an interval that holds the truth as often as it says.

Shares near 0 or 1 are skewed: `value ± 1.96 · standard error` leaves 0..1 there and covers too seldom. The default is
Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209-212) with the effective number of points that gives
the same variance under simple random sampling (Kott and Carr 1997, J. Off. Stat. 13:349-357; Korn and Graubard 1998,
Surv. Methodol. 24:193-201), and Student's t in place of the normal quantile.
"""

from __future__ import annotations

from math import exp, isfinite, log, sqrt
from typing import Literal, get_args

from scipy.special import ndtri, stdtrit

from engine.assessment.types import CONFIDENCE
from engine.values.errors import InputError

Kind = Literal["wilson", "logit", "t", "normal"]
"""`wilson`: see above. `logit`: t interval on the logit scale. `t`: symmetric with Student's t. `normal`: symmetric
with the normal quantile, as in the tables of Olofsson et al. 2014; may leave 0..1."""


def quantile(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t, the normal one for endless degrees of freedom.

    >>> round(quantile(0.95, float("inf")), 6)
    1.959964

    Raises:
        InputError: If the level is not inside 0..1.
    """
    if not 0 < level < 1:
        raise InputError("not a level of confidence", where="level", found=level, limit="between 0 and 1")
    side = (1 + level) / 2
    return float(stdtrit(freedom, side)) if isfinite(freedom) else float(ndtri(side))


def around(
    value: float,
    standard_error: float,
    *,
    kind: Kind = "wilson",
    level: float = CONFIDENCE,
    freedom: float = float("inf"),
) -> tuple[float, float]:
    """Return both ends of the interval of a share with a standard error above 0.

    Args:
        value: Of the share, 0..1 (any number for `t` and `normal`).
        standard_error: Above 0.
        kind: See `Kind`.
        level: Of confidence.
        freedom: Degrees of freedom of the standard error.

    >>> low, high = around(0.5, 0.05, kind="normal")
    >>> round(low, 3), round(high, 3)
    (0.402, 0.598)

    Raises:
        InputError: If the kind or the level is not known.
    """
    if kind not in get_args(Kind):
        raise InputError("unknown kind of interval", where="interval", found=kind, limit=get_args(Kind))
    z = quantile(level, float("inf") if kind == "normal" else freedom)
    if kind in ("t", "normal") or not 0 < value < 1:
        return value - z * standard_error, value + z * standard_error
    if kind == "wilson":
        return wilson(value, value * (1 - value) / standard_error**2, z)
    half, place = z * standard_error / (value * (1 - value)), log(value / (1 - value))
    return 1 / (1 + exp(-(place - half))), 1 / (1 + exp(-(place + half)))


def wilson(value: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share that was seen among `n` points.

    Args:
        value: 0..1.
        n: Points, also an effective number of them.
        z: Quantile.

    >>> [round(end, 4) for end in wilson(1.0, 50, 1.96)]
    [0.9286, 1.0]
    """
    middle = value + z * z / (2 * n)
    half = z * sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
