"""Crop calendars: when each crop stands in each region.

::

    regions: regions.gpkg      # vector file of the regions
    column: name               # column with the region's name
    seasons:
      - {region: Fergana, crop: cotton, start: 04-10, end: 10-20}
      - {region: Fergana, crop: wheat, start: 10-01, end: 06-30}    # over New Year
      - {crop: wheat, start: 10-15, end: 07-10}                     # in all other regions

The same calendar says which labels are out of season, cuts series to a crop's season, and gives a cube its
periods (`CropCalendar.periods`).
"""

from __future__ import annotations

import datetime as dt
import itertools
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.values.errors import InputError
from engine.values.periods import Calendar, MonthDay, Span, Windows

if TYPE_CHECKING:
    import geopandas as gpd


class CropSeason(BaseModel):
    """The season of one crop in one region.

    Attributes:
        crop: Name of the crop: a class, or what the labels' source calls it; None: all others.
        region: Name of the region; None: all others.
        start: First day, ``MM-DD``.
        end: Last day, ``MM-DD``; before `start` it lies in the next year.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    crop: str | None = None
    region: str | None = None
    start: MonthDay
    end: MonthDay

    def span(self, year: int) -> Span:
        """Return the season that begins in a year: its first day and the day after its last.

        >>> CropSeason(crop="wheat", start="10-01", end="06-30").span(2020)
        (datetime.date(2020, 10, 1), datetime.date(2021, 7, 1))
        """
        first = dt.date(year, 1, 1)
        last = dt.date(year + 1 + (self.end < self.start), 12, 31)
        spans = Windows(windows=((self.start, self.end),)).spans(first, last)
        return next(s for s in spans if s[0].year == year)


class CropCalendar(BaseModel):
    """Seasons by region and crop; the closest entry counts: region and crop, crop, region, neither.

    Attributes:
        seasons: The entries.
        regions: Vector file of the regions.
        column: Its column with the region's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seasons: tuple[CropSeason, ...] = Field(min_length=1)
    regions: str | None = None
    column: str = "name"

    @classmethod
    def from_file(cls, path: str | Path) -> CropCalendar:
        """Read a calendar from YAML, or from a CSV with columns crop, region, start, end.

        A relative `regions` starts at the file's folder.

        Raises:
            InputError: If it cannot be read or is no calendar.
        """
        path = Path(path)
        try:
            found = cls.model_validate(_rows(path) if path.suffix == ".csv" else _mapping(path))
        except (OSError, ValidationError, yaml.YAMLError, ValueError) as error:
            raise InputError("not a crop calendar", where=str(path), found=str(error)) from error
        if found.regions and not Path(found.regions).is_absolute():
            return found.model_copy(update={"regions": str(path.parent / found.regions)})
        return found

    def season(self, crop: str | None = None, region: str | None = None) -> CropSeason | None:
        """Return the closest entry for a crop in a region, None without any."""
        wanted = ((crop, region), (crop, None), (None, region), (None, None))
        table = {(s.crop, s.region): s for s in reversed(self.seasons)}
        return next((table[key] for key in wanted if key in table), None)

    def span(self, crop: str | None, region: str | None, day: dt.date) -> Span | None:
        """Return the season of a crop that is nearest to a day; None without an entry.

        >>> calendar = CropCalendar(seasons=[CropSeason(crop="wheat", start="10-01", end="06-30")])
        >>> calendar.span("wheat", "Fergana", dt.date(2021, 5, 3))
        (datetime.date(2020, 10, 1), datetime.date(2021, 7, 1))
        """
        entry = self.season(crop, region)
        if entry is None:
            return None
        spans = [entry.span(year) for year in (day.year - 1, day.year, day.year + 1)]
        return min(spans, key=lambda s: max(s[0] - day, day - s[1] + dt.timedelta(1), dt.timedelta(0)))

    def periods(self, crop: str | None, step_days: int) -> Calendar:
        """Return the periods of a cube that follows a crop through each region's season, step by step.

        All regions get as many steps as the shortest season has; longer ones end earlier.

        Args:
            crop: The crop; None for entries of all crops.
            step_days: Length of a step in days.

        Raises:
            InputError: If no regions' file is named, or a season is shorter than a step.
        """
        regions = {s.region: self.season(crop, s.region) for s in self.seasons if s.region}
        if self.regions is None or not regions:
            raise InputError(
                "a calendar of periods needs regions", where="calendar", mend="name regions: FILE"
            )
        spans = {name: entry.span(2001) for name, entry in regions.items() if entry}
        steps = min((end - start).days for start, end in spans.values()) // step_days
        if steps < 1:
            raise InputError("a season is shorter than a step", where="calendar", limit=f"{step_days} days")
        cut = {name: Windows(windows=_steps(start, steps, step_days)) for name, (start, _) in spans.items()}
        return Calendar(file=self.regions, column=self.column, regions=tuple(cut.items()))

    def seasons_at(
        self, places: gpd.GeoSeries, crops: NDArray[Any], days: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the first and last day of each label's own season, nearest to its day.

        Args:
            places: Geometry of the labels; the region holds a point of it.
            crops: (n,) names.
            days: (n,) datetime64.

        Returns:
            Two (n,) datetime64[D], NaT where the calendar has no entry or the label no day.
        """
        regions = self.regions_of(places)
        first, last = (np.full(len(crops), np.datetime64("NaT"), "datetime64[D]") for _ in range(2))
        for i, (crop, region, day) in enumerate(
            zip(crops, regions, days.astype("datetime64[D]"), strict=True)
        ):
            span = None if np.isnat(day) else self.span(str(crop), region, day.item())
            if span:
                first[i], last[i] = span[0], span[1] - dt.timedelta(1)
        return first, last

    def regions_of(self, places: gpd.GeoSeries) -> list[str | None]:
        """Return the region of each geometry: that of a point of it; None outside all, or without regions."""
        if self.regions is None:
            return [None] * len(places)
        import geopandas as gpd

        regions = self._regions.to_crs(places.crs)
        points = gpd.GeoDataFrame(
            geometry=places.representative_point().reset_index(drop=True), crs=places.crs
        )
        found = gpd.sjoin(points, regions, how="left", predicate="within")
        names = found[~found.index.duplicated()][self.column]
        return [None if value != value or value is None else str(value) for value in names]

    @cached_property
    def _regions(self) -> gpd.GeoDataFrame:
        import geopandas as gpd

        try:
            return gpd.read_file(self.regions, columns=[self.column])[[self.column, "geometry"]]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError("cannot read the regions of a calendar", where=str(self.regions)) from error


def _steps(start: dt.date, steps: int, step_days: int) -> tuple[tuple[str, str], ...]:
    edges = [start + dt.timedelta(step_days * i) for i in range(steps + 1)]
    return tuple((f"{a:%m-%d}", f"{b - dt.timedelta(1):%m-%d}") for a, b in itertools.pairwise(edges))


def _mapping(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _rows(path: Path) -> dict[str, Any]:
    import pandas as pd

    rows = pd.read_csv(path, dtype=str, comment="#").replace({np.nan: None})
    return {"seasons": rows.to_dict("records")}
