"""What a step of a refinement is: it answers for any box, asking the step before it for as much as it needs.

::

    refined box ◄── step n ◄── box grown by the reach of n ◄── step n-1 ◄── ... ◄── map, no data outside it

Nothing but the pixels of the grid decides: a step that gives the same answer for a box and for the boxes that it is
cut into makes a map that is the same for any tiling. A step whose reach depends on the map (objects) asks again for a
larger box, until what lies outside can change nothing inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from engine.values.grid import Box

Layers = Mapping[str, NDArray[Any]]
"""Layers of a map over one box, under their names in the store: ``label`` (y, x) uint8, 0 = no data, always;
``confidence`` (y, x) uint8 and ``probability`` (class, y, x) uint8, 0..250 = 0..1, 255 = no data, where the map
has them. Read only: a step returns new arrays, and passes on what it does not change."""

Source = Callable[[Box], Layers]
"""Gives the layers over any box of the grid, the map's own or those that the step before makes. Pixels outside the
map are no data: the map's true edge needs no other care."""


class Step(Protocol):
    """One step of a refinement. Pure but for what it asks of its source; small, and pickles."""

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it, at most; plans, keys and memory count with it."""

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over `box`."""


def grown(box: Box, px: int) -> Box:
    """Return a box grown by so many pixels on each side.

    >>> grown(Box(0, 0, 2, 3), 4)
    Box(y0=-4, x0=-4, y1=6, x1=7)
    """
    return Box(box.y0 - px, box.x0 - px, box.y1 + px, box.x1 + px)
