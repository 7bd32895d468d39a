"""Weak labels: from rules on indices, from maps that agree, from a model's confident answers.

Each is a `LabelRaster` with a weight and a name, so `training.label_values.combine` lays it under what people
annotated. A weak label is a guess: what is in doubt stays 0, not annotated.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.periods import MonthDay
from training.label_maps import eroded
from training.label_values import FULL_WEIGHT, LabelRaster

if TYPE_CHECKING:
    import xarray as xr

_NO_CONFIDENCE = 255
_CONDITION = re.compile(r"\s*(?P<what>\w+)\s*(?P<how>[<>])\s*(?P<than>otsu|-?[\d.]+)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {"<": operator.lt, ">": operator.gt}


class Rule(BaseModel):
    """What a class looks like over a season.

    Attributes:
        name: The class.
        when: Conditions that must all hold: a statistic of an index or band over time against a number or
            ``otsu``, the threshold that separates this area best: ``NDVI_max > 0.6``, ``EVI_range > otsu``,
            ``NDVI_p10 < 0.3``.
        days: First and last day of the year that count, ``MM-DD``; None for the whole cube. Over New Year
            if the last is before the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    name: str = Field(alias="class")
    when: tuple[str, ...] = Field(min_length=1)
    days: tuple[MonthDay, MonthDay] | None = None


@dataclass(frozen=True)
class Threshold:
    """A threshold that Otsu's method found.

    Attributes:
        what: Statistic.
        value: Threshold.
        between: Share of the variance that lies between the two sides, 0..1: below about 0.6 the values
            are hardly of two kinds.
    """

    what: str
    value: float
    between: float


def label_by_rules(
    cube: xr.Dataset, rules: Sequence[Rule], classes: ClassScheme, weight: float = 0.5, erode_px: int = 1
) -> tuple[LabelRaster, tuple[Threshold, ...]]:
    """Label pixels by what their season looks like.

    Pixels that rules of two classes claim, and those without data, are not annotated.

    Args:
        cube: ``reflectance`` (time, band, y, x) uint16 with coordinates; it is loaded whole.
        rules: One or more for a class; any of a class's rules will do.
        classes: Scheme.
        weight: How much the labels count, 0..1.
        erode_px: Pixels at the rim of each patch that are left out.

    Returns:
        The labels, and the thresholds that were found.

    Raises:
        InputError: If a rule cannot be read, names no class, or needs a band that is not there.
    """
    values = cube["reflectance"].compute(scheduler="threads")
    grid_box = georef_of(cube)[1]
    bands = [str(b) for b in values["band"].values]
    days = values["time"].values.astype("datetime64[D]")
    found = np.zeros(grid_box.shape_yx, np.uint8)
    clash = np.zeros(found.shape, bool)
    thresholds: list[Threshold] = []
    for rule in rules:
        value = classes.lookup().get(rule.name, 0)
        if not value:
            raise InputError(
                "a rule names no class", where="labels.rules", found=rule.name, limit=classes.names
            )
        which = _days_within(days, rule.days)
        mine, more = _holds(values.values[which], days[which], bands, rule)
        thresholds += more
        clash |= mine & (found != 0) & (found != value)
        found[mine] = value
    found[clash] = 0
    return _weak(eroded(found, erode_px), grid_box, classes, weight, "rules"), tuple(thresholds)


def _holds(
    values: NDArray[np.uint16], days: NDArray[Any], bands: list[str], rule: Rule
) -> tuple[NDArray[np.bool_], list[Threshold]]:
    """Tell where all conditions of a rule hold, (y, x)."""
    from engine.cube.features import measure, split_statistic, statistics
    from engine.cube.spectral import find_measure

    holds = np.ones(values.shape[2:], bool)
    thresholds = []
    for text in rule.when:
        parsed = _CONDITION.fullmatch(text)
        if parsed is None:
            raise InputError(
                "cannot read a condition",
                where=f"labels.rules: {rule.name}",
                found=text,
                limit="STATISTIC > NUMBER, STATISTIC < otsu",
                mend="write e.g. NDVI_max > 0.6",
            )
        if not len(values):
            raise InputError(
                "no date of the cube lies within the days of a rule",
                where=f"labels.rules: {rule.name}",
                found=rule.days,
            )
        what, how = split_statistic(parsed["what"])
        series = measure(values, bands, [find_measure(what)])[:, 0]
        amount = statistics(series, days.astype("datetime64[D]").astype(np.float64), [how])[0]
        if parsed["than"] == "otsu":
            threshold = otsu(parsed["what"], amount)
            thresholds.append(threshold)
            than = threshold.value
        else:
            than = float(parsed["than"])
        with np.errstate(invalid="ignore"):
            holds &= _COMPARE[parsed["how"]](amount, than)
    return holds, thresholds


def _days_within(days: NDArray[Any], span: tuple[str, str] | None) -> NDArray[np.bool_]:
    if span is None:
        return np.ones(len(days), bool)
    text = np.array([str(d)[5:] for d in days])
    first, last = span
    return (text >= first) & (text <= last) if first <= last else (text >= first) | (text <= last)


def otsu(what: str, values: NDArray[Any], bins: int = 256) -> Threshold:
    """Find the threshold with the largest variance between its two sides (Otsu 1979).

    Args:
        what: Name of the values.
        values: Any shape; NaN does not count.
        bins: Of the histogram, between the 0.1 and 99.9 percentile.

    Raises:
        InputError: If all values are one.
    """
    known = values[np.isfinite(values)].astype(np.float64)
    low, high = np.percentile(known, [0.1, 99.9]) if known.size else (0.0, 0.0)
    if not low < high:
        raise InputError(
            "one value alone has no threshold",
            where=f"otsu of {what}",
            found=f"{known.size} values",
            mend="name a number",
        )
    counts, edges = np.histogram(np.clip(known, low, high), bins)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1] / known.size
    sums = np.cumsum(counts * middle)
    mean, part = sums[-1] / known.size, sums[:-1] / known.size
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.nan_to_num((mean * below - part) ** 2 / (below * (1 - below)))
    # Where a gap separates the two sides, any threshold in it is as good: the middle one.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    at = (edges[best[0] + 1] + edges[best[-1] + 1]) / 2
    variance = float((counts * (middle - mean) ** 2).sum() / known.size)
    return Threshold(what, float(at), float(between.max() / variance))


def agreement(
    maps: Sequence[LabelRaster], at_least: int | None = None, erode_px: int = 1, weight: float = 0.7
) -> LabelRaster:
    """Label pixels on which maps agree.

    Args:
        maps: Of one box and scheme.
        at_least: How many must say the same class; default all. No other class may have as many.
        erode_px: Pixels at the rim of each agreeing patch that are left out.
        weight: How much a pixel counts on which all agree; less in proportion where fewer do.

    Raises:
        InputError: If there are fewer than two maps, or they differ in box or scheme.
    """
    if len(maps) < 2 or any((m.box, m.classes) != (maps[0].box, maps[0].classes) for m in maps):
        raise InputError(
            "agreement needs two or more maps of one box and scheme", where="labels", found=len(maps)
        )
    needed = len(maps) if at_least is None else at_least
    if not 1 < needed <= len(maps):
        raise InputError("cannot agree that often", where="at_least", found=needed, limit=f"2..{len(maps)}")
    best, second, value = (np.zeros(maps[0].values.shape, np.uint8) for _ in range(3))
    for c in maps[0].classes.values:
        votes = np.sum([m.values == c for m in maps], axis=0, dtype=np.uint8)
        second = np.maximum(second, np.minimum(votes, best))
        value[votes > best] = c
        best = np.maximum(best, votes)
    value[(best < needed) | (best == second)] = 0
    kept = eroded(value, erode_px)
    steps = np.rint(best / len(maps) * weight * FULL_WEIGHT)
    weights = np.where(kept != 0, np.maximum(1, steps), 0).astype(np.uint8)
    name = f"agreement of {', '.join(n for m in maps for n in m.sources) or len(maps)}"
    return LabelRaster(kept, maps[0].box, maps[0].classes, weights, None, (name,))


@dataclass(frozen=True)
class Confident:
    """Which answers of a model are taken as labels.

    Attributes:
        least: Smallest confidence, 0..1.
        share: Of each class at most this share of its pixels, the most confident ones: a class that the
            model finds easy does not drown the others (Zou et al. 2018, class-balanced self-training).
        erode_px: Pixels at the rim of each patch that are left out.
        weight: Times the confidence: how much a pixel counts.
    """

    least: float = 0.9
    share: float = 0.5
    erode_px: int = 1
    weight: float = 0.5


def confident(
    label: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    like: LabelRaster,
    how: Confident = Confident(),
    name: str = "prediction",
) -> LabelRaster:
    """Take a model's confident answers as labels: one round of self-training.

    Args:
        label: (y, x) uint8 class values, 0 = no data: a map's ``label``.
        confidence: (y, x) uint8, 0..250 = 0..1, 255 = no data: its ``confidence``.
        like: Labels of the same box and scheme: what is annotated there is left alone.
        how: Which answers.
        name: Name of the source.

    Raises:
        InputError: If the arrays differ in shape.
    """
    if not label.shape == confidence.shape == like.values.shape:
        raise InputError(
            "map and labels cover different pixels", where=name, found=label.shape, limit=like.values.shape
        )
    sure = (confidence != _NO_CONFIDENCE) & (confidence >= np.ceil(how.least * FULL_WEIGHT))
    kept = np.zeros(label.shape, np.uint8)
    inner = eroded(label, how.erode_px)
    for value in like.classes.values:
        all_of_class = (label == value) & (confidence != _NO_CONFIDENCE)
        most = int(how.share * np.count_nonzero(all_of_class))
        candidates = sure & (inner == value) & (like.values == 0)
        kept[_most_confident(candidates, confidence, most)] = value
    steps = np.maximum(1, np.rint(confidence * how.weight)).astype(np.uint8)
    weights = np.where(kept != 0, steps, 0).astype(np.uint8)
    return LabelRaster(kept, like.box, like.classes, weights, None, (name,))


def _most_confident(
    candidates: NDArray[np.bool_], confidence: NDArray[np.uint8], most: int
) -> NDArray[np.bool_]:
    """Keep whole levels of confidence from the top, at most `most` pixels, but never less than one level."""
    levels = np.bincount(confidence[candidates], minlength=256)[::-1]
    above = np.cumsum(levels)
    fits = np.flatnonzero((above <= most) & (above > 0))
    first = np.flatnonzero(levels)
    if not len(first) or most < 1:
        return np.zeros_like(candidates)
    lowest = 255 - (int(fits[-1]) if len(fits) else int(first[0]))
    return candidates & (confidence >= lowest)


def _weak(
    values: NDArray[np.uint8], box: Any, classes: ClassScheme, weight: float, name: Literal["rules"]
) -> LabelRaster:
    weights = np.where(values != 0, np.uint8(max(1, round(weight * FULL_WEIGHT))), np.uint8(0))
    return LabelRaster(values, box, classes, weights.astype(np.uint8), None, (name,))
