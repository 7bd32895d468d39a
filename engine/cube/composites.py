"""Composites: several clear observations of a period become one value per band.

An observation is missing where any of its bands is 0. ``median``, ``mean`` and percentiles take each band
by itself; all other reducers give a pixel whose bands belong together. The kernels stand in `ranks` (each
band by itself), `choices` (one date for all bands) and `geomedian`; this file is their one door.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cube import choices, ranks
from engine.cube.best_pixel import cap_px, score_tables
from engine.cube.geomedian import geometric_median, rounded
from engine.cube.rows import by_rows, sorting_network
from engine.values.errors import InputError
from engine.values.recipe import REDUCERS, BestPixel

_MOST_DATES = 65_536


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a reducer may have to know beside the values.

    Attributes:
        red: Position of red among the bands, None without it.
        nir: Position of the near infrared, None without it.
        days: Days from the middle of the period, per date.
        cloud_distance_px: (time, y, x) uint16 distance to the nearest hidden pixel, capped; None if unknown.
        resolution_m: Size of a pixel in metres.
    """

    red: int | None = None
    nir: int | None = None
    days: tuple[float, ...] = ()
    cloud_distance_px: NDArray[np.uint16] | None = None
    resolution_m: float = 10.0


def composite(
    observations: NDArray[np.uint16],
    reducer: str | BestPixel,
    evidence: Evidence | None = None,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Reduce the dates of one period.

    Args:
        observations: (time, band, y, x) uint16, 0 in any band = missing; dates in order of time.
        reducer: ``median``, ``mean``, ``p0`` .. ``p100`` and ``geomedian`` round half up; ``first``,
            ``medoid``, ``max_ndvi`` and a `BestPixel` give one date's own values, the earliest of equal ones.
        evidence: What ``max_ndvi`` (red, nir) and `BestPixel` (days, cloud distance) need.
        threads: Threads to work in; the values are the same.

    Returns:
        (band, y, x) uint16 with 0 = no data, and the (y, x) uint8 count of clear dates (at most 255).

    Raises:
        InputError: If the reducer is unknown, the evidence it needs is missing, or there are more than
            65536 dates.

    >>> values = np.array([4, 0, 7, 8], np.uint16).reshape(4, 1, 1, 1)
    >>> [int(a.squeeze()) for a in composite(values, "median")]
    [7, 3]
    """
    stack = np.ascontiguousarray(observations)
    n_dates, n_bands, height, width = stack.shape
    if n_dates > _MOST_DATES:
        raise InputError("too many dates in one period", found=n_dates, limit=_MOST_DATES)
    if reducer == "geomedian":
        medians, count = geometric_median(stack, threads)
        return rounded(medians), count
    kernel = _kernel(stack, reducer, evidence or Evidence())
    out = np.zeros((n_bands, height, width), np.uint16)
    count = np.zeros((height, width), np.uint8)
    if n_dates:
        by_rows(partial(kernel, out, count), height, threads)
    return out, count


def _kernel(stack: NDArray[np.uint16], reducer: str | BestPixel, evidence: Evidence) -> Callable[..., None]:
    """Bind a reducer's kernel to all but the arrays that it fills and its rows."""
    if isinstance(reducer, BestPixel):
        return partial(choices.highest_score, stack, _scores(reducer, evidence, stack.shape))
    if reducer == "max_ndvi":
        return partial(choices.max_ndvi, stack, *red_and_nir(evidence))
    if (percent := _percent(reducer)) is not None:
        return partial(ranks.percentile, stack, sorting_network(len(stack), percent), percent)
    simple: dict[str, Any] = {"mean": ranks.mean, "first": choices.first, "medoid": choices.medoid}
    if reducer not in simple:
        known = f"{', '.join(REDUCERS)}, p0..p100 or a BestPixel"
        raise InputError("unknown reducer", where="cube.reducer", found=reducer, limit=known)
    return partial(simple[reducer], stack)


def _percent(reducer: str) -> int | None:
    """Return the percentile that a reducer stands for; the median is the 50th."""
    if reducer == "median":
        return 50
    named = re.fullmatch(r"p(\d{1,2}|100)", reducer)
    return int(named[1]) if named else None


def red_and_nir(evidence: Evidence) -> tuple[int, int]:
    """Return where red and the near infrared stand among the bands.

    Raises:
        InputError: If one of them is not there.
    """
    if evidence.red is None or evidence.nir is None:
        raise InputError(
            "max_ndvi compares red with the near infrared",
            where="cube.bands",
            found=", ".join(b for b in ("red", "nir") if getattr(evidence, b) is not None) or "neither",
            limit="red and nir among the bands",
            mend="add both bands, or choose another reducer",
        )
    return evidence.red, evidence.nir


def _scores(
    best: BestPixel, evidence: Evidence, shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]]:
    """Return what `choices.highest_score` compares, from the evidence."""
    n_dates, _, height, width = shape
    distance = evidence.cloud_distance_px
    if distance is None and best.cloud_weight == 0:
        distance = np.zeros((n_dates, height, width), np.uint16)
    found = f"{len(evidence.days)} days, cloud distance {None if distance is None else distance.shape}"
    if distance is None or distance.shape != (n_dates, height, width) or len(evidence.days) != n_dates:
        raise InputError(
            "the best pixel needs each date's day and its distance from clouds",
            where="cube.reducer",
            found=found,
            limit=f"{n_dates} days, cloud distance {(n_dates, height, width)}",
        )
    tables = score_tables(best, np.array(evidence.days, np.float64), cap_px(best, evidence.resolution_m))
    return *tables, np.ascontiguousarray(distance, np.uint16)
