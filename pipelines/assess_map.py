"""Assess a map by the answers of interpreters: accuracies and areas with standard errors and intervals.

::

    answers (id, reference) ──┐
    design (strata, pixels) ──┼─► Sample ─► estimates ─► assessment.json, .md, .csv, figures
    map (class, confidence) ──┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.count import ClassCounts, count_classes
from engine.assessment.maps import CONFIDENCE, LABEL, OBSERVATIONS, ClassMap
from engine.assessment.poststrata import poststratified
from engine.assessment.record import Assessment
from engine.assessment.responses import read_answers
from engine.assessment.types import UNANSWERED, Sample, Stratum
from engine.values.classes import NO_DATA_LABEL, ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.assess_config import RunOptions
from pipelines.class_maps import open_class_map
from pipelines.regions import open_regions
from pipelines.response_file import design_path, grid_of, read_design, read_response
from pipelines.run_folder import PLAN_FILE
from training.label_sources import key_of

if TYPE_CHECKING:
    import pandas as pd

Listener = Callable[[int, int, str], None]

NO_REGION = "(in no region)"
ASSESSMENT = "assessment.json"


@dataclass(frozen=True, eq=False)
class _Points:
    """Answered points, before they are a sample.

    Attributes:
        ids: (N,) text.
        x: (N,) in the map's CRS.
        y: (N,) in the map's CRS.
        cells: (N,) what was answered.
        frame: The table that they stand in.
    """

    ids: NDArray[np.str_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    cells: list[Any]
    frame: pd.DataFrame

    def where(self, kept: NDArray[np.bool_]) -> _Points:
        cells = [c for c, k in zip(self.cells, kept, strict=True) if k]
        return _Points(self.ids[kept], self.x[kept], self.y[kept], cells, self.frame[kept])


def assess_map(
    source: str, reference: Path, options: RunOptions, listener: Listener | None = None
) -> tuple[Assessment, NDArray[Any] | None]:
    """Join answers, design and map to a sample, and count what is mapped.

    Args:
        source: Run folder, map store or raster file: the map that is assessed.
        reference: The interpreters' file, or any points with classes.
        options: How.
        listener: Gets done and total blocks.

    Returns:
        The assessment, and the cluster of each point for the bootstrap, or None.

    Raises:
        InputError: If files do not fit together: unknown answers, ids, columns; no design.
    """
    opened = open_class_map(source, options.classes, options.store)
    design = _design(reference, options)
    notes = [opened.note] if opened.note else []
    points, labels, layers = _points_on(opened, design, reference, options, notes)
    counts = count_classes(opened, options.block_px, listener)
    answers = _answers(points, opened.scheme, reference, options, notes)
    sample = _sample(points, labels, answers, layers, _strata(design, points, counts, labels, notes))
    if design is None or options.poststratify:
        totals = {v: (n, counts.hectares[v]) for v, n in counts.pixels.items()}
        sample = poststratified(
            sample, totals, dict(zip(opened.scheme.values, opened.scheme.names, strict=True))
        )
    sample = replace(sample, region=_regions(opened, points, options))
    scheme, broader = opened.scheme.broader() if options.broader else (opened.scheme, {})
    population = _population(design, counts, opened.scheme, notes)
    assessment = Assessment(
        map=opened.where,
        crs=opened.grid.crs,
        scheme=scheme,
        design="none" if design is None else str(design["kind"]),
        sample=_recoded(sample, broader),
        ids=points.ids,
        xy=np.column_stack([points.x, points.y]),
        pixels=_summed(population.pixels, broader),
        hectares=_summed(population.hectares, broader),
        level=options.level,
        interval=options.interval,
        notes=tuple(notes),
    )
    return assessment, _clusters(points, options)


def _points_on(
    source: ClassMap, design: dict[str, Any] | None, reference: Path, options: RunOptions, notes: list[str]
) -> tuple[_Points, NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Return the points, the map's label at each, and its layers there; tells in `notes` what is left out."""
    table = read_response(reference, options.layer)
    if design is not None:
        points = _designed_points(table, source, design, reference, options)
        labels, layers = _look_up(source, points)
        if (missing := int((labels == NO_DATA_LABEL).sum())) > 0:
            notes.append(f"at {missing} points the map has no data: they count as wrong")
        return points, labels, layers
    notes.append(_NO_DESIGN)
    points = _free_points(table, source, reference, options)
    labels, layers = _look_up(source, points)
    inside = labels != NO_DATA_LABEL
    if not inside.any():
        raise InputError("no point lies on the map", where=str(reference), found=source.where)
    if not inside.all():
        notes.append(f"{int((~inside).sum())} points lie where the map has no data: left out")
    return points.where(inside), labels[inside], {name: v[inside] for name, v in layers.items()}


_NO_DESIGN = (
    "the points are of no known design: they are taken as a simple random sample, weighted by the mapped area of "
    "each class; if places were chosen by hand, the intervals do not hold"
)


def _design(reference: Path, options: RunOptions) -> dict[str, Any] | None:
    """Find the design of the points.

    Raises:
        InputError: If there is none, and that was not said.
    """
    if options.no_design:
        return None
    path = Path(options.design) if options.design else design_path(reference)
    if not options.design and not path.exists():
        raise InputError(
            "how were these points drawn?",
            where=str(reference),
            found=f"no {path.name} beside it",
            mend="give --design FILE, or --no-design to take them as a simple random sample",
        )
    return read_design(path)


def _designed_points(
    table: pd.DataFrame, source: ClassMap, design: dict[str, Any], reference: Path, options: RunOptions
) -> _Points:
    """Return the points of a design with their answers, in the design's order.

    Raises:
        InputError: If an id is unknown or there twice.
    """
    import pandas as pd
    from pyproj import Transformer

    ids, _, table = _ids_and_cells(table, reference, options)
    known = {str(p["id"]): p for p in design["points"]}
    strange = [name for name in ids if name not in known]
    if strange:
        raise InputError(
            "answers for points that the design does not know",
            where=str(reference),
            found=f"{len(strange)}: {', '.join(strange[:10])}",
            limit=f"the {len(known)} points of the design",
            mend="use the file that belongs to the design, with its ids unchanged",
        )
    order = list(known)
    plain = pd.DataFrame({str(c): table[c].to_numpy() for c in table if c != "geometry"}, index=ids)
    frame = plain.reindex(order)  # a point without a row has no answer
    grid = grid_of(design)
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    x = ax + (np.array([known[n]["column"] for n in order]) + 0.5) * res_x
    y = ay - (np.array([known[n]["row"] for n in order]) + 0.5) * res_y
    if grid.crs != source.grid.crs:
        x, y = Transformer.from_crs(grid.crs, source.grid.crs, always_xy=True).transform(x, y)
    return _Points(np.array(order, str), x, y, frame[options.column].tolist(), frame)


def _free_points(table: pd.DataFrame, source: ClassMap, reference: Path, options: RunOptions) -> _Points:
    """Return points of a vector file, or of a table with coordinates, in the map's CRS."""
    from pyproj import Transformer

    crs: Any
    if hasattr(table, "geometry"):
        shapes = table.geometry
        if shapes.isna().any() or not (shapes.geom_type == "Point").all():
            raise InputError("the reference is no layer of points", where=str(reference), mend="give points")
        if table.crs is None:
            raise InputError("the reference has no CRS", where=str(reference))
        x, y, crs = shapes.x.to_numpy(), shapes.y.to_numpy(), table.crs
    else:
        missing = [c for c in (options.x, options.y) if c not in table]
        if missing:
            raise InputError(
                "the table has no coordinates",
                where=str(reference),
                found=", ".join(map(str, table)),
                limit=", ".join(missing),
                mend="give --x, --y and --crs",
            )
        x, y, crs = table[options.x].to_numpy(float), table[options.y].to_numpy(float), options.crs
    if options.id not in table:
        table = table.assign(**{options.id: np.arange(1, len(table) + 1)})
    ids, cells, table = _ids_and_cells(table, reference, options)
    x, y = Transformer.from_crs(crs, source.grid.crs, always_xy=True).transform(x, y)
    return _Points(np.array(ids, str), np.asarray(x), np.asarray(y), cells, table)


def _ids_and_cells(
    table: pd.DataFrame, reference: Path, options: RunOptions
) -> tuple[list[str], list[Any], pd.DataFrame]:
    missing = [c for c in (options.id, options.column) if c not in table]
    if missing:
        raise InputError(
            "the answers lack a column",
            where=str(reference),
            found=", ".join(map(str, table)),
            limit=", ".join(missing),
            mend="give --id and --column",
        )
    ids = [key_of(v) for v in table[options.id]]
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise InputError(
            "an id is there more than once", where=str(reference), found=", ".join(twice[:10]), limit="once"
        )
    return ids, table[options.column].tolist(), table


_LOOK_PX = 512


def _look_up(source: ClassMap, points: _Points) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Return the label of the pixel under each point, and what the map says of itself there.

    Each block of the map that holds points is read once.
    """
    (res_y, res_x), (ax, ay) = source.grid.resolution_yx, source.grid.anchor_xy
    rows = np.floor((ay - points.y) / res_y + 1e-6).astype(np.int64)
    columns = np.floor((points.x - ax) / res_x + 1e-6).astype(np.int64)
    labels = np.zeros(len(rows), np.int64)
    wanted = [name for name in (CONFIDENCE, OBSERVATIONS) if name in source.layers]
    layers = {name: np.full(len(rows), np.nan) for name in wanted}
    blocks = np.stack([rows // _LOOK_PX, columns // _LOOK_PX], axis=1)
    for r, c in np.unique(blocks, axis=0).tolist():
        box = Box(r * _LOOK_PX, c * _LOOK_PX, (r + 1) * _LOOK_PX, (c + 1) * _LOOK_PX)
        here = np.flatnonzero((blocks == (r, c)).all(axis=1))
        y, x = rows[here] - box.y0, columns[here] - box.x0
        labels[here] = source.layer(LABEL, box)[y, x]
        for name in wanted:
            found = source.layer(name, box)[y, x].astype(np.float64)
            layers[name][here] = np.where(found == 255, np.nan, found / 250) if name == CONFIDENCE else found
    return labels, layers


def _answers(
    points: _Points, scheme: ClassScheme, reference: Path, options: RunOptions, notes: list[str]
) -> NDArray[np.int64]:
    found = read_answers(points.ids.tolist(), points.cells, scheme)
    if options.skip_unknown and found.unknown:
        notes.append(f"{len(found.unknown)} answers mean no class: taken as unanswered")
    else:
        found.require_known(str(reference), scheme)
    values = found.values
    if options.least_certainty is not None:
        if options.certainty not in points.frame:
            raise InputError(
                "the answers lack a column",
                where=str(reference),
                limit=options.certainty,
                mend="give --certainty",
            )
        import pandas as pd

        sure = pd.to_numeric(points.frame[options.certainty], errors="coerce").to_numpy(float)
        weak = (values != UNANSWERED) & ~(sure >= options.least_certainty)
        if weak.any():
            notes.append(
                f"{int(weak.sum())} answers are less certain than {options.least_certainty:g}: left out"
            )
        values = np.where(weak, UNANSWERED, values)
    return values


_Columns = dict[str, NDArray[Any]]


def _strata(
    design: dict[str, Any] | None,
    points: _Points,
    counts: ClassCounts,
    labels: NDArray[np.int64],
    notes: list[str],
) -> tuple[tuple[Stratum, ...], _Columns]:
    """Return the strata of the design, and the columns of a sample that tell each point's place in it."""
    if design is None:
        everything = Stratum("all", sum(counts.pixels.values()), sum(counts.hectares.values()))
        return (everything,), {"stratum": np.zeros(len(labels), np.intp)}
    fields = ("name", "pixels", "hectares", "clusters", "mapped")
    strata = tuple(Stratum(**{k: s[k] for k in fields}) for s in design["strata"])
    if not _is_drawn_from(design, counts, points, labels):
        notes.append("the map is not the one from which points were drawn: its classes are not the strata")
        strata = tuple(replace(s, mapped=0) for s in strata)
    told = {str(p["id"]): p for p in design["points"]}
    rows = [told[name] for name in points.ids.tolist()]
    columns: _Columns = {"stratum": np.array([p["stratum"] for p in rows], np.intp)}
    if design["kind"] == "clusters":
        columns["cluster"] = np.array([p["cluster"] for p in rows])
        columns["cluster_pixels"] = np.array([p["cluster_pixels"] for p in rows], np.int64)
    return strata, columns


def _sample(
    points: _Points,
    labels: NDArray[np.int64],
    answers: NDArray[np.int64],
    layers: _Columns,
    drawn: tuple[tuple[Stratum, ...], _Columns],
) -> Sample:
    strata, columns = drawn
    stratum = columns.pop("stratum")
    return Sample.of(strata, stratum, labels, answers, **layers, **columns)


def _population(
    design: dict[str, Any] | None, counts: ClassCounts, scheme: ClassScheme, notes: list[str]
) -> ClassCounts:
    """Return what is mapped, but for classes that the design left out of the population."""
    without = [] if design is None else list(design["options"]["without"])
    if not without:
        return counts
    notes.append(
        f"what was mapped as {', '.join(without)} is no part of the population: nothing here speaks of it"
    )
    lookup = scheme.lookup()
    left_out = {lookup.get(name, -1) for name in without}
    pixels = {v: n for v, n in counts.pixels.items() if v not in left_out}
    return ClassCounts(pixels, {v: counts.hectares[v] for v in pixels})


def _is_drawn_from(
    design: dict[str, Any], counts: ClassCounts, points: _Points, labels: NDArray[np.int64]
) -> bool:
    """Tell whether a map is that of the design: the same classes at its points, as many pixels in its strata."""
    told = {str(p["id"]): int(p["mapped"]) for p in design["points"]}
    same = all(told[name] == label for name, label in zip(points.ids.tolist(), labels.tolist(), strict=True))
    own = [s for s in design["strata"] if s["mapped"]]
    return same and all(counts.pixels.get(s["mapped"], 0) == s["pixels"] for s in own)


def _regions(source: ClassMap, points: _Points, options: RunOptions) -> NDArray[Any] | None:
    if options.regions is None:
        return None
    regions = open_regions(options.regions, source.grid, options.region_column)
    names = np.array([NO_REGION, *regions.names], object)
    found: NDArray[Any] = names[regions.at(points.x, points.y)].astype(str)
    return found


def _clusters(points: _Points, options: RunOptions) -> NDArray[Any] | None:
    if options.cluster is None:
        return None
    if options.cluster not in points.frame:
        raise InputError(
            "the answers lack a column",
            where="--cluster",
            found=", ".join(map(str, points.frame)),
            limit=options.cluster,
        )
    return points.frame[options.cluster].astype(str).to_numpy()


def _recoded(sample: Sample, table: dict[int, int]) -> Sample:
    """Return a sample with its classes joined to broader ones."""
    lookup = np.arange(256)
    for value, broader in table.items():
        lookup[value] = broader
    strata = tuple(replace(s, mapped=table.get(s.mapped, s.mapped)) for s in sample.strata)
    return replace(sample, strata=strata, mapped=lookup[sample.mapped], reference=lookup[sample.reference])


def _summed(values: dict[int, Any], table: dict[int, int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for value, amount in values.items():
        broader = table.get(value, value)
        found[broader] = found.get(broader, 0) + amount
    return found


def class_of(scheme: ClassScheme, value: int) -> LandClass:
    """Return a class by its value; one that the scheme does not know is named by its number."""
    for own in scheme.classes:
        if own.value == value:
            return own
    return LandClass(value=max(value, 1), name=f"class {value}" if value else "no data", colour="#808080")


def places_of(source: str, out: Path | None) -> tuple[Path, Path]:
    """Return where ``assessment.json`` and where tables and figures go: into a local run folder, or into `out`.

    >>> places_of("map.tif", Path("x"))
    (PosixPath('x/assessment.json'), PosixPath('x'))
    """
    if out is None and (Path(source) / PLAN_FILE).exists():
        return Path(source) / ASSESSMENT, Path(source) / "assessment"
    folder = out or Path("assessment")
    return folder / ASSESSMENT, folder
