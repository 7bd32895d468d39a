"""Gap filling along time, as pure kernels: each pixel from its own other dates, never from its neighbours.

::

    day        0    10    20    30    40    50
    observed   .     4     .     .    10     .
    linear     4     4     6     8    10    10
    flag       2     0     1     1     0     2        0 observed, 1 between two dates, 2 from one side

A date is missing where any of its bands is 0, as in the composites. Before the first and after the last
observation of a pixel nothing is extrapolated: the value of that observation is repeated.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.values.errors import InputError
from engine.values.recipe import GapFill

OBSERVED, BETWEEN, ONE_SIDE, EMPTY = 0, 1, 2, 255
"""Flags: observed; filled between two dates; taken from one side; still no data."""

_MINUTES_A_DAY = 1440
_CODES = {"linear": 0, "nearest": 1, "whittaker": 2}
_NO_LIMIT = 2**62
_SAME_DAY_MIN = 720.0  # two overpasses of one day count as half a day apart in Whittaker's penalty


def fill_gaps(
    values: NDArray[np.uint16], days: ArrayLike, how: GapFill
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Fill the missing dates of each pixel.

    ``linear`` is exact, halves rounded up. ``nearest`` takes the nearer date, the earlier of two equally
    near. ``whittaker`` (Eilers 2003, Anal. Chem. 75:3631) minimises ``sum w (y - z)^2 + smoothness *
    sum (D z)^2`` with w = 1 for observed dates and 0 for others; D are second divided differences in days
    times the squared mean spacing, which on even dates are the plain second differences. Its solution, in
    float64 by a banded Cholesky factorisation in one fixed order, also replaces observed values, rounded
    half up and clipped to 1..65535.

    Args:
        values: (time, band, y, x) uint16, 0 in any band = missing.
        days: (time,) middle days, not falling, any origin; taken to the minute.
        how: Method, longest gap and smoothness. A gap between two observations is as long as their
            distance, at the ends as the distance to the nearest observation.

    Returns:
        (time, band, y, x) uint16 values, 0 in all bands = still no data, and (time, y, x) uint8 flags.

    Raises:
        InputError: If there are not as many days as dates, or days fall.

    >>> values = np.array([0, 4, 0, 0, 10, 0], np.uint16).reshape(6, 1, 1, 1)
    >>> [a.ravel().tolist() for a in fill_gaps(values, [0, 10, 20, 30, 40, 50], GapFill())]
    [[4, 4, 6, 8, 10, 10], [2, 0, 1, 1, 0, 2]]
    """
    out = np.array(values, np.uint16, order="C")
    return out, fill_in_place(out, days, how)


def fill_in_place(values: NDArray[np.uint16], days: ArrayLike, how: GapFill) -> NDArray[np.uint8]:
    """Fill C-ordered values in place and return the flags; see `fill_gaps`."""
    minutes = np.rint(np.asarray(days, np.float64) * _MINUTES_A_DAY).astype(np.int64)
    if minutes.shape != values.shape[:1] or (np.diff(minutes) < 0).any():
        raise InputError(
            "gap filling needs one day per date, in order",
            where="time",
            found=np.asarray(days).tolist(),
            limit=f"{len(values)} days that do not fall",
        )
    flags = np.zeros((values.shape[0], *values.shape[2:]), np.uint8)
    longest = _NO_LIMIT if how.max_gap_days is None else how.max_gap_days * _MINUTES_A_DAY
    if values.size:
        penalty = penalty_rows(minutes / _MINUTES_A_DAY) * np.sqrt(how.smoothness)
        _fill(values, minutes, longest, _CODES[how.method], penalty, flags)
    return flags


def penalty_rows(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows of Whittaker's D: (time - 2, 3) float64 for dates t, t + 1 and t + 2.

    >>> penalty_rows(np.array([0.0, 10.0, 20.0, 30.0])).tolist()
    [[1.0, -2.0, 1.0], [1.0, -2.0, 1.0]]
    """
    steps = np.maximum(np.diff(days), _SAME_DAY_MIN / _MINUTES_A_DAY)
    first, second = steps[:-1], steps[1:]
    scale = 2 * steps.mean() ** 2 if steps.size else 0.0
    both = first + second
    return np.stack([scale / (first * both), -scale / (first * second), scale / (second * both)], axis=-1)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _fill(
    values: NDArray[np.uint16],
    minutes: NDArray[np.int64],
    longest: int,
    code: int,
    penalty: NDArray[np.float64],
    flags: NDArray[np.uint8],
) -> None:
    """Fill row by row; within a row the columns run innermost, so that memory is read in order."""
    n_dates, _, height, width = values.shape
    seen = np.empty((n_dates, width), np.bool_)
    before = np.empty((n_dates, width), np.int32)  # last observed date up to t, -1: none
    after = np.empty((n_dates, width), np.int32)  # first observed date from t on, n_dates: none
    work = np.empty((4, n_dates if code == 2 else 0, width), np.float64)
    for y in range(height):
        if not _look(values, y, seen, before, after) and code != 2:
            continue
        _judge(seen, before, after, minutes, longest, flags[:, y])
        if code == 2:
            _factorise(seen, before, after, penalty, work)
            _smooth(values, y, seen, before, after, flags[:, y], work)
        else:
            _interpolate(values, y, before, after, minutes, code == 1, flags[:, y])


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _look(
    values: NDArray[np.uint16],
    y: int,
    seen: NDArray[np.bool_],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
) -> bool:
    """Find the observed dates of a row and each date's neighbours; tell whether any date is missing."""
    n_dates, n_bands, _, width = values.shape
    seen[:] = True
    for t in range(n_dates):
        for b in range(n_bands):
            for x in range(width):
                seen[t, x] &= values[t, b, y, x] != 0
    gaps = False
    for t in range(n_dates):
        for x in range(width):
            last = before[t - 1, x] if t else np.int32(-1)
            before[t, x] = np.int32(t) if seen[t, x] else last
            gaps |= not seen[t, x]
    for t in range(n_dates - 1, -1, -1):
        for x in range(width):
            following = after[t + 1, x] if t + 1 < n_dates else np.int32(n_dates)
            after[t, x] = np.int32(t) if seen[t, x] else following
    return gaps


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _judge(
    seen: NDArray[np.bool_],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    minutes: NDArray[np.int64],
    longest: int,
    flags: NDArray[np.uint8],
) -> None:
    """Flag each date of a row."""
    n_dates, width = seen.shape
    for t in range(n_dates):
        for x in range(width):
            p, q = before[t, x], after[t, x]
            if seen[t, x]:
                flags[t, x] = OBSERVED
            elif p >= 0 and q < n_dates:
                flags[t, x] = BETWEEN if minutes[q] - minutes[p] <= longest else EMPTY
            elif p >= 0 or q < n_dates:
                gap = minutes[t] - minutes[p] if p >= 0 else minutes[q] - minutes[t]
                flags[t, x] = ONE_SIDE if gap <= longest else EMPTY
            else:
                flags[t, x] = EMPTY


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _interpolate(
    values: NDArray[np.uint16],
    y: int,
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    minutes: NDArray[np.int64],
    nearest: bool,
    flags: NDArray[np.uint8],
) -> None:
    """Fill the flagged dates of a row, linearly or from the nearer date."""
    n_dates, n_bands, _, width = values.shape
    for t in range(n_dates):
        for b in range(n_bands):
            for x in range(width):
                if flags[t, x] == OBSERVED:
                    continue
                if flags[t, x] == EMPTY:
                    values[t, b, y, x] = 0
                    continue
                p, q = before[t, x], after[t, x]
                if p < 0:
                    p = q
                if q == n_dates:
                    q = p
                left, right = minutes[t] - minutes[p], minutes[q] - minutes[t]
                if left + right == 0 or p == q:
                    values[t, b, y, x] = values[p, b, y, x]
                elif nearest:
                    values[t, b, y, x] = values[p if left <= right else q, b, y, x]
                else:
                    # Whole numbers below 2**53, so the quotient's floor is exact
                    span = left + right
                    total = np.int64(values[p, b, y, x]) * right + np.int64(values[q, b, y, x]) * left
                    half_up = np.floor(np.float64(2 * total + span) / np.float64(2 * span))
                    values[t, b, y, x] = np.uint16(half_up)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _factorise(
    seen: NDArray[np.bool_],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    penalty: NDArray[np.float64],
    work: NDArray[np.float64],
) -> None:
    """Factorise a row's systems as L D L' with two sub-diagonals: work[0] = D, work[1], work[2] = L's.

    Only dates from a pixel's first to its last observation are tied together; the others get a 1 on the
    diagonal and nothing else.
    """
    n_dates, width = seen.shape
    main, near, far = work[0], work[1], work[2]
    near[:] = 0.0
    far[:] = 0.0
    for t in range(n_dates):
        for x in range(width):
            inside = before[t, x] >= 0 and after[t, x] < n_dates
            main[t, x] = 0.0 if inside and not seen[t, x] else 1.0
    for t in range(n_dates - 2):
        c0, c1, c2 = penalty[t, 0], penalty[t, 1], penalty[t, 2]
        for x in range(width):
            tied = before[t, x] >= 0 and after[t + 2, x] < n_dates
            w = 1.0 if tied else 0.0
            main[t, x] += w * c0 * c0
            main[t + 1, x] += w * c1 * c1
            main[t + 2, x] += w * c2 * c2
            near[t, x] += w * c0 * c1
            near[t + 1, x] += w * c1 * c2
            far[t, x] += w * c0 * c2
    for t in range(n_dates):
        for x in range(width):
            if t >= 1:
                main[t, x] -= main[t - 1, x] * near[t - 1, x] * near[t - 1, x]
                near[t, x] -= main[t - 1, x] * near[t - 1, x] * far[t - 1, x]
            if t >= 2:
                main[t, x] -= main[t - 2, x] * far[t - 2, x] * far[t - 2, x]
            near[t, x] /= main[t, x]
            far[t, x] /= main[t, x]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _smooth(
    values: NDArray[np.uint16],
    y: int,
    seen: NDArray[np.bool_],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    flags: NDArray[np.uint8],
    work: NDArray[np.float64],
) -> None:
    """Solve a row's systems band by band and write the smooth series."""
    n_dates, n_bands, _, width = values.shape
    main, near, far, z = work[0], work[1], work[2], work[3]
    for b in range(n_bands):
        for t in range(n_dates):
            for x in range(width):
                z[t, x] = np.float64(values[t, b, y, x]) if seen[t, x] else 0.0
                if t >= 1:
                    z[t, x] -= near[t - 1, x] * z[t - 1, x]
                if t >= 2:
                    z[t, x] -= far[t - 2, x] * z[t - 2, x]
        for t in range(n_dates - 1, -1, -1):
            for x in range(width):
                z[t, x] /= main[t, x]
                if t + 1 < n_dates:
                    z[t, x] -= near[t, x] * z[t + 1, x]
                if t + 2 < n_dates:
                    z[t, x] -= far[t, x] * z[t + 2, x]
        for t in range(n_dates):
            for x in range(width):
                flag, source = flags[t, x], t
                if flag == ONE_SIDE:
                    source = before[t, x] if before[t, x] >= 0 else after[t, x]
                rounded = min(max(np.floor(z[source, x] + 0.5), 1.0), 65535.0)
                values[t, b, y, x] = 0 if flag == EMPTY else np.uint16(rounded)
