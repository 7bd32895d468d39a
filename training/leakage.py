"""Leakage: how close the parts of a split come to each other, and what they share; refused when it is there.

Measured, not trusted: on the pixels or samples that are used, after the split is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box
from training.splits import LEFT_OUT, PARTS, TEST, TRAIN, VAL, Samples, Split

Gather = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]
"""Gives the values (..., n) of pixels by their rows and columns."""

_CAP_PX = 256
_STRIP_PX = 1024
_LEAST_VALUES = 6
"""A shorter series may be the same by chance."""


@dataclass(frozen=True)
class Leakage:
    """What the parts of a split share.

    Attributes:
        unit: ``px`` or ``m``.
        distance: Pair of parts (``train-val``) to the smallest distance between them: in pixels, rows and
            columns alike; in metres, in a straight line. Infinite where it is beyond what was looked at.
        duplicates: Pair of parts to the number of pixels or samples in its second part whose whole series
            is in the first one too; constant series and those of fewer than 6 values do not count.
        compared: Pair of parts to the number that was looked at.
        groups: Pair of parts to the groups that have samples in both.
        counts: Part to its pixels or samples.
    """

    unit: str
    distance: dict[str, float] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON types; an infinite distance is None."""
        distance = {k: None if np.isinf(v) else v for k, v in self.distance.items()}
        return {**vars(self), "distance": distance}

    def line(self) -> str:
        """Say it in one line."""
        told = [
            f"{pair} {'more than ' + str(_CAP_PX) if np.isinf(d) else f'{d:g}'} {self.unit} apart"
            for pair, d in self.distance.items()
        ]
        same = [f"{n} of {self.compared[pair]} series of {pair} twice" for pair, n in self.duplicates.items()]
        return ", ".join(told + same) or "one part only"


def measure_pixels(
    parts: NDArray[np.uint8],
    known: NDArray[np.bool_],
    series: NDArray[Any] | Gather | None = None,
) -> Leakage:
    """Measure the leakage between annotated pixels.

    Args:
        parts: (y, x) uint8, as `Split.parts` gives.
        known: (y, x), pixels that are annotated.
        series: (..., y, x) integers, 0 = no data: the cube's values, or what gathers them by rows and columns
            (..., n), to look for equal series in up to 100 000 pixels of each part; None looks for none.
    """
    used = np.where(known, parts, LEFT_OUT).astype(np.uint8)
    present = [p for p in (TRAIN, VAL, TEST) if (used == p).any()]
    pairs = list(itertools.combinations(present, 2))
    distance = {_pair(a, b): _pixels_apart(used, a, b) for a, b in pairs}
    drawn = {p: _drawn(used == p) for p in present} if series is not None else {}
    gathered = {p: _rows(series, where, known.shape[1]) for p, where in drawn.items() if series is not None}
    twice = {_pair(a, b): count_twice(gathered[a], gathered[b]) for a, b in pairs if gathered}
    return Leakage(
        "px",
        distance,
        {k: n for k, (n, _) in twice.items()},
        {k: n for k, (_, n) in twice.items()},
        counts={PARTS[p]: int((used == p).sum()) for p in present},
    )


def measure_samples(
    parts: NDArray[np.uint8], samples: Samples, crs: str, series: NDArray[np.float32] | None = None
) -> Leakage:
    """Measure the leakage between samples.

    Args:
        parts: (n,) uint8, as `Split.parts_of` gives.
        samples: Where they are.
        crs: Projected CRS in which distances are measured; samples without a place have none.
        series: (n, ...) float, NaN = missing: their values, to look for equal series.
    """
    from scipy.spatial import cKDTree

    places = samples.on(crs)
    placed = np.isfinite(places).all(axis=1)
    present = [p for p in (TRAIN, VAL, TEST) if (parts == p).any()]
    distance, twice, groups = {}, {}, {}
    for a, b in itertools.combinations(present, 2):
        one, other = places[placed & (parts == a)], places[placed & (parts == b)]
        if len(one) and len(other):
            distance[_pair(a, b)] = float(cKDTree(one).query(other)[0].min())
        if series is not None:
            flat = np.nan_to_num(series.reshape(len(parts), -1))
            twice[_pair(a, b)] = count_twice(flat[parts == a], flat[parts == b])
        groups[_pair(a, b)] = len((set(samples.group[parts == a]) & set(samples.group[parts == b])) - {""})
    return Leakage(
        "m",
        distance,
        {k: n for k, (n, _) in twice.items()},
        {k: n for k, (_, n) in twice.items()},
        groups,
        {PARTS[p]: int((parts == p).sum()) for p in present},
    )


def refuse_leaks(leakage: Leakage, split: Split, most_twice: float = 0.001) -> None:
    """Refuse a split whose parts touch or share what they must not.

    Pixels of two parts must not be neighbours, and lie further apart than the buffer; samples must keep the
    buffer, except by years, which repeat places by intent. Groups must not be shared when the split is by
    groups. At most a share of `most_twice` of a part's series may be in another one.

    Raises:
        InputError: Naming the pair, the distance or the count, and the limit.
    """
    for pair, distance in leakage.distance.items():
        limit = _nearest(leakage, split)
        if distance <= limit:
            raise InputError(
                "parts of the split are too close: what is tested was nearly learnt",
                where=f"split: {pair}",
                found=f"{distance:g} {leakage.unit} apart",
                limit=f"more than {limit:g} {leakage.unit}",
                mend="raise buffer_px",
            )
    for pair, count in leakage.duplicates.items():
        if count > most_twice * leakage.compared[pair]:
            raise InputError(
                "parts of the split hold the same series",
                where=f"split: {pair}",
                found=f"{count} of {leakage.compared[pair]}",
                limit=f"at most {most_twice:.1%}",
                mend="take duplicates out of the labels, or split by what they have in common (groups, years)",
            )
    for pair, count in leakage.groups.items():
        if count and split.by == "groups":
            raise InputError(
                "parts of the split share groups", where=f"split: {pair}", found=f"{count} groups", limit=0
            )


def _nearest(leakage: Leakage, split: Split) -> float:
    """Return the distance that is too close."""
    if leakage.unit == "px":
        return float(max(1, split.buffer_px))
    if split.by == "years" or split.grid is None:
        return -1.0
    # Samples of one pixel are as good as one; by blocks the buffer is counted in pixels, not metres.
    near = split.buffer_px * min(split.grid.resolution_yx)
    return 0.0 if split.by == "blocks" and not split.buffer_px else near


def count_twice(one: NDArray[Any], other: NDArray[Any]) -> tuple[int, int]:
    """Count the rows of `other` (n, values) that are in `one` too, and those that could be.

    Rows that are constant or have fewer than 6 values but zero do not count.
    """
    one, other = _telling(one), _telling(other)
    if not len(one) or not len(other):
        return 0, len(other)
    seen = {row.tobytes() for row in one}
    return sum(row.tobytes() in seen for row in other), len(other)


def _telling(rows: NDArray[Any]) -> NDArray[Any]:
    values = np.ascontiguousarray(rows)
    if not len(values):
        return values
    enough = (values != 0).sum(axis=1) >= _LEAST_VALUES
    low = np.where(values != 0, values, values.max(axis=1, keepdims=True)).min(axis=1)
    return values[enough & (low != values.max(axis=1))]


def _pair(a: int, b: int) -> str:
    return f"{PARTS[a]}-{PARTS[b]}"


def _pixels_apart(used: NDArray[np.uint8], a: int, b: int) -> float:
    """Return the smallest distance (rows and columns alike) between two parts, strip by strip.

    Infinite beyond 256 pixels.
    """
    from scipy.ndimage import distance_transform_cdt

    nearest = np.inf
    height, width = used.shape
    for strip in Box(0, 0, height, width).blocks(_STRIP_PX):
        mine = used[strip.slices_in(Box(0, 0, height, width))] == b
        if not mine.any():
            continue
        outer = strip.pad(_CAP_PX) & Box(0, 0, height, width)
        there = used[outer.slices_in(Box(0, 0, height, width))] == a
        if there.any():
            apart = distance_transform_cdt(~there, metric="chessboard")[strip.slices_in(outer)]
            nearest = min(nearest, float(apart[mine].min()))
    return nearest if nearest <= _CAP_PX else np.inf


def _drawn(where: NDArray[np.bool_], most: int = 100_000) -> NDArray[np.int64]:
    flat = np.flatnonzero(where)
    if len(flat) <= most:
        return flat
    return np.sort(np.random.default_rng(0).choice(flat, most, replace=False))


def _rows(series: NDArray[Any] | Gather, flat: NDArray[np.int64], width: int) -> NDArray[Any]:
    """Return the values (pixel, value) of some pixels."""
    ys, xs = np.divmod(flat, width)
    found = series[..., ys, xs] if isinstance(series, np.ndarray) else series(ys, xs)
    return np.moveaxis(found.reshape(-1, len(flat)), 0, 1)
