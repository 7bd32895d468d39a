"""Areas as an agency hands them on: rows, tables, JSON and a layer of units with their hectares."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.assessment.areas import ZoneArea
from engine.assessment.sheets import Sheet
from engine.assessment.types import Estimate
from engine.assessment.unit_areas import ClassArea
from engine.values.classes import ClassScheme

SCHEMA = "landweave/areas/1"

_MOST_ROWS = 60  # of units on a console; files have all

LIMITS = (
    "synthetic: too few points in the unit, so the map is taken to err there as it does everywhere. The interval "
    "speaks of chance alone; where the unit is unlike the whole, it holds the truth far less often than it says."
)


@dataclass(frozen=True, eq=False)
class UnitAreas:
    """A unit with the area of each class in it.

    Attributes:
        area: What the pixels say.
        classes: One for each class, mapped and put right.
        points: Answered points of the sample in the unit; None without an assessment.
        geometry: The unit's polygons in the report's CRS of units; None of the whole map.
    """

    area: ZoneArea
    classes: tuple[ClassArea, ...]
    points: int | None = None
    geometry: Any = None


@dataclass(frozen=True, eq=False)
class AreaReport:
    """All that was measured.

    Attributes:
        map: The map.
        crs: Of the map.
        scheme: Its classes.
        whole: The whole map as one unit.
        units: In the order of the file; those that do not touch the map are left out.
        units_crs: Of the units' geometries.
        missed: Names of units that lie off the map.
        level: Of the intervals; None without an assessment.
        notes: What a reader must know.
    """

    map: str
    crs: str
    scheme: ClassScheme
    whole: UnitAreas
    units: tuple[UnitAreas, ...] = ()
    units_crs: str = ""
    missed: tuple[str, ...] = ()
    level: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def adjusted(self) -> bool:
        """Whether a sample put the areas right."""
        return self.level is not None

    def name_of(self, value: int) -> str:
        """Return the name of a class value."""
        names = dict(zip(self.scheme.values, self.scheme.names, strict=True))
        return names.get(value, str(value))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each unit and class, the whole map last, hectares rounded to a square metre."""
        for unit in (*self.units, self.whole):
            for own in unit.classes:
                yield {"unit": unit.area.name, **self._row(unit, own)}

    def _row(self, unit: UnitAreas, own: ClassArea) -> dict[str, Any]:
        mapped = unit.area.mapped
        row: dict[str, Any] = {
            "value": own.value,
            "class": self.name_of(own.value),
            "mapped_ha": round(own.mapped, 4),
            "mapped_percent": round(100 * own.mapped / mapped, 4) if mapped else None,
        }
        if not self.adjusted:
            return row
        told = own.adjusted or Estimate(None, None, None, None, 0, "no class of the assessment")
        share = own.bias_share
        return row | {
            "adjusted_ha": _round(told.value),
            "standard_error_ha": _round(told.standard_error),
            "low_ha": _round(told.low),
            "high_ha": _round(told.high),
            "method": own.method,
            "points": told.n,
            "pixel_count_bias_ha": _round(own.bias),
            "pixel_count_bias_percent": None if share is None else round(100 * share, 3),
            "note": told.note,
        }

    def csv(self) -> str:
        """Return all rows as CSV with a header."""
        rows, out = list(self.rows()), io.StringIO()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return out.getvalue()

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "schema": SCHEMA,
            "map": self.map,
            "crs": self.crs,
            "level": self.level,
            "notes": list(self.notes),
            "classes": [{"value": c.value, "name": c.name, "colour": c.colour} for c in self.scheme.classes],
            "whole": self._unit(self.whole),
            "units": [self._unit(unit) for unit in self.units],
            "off_the_map": list(self.missed),
        }

    def _unit(self, unit: UnitAreas) -> dict[str, Any]:
        return {
            "name": unit.area.name,
            **_surface(unit.area),
            "off": unit.area.off,
            **({} if unit.points is None else {"points": unit.points}),
            "classes": [self._row(unit, own) for own in unit.classes],
        }

    def frame(self) -> Any:
        """Return a GeoDataFrame: a row for each unit, with the hectares of each class, and those adjusted."""
        import geopandas as gpd

        rows = []
        for unit in self.units:
            row: dict[str, Any] = {"name": unit.area.name, **_surface(unit.area)}
            for own in unit.classes:
                name = self.name_of(own.value)
                row[f"{name}_ha"] = own.mapped
                if self.adjusted:
                    told = own.adjusted
                    row[f"{name}_adjusted_ha"] = None if told is None else told.value
                    row[f"{name}_low_ha"] = None if told is None else told.low
                    row[f"{name}_high_ha"] = None if told is None else told.high
                    row[f"{name}_method"] = own.method
            rows.append(row)
        shapes = [unit.geometry for unit in self.units]
        frame = gpd.GeoDataFrame(rows, geometry=shapes, crs=self.units_crs)
        numbers = [c for c in frame if str(c).endswith("_ha")]
        return frame.astype(dict.fromkeys(numbers, "float64"))  # a column without any number too

    def sheets(self) -> list[Sheet]:
        """Return the tables for people: the whole map, the units, classes in units."""
        found = [self._whole_sheet()]
        if self.units:
            found += [self._units_sheet(), self._classes_sheet()]
        return found

    def _whole_sheet(self) -> Sheet:
        columns: tuple[str, ...] = ("class", "mapped ha", "%")
        if self.adjusted:
            columns += ("adjusted ha", f"{self.level:.0%} interval", "pixel count bias ha", "bias %")
        rows = [self._cells(self.whole, own) for own in self.whole.classes]
        area = self.whole.area
        note = f"{hectares(area.mapped)} ha with a class, {hectares(area.no_data)} ha of the store without"
        return Sheet("Whole map", columns, tuple(rows), note)

    def _units_sheet(self) -> Sheet:
        columns: tuple[str, ...] = (
            "unit",
            "unit ha",
            "mapped ha",
            "no data ha",
            "off the map ha",
            "covered %",
        )
        columns += ("points",) if self.adjusted else ()
        rows = [
            (
                unit.area.name,
                *map(hectares, (unit.area.hectares, unit.area.mapped, unit.area.no_data, unit.area.outside)),
                _percent(100 * unit.area.covered),
                *((str(unit.points),) if self.adjusted else ()),
            )
            for unit in self.units[:_MOST_ROWS]
        ]
        return Sheet("Units", columns, tuple(rows), self._rest())

    def _classes_sheet(self) -> Sheet:
        columns: tuple[str, ...] = ("unit", "class", "mapped ha", "%")
        if self.adjusted:
            columns += ("adjusted ha", f"{self.level:.0%} interval", "pixel count bias ha", "bias %", "how")
        rows = [
            ("" if i else unit.area.name, *cells)
            for unit in self.units
            for i, cells in enumerate(self._cells(unit, own) for own in _largest_first(unit))
        ]
        more = len(rows) - _MOST_ROWS
        rest = f"and {more} more rows: see the files" if more > 0 else ""
        synthetic = any(own.method == "synthetic" for unit in self.units for own in unit.classes)
        note = "\n".join(filter(None, (rest, LIMITS if synthetic else "")))
        return Sheet("Classes in units", columns, tuple(rows[:_MOST_ROWS]), note)

    def _cells(self, unit: UnitAreas, own: ClassArea) -> tuple[str, ...]:
        """Return the cells of a class from its name on."""
        row, told = self._row(unit, own), own.adjusted
        cells: tuple[str, ...] = (row["class"], hectares(own.mapped), _percent(row["mapped_percent"]))
        if not self.adjusted:
            return cells
        cells += (hectares(told.value if told else None), _interval(told), hectares(own.bias, sign=True))
        cells += (_percent(row["pixel_count_bias_percent"], sign=True),)
        return cells if unit is self.whole else (*cells, own.method or "-")

    def _rest(self) -> str:
        more = len(self.units) - _MOST_ROWS
        return f"and {more} more units: see the files" if more > 0 else ""


def hectares(value: float | None, *, sign: bool = False) -> str:
    """Write hectares with as many digits as they are worth.

    >>> hectares(12345.678), hectares(123.456), hectares(1.2345), hectares(-1.5, sign=True), hectares(None)
    ('12,346', '123.5', '1.23', '-1.50', '-')
    """
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    value = round(value, digits) + 0.0  # no minus before nothing
    return f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"


def _surface(area: ZoneArea) -> dict[str, Any]:
    return {
        "unit_ha": round(area.hectares, 4),
        "mapped_ha": round(area.mapped, 4),
        "no_data_ha": round(area.no_data, 4),
        "off_the_map_ha": round(area.outside, 4),
        "covered": round(area.covered, 6),
    }


def _largest_first(unit: UnitAreas) -> list[ClassArea]:
    """Return the classes that are there, by the map or by the sample."""
    there = [own for own in unit.classes if own.mapped or (own.adjusted and own.adjusted.value)]
    return sorted(there, key=lambda own: -own.mapped)


def _interval(told: Estimate | None) -> str:
    if told is None or told.low is None or told.high is None:
        return "-"
    return f"{hectares(told.low)} to {hectares(told.high)}"


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    value = round(value, 1) + 0.0
    return f"{value:+.1f}" if sign else f"{value:.1f}"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
