"""What an assessment tells: JSON, tables, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.bootstrap import resampled
from engine.assessment.domains import by_part
from engine.assessment.figures import Mark, draw_accuracies, draw_areas, draw_by_bins, draw_confusion
from engine.assessment.group_bootstrap import FIGURES, group_bootstrap
from engine.assessment.maps import CONFIDENCE, OBSERVATIONS
from engine.assessment.record import Assessment
from engine.assessment.sheets import Sheet, figure, matrix_sheet
from engine.assessment.stratified import Accuracy
from engine.assessment.types import Estimate
from pipelines.assess_config import RunOptions
from pipelines.assess_map import class_of
from pipelines.assess_view import write_json, write_markdown

CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
OBSERVATION_EDGES = (0, 1, 2, 3, 5, 8, 12, 20, 40, 80)
"""Lower ends of bins of clear observations."""


@dataclass(frozen=True, eq=False)
class Report:
    """An assessment, told.

    Attributes:
        told: As in ``assessment.json``.
        sheets: Tables.
        facts: Lines about the whole.
        files: What was written.
    """

    told: dict[str, Any]
    sheets: tuple[Sheet, ...]
    facts: tuple[str, ...]
    files: tuple[Path, ...] = ()


def report(
    assessment: Assessment, clusters: NDArray[Any] | None, options: RunOptions, json_path: Path, folder: Path
) -> Report:
    """Estimate everything that was asked for, and write it.

    Args:
        assessment: The sample and what is mapped.
        clusters: (N,) groups of the bootstrap, where the answers name them.
        options: What was asked for.
        json_path: Where ``assessment.json`` goes.
        folder: Where tables and figures go.
    """
    estimates = assessment.accuracy(with_kappa=options.kappa)
    told = assessment.as_json(estimates)
    names = [class_of(assessment.scheme, v).name for v in estimates.classes]
    sheets = [
        _matrix(estimates, names),
        _class_sheet(assessment, estimates, names),
        _area_sheet(assessment, estimates, names),
    ]
    if assessment.sample.region is not None:
        regions = _parts(assessment, assessment.sample.region)
        told["regions"] = {name: found.as_json() for name, found in regions.items()}
        sheets.append(_region_sheet(regions))
    bins = {name: _by_bins(assessment, name) for name in (CONFIDENCE, OBSERVATIONS)}
    for layer, found in bins.items():
        if found:
            told[f"by_{layer}"] = {name: e.as_json() for name, e in found.items()}
            rows = tuple((name, str(e.n), e.line()) for name, e in found.items())
            sheets.append(Sheet(f"By the map's {layer}", (layer, "points", "overall accuracy"), rows))
    if options.replicates:
        told["bootstrap"] = _bootstrap(assessment, clusters, options)
        sheets.append(_bootstrap_sheet(told["bootstrap"], options))
    facts = _facts(assessment, estimates)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_json(json_path, told), *_written(assessment, estimates, sheets, facts, folder)]
    files += _drawn(assessment, estimates, bins, folder)
    return Report(told, tuple(sheets), facts, tuple(files))


def _matrix(estimates: Accuracy, names: list[str]) -> Sheet:
    return matrix_sheet("Points", tuple(names), estimates.counts.tolist(), "map \\ reference")


def _with_error(e: Estimate, digits: int = 3) -> str:
    if e.value is None or e.standard_error is None:
        return e.line(digits)
    return f"{e.value:.{digits}f} ± {e.standard_error:.{digits}f} ({_ends(e, digits)})"


def _ends(e: Estimate, digits: int) -> str:
    if e.low is None or e.high is None:
        return "-"
    return f"{e.low:,.{digits}f} to {e.high:,.{digits}f}"


def _class_sheet(assessment: Assessment, estimates: Accuracy, names: list[str]) -> Sheet:
    rows = tuple(
        (
            name,
            *(_with_error(table[v]) for table in (estimates.users, estimates.producers)),
            *(figure(table[v].value) for table in (estimates.f1, estimates.iou)),
        )
        for v, name in zip(estimates.classes, names, strict=True)
    )
    note = f"Estimate ± standard error ({assessment.level:.0%} interval, {assessment.interval})."
    return Sheet("Accuracy of each class", ("class", "user's", "producer's", "F1", "IoU"), rows, note)


def _area_sheet(assessment: Assessment, estimates: Accuracy, names: list[str]) -> Sheet:
    rows = []
    for v, name in zip(estimates.classes, names, strict=True):
        e, mapped = estimates.areas_ha[v], assessment.hectares.get(v, 0.0)
        bias = "-" if e.value is None else f"{mapped - e.value:+,.0f}"
        share = "-" if not e.value else f"{(mapped - e.value) / e.value:+.1%}"
        error = figure(e.standard_error, 0)
        rows.append((name, f"{mapped:,.0f}", figure(e.value, 0), error, _ends(e, 0), bias, share))
    heads = ("class", "mapped ha", "estimated ha", "± s.e.", "interval", "bias ha", "bias")
    note = "Bias: what counting pixels says too much (+) or too little (-)."
    return Sheet("Area of each class", heads, tuple(rows), note)


def _parts(assessment: Assessment, part: NDArray[Any]) -> dict[str, Accuracy]:
    kind: Any = assessment.interval
    return by_part(assessment.sample, part, assessment.values, kind=kind, level=assessment.level)


def _region_sheet(regions: Mapping[str, Accuracy]) -> Sheet:
    rows = tuple((name, str(found.points), _with_error(found.overall)) for name, found in regions.items())
    note = (
        "Areas of each class in each region stand in assessment.json; `landweave area` tells them of units."
    )
    return Sheet("Regions", ("region", "points", "overall accuracy"), rows, note)


def _by_bins(assessment: Assessment, layer: str) -> dict[str, Estimate]:
    """Return the overall accuracy in each bin of a layer that holds points, in rising order."""
    values = getattr(assessment.sample, layer)
    if values is None or np.isnan(values).all():
        return {}
    names = _bin_names(layer)
    edges = CONFIDENCE_EDGES[:-1] if layer == CONFIDENCE else OBSERVATION_EDGES
    place = np.clip(np.searchsorted(edges, np.nan_to_num(values), side="right") - 1, 0, len(names) - 1)
    part = np.where(np.isnan(values), "", np.array(names)[place])
    found = _parts(assessment, part)
    return {name: found[name].overall for name in names if name in found and found[name].points}


def _bin_names(layer: str) -> list[str]:
    if layer == CONFIDENCE:
        return [f"{a:g}-{b:g}" for a, b in pairwise(CONFIDENCE_EDGES)]
    ends = [*OBSERVATION_EDGES[1:], None]
    return [
        f"{a}+" if b is None else f"{a}" if b == a + 1 else f"{a}-{b - 1}"
        for a, b in zip(OBSERVATION_EDGES, ends, strict=True)
    ]


def _bootstrap(assessment: Assessment, clusters: NDArray[Any] | None, options: RunOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "replicates": options.replicates,
        "seed": options.seed,
        "level": assessment.level,
    }
    classes = assessment.values
    if clusters is not None:
        found = group_bootstrap(assessment.sample, clusters, classes, **settings)
        by: dict[str, Any] = {"by": options.cluster, "groups": found["groups"]}
        overall = found["overall"]
    else:
        drawn = resampled(assessment.sample, classes, **settings)
        by = {"by": "clusters" if assessment.design == "clusters" else "points"}
        overall, found = drawn.overall, {name: getattr(drawn, name) for name in FIGURES}
    told = {name: {str(c): e.as_json() for c, e in found[name].items()} for name in FIGURES}
    return {**by, **settings, "overall": overall.as_json(), **told}


def _bootstrap_sheet(told: dict[str, Any], options: RunOptions) -> Sheet:
    overall = Estimate.from_json(told["overall"])
    rows = (("overall accuracy", _with_error(overall)),)
    note = f"{told['replicates']} replicates by {told['by']}; of each class in assessment.json. {overall.note}".strip()
    return Sheet("Bootstrap", ("figure", "estimate"), rows, note)


def _facts(assessment: Assessment, estimates: Accuracy) -> tuple[str, ...]:
    lines = [
        f"map: {assessment.map}",
        f"design: {assessment.design}, {len(assessment.sample)} points, {estimates.points} answered",
        f"overall accuracy {_with_error(estimates.overall)}, {assessment.level:.0%} interval",
    ]
    if estimates.unanswered:
        lines.append(f"{estimates.unanswered} points without an answer are left out")
    if estimates.kappa is not None:
        lines.append(f"kappa {_with_error(estimates.kappa)}")
    return (*lines, *(f"note: {note}" for note in (*assessment.notes, *estimates.notes)))


def _written(
    assessment: Assessment,
    estimates: Accuracy,
    sheets: list[Sheet],
    facts: tuple[str, ...],
    folder: Path,
) -> list[Path]:
    names = [class_of(assessment.scheme, v).name for v in estimates.classes]
    shares = matrix_sheet(
        "Share of the area", tuple(names), estimates.shares.tolist(), "map \\ reference", digits=4
    )
    files = [write_markdown(folder / "assessment.md", "Assessment", facts, [*sheets, shares])]
    for name, sheet in (("points", sheets[0]), ("shares", shares), ("areas", None)):
        path = folder / f"{name}.csv"
        path.write_text(_areas_csv(assessment, estimates) if sheet is None else sheet.csv(), encoding="utf-8")
        files.append(path)
    return files


def _areas_csv(assessment: Assessment, estimates: Accuracy) -> str:
    """Return all estimates of each class as CSV, full precision."""
    heads = ["class", "value", "mapped_pixels", "mapped_ha"]
    tables = {
        "area_ha": estimates.areas_ha,
        "users": estimates.users,
        "producers": estimates.producers,
        "f1": estimates.f1,
        "iou": estimates.iou,
    }
    parts = ("value", "standard_error", "low", "high")
    heads += [f"{name}_{part}" if part != "value" else name for name in tables for part in parts]
    rows = []
    for v in estimates.classes:
        cells: list[Any] = [
            class_of(assessment.scheme, v).name,
            v,
            assessment.pixels.get(v, 0),
            assessment.hectares.get(v, 0.0),
        ]
        cells += [getattr(table[v], part) for table in tables.values() for part in parts]
        rows.append(tuple("" if c is None else str(c) for c in cells))
    return Sheet("", tuple(heads), tuple(rows)).csv()


def _mark(e: Estimate) -> Mark:
    return Mark(e.value, e.low, e.high)


def _drawn(
    assessment: Assessment, estimates: Accuracy, bins: dict[str, dict[str, Estimate]], folder: Path
) -> list[Path]:
    classes = estimates.classes
    names = [class_of(assessment.scheme, v).name for v in classes]
    files = [
        draw_confusion(
            folder / "confusion.png",
            names,
            estimates.shares,
            rows="map",
            columns="reference",
            title=f"Estimated shares of the area (numbers: percent of the row), {estimates.overall.line()} right",
        ),
        draw_accuracies(
            folder / "accuracies.png",
            names,
            [_mark(estimates.users[v]) for v in classes],
            [_mark(estimates.producers[v]) for v in classes],
            f"Accuracy of each class, {assessment.level:.0%} intervals",
        ),
        draw_areas(
            folder / "areas.png",
            names,
            [assessment.hectares.get(v, 0.0) for v in classes],
            [_mark(estimates.areas_ha[v]) for v in classes],
            f"Area of each class: mapped and estimated, {assessment.level:.0%} intervals",
        ),
    ]
    panels = []
    for layer, found in bins.items():
        if found:
            total = sum(e.n for e in found.values())
            shares = [e.n / total for e in found.values()]
            panels.append((layer, list(found), [_mark(e) for e in found.values()], shares))
    if panels:
        files.append(draw_by_bins(folder / "by_layer.png", panels, "Accuracy by what the map says of itself"))
    return files
