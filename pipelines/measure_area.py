"""Measure a map: hectares of each class in each unit, put right by an assessment, written as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from engine.assessment.area_figures import draw_units, draw_whole
from engine.assessment.area_report import AreaReport, UnitAreas
from engine.assessment.areas import AreaSums, ZoneArea, measure
from engine.assessment.intervals import Kind
from engine.assessment.maps import ClassMap
from engine.assessment.record import Assessment, read_assessment
from engine.assessment.sheets import Sheet
from engine.assessment.unit_areas import (
    FEWEST,
    ClassArea,
    UnitEstimator,
    classes_of,
    points_in,
    require_same_map,
)
from engine.assessment.zones import Unit, Zone, read_units, zones_on
from engine.products.styles import write_text
from engine.values.classes import NO_DATA_LABEL, ClassScheme
from engine.values.errors import InputError
from pipelines.assess_view import write_json, write_markdown
from pipelines.class_maps import open_class_map

WHOLE = "whole map"


class AreaOptions(BaseModel):
    """What is asked of `landweave area`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    zones: Path | None = Field(
        default=None, description="Vector file of units; without it the whole map alone."
    )
    name_column: str | None = Field(default=None, description="Column with the units' names.")
    layer: str | None = Field(default=None, description="Layer of the file; default the first.")
    where: str | None = Field(default=None, description="Attribute filter in SQL: which features are units.")
    dissolve: bool = Field(default=False, description="Join features of one name into one unit.")
    assessment: Path | None = Field(default=None, description="assessment.json of `landweave assess run`.")
    classes: str | None = Field(default=None, description="Class scheme (YAML) of the map.")
    store: str | None = Field(default=None, description="Which map of a run: map, refined.")
    fewest: int = Field(
        default=FEWEST, ge=2, description="Points from which on a unit is estimated by itself."
    )
    workers: int = Field(default=2, ge=1, le=256, description="Threads.")
    block_px: int = Field(default=1024, ge=64, le=8192, description="Side of the blocks that are read.")


@dataclass(frozen=True, eq=False)
class MeasuredAreas:
    """What was measured, and where it was written.

    Attributes:
        report: All figures.
        files: Written files by kind: csv, json, markdown, parquet, figure, units_figure.
    """

    report: AreaReport
    files: dict[str, Path]

    @property
    def sheets(self) -> list[Sheet]:
        """Tables for people."""
        return self.report.sheets()

    def lines(self) -> list[str]:
        """Return what is said below the tables."""
        return [*self.report.notes, *(f"wrote {path}" for path in self.files.values())]


def measure_area(
    source: str,
    out: Path,
    options: AreaOptions | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> MeasuredAreas:
    """Measure a map and write ``areas.csv``, ``.json``, ``.md``, ``.png``, and with zones ``areas.parquet``.

    Args:
        source: Run folder, map store (.zarr) or raster file of classes.
        out: Folder to write into; made where it is not there.
        options: Units, assessment and how.
        progress: Told blocks done, blocks in all, and what is done.

    Raises:
        InputError: If there is no map, no unit lies on it, or the assessment is of another map.
        DataError: If the map is broken.
    """
    report = report_areas(source, options, progress)
    name = Path(source.rstrip("/")).name or source
    return MeasuredAreas(report, _write(out, report, f"{name}: areas"))


def report_areas(
    source: str, options: AreaOptions | None = None, progress: Callable[[int, int, str], None] | None = None
) -> AreaReport:
    """Measure a map and write nothing.

    Args:
        source: Run folder, map store (.zarr) or raster file of classes.
        options: Units, assessment and how.
        progress: Told blocks done, blocks in all, and what is done.

    Raises:
        InputError: If there is no map, no unit lies on it, or the assessment is of another map.
        DataError: If the map is broken.
    """
    options = options or AreaOptions()
    opened = open_class_map(source, options.classes, options.store)
    units = _units(options)
    known = None if options.assessment is None else read_assessment(options.assessment)
    zones = zones_on(units, opened.grid, opened.box)
    near = [zone for zone in zones if zone.box & opened.box]
    if units and not near:
        raise InputError(
            "no unit lies on the map",
            where=str(options.zones),
            found=f"{len(units)} units",
            limit=f"{opened.grid.bounds_of_box(opened.box)} in {opened.grid.crs[:40]}",
            mend="check that the units are of this area, and their CRS",
        )
    sums = measure(
        opened.labels,
        opened.grid,
        opened.box,
        near,
        block_px=options.block_px,
        workers=options.workers,
        progress=None if progress is None else lambda done, total: progress(done, total, ""),
    )
    missed = tuple(zone.unit.name for zone in zones if not zone.box & opened.box)
    return _report(opened, sums, known, options.fewest, missed)


def _units(options: AreaOptions) -> list[Unit]:
    if options.zones is None:
        return []
    return read_units(
        options.zones,
        name_column=options.name_column,
        layer=options.layer,
        where=options.where,
        dissolve=options.dissolve,
    )


def _report(
    opened: ClassMap, sums: AreaSums, known: Assessment | None, fewest: int, missed: tuple[str, ...]
) -> AreaReport:
    scheme, notes = opened.scheme, []
    if known is not None:
        scheme, table = classes_of(opened.scheme, known.scheme)
        sums = sums.merged(table)
        notes = require_same_map(known.pixels, sums.classes())
    found = sums.whole_map()
    no_data = found.pop(NO_DATA_LABEL, 0.0)
    whole = ZoneArea(WHOLE, sum(found.values()) + no_data, found, no_data, 0.0, None)
    touched = [(z, a) for z, a in zip(sums.zones, sums.each(), strict=True) if a.mapped or a.no_data]
    notes += [f"units off the map ({len(missed)}), left out: {_listed(missed)}"] if missed else []
    notes += _doubled([area.name for _, area in touched])
    if known is None:
        rows = [UnitAreas(a, _plain(scheme, a), geometry=z.unit.geometry) for z, a in touched]
        whole_row = UnitAreas(whole, _plain(scheme, whole))
    else:
        rows, whole_row = _adjusted(scheme, known, touched, fewest), _whole(scheme, known, whole)
    return AreaReport(
        map=opened.where,
        crs=opened.grid.crs,
        scheme=scheme,
        whole=whole_row,
        units=tuple(rows),
        units_crs=touched[0][0].unit.crs if touched else "",
        missed=missed,
        level=None if known is None else known.level,
        notes=tuple(notes),
    )


def _plain(scheme: ClassScheme, area: ZoneArea) -> tuple[ClassArea, ...]:
    return tuple(ClassArea(value, area.classes.get(value, 0.0)) for value in scheme.values)


def _whole(scheme: ClassScheme, known: Assessment, area: ZoneArea) -> UnitAreas:
    """Return the whole map with the sample's own estimates."""
    told = known.accuracy().areas_ha
    values = dict.fromkeys((*scheme.values, *told))
    rows = tuple(ClassArea(v, area.classes.get(v, 0.0), told.get(v), "sample") for v in values)
    return UnitAreas(area, rows, int((known.sample.reference != 0).sum()))


def _adjusted(
    scheme: ClassScheme, known: Assessment, touched: Sequence[tuple[Zone, ZoneArea]], fewest: int
) -> list[UnitAreas]:
    kind = cast(Kind, known.interval)
    estimator = UnitEstimator(known.sample, scheme.values, kind=kind, level=known.level, fewest=fewest)
    rows = []
    for zone, area in touched:
        inside = points_in(zone.unit.geometry, zone.unit.crs, known.xy, known.crs)
        points = int((inside & (known.sample.reference != 0)).sum())
        found = estimator.estimate(area.classes, inside)
        rows.append(UnitAreas(area, tuple(found), points, zone.unit.geometry))
    return rows


def _doubled(names: Sequence[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    return [f"names of several units: {_listed(twice)}; --dissolve joins them"] if twice else []


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _write(out: Path, report: AreaReport, title: str) -> dict[str, Path]:
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "csv": write_text(out / "areas.csv", report.csv()),
        "json": write_json(out / "areas.json", report.as_json()),
        "markdown": write_markdown(out / "areas.md", title, report.notes, report.sheets()),
        "figure": draw_whole(out / "areas.png", report, title),
    }
    if report.units:
        files["parquet"] = _parquet(out / "areas.parquet", report.frame())
        files["units_figure"] = draw_units(out / "areas-units.png", report, title)
    return files


def _parquet(path: Path, frame: Any) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    frame.to_parquet(part, index=False, schema_version="1.1.0")
    part.replace(path)
    return path
