"""Days as networks meet them: the day of the year, running on over New Year.

::

    date          2023-11-01   2023-12-31   2024-01-01   2024-03-01   2025-01-01
    running day          305          365          367          427          733      = day of the year + 366 x years

Each year has 366 places, so that the day of the year is exact (``(running - 1) % 366 + 1``) and later dates
always have larger numbers. 0 = no date.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

YEAR_DAYS = 366
"""Places of a year, and the period of encodings by sine and cosine."""


def running_days(times: NDArray[Any]) -> NDArray[np.int16]:
    """Return the running day of each date.

    Args:
        times: (..., time) datetime64 of any unit; NaT = no date.

    Returns:
        (..., time) int16: day of the year, plus 366 for each year after the earliest date's of the same
        series; 0 for NaT.

    >>> running_days(np.array(["2023-11-01", "2024-01-01", "NaT", "2025-01-01"], "datetime64[D]")).tolist()
    [305, 367, 0, 733]
    """
    days = np.asarray(times, "datetime64[D]")
    known = ~np.isnat(days)
    filled = np.where(known, days, np.datetime64("1970-01-01"))
    years = filled.astype("datetime64[Y]")
    of_year = (filled - years.astype("datetime64[D]")).astype(np.int64) + 1
    number = years.astype(np.int64)
    first = np.where(known, number, np.iinfo(np.int64).max).min(
        axis=-1, keepdims=True, initial=np.iinfo(np.int64).max
    )
    return np.where(known, of_year + YEAR_DAYS * (number - np.where(known, first, number)), 0).astype(
        np.int16
    )


def day_of_year(running: NDArray[Any]) -> NDArray[np.int16]:
    """Return the day of the year, 1..366, of running days; 0 stays 0.

    >>> day_of_year(np.array([305, 367, 0, 733])).tolist()
    [305, 1, 0, 1]
    """
    running = np.asarray(running)
    return np.where(running > 0, (running - 1) % YEAR_DAYS + 1, 0).astype(np.int16)
