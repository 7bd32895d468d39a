"""Design a sample of a map: how many points, in which strata, where; written blind for interpreters.

::

    points.gpkg           for interpreters: places and empty columns, in random order, nothing of the map
    points.qml            QGIS: the classes as a list to choose from
    points.md             what to do
    points.design.json    NOT for interpreters: strata, the map's class at each point, how points were drawn
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.count import ClassCounts, count_classes
from engine.assessment.designs import (
    FEWEST,
    allocate,
    clusters_for,
    expected,
    size_for_overall,
    size_for_share,
)
from engine.assessment.draw import Drawing, Points, count_clusters, draw_in_clusters, keys
from engine.assessment.maps import ClassMap
from engine.assessment.sheets import Sheet, figure
from engine.assessment.types import Stratum
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.assess_config import DesignOptions
from pipelines.class_maps import open_class_map
from pipelines.response_file import DESIGN_SCHEMA, Place, write_response

Listener = Callable[[int, int, str], None]

_SHUFFLE = 0x0DD_0F_0DE5
"""Sets the order in which points are shown apart from that in which they were drawn."""


@dataclass(frozen=True, eq=False)
class Population:
    """What points are drawn from.

    Attributes:
        strata: In their order; names, pixels, hectares.
        stratum_of: Stratum of each class value.
    """

    strata: tuple[Stratum, ...]
    stratum_of: dict[int, int]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A sample that was drawn.

    Attributes:
        told: For people and programs.
        sheets: Tables of strata and of expected errors.
        facts: Lines about the whole.
        files: What was written.
    """

    told: dict[str, Any]
    sheets: tuple[Sheet, ...]
    facts: tuple[str, ...]
    files: tuple[Path, ...]


def design_sample(
    source: str, out: Path, options: DesignOptions, keep: Path | None = None, listener: Listener | None = None
) -> Drawn:
    """Draw a sample of a map and write the files for its interpretation.

    Args:
        source: Run folder, map store or raster file.
        out: ``.gpkg``, ``.geojson`` or ``.csv``.
        options: The design.
        keep: Answers so far of a smaller sample of the same seed, which are copied.
        listener: Gets done and total blocks, and what is done.

    Raises:
        InputError: If the map has too few pixels, a class is not known, or the number of points is too small.
        ConflictError: If the file exists already.
    """
    opened = open_class_map(source, options.classes, options.store)
    counts = count_classes(opened, options.block_px, _named(listener, "count"))
    population = _population(opened, counts, options)
    if options.kind == "clusters":
        population, points, n_each = _draw_clusters(opened, population, options, listener)
    else:
        n_each = _points_of(population, options)
        points = _draw(opened, population, n_each, options, listener)
    design = _design(opened, population, points, n_each, options)
    files = write_response(out, opened, _places(opened, points, options.seed), design, keep)
    sheets = [_strata_sheet(population, n_each, design["strata"])]
    if options.kind == "stratified" and not options.broader:
        sheets.append(_expected_sheet(population, n_each, options))
    return Drawn(
        design | {"points": len(points)}, tuple(sheets), _facts(opened, points, design, options), files
    )


def _named(listener: Listener | None, what: str) -> Listener | None:
    if listener is None:
        return None
    return lambda done, total, _: listener(done, total, what)


def _population(source: ClassMap, counts: ClassCounts, options: DesignOptions) -> Population:
    """Return the strata of a design and what is in none of them."""
    lookup = source.scheme.lookup()
    unknown = [n for n in (*options.without, *options.expected_of) if n not in lookup]
    if unknown:
        raise InputError(
            "the map has no such class",
            where=source.where,
            found=unknown,
            limit=", ".join(source.scheme.names),
        )
    left_out = {lookup[name] for name in options.without}
    there = [c for c in source.scheme.classes if c.value in counts.pixels and c.value not in left_out]
    if not there:
        raise InputError("there is nothing to draw from", where=source.where, found="no classified pixel")
    if options.kind == "stratified":
        groups: dict[str, list[int]] = {}
        for c in there:
            groups.setdefault((c.parent or c.name) if options.broader else c.name, []).append(c.value)
    else:
        groups = {"all": [c.value for c in there]}
    strata = tuple(
        Stratum(
            name,
            sum(counts.pixels[v] for v in values),
            sum(counts.hectares[v] for v in values),
            mapped=values[0] if len(values) == 1 else 0,
        )
        for name, values in groups.items()
    )
    return Population(strata, {v: i for i, values in enumerate(groups.values()) for v in values})


def _accuracies(population: Population, options: DesignOptions) -> list[float]:
    return [options.expected_of.get(s.name, options.expected) for s in population.strata]


def _points_of(population: Population, options: DesignOptions) -> list[int]:
    """Return how many points each stratum gets."""
    pixels, accuracies = [s.pixels for s in population.strata], _accuracies(population, options)
    if options.target_users is not None:
        shares = zip(accuracies, pixels, strict=True)
        return [size_for_share(a, options.target_users, n) for a, n in shares]
    if options.kind == "simple":
        return [min(pixels[0], _wanted(pixels, accuracies, options))]
    n = _wanted(pixels, accuracies, options)
    if options.target_error is None:
        return _allocated(pixels, accuracies, n, options)
    n = max(n, _least(pixels, options))
    n_each = _allocated(pixels, accuracies, n, options)
    while _promised(pixels, accuracies, n_each) > options.target_error and sum(n_each) < sum(pixels):
        n += max(1, n // 100)  # the formula counts on Neyman's rule: others need more
        n_each = _allocated(pixels, accuracies, n, options)
    return n_each


def _allocated(pixels: list[int], accuracies: list[float], n: int, options: DesignOptions) -> list[int]:
    return allocate(
        pixels,
        n,
        options.allocation,
        accuracies=accuracies,
        rare_points=options.rare_points,
        rare_share=options.rare_share,
    )


def _promised(pixels: list[int], accuracies: list[float], n_each: list[int]) -> float:
    """Return the standard error of the overall accuracy that a design promises (Olofsson et al. 2014, equation 5)."""
    size, n, p = np.array(pixels, float), np.array(n_each, float), np.array(accuracies)
    spread = (1 - n / size) * p * (1 - p) / np.maximum(n - 1, 1)
    return float(np.sqrt(((size / size.sum()) ** 2 * spread).sum()))


def _wanted(pixels: list[int], accuracies: list[float], options: DesignOptions) -> int:
    if options.points is not None:
        return options.points
    assert options.target_error is not None
    return size_for_overall(pixels, accuracies, options.target_error)


def _least(pixels: list[int], options: DesignOptions) -> int:
    """Return the points that rare strata and the standard errors of all others need."""
    total = sum(pixels)
    rare = [options.allocation == "rare" and n < options.rare_share * total for n in pixels]
    return sum(min(n, options.rare_points if r else FEWEST) for n, r in zip(pixels, rare, strict=True))


def _blocks(
    source: ClassMap, options: DesignOptions, listener: Listener | None, what: str
) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    total = sum(1 for _ in source.box.blocks(options.block_px))
    for done, box in enumerate(source.box.blocks(options.block_px), start=1):
        yield box, source.labels(box)
        if listener is not None:
            listener(done, total, what)


def _draw(
    source: ClassMap,
    population: Population,
    n_each: list[int],
    options: DesignOptions,
    listener: Listener | None,
) -> Points:
    drawing = Drawing(population.stratum_of, n_each, seed=options.seed)
    for box, labels in _blocks(source, options, listener, "draw"):
        drawing.offer(labels, box)
    return drawing.points()


def _draw_clusters(
    source: ClassMap, population: Population, options: DesignOptions, listener: Listener | None
) -> tuple[Population, Points, list[int]]:
    own, (stratum,) = options.clusters, population.strata
    classes = list(population.stratum_of)
    found = count_clusters(_blocks(source, options, listener, "count clusters"), own.side_px, classes)
    single = _wanted([stratum.pixels], _accuracies(population, options), options)
    if options.points is not None:
        n = -(-options.points // own.points_each)
    else:
        n = clusters_for(single, own.points_each, own.correlation)
    n = max(FEWEST, min(n, len(found)))
    points = draw_in_clusters(source.labels, found, n, own.points_each, seed=options.seed, classes=classes)
    whole = replace(population, strata=(replace(stratum, clusters=len(found)),))
    return whole, points, [len(points)]


def _design(
    source: ClassMap, population: Population, points: Points, n_each: list[int], options: DesignOptions
) -> dict[str, Any]:
    """Return what the design file holds, but for the points."""
    told: dict[str, Any] = {
        "schema": DESIGN_SCHEMA,
        "map": source.where,
        "kind": options.kind,
        "seed": options.seed,
        "grid": {
            "crs": source.grid.crs,
            "resolution_yx": list(source.grid.resolution_yx),
            "anchor_xy": list(source.grid.anchor_xy),
        },
        "classes": [c.model_dump(mode="json") for c in source.scheme.classes],
        "options": options.model_dump(mode="json"),
        "strata": [asdict(s) | {"points": n} for s, n in zip(population.strata, n_each, strict=True)],
    }
    if points.cluster is not None:
        told["clusters"] = {"drawn": len(set(points.cluster.tolist())), **options.clusters.model_dump()}
    return told


def _places(source: ClassMap, points: Points, seed: int) -> list[Place]:
    """Return the points in an order that tells nothing of their strata."""
    order = np.argsort(keys(seed ^ _SHUFFLE, points.row, points.column), kind="stable")
    found = []
    for i in order:
        place = Place(
            int(points.row[i]), int(points.column[i]), int(points.stratum[i]), int(points.mapped[i])
        )
        if points.cluster is not None and points.cluster_pixels is not None:
            place = replace(
                place, cluster=str(points.cluster[i]), cluster_pixels=int(points.cluster_pixels[i])
            )
        found.append(place)
    return found


def _strata_sheet(population: Population, n_each: list[int], strata: list[dict[str, Any]]) -> Sheet:
    total = sum(s.hectares for s in population.strata)
    rows = []
    for s, n in zip(population.strata, n_each, strict=True):
        cells = (
            s.name,
            figure(float(s.pixels), 0),
            figure(s.hectares, 1),
            f"{s.hectares / total:.1%}",
            str(n),
        )
        rows.append(cells)
    sums = sum(s.pixels for s in population.strata), sum(n_each)
    rows.append(("total", figure(float(sums[0]), 0), figure(total, 1), "100.0%", str(sums[1])))
    return Sheet("Strata", ("stratum", "pixels", "hectares", "share", "points"), tuple(rows))


def _expected_sheet(population: Population, n_each: list[int], options: DesignOptions) -> Sheet:
    """Tell the standard errors that the design promises, if errors fall on other classes by their area."""
    pixels = np.array([s.pixels for s in population.strata], float)
    right = np.array(_accuracies(population, options))
    others = np.tile(pixels, (len(pixels), 1))
    np.fill_diagonal(others, 0.0)
    sums = others.sum(axis=1, keepdims=True)
    share = np.divide(others, sums, out=np.zeros_like(others), where=sums > 0) * (1 - right[:, None])
    np.fill_diagonal(share, right if len(pixels) > 1 else 1.0)
    if min(n_each) < FEWEST:
        return Sheet(
            "Expected standard errors", ("stratum", "user's"), (), "A stratum has less than two points."
        )
    found = expected([s.pixels for s in population.strata], share, n_each)
    rows = [
        (s.name, f"{right[i]:.2f}", *(figure(v[i], 4) for v in (found.users, found.producers, found.areas)))
        for i, s in enumerate(population.strata)
    ]
    heads = ("stratum", "assumed user's", "user's", "producer's", "share of area")
    note = (
        f"Overall accuracy: standard error {found.overall:.4f}. All if the map is as right as assumed, and errors "
        "fall on the other classes by their area."
    )
    return Sheet("Expected standard errors", heads, tuple(rows), note)


def _facts(
    source: ClassMap, points: Points, design: dict[str, Any], options: DesignOptions
) -> tuple[str, ...]:
    lines = [f"{len(points)} points, {options.kind}, seed {options.seed}"]
    if source.note:
        lines.append(f"note: {source.note}, and no point there")
    if "clusters" in design:
        lines.append(f"{design['clusters']['drawn']} clusters of {options.clusters.side_px} px")
    return tuple(lines)
