"""Look through labels before training: what is wrong is counted, named, and mended where it can be.

::

    as read ──► each feature by itself                     ──► pairs ──────────────► mended Labels + report
                no geometry, unknown class, invalid,           equal, or overlapping
                sliver, lost by the buffer, out of season       with another class

Mending never invents: a broken outline is rebuilt from its own points, a piece that two classes claim is
cut out of both, and what cannot be mended is left out.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from training.calendars import CropCalendar
from training.label_burn import shrunk
from training.label_sources import PolygonSource, frame_of, key_of, outside, to_grid_crs
from training.label_values import Labels

if TYPE_CHECKING:
    import geopandas as gpd

_TOLD = 10


@dataclass(frozen=True)
class CheckOptions:
    """What counts as wrong.

    Attributes:
        crs: Projected CRS in which widths and areas are measured: that of the grid.
        season: First and last day of the cube; labels that hold on no day of it are left out.
        calendar: Seasons by region and crop instead, where it has one for the label.
        sliver_width_m: Polygons narrower than this (twice their area over their perimeter) are slivers.
        min_area_m2: Polygons smaller than this are slivers too.
        overlap_m2: Overlaps of less than this are digitising noise: the pixels decide.
    """

    crs: str
    season: tuple[dt.date, dt.date] | None = None
    calendar: CropCalendar | None = None
    sliver_width_m: float = 5.0
    min_area_m2: float = 100.0
    overlap_m2: float = 1.0


@dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Attributes:
        kind: What is wrong.
        count: Features (or pairs of features) concerned.
        mended: What was done about it.
        examples: Some of their numbers in the file, or classes with their counts.
        area_m2: Area concerned, of overlaps.
    """

    kind: str
    count: int
    mended: str
    examples: tuple[str, ...] = ()
    area_m2: float = 0.0


@dataclass(frozen=True, eq=False)
class LabelReport:
    """What a check found.

    Attributes:
        source: Name of the source.
        features: Features read.
        kept: Features in the mended labels.
        problems: One entry for each kind that occurs, in the order of the check.
        classes: Mended features of each class.
        area_ha: Their area of each class, in hectares; points have none.
    """

    source: str
    features: int
    kept: int
    problems: tuple[Problem, ...]
    classes: dict[str, int]
    area_ha: dict[str, float]

    def count(self, kind: str) -> int:
        """Return how many features have a kind of problem."""
        return sum(p.count for p in self.problems if p.kind == kind)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        problems = [{**vars(p), "examples": list(p.examples)} for p in self.problems]
        return {**vars(self), "problems": problems}

    def lines(self) -> dict[str, Any]:
        """Return the report for people."""
        told: dict[str, Any] = {f"labels of {self.source}": f"{self.features} features, {self.kept} kept"}
        for p in self.problems:
            area = f", {p.area_m2 / 1e4:.2f} ha" if p.area_m2 else ""
            told[p.kind] = f"{p.count}{area}: {p.mended} ({', '.join(p.examples)})"
        for name, count in self.classes.items():
            told[name] = f"{count} features, {self.area_ha[name]:.1f} ha"
        return told


def check_labels(
    source: PolygonSource, classes: ClassScheme, options: CheckOptions
) -> tuple[Labels, LabelReport]:
    """Read labels, count what is wrong and mend it; all features are held in memory.

    Args:
        source: The labels; unknown classes are left out, whatever it says.
        classes: Scheme.
        options: What counts as wrong.

    Returns:
        The mended labels, in the CRS of `options`, and the report.

    Raises:
        InputError: If the file or a column cannot be read.
    """
    frame = frame_of(replace(source, season=None), classes)
    check = _Check(frame, source, options)
    for step in (check.geometry, check.known, check.valid, check.sliver, check.buffer, check.season):
        step()
    check.equal()
    check.overlap()
    labels = Labels(check.frame.drop(columns="label"), classes)
    return labels, check.report(labels, len(frame))


def write_labels(path: str | Path, labels: Labels, report: LabelReport) -> None:
    """Write mended labels as GeoPackage (.gpkg) or GeoParquet (.parquet), and the report beside as JSON.

    The file is a source itself: column ``class`` has the names, ``weight``, ``start`` and ``end`` the rest.

    Raises:
        InputError: If the ending is neither.
    """
    path = Path(path)
    names = dict(zip(labels.classes.values, labels.classes.names, strict=True))
    frame = labels.frame.copy()
    frame["class"] = [names[v] for v in frame["value"]]
    frame["feature"] = [str(i) for i in frame.index]
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".gpkg":
        frame.to_file(path, layer="labels", engine="pyogrio")
    else:
        raise InputError(
            "labels are written as GeoPackage or GeoParquet", where=str(path), limit=".gpkg or .parquet"
        )
    path.with_suffix(".json").write_text(json.dumps(report.as_dict(), indent=2, default=str))


class _Check:
    """The frame on its way through the check."""

    def __init__(self, frame: gpd.GeoDataFrame, source: PolygonSource, options: CheckOptions) -> None:
        self.frame, self.source, self.options = to_grid_crs(frame, options.crs), source, options
        self.problems: list[Problem] = []

    def geometry(self) -> None:
        """Leave out rows without a place."""
        shapes = self.frame.geometry
        self._leave_out("no geometry", (shapes.isna() | shapes.is_empty).to_numpy())

    def known(self) -> None:
        """Leave out classes that the scheme does not know; count each."""
        unknown = (self.frame["value"] == 0).to_numpy()
        left_out = {key for key, value in self.source.remap.items() if value is None}
        keys = np.array([key_of(v) for v in self.frame["label"]], object)
        meant = unknown & np.isin(keys, list(left_out))
        if meant.any():
            counted = Counter(keys[meant]).most_common(_TOLD)
            told = tuple(f"{k} x {n}" for k, n in counted)
            self.problems.append(Problem("remapped to nothing", int(meant.sum()), "left out", told))
        strange = unknown & ~meant
        if strange.any():
            counted = Counter(keys[strange]).most_common(_TOLD)
            told = tuple(f"{k} x {n}" for k, n in counted)
            self.problems.append(Problem("unknown class", int(strange.sum()), "left out", told))
        self.frame = self.frame[~unknown]

    def valid(self) -> None:
        """Rebuild broken outlines from their own points; leave out what has no surface then."""
        import shapely

        shapes = self.frame.geometry.to_numpy()
        broken = ~shapely.is_valid(shapes)
        if not broken.any():
            return
        self._tell("invalid geometry", broken, "rebuilt")
        mended = shapes.copy()
        mended[broken] = [_surface(shape) for shape in shapely.make_valid(shapes[broken], method="structure")]
        self.frame = self.frame.set_geometry(mended, crs=self.frame.crs)
        self._leave_out("no surface once rebuilt", shapely.is_empty(mended))

    def sliver(self) -> None:
        """Leave out polygons that are too narrow or too small to be a field."""
        import shapely

        shapes = self.frame.geometry.to_numpy()
        area, length = shapely.area(shapes), shapely.length(shapes)
        narrow = 2 * area < self.options.sliver_width_m * length
        small = area < self.options.min_area_m2
        self._leave_out("sliver", (shapely.get_dimensions(shapes) == 2) & (narrow | small))

    def buffer(self) -> None:
        """Count polygons of which the inner buffer leaves nothing; they stay, as the raster decides."""
        import shapely

        if self.source.inner_buffer_m:
            shapes = self.frame.geometry.to_numpy()
            gone = shapely.is_empty(shrunk(shapes, self.source.inner_buffer_m))
            if gone.any():
                self._tell("lost in the inner buffer", gone, "kept in the file, on no pixel")

    def season(self) -> None:
        """Leave out labels that hold on no day of the season."""
        start = self.frame["start"].to_numpy("datetime64[D]")
        end = self.frame["end"].to_numpy("datetime64[D]")
        turned = end < start
        if turned.any():
            self._tell("end before start", turned, "left out")
        wrong = turned
        if self.options.season or self.options.calendar:
            first, last = self._seasons(start)
            late = outside(self.frame, first, last) & ~turned
            if late.any():
                self._tell("outside the season", late, "left out")
            wrong = wrong | late
        self.frame = self.frame[~wrong]

    def _seasons(self, start: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the first and last day of each label's season, NaT where there is none."""
        whole = self.options.season or (None, None)
        first = np.full(len(start), np.datetime64(whole[0] or "NaT"), "datetime64[D]")
        last = np.full(len(start), np.datetime64(whole[1] or "NaT"), "datetime64[D]")
        calendar = self.options.calendar
        if calendar is not None:
            names = self.frame["label"].map(str).to_numpy()
            own_first, own_last = calendar.seasons_at(self.frame.geometry, names, start)
            known = ~np.isnat(own_first)
            first[known], last[known] = own_first[known], own_last[known]
        return first, last

    def equal(self) -> None:
        """Keep one of equal features of one class; leave out equal outlines of different classes."""
        import pandas as pd
        import shapely

        if not len(self.frame):
            return
        keys = pd.Series(
            shapely.to_wkb(shapely.normalize(self.frame.geometry.to_numpy())), index=self.frame.index
        )
        both = pd.DataFrame({"shape": keys, "value": self.frame["value"]})
        kinds = both.groupby("shape")["value"].transform("nunique").to_numpy()
        self._leave_out("one outline, several classes", kinds > 1)
        again = both[kinds == 1].duplicated().to_numpy()
        self._leave_out("duplicate", again, "one kept")

    def overlap(self) -> None:
        """Cut what two classes claim out of both; overlaps of one class harm nothing and are counted."""
        import shapely

        shapes = self.frame.geometry.to_numpy()
        one, other = _surface_pairs(shapes)
        shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
        real = shared > self.options.overlap_m2
        one, other, shared = one[real], other[real], shared[real]
        values = self.frame["value"].to_numpy()
        clash = values[one] != values[other]
        for kind, which, mended in (
            ("overlap of one class", ~clash, "kept"),
            ("overlap of different classes", clash, "cut out of both"),
        ):
            if which.any():
                pairs = zip(one[which][:_TOLD], other[which][:_TOLD], strict=True)
                told = tuple(f"{self.frame.index[a]}+{self.frame.index[b]}" for a, b in pairs)
                area = float(shared[which].sum())
                self.problems.append(Problem(kind, int(which.sum()), mended, told, area))
        if clash.any():
            cut = _cut(shapes, one[clash], other[clash])
            self.frame = self.frame.set_geometry(cut, crs=self.frame.crs)
            self._leave_out("nothing left without overlaps", shapely.is_empty(cut))

    def report(self, labels: Labels, features: int) -> LabelReport:
        """Return what was found."""
        area = labels.frame.geometry.area.groupby(labels.frame["value"]).sum() / 1e4
        hectares = {c.name: round(float(area.get(c.value, 0.0)), 4) for c in labels.classes.classes}
        return LabelReport(
            self.source.title, features, len(labels), tuple(self.problems), labels.counts(), hectares
        )

    def _leave_out(self, kind: str, which: NDArray[np.bool_], mended: str = "left out") -> None:
        if which.any():
            self._tell(kind, which, mended)
            self.frame = self.frame[~which]

    def _tell(self, kind: str, which: NDArray[np.bool_], mended: str) -> None:
        told = tuple(str(i) for i in self.frame.index[which][:_TOLD])
        self.problems.append(Problem(kind, int(which.sum()), mended, told))


def _surface(shape: Any) -> Any:
    """Keep the polygons of what a mended outline became."""
    import shapely

    parts = shapely.get_parts(shape)
    polygons = parts[shapely.get_dimensions(parts) == 2]
    if shapely.get_dimensions(shape) < 2 and not len(polygons):
        return shapely.from_wkt("POLYGON EMPTY")
    return polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)


def _surface_pairs(shapes: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of polygons that touch or overlap, each once."""
    import shapely

    polygons = np.flatnonzero(shapely.get_dimensions(shapes) == 2)
    one, other = shapely.STRtree(shapes[polygons]).query(shapes[polygons], predicate="intersects")
    once = one < other
    return polygons[one[once]], polygons[other[once]]


def _cut(shapes: NDArray[Any], one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[Any]:
    """Take from each polygon all that others of another class claim of it, as they were before."""
    import shapely

    rivals: dict[int, list[int]] = {}
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        rivals.setdefault(a, []).append(b)
        rivals.setdefault(b, []).append(a)
    cut = shapes.copy()
    for i, others in rivals.items():
        cut[i] = _surface(shapely.difference(shapes[i], shapely.union_all(shapes[others])))
    return cut
