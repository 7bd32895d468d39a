"""The axis of time that all examples share: the dates of a cube, or the months of series with dates of their own.

::

    cube     every example has the same dates       steps = the dates, in their order
    table    every series has its own dates         steps = months, running on over New Year
    neither  no date is known                       steps = the positions

Shape suffixes: N example, T date, S step.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.days import YEAR_DAYS

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, eq=False)
class Season:
    """Steps of a season.

    Attributes:
        names: Of the steps, in the order of time.
        step: (N, T) int64, the step of each date of each example; -1 = no such date.
        months: (S,) int64, running month of each step (12 a year, 0 = the first January); -1 = not known.
        aligned: Whether the date axis means the same dates in every example.
    """

    names: tuple[str, ...]
    step: NDArray[np.int64]
    months: NDArray[np.int64]
    aligned: bool

    def __len__(self) -> int:
        return len(self.names)

    def cutoffs(self, most: int = 6) -> tuple[int, ...]:
        """Return the last step of each month, thinned evenly to at most so many; the season's last is kept.

        >>> season_of(np.array([[1, 10, 40, 70]])).cutoffs()
        (1, 2, 3)
        """
        ends = [s for s in range(len(self)) if s + 1 == len(self) or self._next_month(s)]
        kept = np.unique(np.linspace(0, len(ends) - 1, min(most, len(ends))).round().astype(int))
        return tuple(ends[i] for i in kept)

    def _next_month(self, step: int) -> bool:
        return self.months[step] < 0 or self.months[step] != self.months[step + 1]

    def summed(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sum over the dates of each step: (N, T, ...) to (N, S, ...); what has no date is left out."""
        found = np.zeros((len(values), len(self), *values.shape[2:]))
        rows, columns = np.nonzero(self.step >= 0)
        np.add.at(found, (rows, self.step[rows, columns]), values[rows, columns])
        return found


def season_of(dates_NT: NDArray[Any], names: tuple[str, ...] | None = None) -> Season:
    """Find the steps that examples share.

    Args:
        dates_NT: Running days (`engine.values.days`), 0 = no such date.
        names: Of the dates of a cube, in the order of its date axis; default day and month. They are used
            where all examples have the same dates.

    >>> season_of(np.array([[60, 32], [0, 32]])).names
    ('1 Feb', '1 Mar')
    >>> season_of(np.array([[60, 32], [50, 33]])).names
    ('Feb', 'Mar')
    """
    days_NT = np.asarray(dates_NT, np.int64)
    if not days_NT.any():
        steps = np.broadcast_to(np.arange(days_NT.shape[1]), days_NT.shape)
        told = names or tuple(f"date {t + 1}" for t in range(days_NT.shape[1]))
        return Season(told, steps, np.full(len(told), -1), aligned=True)
    latest_T = days_NT.max(axis=0, initial=0)
    if ((days_NT == latest_T) | (days_NT == 0)).all():
        return _of_dates(days_NT, latest_T, names)
    months_NT = np.where(days_NT > 0, running_month(days_NT), -1)
    there = np.unique(months_NT[months_NT >= 0])
    step_NT = np.where(months_NT >= 0, np.searchsorted(there, months_NT), -1)
    return Season(_with_year([(_MONTHS[m % 12], m // 12) for m in there]), step_NT, there, aligned=False)


def _of_dates(days_NT: NDArray[np.int64], days_T: NDArray[np.int64], names: tuple[str, ...] | None) -> Season:
    days_S = np.unique(days_T[days_T > 0])
    step_NT = np.where(days_NT > 0, np.searchsorted(days_S, days_NT), -1)
    if names is not None and len(names) == len(days_T) == len(days_S):
        told = tuple(names[t] for t in np.argsort(days_T))
    else:
        told = _with_year([(_day_name(int(d)), (int(d) - 1) // YEAR_DAYS) for d in days_S])
    return Season(told, step_NT, running_month(days_S), aligned=True)


def running_month(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the month of running days, 0 = January of the first year; meaningless for 0.

    In a leap year the last day of a month counts as the first of the next.

    >>> running_month(np.array([1, 31, 32, 366, 367])).tolist()
    [0, 0, 1, 11, 12]
    """
    first = np.array([32, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335])
    return np.searchsorted(first, (days - 1) % YEAR_DAYS + 1, side="right") + (days - 1) // YEAR_DAYS * 12


def _day_name(day: int) -> str:
    date = dt.date(2001, 1, 1) + dt.timedelta(days=min((day - 1) % YEAR_DAYS, 364))
    return f"{date.day} {_MONTHS[date.month - 1]}"


def _with_year(told: list[tuple[str, int]]) -> tuple[str, ...]:
    """Add the number of the year where there is more than one."""
    if len({year for _, year in told}) < 2:
        return tuple(name for name, _ in told)
    return tuple(f"{name} y{year + 1}" for name, year in told)
