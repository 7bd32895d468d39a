"""Which tile, which line: single borders that change more than any other place of the same map.

A family of lines (`engine.inference.seam_families`) averages over the whole map and so misses a single bad
tile. Here every place is scored by itself. A piece of a line with n pairs and rate r is set beside the
same piece of its control lines, 3 to 12 px aside, which have mean c and standard deviation s:

    t = (r - c) / (s sqrt(1 + 1/m)), clipped to ±4          score = Σ sqrt(n) t / sqrt(Σ n)

s is at least what chance alone gives (Poisson for labels, one stored step in each pair for amounts). The
clip is what tells a seam from a field edge that lies along a border for a while: the seam raises all
pieces, the edge some of them very much. Four kinds of places add up their pieces::

    all     ─┼──┼──┼──┼─        all tile borders, or all borders of the windows of one kind
    line    ═══════════════     a tile border across the whole map
    tile         ┌─┐            the four sides of one tile
                 └─┘
    border        │             one side between two tiles

How large a score may get by chance depends on the landscape (field edges, roads, coasts), so no formula is
asked: the same scores are taken at every other place of the same map (all lines that keep off the borders;
for tiles the frame, and for all borders the whole grid of them, moved by every number of pixels), and the
limit is

    limit = max(largest score elsewhere, u + b log(q n / a))

where u is exceeded by the share q of the scores elsewhere, by b on average; n is the number of places
asked, and a the chance of a false alarm in a map: the exponential tail says what n places reach with chance
a. The first term holds whatever the tail is: if borders are nothing special, the largest score of all lies
on a border as often as borders are among the lines, one time in `tile_px`.

Where a layer has several measures, a place's score is the largest of theirs, here and elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.inference.seam_families import CONTROL_OFFSETS, LEAST_CONTROLS, near_borders
from engine.inference.seam_sums import AXES, Axis, Measure

Kind = Literal["all", "line", "tile", "border"]

LISTED = 20
"""Suspects that are named; all are counted."""

FALSE_ALARM = 1e-5
"""Chance of a false alarm of each kind of place in a map without seams, by the exponential tail; that of a
landscape may be heavier (benchmarks/seam_power.py counts)."""

CLIP = 4.0
"""No piece counts for more standard deviations: all pieces of a seam must show it."""

_LEAST_ELSEWHERE = 200  # fewer other places give no limit
_MOST_SHIFTS = 256  # of a whole grid along an axis; every pair of them is a place
_TAIL_SHARE, _TAIL_LEAST = 0.01, 30  # how much of the scores elsewhere is the tail


@dataclass(frozen=True)
class Suspect:
    """A place that changes more than any other of the map.

    Attributes:
        kind: ``all``, ``line``, ``tile`` or ``border``.
        where: ``window starts``, ``x = 4096``, ``r2_c5`` or ``r2_c5 | r2_c6``.
        measure: Layer that shows it most.
        score: Excess over its error.
        limit: What the score had to pass.
        ratio: Rate there over rate beside it.
    """

    kind: Kind
    where: str
    measure: str
    score: float
    limit: float
    ratio: float


@dataclass(frozen=True)
class AxisSums:
    """Lines of one axis, cut into segments along tiles.

    Attributes:
        sums: Layer -> (2, line, piece) whole numbers; pieces begin at a tile's side.
        pieces: Pieces of a segment.
        tiles: Tiles of a segment: 1, more in a very large map.
        lines: Indices of the borders of each family; one of them is ``tile``.
        borders: Indices of all borders, the windows' too.
        first_line: Global number of line 0.
        first_tile: Number of the tile that the first segment lies along, on the other axis.
        tile_px: Side of a tile.
    """

    sums: Mapping[str, NDArray[Any]]
    pieces: int
    tiles: int
    lines: Mapping[str, NDArray[np.int64]]
    borders: NDArray[np.int64]
    first_line: int
    first_tile: int
    tile_px: int

    @property
    def free(self) -> NDArray[np.bool_]:
        """Lines that keep off all borders, (line,)."""
        n_lines = max((s.shape[1] for s in self.sums.values()), default=0)
        return ~near_borders(self.borders, n_lines)

    @property
    def tile_lines(self) -> NDArray[np.int64]:
        """Indices of the tile borders."""
        return self.lines["tile"]

    @property
    def segments(self) -> int:
        """Segments of a line."""
        return max((-(-s.shape[2] // self.pieces) for s in self.sums.values()), default=0)


@dataclass(frozen=True)
class _Scored:
    """Segments of one axis and measure, (line, segment) float64.

    Attributes:
        excess: Σ w t.
        squared: Σ w², 0 where nothing is known.
        change: Σ n r.
        expected: Σ n c.
    """

    excess: NDArray[np.float64]
    squared: NDArray[np.float64]
    change: NDArray[np.float64]
    expected: NDArray[np.float64]

    def at(self, line: int, segment: int) -> tuple[float, ...]:
        """Return the four numbers of a segment."""
        every = self.excess, self.squared, self.change, self.expected
        return tuple(float(of[line, segment]) for of in every)


def _scored(of: AxisSums, sums: NDArray[Any], measure: Measure) -> _Scored:
    """Score every line's segments against the lines beside it."""
    made = _Scored(*np.zeros((4, sums.shape[1], of.segments)))
    control = of.free[:, None]
    for segment in range(of.segments):
        at = slice(segment * of.pieces, (segment + 1) * of.pieces)
        pairs = sums[0, :, at].astype(np.float64)
        rate = np.divide(sums[1, :, at] * measure.unit, pairs, out=np.zeros_like(pairs), where=pairs > 0)
        known, mean, variance = _beside(rate, control & (pairs > 0))
        pairs = np.where(known, pairs, 0.0)
        n = np.maximum(pairs, 1)
        floor = (mean * n + 1) / n**2 if measure.classes else measure.unit**2 / n
        steps = np.clip((rate - mean) / np.sqrt(np.maximum(variance, floor)), -CLIP, CLIP)
        made.excess[:, segment] = (np.sqrt(pairs) * steps).sum(1)
        made.squared[:, segment] = pairs.sum(1)
        made.change[:, segment] = (pairs * rate).sum(1)
        made.expected[:, segment] = (pairs * mean).sum(1)
    return made


def _beside(
    rate: NDArray[np.float64], control: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Tell where enough controls lie on both sides, their mean, and the variance of one more draw."""
    reach = max(CONTROL_OFFSETS)
    padded = np.pad(np.where(control, rate, 0.0), ((reach, reach), (0, 0)))
    there = np.pad(control, ((reach, reach), (0, 0)))
    shifts = {d: slice(reach + d, reach + d + len(rate)) for d in CONTROL_OFFSETS}
    before, after = (
        np.sum([there[s] for d, s in shifts.items() if d * side > 0], axis=0, dtype=np.float64)
        for side in (-1, 1)
    )
    count = before + after
    mean = np.sum([padded[s] for s in shifts.values()], axis=0) / np.maximum(count, 1)
    spread = np.sum([np.where(there[s], (padded[s] - mean) ** 2, 0.0) for s in shifts.values()], axis=0)
    variance = spread / np.maximum(count - 1, 1) * (1 + 1 / np.maximum(count, 1))
    return np.minimum(before, after) >= LEAST_CONTROLS / 2, mean, variance


Segment = tuple[int, int, int]
"""Axis, line and number of a segment."""


@dataclass(frozen=True)
class _Place:
    """A place that was asked about: how it is called, and the segments it consists of."""

    where: str
    segments: tuple[Segment, ...]


class Suspects:
    """Scores of every place of a map.

    Args:
        axes: Sums of both axes.
        measures: How each layer was counted.
    """

    def __init__(self, axes: Mapping[Axis, AxisSums], measures: Mapping[str, Measure]) -> None:
        self._axes = [axes[a] for a in AXES]
        self._measures = sorted(measures)
        self._scored = [[_scored(of, of.sums[m], measures[m]) for m in self._measures] for of in self._axes]

    def found(self, least_ratio: float, least_score: float) -> tuple[Suspect, ...]:
        """Return the suspects, the plainest first; one that shares a side with a plainer one is left out.

        Args:
            least_ratio: A place whose rate is less than this many times that beside it is none.
            least_score: The lowest limit of a score; where nothing else changes, chance says nothing.
        """
        over: list[tuple[float, Suspect, _Place]] = []
        for kind, places, elsewhere in self._kinds() if self._measures else ():
            limit = max(least_score, _limit(elsewhere, len(places)))
            over += self._over(kind, places, limit, least_ratio)
        taken: set[Segment] = set()
        found = []
        for _, suspect, place in sorted(over, key=lambda o: (-o[0], o[1].where)):
            if taken.isdisjoint(place.segments):
                found.append(suspect)
                taken.update(place.segments)
        return tuple(found)

    def _kinds(self) -> Iterator[tuple[Kind, list[_Place], NDArray[np.float64]]]:
        for name in self._axes[0].lines:
            place = _Place(name if name != "tile" else "tiles", tuple(self._family(name)))
            yield "all", [place] if place.segments else [], self._family_elsewhere(name)
        yield "line", list(self._lines()), np.concatenate(list(self._elsewhere(whole=True)))
        yield "border", list(self._borders()), np.concatenate(list(self._elsewhere(whole=False)))
        if all(of.tiles == 1 for of in self._axes):
            frames = list(self._frames())
            yield "tile", frames, self._frames_elsewhere(frames)

    def _over(
        self, kind: Kind, places: list[_Place], limit: float, least_ratio: float
    ) -> Iterator[tuple[float, Suspect, _Place]]:
        for place in places if np.isfinite(limit) else ():
            measure, score, ratio = self._score(place.segments)
            if score > limit and ratio > least_ratio:
                yield score / limit, Suspect(kind, place.where, measure, score, limit, ratio), place

    def _score(self, segments: Iterable[Segment]) -> tuple[str, float, float]:
        """Return the measure that shows a place most, its score, and the ratio of the rates."""
        best = ("", -np.inf, 1.0)
        at = list(segments)
        for i, name in enumerate(self._measures):
            parts = [self._scored[axis][i].at(line, s) for axis, line, s in at]
            excess, squared, change, expected = np.sum(parts, axis=0)
            if squared > 0 and (score := float(excess / np.sqrt(squared))) > best[1]:
                best = (name, score, float((change + 1e-3) / (expected + 1e-3)))
        return best

    def _elsewhere(self, *, whole: bool) -> Iterator[NDArray[np.float64]]:
        """Score all lines that are no border: as a whole, or segment by segment."""
        for axis, scored in zip(self._axes, self._scored, strict=True):
            each = []
            for of in scored:
                excess, squared = of.excess[axis.free], of.squared[axis.free]
                if whole:
                    excess, squared = excess.sum(1), squared.sum(1)
                each.append(_score(excess, squared).ravel())
            if each:
                yield np.fmax.reduce(each)

    def _family(self, name: str) -> Iterator[Segment]:
        for axis, of in enumerate(self._axes):
            yield from ((axis, line, s) for line in of.lines[name].tolist() for s in range(of.segments))

    def _family_elsewhere(self, name: str) -> NDArray[np.float64]:
        """Score a family's whole grid moved by each number of rows and of columns."""
        shifts = [self._shifted(axis, of.lines[name]) for axis, of in enumerate(self._axes)]
        each = [
            _score(np.add.outer(y[0], x[0]), np.add.outer(y[1], x[1])).ravel()
            for y, x in zip(*shifts, strict=True)
        ]
        return np.fmax.reduce(each) if each else np.empty(0)

    def _shifted(self, axis: int, lines: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        """Add up, for each measure, excess and squared error of lines moved by each number of pixels."""
        if not lines.size:
            return [np.zeros((2, 1))] * len(self._measures)
        free = np.flatnonzero(self._axes[axis].free)
        period = int(np.diff(lines).min()) if lines.size > 1 else len(self._axes[axis].free)
        phases, phase = np.unique((free - lines[0]) % period, return_inverse=True)
        thin = -(-phases.size // _MOST_SHIFTS)
        return [
            np.array([np.bincount(phase, v[free].sum(1))[::thin] for v in (of.excess, of.squared)])
            for of in self._scored[axis]
        ]

    def _lines(self) -> Iterator[_Place]:
        for axis, of in enumerate(self._axes):
            for line in of.tile_lines.tolist():
                segments = tuple((axis, line, s) for s in range(of.segments))
                yield _Place(f"{AXES[axis]} = {line + of.first_line}", segments)

    def _borders(self) -> Iterator[_Place]:
        for axis, of in enumerate(self._axes):
            for line, s in itertools.product(of.tile_lines.tolist(), range(of.segments)):
                yield _Place(self._between(axis, line, s), ((axis, line, s),))

    def _between(self, axis: int, line: int, s: int) -> str:
        """Name the tiles on both sides of a segment, or where it begins if it is longer than a tile."""
        of, at = self._axes[axis], line + self._axes[axis].first_line
        along = of.first_tile + s * of.tiles
        if of.tiles > 1:
            return f"{AXES[axis]} = {at}, from {AXES[1 - axis]} = {along * of.tile_px}"
        across = at // of.tile_px
        names = (f"r{a}_c{along}" if axis == 0 else f"r{along}_c{a}" for a in (across - 1, across))
        return " | ".join(names)

    def _frames(self) -> Iterator[_Place]:
        """Yield the sides of each tile that has two or more in the map."""
        ys, xs = self._axes
        for row, col in itertools.product(range(xs.segments), range(ys.segments)):
            tile = xs.first_tile + row, ys.first_tile + col
            sides = [
                (axis, line, along)
                for axis, of, along in ((0, ys, col), (1, xs, row))
                for line in (tile[axis] * of.tile_px - of.first_line + k * of.tile_px for k in (0, 1))
                if line in of.tile_lines
            ]
            if len(sides) > 1:
                yield _Place(f"r{tile[0]}_c{tile[1]}", tuple(sides))

    def _frames_elsewhere(self, frames: list[_Place]) -> NDArray[np.float64]:
        """Score all frames moved by each number of pixels; sides that come to lie near a border are left out."""
        found = [np.empty(0)]
        free = [np.pad(of.free, (0, of.tile_px)) for of in self._axes]
        table = _side_table(frames)
        for shift in range(1, self._axes[0].tile_px if frames else 0):
            there = [free[axis][line + shift] for axis, _, line, _ in table]
            each = []
            for i in range(len(self._measures)):
                excess, squared, sides = np.zeros((3, len(frames)))
                for (axis, at, line, s), ok in zip(table, there, strict=True):
                    scored, moved = self._scored[axis][i], (line[ok] + shift, s[ok])
                    excess[at[ok]] += scored.excess[moved]
                    squared[at[ok]] += scored.squared[moved]
                    sides[at[ok]] += scored.squared[moved] > 0
                each.append(_score(excess, np.where(sides > 1, squared, 0.0)))
            found.append(np.fmax.reduce(each))
        return np.concatenate(found)


def _side_table(
    frames: list[_Place],
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Sort the sides of frames: axis, frames that have one, its line and segment; a frame once an entry."""
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for at, frame in enumerate(frames):
        for axis in (0, 1):
            for k, (_, line, s) in enumerate(side for side in frame.segments if side[0] == axis):
                groups.setdefault((axis, k), []).append((at, line, s))
    return [(axis, *np.array(rows, np.int64).T) for (axis, _), rows in groups.items()]


def _score(excess: NDArray[np.float64], squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide excess by error; NaN where nothing is known."""
    known = squared > 0
    return np.where(known, excess / np.sqrt(np.where(known, squared, 1.0)), np.nan)


def _limit(elsewhere: NDArray[np.float64], places: int) -> float:
    """Return what a score has to pass, infinite where too little is known; formula in the module's head."""
    scores = np.sort(elsewhere[np.isfinite(elsewhere)])
    if not places or scores.size < _LEAST_ELSEWHERE:
        return float("inf")
    tail = max(_TAIL_LEAST, int(_TAIL_SHARE * scores.size))
    threshold = scores[-tail - 1]
    beyond = float((scores[-tail:] - threshold).mean())
    reached = threshold + beyond * max(0.0, np.log(tail / scores.size * places / FALSE_ALARM))
    return float(max(scores[-1], reached))
