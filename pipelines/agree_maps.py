"""Compare two maps wall to wall, or a map with a raster of truth: tables, figures, and a map of errors.

::

    agreement.json   agreement.md   matrix.csv   matrix.png   by_confidence.png   errors.tif + errors.qml
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.assessment.agreement import (
    BLOCK_PX,
    Comparison,
    ErrorKind,
    Tally,
    error_scheme,
)
from engine.assessment.confusion import Scores
from engine.assessment.confusion import kappa as kappa_of
from engine.assessment.figures import Mark, draw_by_bins, draw_confusion
from engine.assessment.legends import Legend, LegendSpec
from engine.assessment.maps import LABEL, ClassMap
from engine.assessment.sheets import Sheet, figure, matrix_sheet
from engine.products.cog import write_cog
from engine.products.styles import write_qml
from engine.store.layout import create
from engine.store.regions import write_region
from engine.store.storespec import StoreSpec, Variable
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.assess_view import rounded, write_json, write_markdown
from pipelines.class_maps import open_class_map
from pipelines.regions import open_regions

SCHEMA = "landweave/agreement/1"

Listener = Callable[[int, int, str], None]


class AgreeOptions(BaseModel):
    """How two maps are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    first_classes: str | None = Field(default=None, description="Class scheme (YAML) of the first map.")
    second_classes: str | None = Field(default=None, description="Class scheme (YAML) of the second map.")
    legend: str | None = Field(default=None, description="YAML: what classes are called in common.")
    broader: bool = Field(default=False, description="Compare the broader classes (parents in the scheme).")
    regions: str | None = Field(default=None, description="Vector file of regions to tell apart.")
    region_column: str | None = Field(default=None, description="Column with their names.")
    errors: ErrorKind | None = Field(
        default="agreement",
        description="Map of errors: agreement, or where maps differ the class of first or second; null for none.",
    )
    kappa: bool = Field(default=False, description="Also Cohen's kappa.")
    block_px: int = Field(
        default=BLOCK_PX, ge=256, description="Side of the blocks that are compared at once."
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """What a comparison found.

    Attributes:
        told: All figures, as in ``agreement.json``.
        sheets: Tables.
        facts: Lines about the whole.
        files: What was written.
    """

    told: dict[str, Any]
    sheets: tuple[Sheet, ...]
    facts: tuple[str, ...]
    files: tuple[Path, ...] = ()


def agree(
    first: str, second: str, out: Path | None, options: AgreeOptions, listener: Listener | None = None
) -> Agreement:
    """Compare two maps; the first is judged by the second.

    Args:
        first: Run folder, store or raster file; its grid is that of the comparison.
        second: Run folder, store or raster file, on any grid.
        out: Folder for what is written; None writes nothing.
        options: How.
        listener: Gets done and total blocks.

    Raises:
        InputError: If the maps do not overlap, or have no class in common.
        DataError: If one is broken.
    """
    maps = open_class_map(first, options.first_classes), open_class_map(second, options.second_classes)
    comparison = Comparison.of(*maps, _legend(*maps, options))
    names: tuple[str, ...] = ()
    if options.regions is not None:
        regions = open_regions(options.regions, comparison.first.grid, options.region_column)
        names = regions.names
        comparison = replace(comparison, regions=len(names), zones=regions.burn)
    if out is None:
        tally = _count(comparison, options, listener, None)
        return _found(comparison, tally, names, options)
    out.mkdir(parents=True, exist_ok=True)
    with _error_store(comparison, out, options) as store:
        tally = _count(comparison, options, listener, store)
        files = _error_map(comparison, store, out, options)
    found = _found(comparison, tally, names, options)
    return replace(found, files=(*_written(found, comparison, tally, out), *files))


def _legend(first: ClassMap, second: ClassMap, options: AgreeOptions) -> Legend:
    spec = LegendSpec.from_file(options.legend) if options.legend else LegendSpec()
    if options.broader:
        parents = [_parents(m.scheme) for m in (first, second)]
        spec = spec.model_copy(update={"first": parents[0] | spec.first, "second": parents[1] | spec.second})
    return Legend.of(first.scheme, second.scheme, spec)


def _parents(scheme: ClassScheme) -> dict[str, str | None]:
    """Return the broader class of each class that has one."""
    return {c.name: c.parent for c in scheme.classes if c.parent}


def _count(
    comparison: Comparison, options: AgreeOptions, listener: Listener | None, store: str | None
) -> Tally:
    total, size = comparison.nothing(), options.block_px
    count = sum(1 for _ in comparison.box.blocks(size))
    kind = options.errors if store else None
    for done, (box, tally, drawn) in enumerate(comparison.blocks(kind, size), start=1):
        total.add(tally)
        if store is not None and drawn is not None:
            _put(store, box, drawn, size)
        if listener is not None:
            listener(done, count, "")
    return total


@contextmanager
def _error_store(comparison: Comparison, out: Path, options: AgreeOptions) -> Iterator[str | None]:
    """Give a store for the map of errors, for the length of a comparison."""
    if options.errors is None:
        yield None
        return
    scheme = error_scheme(options.errors, comparison.legend)
    variable = Variable(LABEL, "uint8", 0, attrs=scheme.flag_attributes())
    path = out / ".errors.zarr"
    shutil.rmtree(path, ignore_errors=True)
    try:
        spec = StoreSpec(comparison.first.grid, comparison.box, options.block_px, (variable,), chunk_px=256)
        create(str(path), spec)
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _put(store: str, box: Box, drawn: NDArray[np.uint8], block_px: int) -> None:
    if not drawn.any():
        return
    shard = box.snap_out(block_px)
    whole = np.zeros(shard.shape_yx, np.uint8)
    whole[box.slices_in(shard)] = drawn
    write_region(store, shard, {LABEL: whole})


def _error_map(
    comparison: Comparison, store: str | None, out: Path, options: AgreeOptions
) -> tuple[Path, ...]:
    if store is None or options.errors is None:
        return ()
    scheme = error_scheme(options.errors, comparison.legend)
    path = write_cog(store, out / "errors.tif", variable=LABEL, box=comparison.box, scheme=scheme)
    return path, write_qml(out / "errors.qml", scheme)


def _found(
    comparison: Comparison, tally: Tally, regions: tuple[str, ...], options: AgreeOptions
) -> Agreement:
    """Turn counts into figures and tables."""
    matrix, names = tally.matrix, comparison.legend.names
    if not matrix.any():
        raise InputError(
            "no pixel is classified in both maps",
            where=f"{comparison.first.where} and {comparison.second.where}",
            found=f"{tally.only_first} only in the first, {tally.only_second} only in the second",
            mend="check that the maps lie over each other, and the legend",
        )
    scores = Scores.of(matrix.T)  # the second map is the truth
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "first": comparison.first.where,
        "second": comparison.second.where,
        "grid": {"crs": comparison.first.grid.crs, "resolution_yx": comparison.first.grid.resolution_yx},
        "classes": list(names),
        "pixels": {
            "both": int(matrix.sum()),
            "only_first": tally.only_first,
            "only_second": tally.only_second,
            "left_out": tally.left_out,
        },
        "matrix": {"rows": "first", "columns": "second", "pixels": matrix.tolist()},
        **_figures(scores, names, matrix, kappa=options.kappa),
    }
    sheets = [
        matrix_sheet("Pixels", names, matrix.tolist(), "first \\ second"),
        _class_sheet(scores, names, matrix),
    ]
    if regions:
        rows = {name: tally.pairs[i + 1, 1:, 1:] for i, name in enumerate(regions)}
        rows["(in no region)"] = tally.pairs[0, 1:, 1:]
        told["regions"] = {
            name: {"pixels": int(m.sum()), **_figures(Scores.of(m.T), names, m, kappa=options.kappa)}
            for name, m in rows.items()
            if m.any()
        }
        sheets.append(_region_sheet(rows))
    for layer, counts in tally.layers.items():
        bins = _bins(layer, counts)
        told[f"by_{layer}"] = [
            {"from": b[0], "to": b[1], "pixels": b[2], "agree": rounded(b[3])} for b in bins
        ]
        sheets.append(_bin_sheet(layer, bins))
    return Agreement(told, tuple(sheets), _facts(comparison, tally, scores, told))


def _figures(
    scores: Scores, names: tuple[str, ...], matrix: NDArray[np.int64], *, kappa: bool
) -> dict[str, Any]:
    per_class = {
        name: {
            "users_accuracy": rounded(scores.precision[k]),
            "producers_accuracy": rounded(scores.recall[k]),
            "f1": rounded(scores.f1[k]),
            "iou": rounded(scores.iou[k]),
            "pixels_first": int(matrix[k].sum()),
            "pixels_second": int(matrix[:, k].sum()),
        }
        for k, name in enumerate(names)
        if matrix[k].any() or matrix[:, k].any()
    }
    overall = {
        "overall_agreement": rounded(scores.accuracy),
        "mean_f1": rounded(scores.mean_f1),
        "mean_iou": rounded(scores.mean_iou),
    }
    if kappa:
        overall["kappa"] = rounded(kappa_of(matrix))
    return {**overall, "per_class": per_class}


def _class_sheet(scores: Scores, names: tuple[str, ...], matrix: NDArray[np.int64]) -> Sheet:
    rows = tuple(
        (
            name,
            figure(float(matrix[k].sum()), 0),
            figure(float(matrix[:, k].sum()), 0),
            *(figure(v[k]) for v in (scores.precision, scores.recall, scores.f1, scores.iou)),
        )
        for k, name in enumerate(names)
        if matrix[k].any() or matrix[:, k].any()
    )
    heads = ("class", "first px", "second px", "user's", "producer's", "F1", "IoU")
    note = (
        "User's: of the first map's class, what the second calls the same; producer's: the other way round."
    )
    return Sheet("Classes", heads, rows, note)


def _region_sheet(rows: dict[str, NDArray[np.int64]]) -> Sheet:
    cells = []
    for name, matrix in rows.items():
        if matrix.any():
            scores = Scores.of(matrix.T)
            values = (scores.accuracy, scores.mean_f1, scores.mean_iou)
            cells.append((name, figure(float(matrix.sum()), 0), *(figure(v) for v in values)))
    return Sheet("Regions", ("region", "pixels", "agree", "mean F1", "mean IoU"), tuple(cells))


_CONFIDENCE_BINS = 10
_OBSERVATION_EDGES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 256)


def _bins(layer: str, counts: NDArray[np.int64]) -> list[tuple[float, float, int, float]]:
    """Return lower and upper end, pixels, and share that agrees, of each bin that holds pixels.

    Ends are 0..1 for confidence (250 = 1, the last bin holds it), counts for observations (upper end excluded).
    """
    if layer == "confidence":
        steps = 250 // _CONFIDENCE_BINS
        edges = [*range(0, 250, steps), 251]
        ends = [e / 250 for e in edges[:-1]] + [1.0]
    else:
        edges = [0, *_OBSERVATION_EDGES]
        ends = [float(e) for e in edges]
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        differ, same = (int(n) for n in counts[low:high].sum(axis=0))
        if differ + same:
            found.append((ends[i], ends[i + 1], differ + same, same / (differ + same)))
    return found


def _bin_name(layer: str, low: float, high: float) -> str:
    if layer == "confidence":
        return f"{low:.1f}-{high:.1f}"
    last = int(high) - 1
    return f"{int(low)}" if last <= low else f"{int(low)}-{last}" if last < 255 else f"{int(low)}+"


def _bin_sheet(layer: str, bins: list[tuple[float, float, int, float]]) -> Sheet:
    rows = tuple((_bin_name(layer, a, b), figure(float(n), 0), figure(share)) for a, b, n, share in bins)
    return Sheet(f"By the first map's {layer}", (layer, "pixels", "agree"), rows)


def _facts(comparison: Comparison, tally: Tally, scores: Scores, told: dict[str, Any]) -> tuple[str, ...]:
    both = told["pixels"]["both"]
    lines = [
        f"first: {comparison.first.where}",
        f"second: {comparison.second.where}",
        f"agree on {scores.accuracy:.2%} of {both:,} pixels that both classify",
        f"mean F1 {scores.mean_f1:.3f}, mean IoU {scores.mean_iou:.3f}",
    ]
    if "kappa" in told:
        lines.append(f"kappa {told['kappa']:.3f}")
    lines += [f"note: {m.where}: {m.note}" for m in (comparison.first, comparison.second) if m.note]
    apart = {
        "only the first": tally.only_first,
        "only the second": tally.only_second,
        "left out": tally.left_out,
    }
    lines += [f"{what}: {n:,} pixels" for what, n in apart.items() if n]
    return tuple(lines)


def _written(found: Agreement, comparison: Comparison, tally: Tally, out: Path) -> tuple[Path, ...]:
    matrix, names = tally.matrix, comparison.legend.names
    files = [
        write_json(out / "agreement.json", found.told),
        write_markdown(out / "agreement.md", "Agreement of two maps", found.facts, found.sheets),
    ]
    files.append(out / "matrix.csv")
    files[-1].write_text(found.sheets[0].csv(), encoding="utf-8")
    title = f"{found.told['overall_agreement']:.1%} agree (numbers: percent of the row)"
    files.append(
        draw_confusion(out / "matrix.png", names, matrix, rows="first map", columns="second map", title=title)
    )
    panels = []
    for layer, counts in tally.layers.items():
        bins = _bins(layer, counts)
        total = sum(b[2] for b in bins)
        marks, shares = [Mark(b[3]) for b in bins], [b[2] / total for b in bins]
        panels.append((layer, [_bin_name(layer, b[0], b[1]) for b in bins], marks, shares))
    if panels:
        files.append(
            draw_by_bins(out / "by_layer.png", panels, "Agreement by what the first map says of itself")
        )
    return tuple(files)
