"""Field-wise majority: the pixels of a parcel take the class that most of them have.

A pixel belongs to a parcel when its centre lies inside; a centre exactly on the line between two neighbours belongs to
one of them: to the right or the lower one. Where an edge crosses a row of centres is computed from the edge and the
row alone, so neither the tile nor the neighbour can move a pixel::

      ─ · ─ ╱─ · ─ · ─ ·╲─ · ─   row y + 1/2
           ╱             ╲       the parity of crossings to the left of a centre tells whether it is inside
      ─ · ╱ · ─ · ─ · ─ · ╲─ ·
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.refine.around import Around, StepConfig
from engine.refine.fill import FILLED_CONFIDENCE
from engine.refine.parcel_file import ParcelFile
from engine.refine.steps import Layers, Source
from engine.refine.windows import SHARE_ONE, asked, mask_of, read_only, share_of
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

Overlap = Literal["smallest", "largest", "leave"]

_OVERLAPS: tuple[Overlap, ...] = ("smallest", "largest", "leave")


class ParcelsConfig(StepConfig):
    """Give all pixels of a parcel the class that most of them have.

    A pixel belongs to a parcel when its centre lies inside. Every pixel with data votes in each parcel that it lies
    in; of equally frequent classes the one of lowest value wins.

    Attributes:
        file: Polygons: any vector file that GDAL reads, in any CRS; a GeoPackage or FlatGeobuf for more than
            100,000 of them.
        layer: Layer in the file; left out: the first.
        where: Only features that fit this SQL condition.
        share: The winner needs at least this share of the votes, else the parcel stays as it is; 0 = any winner.
        least_px: A parcel with fewer votes stays as it is.
        overlap: Whose a pixel of several parcels is: that of the ``smallest`` or ``largest`` surface (then of the
            lowest feature number); ``leave``: no one's, it stays as it is.
        largest_m: A larger parcel (the longer side of its box) is no field but a mistake: it is refused.
        larger: ``refuse`` or ``leave`` what is larger than `largest_m`.
        fill: Whether pixels without data take the winner too, with confidence 0.
        keep: Classes whose pixels stay; they vote.
    """

    step: Literal["parcels"] = "parcels"
    file: Path = Field(description="polygons: any vector file, in any CRS")
    layer: str | None = Field(None, description="layer in the file; left out: the first")
    where: str | None = Field(None, description="only features that fit this SQL condition")
    share: float = Field(0.0, ge=0, le=1, description="share of the votes that the winner needs")
    least_px: int = Field(1, ge=1, description="a parcel with fewer votes stays as it is")
    overlap: Overlap = Field("smallest", description="whose a pixel of several parcels is; leave: no one's")
    largest_m: float = Field(5000.0, gt=0, description="longer sides are refused, or left as they are")
    larger: Literal["refuse", "leave"] = Field("refuse", description="what becomes of larger parcels")
    fill: bool = Field(False, description="whether pixels without data take the winner too")
    keep: tuple[str | int, ...] = Field((), description="classes whose pixels stay")

    @property
    def parcels(self) -> ParcelFile:
        """The file."""
        return ParcelFile(self.file.resolve(), self.layer, self.where)

    def made(self, around: Around) -> Parcels:
        """Return the step for one map.

        Raises:
            InputError: If the file cannot be read or holds too large parcels, or the map has no such class.
        """
        most_px = math.ceil(self.largest_m / min(around.resolution_yx))
        self._require_fields(around.grid, most_px)
        return Parcels(
            file=self.parcels,
            grid=around.grid,
            most_px=most_px + 1,  # a box of n pixels may touch n + 1
            rule=Rule(share_of(self.share), self.least_px, self.overlap, self.fill),
            keep=around.values(self.keep, "parcels.keep"),
        )

    def _require_fields(self, grid: Grid, most_px: int) -> None:
        if self.larger == "refuse" and (found := self.parcels.larger_than(most_px, grid)):
            raise InputError(
                "parcels are too large: every tile that one touches reads all of it",
                where=f"parcels.largest_m, {self.file}",
                found="feature " + ", ".join(map(str, found)),
                limit=f"at most {self.largest_m:g} m, {most_px} px, long and wide",
                mend="raise largest_m, or set larger: leave",
            )
        if self.larger == "leave":
            _ = self.parcels.crs  # a file that cannot be read is told now, not by the first tile

    def fingerprint(self) -> str:
        """Hash the settings, and the bytes of the file instead of where it lies."""
        return hashlib.sha256(
            (self.model_dump_json(exclude={"file"}) + self.parcels.digest()).encode()
        ).hexdigest()


@dataclass(frozen=True)
class Rule:
    """How parcels are decided.

    Attributes:
        share: Millionths of the votes that a winner needs.
        least_px: Votes that a parcel needs.
        overlap: Whose a pixel of several parcels is.
        fill: Whether pixels without data take the winner.
    """

    share: int = 0
    least_px: int = 1
    overlap: Overlap = "smallest"
    fill: bool = False


@dataclass(frozen=True)
class Parcels:
    """The field-wise majority for one map.

    Attributes:
        file: The parcels.
        grid: Where pixels lie.
        most_px: Rows and columns of the largest parcel; larger ones are left as they are.
        rule: How parcels are decided.
        keep: Values whose pixels stay.
    """

    file: ParcelFile
    grid: Grid
    most_px: int
    rule: Rule = Rule()
    keep: tuple[int, ...] = ()

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it: a parcel that touches it with its last pixel."""
        return self.most_px

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given, beside that and what it gives."""
        return 3

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box.

        Raises:
            InputError: If the file cannot be read.
        """
        fields = self._fields(box)
        labels, layers = asked(source, fields.reach(box), box)
        if not len(fields.boxes):
            return layers
        label = decided(labels, fields, box, self.rule, self.keep)
        out = {**layers, "label": label}
        if self.rule.fill and "confidence" in layers:
            found = (label != 0) & (layers["label"] == 0)
            out["confidence"] = np.where(found, np.uint8(FILLED_CONFIDENCE), layers["confidence"])
        return out

    def _fields(self, box: Box) -> Fields:
        """Return the parcels that hold pixels of a box, those that win last."""
        import shapely

        numbers, shapes = self.file.near(self.grid, box)
        area = shapely.area(shapes)
        sign = 1 if self.rule.overlap == "largest" else -1
        order = np.lexsort((-numbers, sign * area))
        fields = Fields.make(shapes[order], self.grid)
        y0, x0, y1, x1 = fields.boxes.T
        touches = (y0 < box.y1) & (x0 < box.x1) & (y1 > box.y0) & (x1 > box.x0)
        return fields.only(touches & (np.maximum(y1 - y0, x1 - x0) <= self.most_px))


@dataclass(frozen=True, eq=False)
class Fields:
    """Parcels as rings of vertices.

    Attributes:
        xy: (vertex, 2) float64: column and row of each vertex in pixels from the grid's anchor.
        rings: (ring + 1,) int64: first vertex of each ring.
        starts: (parcel, 2) int64: first ring of each parcel, and the one after its last.
        boxes: (parcel, 4) int64: first row and column, row and column after the last, of the pixels inside.
    """

    xy: NDArray[np.float64]
    rings: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.int64]

    @classmethod
    def make(cls, shapes: NDArray[Any], grid: Grid) -> Fields:
        """Take valid shapely polygons in the grid's CRS apart."""
        import shapely

        if not len(shapes):
            none = np.zeros((0, 2))
            return cls(none, np.zeros(1, np.int64), none.astype(np.int64), np.zeros((0, 4), np.int64))
        kind, xy, offsets = shapely.to_ragged_array(shapes)
        rings, *parts = (np.asarray(o, np.int64) for o in offsets)
        starts = parts[0] if kind == shapely.GeometryType.POLYGON else parts[0][parts[1]]
        (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
        uv = np.column_stack([(xy[:, 0] - ax) / res_x, (ay - xy[:, 1]) / res_y])
        low = np.minimum.reduceat(uv, rings[starts[:-1]])
        high = np.maximum.reduceat(uv, rings[starts[:-1]])
        # The first centre at or after the least bound, and the first at or after the greatest.
        boxes = np.ceil(np.column_stack([low[:, ::-1], high[:, ::-1]]) - 0.5).astype(np.int64)
        return cls(uv, rings, np.column_stack([starts[:-1], starts[1:]]), boxes)

    def only(self, kept: NDArray[np.bool_]) -> Fields:
        """Return some of the parcels."""
        return Fields(self.xy, self.rings, self.starts[kept], self.boxes[kept])

    def reach(self, box: Box) -> Box:
        """Return the smallest box that holds another and all parcels."""
        if not len(self.boxes):
            return box
        y0, x0 = self.boxes[:, :2].min(0).tolist()
        y1, x1 = self.boxes[:, 2:].max(0).tolist()
        return Box(min(box.y0, y0), min(box.x0, x0), max(box.y1, y1), max(box.x1, x1))


def decided(
    labels: NDArray[np.uint8], fields: Fields, box: Box, rule: Rule, keep: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """Return the labels of a box with each parcel's winner.

    Args:
        labels: (y, x) uint8, 0 = no data, over ``fields.reach(box)``.
        fields: All parcels that hold pixels of the box, those that win where parcels overlap last.
        box: Global pixels.
        rule: How parcels are decided.
        keep: Values whose pixels stay.

    Returns:
        (y, x) uint8 over `box`.
    """
    outer = fields.reach(box)
    out = labels[box.slices_in(outer)].copy()
    offsets = (np.int64(outer.y0), np.int64(outer.x0), np.int64(box.y0), np.int64(box.x0))
    how = (np.int64(rule.share), np.int64(rule.least_px), rule.overlap == "leave", rule.fill)
    shapes = (fields.xy, fields.rings, fields.starts, fields.boxes)
    _decide(read_only(labels), shapes, offsets, (*how, mask_of(keep)), out)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _decide(labels, fields, offsets, how, out):  # type: ignore[no-untyped-def]
    _, _, starts, boxes = fields
    top, left, box_top, box_left = offsets
    share, least_px, leave, fill, keep = how
    claimed = np.zeros(out.shape if leave else (0, 0), np.bool_)
    for i in range(len(starts)):
        y0, x0, y1, x1 = boxes[i]
        inside = _inside(fields, i)
        counts = np.zeros(256, np.int64)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if inside[y - y0, x - x0]:
                    counts[labels[y - top, x - left]] += 1
        counts[0] = 0
        votes, winner = counts.sum(), np.uint8(counts.argmax())
        moves = votes >= least_px and counts[winner] * SHARE_ONE >= share * votes
        for y in range(max(y0, box_top), min(y1, box_top + out.shape[0])):
            for x in range(max(x0, box_left), min(x1, box_left + out.shape[1])):
                if not inside[y - y0, x - x0]:
                    continue
                own, at = labels[y - top, x - left], (y - box_top, x - box_left)
                takes = moves and not keep[own] and (own != 0 or fill)
                if leave:
                    takes = takes and not claimed[at]
                    claimed[at] = True
                out[at] = winner if takes else own  # not its own: an overlapped parcel may have painted here


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _inside(fields, i):  # type: ignore[no-untyped-def]
    """Tell which pixels of a parcel's box have their centre inside it, by parity along each row."""
    xy, rings, starts, boxes = fields
    y0, x0, y1, x1 = boxes[i]
    inside = np.zeros((y1 - y0, x1 - x0 + 1), np.bool_)
    for ring in range(starts[i, 0], starts[i, 1]):
        for k in range(rings[ring], rings[ring + 1] - 1):
            a, b = k, k + 1
            if xy[a, 1] > xy[b, 1]:  # from top to bottom, so that neighbours share an edge to the last bit
                a, b = b, a
            slope = (xy[b, 0] - xy[a, 0]) / (xy[b, 1] - xy[a, 1]) if xy[b, 1] > xy[a, 1] else 0.0
            first, last = np.int64(np.ceil(xy[a, 1] - 0.5)), np.int64(np.ceil(xy[b, 1] - 0.5))
            for y in range(first, last):
                crossing = xy[a, 0] + (y + 0.5 - xy[a, 1]) * slope
                # Rounding may lead a hair beyond the edge's ends.
                x = min(max(np.int64(np.ceil(crossing - 0.5)), x0), x1)
                inside[y - y0, x - x0] ^= True
    for y in range(inside.shape[0]):
        for x in range(1, inside.shape[1]):
            inside[y, x] ^= inside[y, x - 1]
    return inside[:, : x1 - x0]
