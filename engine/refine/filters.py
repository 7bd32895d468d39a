"""Majority filter: each pixel takes the class that most pixels around it have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine.refine.around import Around
from engine.refine.steps import Layers, Source
from engine.refine.windows import (
    SHARE_ONE,
    Window,
    WindowConfig,
    asked,
    mask_of,
    read_only,
    relabelled,
    share_of,
)
from engine.values.grid import Box


class MajorityConfig(WindowConfig):
    """Give each pixel the most frequent class of the window around it.

    Pixels without data have no vote and stay. Of equally frequent classes the pixel's own wins if it is among
    them, else the one of lowest value.

    Attributes:
        share: The winner needs at least this share of the votes, else the pixel stays; 0 = any winner.
        keep: Classes whose pixels stay.
        never_into: Classes that no pixel takes that has not got them; they vote all the same.
    """

    step: Literal["majority"] = "majority"
    share: float = Field(0.0, ge=0, le=1, description="share of the votes that the winner needs")
    keep: tuple[str | int, ...] = Field((), description="classes whose pixels stay")
    never_into: tuple[str | int, ...] = Field((), description="classes that no pixel takes")

    @model_validator(mode="before")
    @classmethod
    def _neighbours(cls, given: object) -> object:
        """Fill in the usual window, 3 x 3, where none is given."""
        if isinstance(given, dict) and not given.keys() & {"within_px", "within_m", "shape"}:
            return {**given, "within_px": 1, "shape": "square"}
        return given

    def made(self, around: Around) -> Majority:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class, or the window is smaller than a pixel.
        """
        return Majority(
            self.window(around),
            share_of(self.share),
            around.values(self.keep, "majority.keep"),
            around.values(self.never_into, "majority.never_into"),
        )


@dataclass(frozen=True)
class Majority:
    """The majority filter for one map.

    Attributes:
        window: Whose pixels vote.
        share: Millionths of the votes that the winner needs.
        keep: Values whose pixels stay.
        never_into: Values that no pixel takes.
    """

    window: Window
    share: int = 0
    keep: tuple[int, ...] = ()
    never_into: tuple[int, ...] = ()

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return self.window.reach_px

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given, beside that and what it gives."""
        return 2

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box."""
        labels, layers = asked(source, self.window.around(box), box)
        return relabelled(layers, majority(labels, self))


def majority(labels: NDArray[np.uint8], how: Majority) -> NDArray[np.uint8]:
    """Return the winner of each window.

    Args:
        labels: (y, x) uint8, 0 = no data, with the window's reach on each side.
        how: Window and rules.

    Returns:
        (y, x) uint8 without that margin.

    >>> majority(np.array([[1, 1, 2], [2, 2, 1], [0, 1, 1]], np.uint8), Majority(Window.make("square", 1)))
    array([[1]], dtype=uint8)
    """
    down, across = how.window.reach_yx
    out = np.empty((labels.shape[0] - 2 * down, labels.shape[1] - 2 * across), np.uint8)
    _majority(
        read_only(labels), how.window.array(), (mask_of(how.keep), mask_of(how.never_into)), how.share, out
    )
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _majority(labels, halves, classes, share, out):  # type: ignore[no-untyped-def]
    """Slide a histogram along each row: what comes in on the right, what leaves on the left."""
    keep, never = classes
    down, across = len(halves) // 2, halves.max()
    present = np.zeros(256, np.bool_)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            present[labels[y, x]] = True
    rivals = np.array([k for k in range(1, 256) if present[k] and not never[k]], np.int64)
    for y in range(out.shape[0]):
        counts = np.zeros(256, np.int64)
        for dy in range(2 * down + 1):
            for x in range(across - halves[dy], across + halves[dy] + 1):
                counts[labels[y + dy, x]] += 1
        votes = counts[1:].sum()
        for x in range(out.shape[1]):
            if x:
                for dy in range(2 * down + 1):
                    new = labels[y + dy, x + across + halves[dy]]
                    old = labels[y + dy, x + across - halves[dy] - 1]
                    if new != old:
                        counts[new] += 1
                        counts[old] -= 1
                        votes += (new != 0) - np.int64(old != 0)
            own = labels[y + down, x + across]
            out[y, x] = own
            # Half of the votes cannot be beaten, and a tie goes to the pixel's own class.
            if own == 0 or keep[own] or 2 * counts[own] >= votes:
                continue
            best, most = own, counts[own]
            for k in rivals:
                if counts[k] > most:
                    best, most = np.uint8(k), counts[k]
            if most * SHARE_ONE >= share * votes:
                out[y, x] = best
