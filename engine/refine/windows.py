"""Windows around a pixel, and what steps that look into one share.

A window is a row of spans: of row ``y + dy`` it holds the columns ``x - half[dy]`` to ``x + half[dy]``::

    disc of 3 px                  square of 2 px
            ■        half 0       ■ ■ ■ ■ ■   half 2
        ■ ■ ■ ■ ■    half 2       ■ ■ ■ ■ ■
        ■ ■ ■ ■ ■    half 2       ■ ■ ● ■ ■
      ■ ■ ■ ● ■ ■ ■  half 3       ■ ■ ■ ■ ■
        ...                       ■ ■ ■ ■ ■
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine.refine.around import Around, StepConfig
from engine.refine.steps import Layers, Source
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError
from engine.values.grid import Box

Shape = Literal["square", "disc"]

SHARE_ONE = 1_000_000
"""Shares of a window are compared as whole millionths, so that no rounding can decide."""

NO_SHARE = 255
"""No data in the layers that hold shares 0..250."""

_SHARES = ("confidence", "probability", "entropy", "margin", "disagreement", "unfamiliar")
_MOST_PX = 1000
_EDGE = 1e-9  # a part of a pixel that is rounding, not distance


@dataclass(frozen=True)
class Window:
    """The pixels around a pixel that count.

    Attributes:
        halves: Columns to each side, for each row from the top one to the lowest; an odd number of rows,
            the same upside down.
    """

    halves: tuple[int, ...]

    @classmethod
    def make(cls, shape: Shape, radius: float, resolution_yx: tuple[float, float] = (1.0, 1.0)) -> Window:
        """Make a window of all pixels whose centres lie within a distance of the middle one's.

        Args:
            shape: ``square``: the distance down and the distance across are each at most `radius`; ``disc``: the
                Euclidean distance is.
            radius: In the unit of `resolution_yx`.
            resolution_yx: Height and width of a pixel; (1, 1) for a radius in pixels.

        >>> Window.make("disc", 3).halves, Window.make("square", 20, (10, 20)).halves
        ((0, 2, 2, 3, 2, 2, 0), (1, 1, 1, 1, 1))
        """
        height, width = resolution_yx
        down = math.floor(radius / height + _EDGE)
        reaches = [radius] * (2 * down + 1)
        if shape == "disc":
            squares = [radius**2 - (dy * height) ** 2 for dy in range(-down, down + 1)]
            reaches = [math.sqrt(max(0.0, square)) for square in squares]
        return cls(tuple(math.floor(reach / width + _EDGE) for reach in reaches))

    @property
    def reach_yx(self) -> tuple[int, int]:
        """Pixels to each side, down and across."""
        return len(self.halves) // 2, max(self.halves)

    @property
    def reach_px(self) -> int:
        """Pixels to each side, at most."""
        return max(self.reach_yx)

    @property
    def size_px(self) -> int:
        """Number of pixels."""
        return sum(2 * half + 1 for half in self.halves)

    @property
    def is_square(self) -> bool:
        """Whether all rows are equally long."""
        return len(set(self.halves)) == 1

    def around(self, box: Box) -> Box:
        """Return the pixels that the windows of all pixels of a box hold."""
        down, across = self.reach_yx
        return Box(box.y0 - down, box.x0 - across, box.y1 + down, box.x1 + across)

    def array(self) -> NDArray[np.int64]:
        """Return the halves for a kernel, (row,) int64."""
        return np.array(self.halves, np.int64)


class DistanceConfig(StepConfig):
    """Settings of a step that looks a distance far.

    Attributes:
        within_px: Distance in pixels.
        within_m: Distance in metres; either this or `within_px`.
    """

    within_px: int | None = Field(None, ge=1, le=_MOST_PX, description="distance in pixels")
    within_m: float | None = Field(None, gt=0, description="distance in metres; or within_px")

    @model_validator(mode="after")
    def _one_distance(self) -> Self:
        if (self.within_px is None) == (self.within_m is None):
            raise ValueError("give within_px or within_m, and not both")
        return self


class WindowConfig(DistanceConfig):
    """Settings of a step that looks into a window.

    Attributes:
        shape: ``disc``: Euclidean distance; ``square``: down and across each.
    """

    shape: Shape = Field("disc", description="disc: Euclidean distance; square: down and across each")

    def window(self, around: Around) -> Window:
        """Return the window on one map.

        Raises:
            InputError: If it holds no pixel but the middle one, or reaches further than 1000 px.
        """
        return window_of(self.within_px, self.within_m, self.shape, around, self.step)


def window_of(px: int | None, metres: float | None, shape: Shape, around: Around, where: str) -> Window:
    """Return the window of a distance in pixels or in metres.

    Raises:
        InputError: If it holds no pixel but the middle one, or reaches further than 1000 px.
    """
    if metres is None:
        return Window.make(shape, px or 0)
    if not min(around.resolution_yx) <= metres <= _MOST_PX * min(around.resolution_yx):
        height, width = around.resolution_yx
        raise InputError(
            "a distance must be at least a pixel and at most 1000 pixels",
            where=f"{where}.within_m",
            found=f"{metres} m",
            limit=f"{min(height, width):g} to {_MOST_PX * min(height, width):g} m at {height:g} x {width:g} m",
            mend="give within_px, or another distance",
        )
    return Window.make(shape, metres, around.resolution_yx)


def share_of(share: float) -> int:
    """Return a share 0..1 in whole millionths.

    >>> share_of(0.05)
    50000
    """
    return round(share * SHARE_ONE)


def mask_of(values: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which of the 256 labels are among these values, (256,) bool."""
    found = np.zeros(256, np.bool_)
    found[list(values)] = True
    return found


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous array that cannot be written into, so that a kernel is compiled once and not twice."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def asked(source: Source, outer: Box, box: Box) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Ask a source for the labels of a box and its surroundings, and for all layers of the box.

    Returns:
        (y, x) uint8 labels over `outer`, and the layers over `box`, views.
    """
    layers = source(outer)
    return layers["label"], cut(layers, outer, box)


def cut(layers: Layers, outer: Box, box: Box) -> dict[str, Any]:
    """Cut the layers over `outer` to those over `box`, views."""
    at = box.slices_in(outer)
    return {name: array[(..., *at)] for name, array in layers.items()}


def relabelled(layers: Mapping[str, Any], label: NDArray[np.uint8]) -> dict[str, Any]:
    """Return layers with other labels.

    A pixel that goes to another class keeps its confidence and probabilities: they remain what the model said.
    One that becomes no data loses them.

    Args:
        layers: Over one box.
        label: (y, x) uint8, the new labels.
    """
    lost = (label == NO_DATA_LABEL) & (layers["label"] != NO_DATA_LABEL)
    out = {**layers, "label": label}
    if lost.any():
        out |= {name: np.where(lost, np.uint8(NO_SHARE), layers[name]) for name in _SHARES if name in layers}
    return out
