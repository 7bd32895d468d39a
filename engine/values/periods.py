"""Periods: how a season is cut into the time steps of a cube.

::

    months          |  Mar  |  Apr  |  May  |        "1MS", "7D", "10D", "1QS": a pandas offset
    windows           [green-up]    [ripe]           fixed days of the year, with gaps
    before harvest      [ 3 ][ 2 ][ 1 ]--30 d-|H     n steps that end some days before harvest
    calendar        one of the above per region of a vector file, the same number of steps in each
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from engine.values.errors import InputError

Span = tuple[dt.date, dt.date]
"""First day and the day after the last."""

_ALIASES = {"1M": "1MS", "MS": "1MS", "month": "1MS", "W": "7D", "week": "7D", "Q": "1QS", "quarter": "1QS"}


def _offset(value: str) -> str:
    alias = _ALIASES.get(value, value)
    try:
        pd.tseries.frequencies.to_offset(alias)
    except ValueError as error:
        raise ValueError(f"period {value!r} is not a pandas offset; use e.g. 1MS, 10D, 1QS") from error
    return alias


def _day_of_year(value: str) -> str:
    try:
        dt.datetime.strptime(f"2000-{value}", "%Y-%m-%d")
    except ValueError as error:
        raise ValueError(f"{value!r} is no day of the year; write MM-DD, e.g. 04-15") from error
    return value


MonthDay = Annotated[str, AfterValidator(_day_of_year)]
Offset = Annotated[str, AfterValidator(_offset)]


class _Periods(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Windows(_Periods):
    """Fixed windows of the year, for each year of the range in which they lie whole.

    Attributes:
        windows: First and last day, both included, as ``MM-DD``; a window may cross New Year.
    """

    kind: Literal["windows"] = "windows"
    windows: tuple[tuple[MonthDay, MonthDay], ...] = Field(min_length=1)

    def spans(self, start: dt.date, end: dt.date) -> list[Span]:
        """Return the windows that lie within ``start..end`` (both inclusive), in order of time.

        >>> Windows(windows=[("11-15", "01-10")]).spans(dt.date(2022, 9, 1), dt.date(2023, 8, 31))
        [(datetime.date(2022, 11, 15), datetime.date(2023, 1, 11))]

        Raises:
            InputError: If no window lies within the range.
        """
        found = []
        for year, (first, last) in itertools.product(range(start.year - 1, end.year + 1), self.windows):
            a = _in_year(year, first)
            b = _in_year(year + (last < first), last)
            if start <= a and b <= end:
                found.append((a, b + dt.timedelta(1)))
        if not found:
            raise InputError(
                "no window lies within the time range",
                where="cube.period.windows",
                found=f"{start}/{end}",
                limit=", ".join("/".join(w) for w in self.windows),
                mend="widen the time range",
            )
        return sorted(found)


class BeforeHarvest(_Periods):
    """Time steps that end some days before harvest, for maps made within the season.

    Attributes:
        harvest: Day of harvest, ``MM-DD``; the last one within the range (or `days_before` after it).
        count: Number of steps.
        step_days: Length of a step in days.
        days_before: Days between the end of the last step and the harvest: the cut-off.
    """

    kind: Literal["before_harvest"] = "before_harvest"
    harvest: MonthDay
    count: int = Field(ge=1, le=100)
    step_days: int = Field(default=10, ge=1, le=366)
    days_before: int = Field(default=30, ge=0, le=366)

    def spans(self, start: dt.date, end: dt.date) -> list[Span]:
        """Return the steps, in order of time.

        >>> BeforeHarvest(harvest="08-01", count=2, step_days=10, days_before=30).spans(
        ...     dt.date(2023, 1, 1), dt.date(2023, 12, 31))[-1]
        (datetime.date(2023, 6, 22), datetime.date(2023, 7, 2))

        Raises:
            InputError: If the steps do not lie within the range.
        """
        latest = end + dt.timedelta(self.days_before + 1)
        days = [_in_year(year, self.harvest) for year in range(start.year, latest.year + 1)]
        harvest = max((d for d in days if d <= latest), default=days[0])
        cut = harvest - dt.timedelta(self.days_before)
        edges = [cut - dt.timedelta(self.step_days * i) for i in range(self.count, -1, -1)]
        if edges[0] < start or cut > end + dt.timedelta(1):
            raise InputError(
                "the steps before harvest do not lie within the time range",
                where="cube.period",
                found=f"{start}/{end}",
                limit=f"{edges[0]}/{cut - dt.timedelta(1)} for the harvest of {harvest}",
                mend="widen the time range, or ask for fewer or shorter steps",
            )
        return list(itertools.pairwise(edges))


class Calendar(_Periods):
    """A crop calendar: other periods for each region of a vector file; each pixel follows its own region.

    Attributes:
        file: Vector file of the regions; a pixel belongs to the first region that holds its centre.
        column: Column with the region's name.
        regions: Region's name to its periods; as many steps in each. Pixels elsewhere have no data.
        sha256: Of the regions' names and outlines, filled in when the cube is planned.
    """

    kind: Literal["calendar"] = "calendar"
    file: str
    column: str = "name"
    regions: tuple[tuple[str, Annotated[Windows | BeforeHarvest, Field(discriminator="kind")]], ...] = Field(
        min_length=1
    )
    sha256: str | None = None

    @field_validator("regions", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, Mapping) else value

    def spans_by_region(self, start: dt.date, end: dt.date) -> dict[str, list[Span]]:
        """Return each region's steps.

        Raises:
            InputError: If regions have different numbers of steps.
        """
        spans = {name: periods.spans(start, end) for name, periods in self.regions}
        counts = {name: len(steps) for name, steps in spans.items()}
        if len(set(counts.values())) > 1:
            raise InputError(
                "the regions of a calendar have different numbers of time steps",
                where="cube.period.regions",
                found=", ".join(f"{k}: {v}" for k, v in counts.items()),
                mend="give each region as many windows",
            )
        return spans


Period = Offset | Annotated[Windows | BeforeHarvest | Calendar, Field(discriminator="kind")]


def spans_of(period: Period, start: dt.date, end: dt.date) -> list[Span]:
    """Cut ``start..end`` (both inclusive) into half-open time steps.

    Calendar offsets begin on the calendar (a month starts on its first day), others on `start`; the first
    and last period are cut to the range. For a `Calendar`, a step spans those of all regions.

    Raises:
        InputError: If the range is empty or the periods do not lie within it.
    """
    if end < start:
        raise InputError("the time range is empty", found=f"{start}/{end}", mend="swap start and end")
    if isinstance(period, str):
        return _by_offset(period, start, end)
    if isinstance(period, Calendar):
        steps = zip(*period.spans_by_region(start, end).values(), strict=True)
        return [(min(a for a, _ in step), max(b for _, b in step)) for step in steps]
    return period.spans(start, end)


def _by_offset(period: str, start: dt.date, end: dt.date) -> list[Span]:
    offset = pd.tseries.frequencies.to_offset(period)
    last = pd.Timestamp(end) + pd.Timedelta(days=1)
    edge = pd.Timestamp(offset.rollback(pd.Timestamp(start)))
    edges = [pd.Timestamp(start)]
    while (edge := pd.Timestamp(edge + offset)) < last:
        if edge > edges[0]:
            edges.append(edge)
    edges.append(last)
    return [(a.date(), b.date()) for a, b in itertools.pairwise(edges)]


def _in_year(year: int, month_day: str) -> dt.date:
    """Return a day of a year; 29 February of a common year is the 28th."""
    month, day = (int(p) for p in month_day.split("-"))
    try:
        return dt.date(year, month, day)
    except ValueError:
        return dt.date(year, month, day - 1)
