"""Minimum mapping unit: objects too small to be mapped take the class of the neighbour with the longest border.

::

    before            freed             after
    a a a b b         a a a b b         a a a b b         w shares five pixel edges with a, one with b
    a w w b b         a . . b b         a a a b b
    a a a b b         a a a b b         a a a b b

An object is a connected region of one class. All objects with fewer pixels than their class's minimum are freed at
once; round by round each freed object takes the class with which it shares most pixel edges among settled pixels (ties
to the lowest value), that is, those of objects large enough or given a class in a round before. So every object of the
result is large enough, or of a class that is kept, but for those that no round reached: they keep their class. No data
is never merged nor filled. Confidence and probability stay those of the model: what a pixel was before is in the map
that was refined.

Only classes decide, never which object a pixel belongs to, so a pixel's answer depends on a bounded neighbourhood.
With m the largest minimum, m - 1 pixels tell whether an object is small, and each round looks one freed object further,
which is at most m - 1 pixels wide: (rounds + 1)(m - 1) pixels in all. Hardly any pixel needs as much. The step begins
with far less, finds what that does not decide (`engine.refine.merging`), and looks farther there only::

    ┌─ first window ────────┐
    │   ┌─ box ─────────┐   │
    │   │            u u│u u│u u      u runs out of the window and is small as far as it is seen: undecided, and so
    │   │            v  │   │         is v beside it. The bounds of both in the box get a window of their own, with
    │   └───────────────┘   │         twice the halo.
    └───────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine.refine.around import Around, StepConfig
from engine.refine.merging import LEFT_FATE, UNDECIDED_FATE, Rule, merge_window
from engine.refine.objects import check_classes
from engine.refine.steps import Layers, Source, grown
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError
from engine.values.grid import Box

_BLOCK_PX = 256  # undecided pixels are looked at again by blocks of this size
_LABELS = 256


class MinimumMappingUnit(StepConfig):
    """Settings of the minimum mapping unit.

    Attributes:
        step: ``mmu``.
        min_ha: Smallest object in hectares; or `min_px`.
        min_px: Smallest object in pixels.
        per_class: Other minima for some classes, in the same unit; 0 = never merged away.
        keep: Classes whose objects are never merged away, however small.
        never_into: Classes that small objects of others are never merged into.
        connectivity: 4: pixels of an object share edges, as GDAL's sieve has it by default; 8: corners join too, which
            keeps thin diagonal lines whole.
        rounds: How often freed objects look for a settled neighbour. More rounds reach deeper into regions of nothing
            but small objects; the reach of the step grows by the largest minimum with each.
    """

    step: Literal["mmu"]
    min_ha: float | None = Field(default=None, gt=0, description="smallest object in hectares")
    min_px: int | None = Field(default=None, ge=1, description="smallest object in pixels")
    per_class: dict[str | int, float] = Field(
        default_factory=dict, description="other minima for some classes, in the same unit; 0 = keep all"
    )
    keep: tuple[str | int, ...] = Field(default=(), description="classes that are never merged away")
    never_into: tuple[str | int, ...] = Field(default=(), description="classes that never grow")
    connectivity: Literal[4, 8] = Field(default=4, description="4: edges join pixels; 8: corners too")
    rounds: int = Field(
        default=8, ge=1, le=64, description="how often freed objects look for a settled neighbour"
    )

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.min_ha is None) == (self.min_px is None):
            raise ValueError("give either min_ha or min_px")
        if any(not 0 <= size < math.inf for size in self.per_class.values()):
            raise ValueError(f"per_class: a minimum is 0 or more, got {self.per_class}")
        return self

    def made(self, around: Around) -> MmuStep:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class.
        """
        least = [0] * _LABELS
        for value in around.scheme.values:
            least[value] = self._pixels(around, self.min_ha if self.min_px is None else self.min_px)
        for name, size in self.per_class.items():
            least[around.value(name, "mmu.per_class")] = self._pixels(around, size)
        for value in around.values(self.keep, "mmu.keep"):
            least[value] = 0
        never = around.values(self.never_into, "mmu.never_into")
        return MmuStep(tuple(least), never, self.connectivity, self.rounds)

    def _pixels(self, around: Around, size: float | None) -> int:
        if not size:
            return 0
        return math.ceil(size) if self.min_ha is None else around.pixels(size)


@dataclass(frozen=True)
class Merged:
    """What the minimum mapping unit made of a box.

    Attributes:
        label: (y, x) uint8 classes.
        merged_px: Pixels of small objects that were settled; few of them may have their own class again.
        left_px: Pixels of small objects that no round reached; they keep their class.
        halo_px: How far around the box, or a part of it, was looked.
    """

    label: NDArray[np.uint8]
    merged_px: int
    left_px: int
    halo_px: int


@dataclass(frozen=True)
class MmuStep:
    """The minimum mapping unit of one map.

    Attributes:
        least_px: Fewest pixels of an object for each label 0..255; 0 or 1 = never merged away.
        never_into: Labels that never grow.
        connectivity: 4 or 8.
        rounds: How often freed objects look for a settled neighbour.
        first_halo_px: How far to look at first; None = by the largest minimum. Changes the work, never the answer.
    """

    least_px: tuple[int, ...]
    never_into: tuple[int, ...] = ()
    connectivity: int = 4
    rounds: int = 8
    first_halo_px: int | None = None

    def __post_init__(self) -> None:
        if len(self.least_px) != _LABELS:
            raise InputError("a minimum for each label is needed", found=len(self.least_px), limit=_LABELS)
        if self.connectivity not in (4, 8) or self.rounds < 1:
            found = (self.connectivity, self.rounds)
            raise InputError("connectivity is 4 or 8, and there is a round", where="mmu", found=found)

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it, at most: one minimum to see, one for each round."""
        return (self.rounds + 1) * max(0, max(self.least_px) - 1)

    @property
    def usual_px(self) -> int:
        """Pixels around a box that are asked for first: twice as far as a compact object of the minimum is wide."""
        if self.first_halo_px is not None:
            return min(self.first_halo_px, self.reach_px)
        return min(max(8, 2 * math.isqrt(max(self.least_px))), self.reach_px)

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for one pixel, at most: of a map where each pixel is an object. Real ones need 5 to 20."""
        return 100

    @property
    def rule(self) -> Rule:
        """The settings as the kernels take them."""
        grows = np.ones(_LABELS, np.bool_)
        grows[[NO_DATA_LABEL, *self.never_into]] = False
        return Rule(np.array(self.least_px, np.int64), grows, self.connectivity, self.rounds)

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over `box`, small objects merged."""
        around = grown(box, self.usual_px)
        first = source(around)
        merged = self._merged(source, box, first["label"])
        at = box.slices_in(around)
        return {name: layer[(..., *at)] for name, layer in first.items()} | {"label": merged.label}

    def merged(self, source: Source, box: Box) -> Merged:
        """Return the classes over `box`, and what was done."""
        return self._merged(source, box, source(grown(box, self.usual_px))["label"])

    def _merged(self, source: Source, box: Box, window: NDArray[np.uint8]) -> Merged:
        """Decide a box from a first window; then what is left of it, from windows with twice the halo."""
        rule, halo = self.rule, self.usual_px
        label, fates = _decided(window, grown(box, halo), box, rule)
        while np.any(undecided := fates == UNDECIDED_FATE):
            assert halo < self.reach_px, "what lies within the reach decides everything"
            halo = min(2 * max(halo, 1), self.reach_px)
            for part, part_window in _windows(source, list(_parts(undecided, box)), halo):
                at = part.slices_in(box)
                again = undecided[at]
                label_again, fates_again = _decided(part_window, grown(part, halo), part, rule)
                label[at][again], fates[at][again] = label_again[again], fates_again[again]
        left = int(np.count_nonzero(fates == LEFT_FATE))
        return Merged(label, int(np.count_nonzero(fates)) - left, left, halo)


def _decided(
    window: NDArray[np.uint8], around: Box, box: Box, rule: Rule
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return classes and fates over a box, from a window over the box `around`; both are the caller's own."""
    label, fates = merge_window(window, rule)
    at = box.slices_in(around)
    return label[at].copy(), fates[at].copy()


def _parts(undecided: NDArray[np.bool_], box: Box) -> Iterator[Box]:
    """Yield the bounds of the undecided pixels of each block of a box."""
    for block in Box(0, 0, *box.shape_yx).blocks(_BLOCK_PX):
        rows, cols = np.nonzero(undecided[block.slices_in(Box(0, 0, *box.shape_yx))])
        if len(rows):
            y, x = box.y0 + block.y0, box.x0 + block.x0
            yield Box(
                y + int(rows.min()), x + int(cols.min()), y + int(rows.max()) + 1, x + int(cols.max()) + 1
            )


def _windows(source: Source, parts: list[Box], halo_px: int) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    """Yield parts with their windows: each by itself, or all as one where that is less to read."""
    whole = Box(
        min(p.y0 for p in parts), min(p.x0 for p in parts), max(p.y1 for p in parts), max(p.x1 for p in parts)
    )
    if sum(grown(p, halo_px).area_px for p in parts) >= grown(whole, halo_px).area_px:
        parts = [whole]
    for part in parts:
        yield part, source(grown(part, halo_px))["label"]


def merge_small(label: NDArray[np.uint8], step: MmuStep) -> Merged:
    """Merge the small objects of a whole array, around which there is no data.

    Args:
        label: (y, x) classes, 0 = no data.
        step: The minimum mapping unit.

    Raises:
        InputError: If the array is not one of bytes, (y, x).

    >>> least = (0,) + (3,) * 255
    >>> merge_small(np.array([[1, 1, 1], [1, 2, 2], [1, 1, 1]], np.uint8), MmuStep(least)).label.tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    height, width = label.shape
    return step.merged(array_source(label), Box(0, 0, height, width))


def array_source(label: NDArray[np.uint8]) -> Source:
    """Return a source over an array whose first pixel is (0, 0), with no data around it.

    Raises:
        InputError: If the array is not one of bytes, (y, x).
    """
    check_classes(label)
    whole = Box(0, 0, *label.shape)

    def source(box: Box) -> Layers:
        if whole.holds(box):
            return {"label": label[box.slices_in(whole)]}
        out = np.full(box.shape_yx, NO_DATA_LABEL, np.uint8)
        inside = box & whole
        if inside:
            out[inside.slices_in(box)] = label[inside.slices_in(whole)]
        return {"label": out}

    return source
