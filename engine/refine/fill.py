"""Gap fill: pixels without data take the class of the nearest pixel that has one.

A gap is what lies inside the map, not what lies beyond its edge::

    · · · · · · ·      a  enclosed: data above, below, left and right of it, each within reach
    · ■ ■ ■ b ■ ·      b  not enclosed, but between data on two opposite sides, left and right
    · ■ a ■ b ■ ·      ·  outside the map: filled only inside an outline that is given
    · ■ ■ ■ ■ ■ ·
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine.refine.around import Around, Inside
from engine.refine.steps import Layers, Source, grown
from engine.refine.windows import DistanceConfig, asked, read_only, window_of
from engine.values.area import Area
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

FILLED_CONFIDENCE = 0
"""Confidence of a pixel that was filled: its class comes from nearby, no model said anything of it."""

Gaps = Literal["enclosed", "between", "outline"]

_SIDES = {None: 0, "outline": 0, "between": 1, "enclosed": 2}
_FAR = np.uint16(65535)


class FillConfig(DistanceConfig):
    """Fill gaps with the nearest class.

    The distance is the Euclidean one between pixel centres, in pixels; of equally near classes the one of lowest
    value is taken. A filled pixel has confidence 0; its probabilities stay unknown.

    Attributes:
        inside: A file of polygons: all pixels within reach of data whose centre lies inside are filled, and no
            others. Left out: see `gaps`.
        gaps: ``enclosed``: pixels with data within reach above, below, left and right; ``between``: with data
            within reach on two opposite sides, so long slits too, but also narrow inlets; ``outline``: all pixels
            within reach of data inside the outline of what was mapped. Where that is known, as it is of a run's map,
            nothing outside is filled whatever the gaps.
    """

    step: Literal["fill"] = "fill"
    inside: Path | None = Field(
        None, description="file of polygons inside which gaps are filled; left out: see gaps"
    )
    gaps: Gaps = Field(
        "enclosed",
        description="enclosed: data on all four sides; between: on two opposite sides; outline: all in the map's own",
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_reach(cls, given: object) -> object:
        if isinstance(given, dict) and not given.keys() & {"within_px", "within_m"}:
            return {**given, "within_px": 5}
        return given

    def made(self, around: Around) -> Fill:
        """Return the step for one map.

        Raises:
            InputError: If the file cannot be read, the reach is smaller than a pixel, or the map has no outline.
        """
        if self.gaps == "outline" and around.inside is None:
            mend = "name a file of polygons with `inside`"
            raise InputError("no outline is known of this map", where="fill.gaps", found=self.gaps, mend=mend)
        window = window_of(self.within_px, self.within_m, "square", around, "fill")
        outline = None if self.inside is None else Area.from_file(self.inside).to_crs(around.grid.crs)
        return Fill(min(window.reach_yx), None if outline else self.gaps, outline, around.grid, around.inside)

    def fingerprint(self) -> str:
        """Hash the settings, and what the file holds instead of where it lies."""
        outline = "" if self.inside is None else Area.from_file(self.inside).digest()
        return hashlib.sha256((self.model_dump_json(exclude={"inside"}) + outline).encode()).hexdigest()


@dataclass(frozen=True)
class Fill:
    """The gap fill for one map.

    Attributes:
        within_px: How far the nearest class may be.
        gaps: Which pixels are gaps; None: all.
        outline: Shapely polygons in the grid's CRS inside which gaps are filled; None: everywhere.
        grid: Where pixels lie.
        limits: Tells which pixels lie in the outline of what was mapped; None: not known.
    """

    within_px: int
    gaps: Gaps | None
    outline: Any
    grid: Grid
    limits: Inside | None = None

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return self.within_px

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given, beside that and what it gives."""
        return 8

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box."""
        labels, layers = asked(source, grown(box, self.within_px), box)
        label = nearest(labels, self.within_px, self.gaps)
        found = (layers["label"] == NO_DATA_LABEL) & (label != NO_DATA_LABEL)
        if self.outline is not None and found.any():
            found &= self._inside(found, box)
        if self.limits is not None and found.any():
            found &= self.limits(box)
        out = {**layers, "label": np.where(found, label, layers["label"])}
        if "confidence" in layers:
            out["confidence"] = np.where(found, np.uint8(FILLED_CONFIDENCE), layers["confidence"])
        return out

    def _inside(self, wanted: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
        """Tell which of the wanted pixels have their centre inside the outline, (y, x) bool."""
        import shapely

        y, x = self.grid.centres(box)
        rows, cols = np.nonzero(wanted)
        own = shapely.from_wkb(shapely.to_wkb(self.outline))  # GEOS indexes as it goes: not shared by threads
        shapely.prepare(own)
        inside = np.zeros(wanted.shape, np.bool_)
        inside[rows, cols] = shapely.contains_xy(own, x[cols], y[rows])
        return inside


def nearest(labels: NDArray[np.uint8], within_px: int, gaps: Gaps | None = None) -> NDArray[np.uint8]:
    """Give pixels without data the nearest class.

    Args:
        labels: (y, x) uint8, 0 = no data, with `within_px` pixels on each side.
        within_px: How far the nearest class may be.
        gaps: Which pixels are gaps; None: all without data.

    Returns:
        (y, x) uint8 without that margin; 0 where nothing was near enough.

    >>> nearest(np.array([[0, 3, 0], [2, 0, 0], [0, 0, 0]], np.uint8), 1)
    array([[2]], dtype=uint8)
    """
    reach, labels = within_px, read_only(labels)
    out = labels[reach : labels.shape[0] - reach, reach : labels.shape[1] - reach].copy()
    if (out == NO_DATA_LABEL).any():
        away = np.full((out.shape[0], labels.shape[1]), _FAR, np.uint16)
        near = np.zeros((out.shape[0], labels.shape[1]), np.uint8)
        framed = np.zeros((out.shape[0], labels.shape[1]), np.bool_)
        _look_down(labels, reach, away, near, framed)
        _look_across(labels, (reach, _SIDES[gaps]), (away, near, framed), out)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _look_down(labels, reach, away, near, framed):  # type: ignore[no-untyped-def]
    """Find for each pixel the nearest data in its column: how far it is, the lowest class there.

    `framed` tells whether there is some within reach both above and below.
    """
    height, width = labels.shape
    since, last = np.full(width, reach + 1, np.int64), np.zeros(width, np.uint8)
    for y in range(height - reach):
        for x in range(width):
            has = labels[y, x] != 0
            since[x] = 0 if has else min(since[x] + 1, reach + 1)
            last[x] = labels[y, x] if has else last[x]
        if y >= reach:
            for x in range(width):
                if since[x] <= reach:
                    away[y - reach, x], near[y - reach, x] = since[x], last[x]
    since[:] = reach + 1
    for y in range(height - 1, reach - 1, -1):
        for x in range(width):
            has = labels[y, x] != 0
            since[x] = 0 if has else min(since[x] + 1, reach + 1)
            last[x] = labels[y, x] if has else last[x]
        if y < height - reach:
            for x in range(width):
                if since[x] <= reach:
                    above = np.int64(away[y - reach, x])
                    framed[y - reach, x] = above <= reach
                    if since[x] == above:
                        near[y - reach, x] = min(near[y - reach, x], last[x])
                    elif since[x] < above:
                        away[y - reach, x], near[y - reach, x] = since[x], last[x]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _look_across(labels, how, columns, out):  # type: ignore[no-untyped-def]
    """Find the nearest of the columns' nearest: ``dx**2 + away**2`` is exact, and so are ties."""
    reach, sides = how
    away, near, framed = columns
    for y in range(out.shape[0]):
        row = labels[y + reach]
        for x in range(out.shape[1]):
            at = x + reach
            if row[at] != 0 or np.int64(framed[y, at]) + _flanked(row, at, reach) < sides:
                continue
            best, found = np.int64(reach) * reach + 1, np.uint8(0)
            for dx in range(reach + 1):
                if dx * dx > best:
                    break
                for column in (at - dx, at + dx):
                    down = np.int64(away[y, column])
                    square = dx * dx + down * down
                    if square < best or (square == best and found != 0 and near[y, column] < found):
                        best, found = square, near[y, column]
            out[y, x] = found


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _flanked(row, at, reach):  # type: ignore[no-untyped-def]
    """Tell whether a row has data within reach on both sides."""
    left = right = False
    for dx in range(1, reach + 1):
        left |= row[at - dx] != 0
        right |= row[at + dx] != 0
        if left and right:
            return 1
    return 0
