"""What the steps of a refinement are configured with, and what they are told of the map that they refine.

A step's settings are a frozen pydantic model, `StepConfig`, with a name of its own in ``step``; `StepConfig.made`
turns class names and hectares into values and pixels, once, for one map::

    {step: mmu, min_ha: 0.5} ──► Mmu(StepConfig) ──► made(Around(scheme, 10 m, grid)) ──► Step, in pixels and values
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from engine.refine.steps import Step
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

_HECTARE_M2 = 10_000
_EDGE = 1e-9  # a part of a pixel that is rounding, not size


Inside = Callable[[Box], NDArray[Any]]
"""Tells which pixels of a box lie in the outline of what is mapped, (y, x) bool."""


@dataclass(frozen=True)
class Around:
    """The map that a step refines.

    Attributes:
        scheme: Its classes.
        resolution_yx: Height and width of a pixel in metres.
        grid: Where its pixels lie.
        inside: Tells which pixels of a box lie in the outline of what is mapped, (y, x) bool; None where no outline
            is known: everything does.
    """

    scheme: ClassScheme
    resolution_yx: tuple[float, float]
    grid: Grid
    inside: Inside | None = None

    @classmethod
    def of(cls, scheme: ClassScheme, grid: Grid, box: Box, inside: Inside | None = None) -> Around:
        """Return what steps are told of a map that covers a box; a pixel's size in metres is taken at its centre.

        On a grid in degrees a pixel's width changes with the latitude: sizes in metres and hectares then hold at the
        centre, and those in pixels everywhere.
        """
        return cls(scheme, pixel_m(grid, box), grid, inside)

    def value(self, name: str | int, where: str = "class") -> int:
        """Return the value of a class that is given by name, source code or value.

        Raises:
            InputError: If the scheme has no such class; names those it has, and the nearest.
        """
        table = self.scheme.lookup()
        if str(name) in table:
            return table[str(name)]
        near = difflib.get_close_matches(str(name), self.scheme.names, n=1)
        raise InputError(
            "the map has no such class",
            where=where,
            found=name,
            limit=", ".join(self.scheme.names),
            mend=f"did you mean {near[0]}?" if near else "give a name or a value of the class scheme",
        )

    def values(self, names: Iterable[str | int], where: str = "class") -> tuple[int, ...]:
        """Return the values of classes, ascending, each once."""
        return tuple(sorted({self.value(name, where) for name in names}))

    def pixels(self, hectares: float) -> int:
        """Return the fewest pixels that make up a surface.

        >>> grid = Grid("EPSG:32633", (10.0, 10.0))
        >>> around = Around(ClassScheme.from_names(["a"]), (10.0, 10.0), grid)
        >>> around.pixels(0.5), around.pixels(0.501)
        (50, 51)
        """
        height, width = self.resolution_yx
        return max(1, math.ceil(hectares * _HECTARE_M2 / (height * width) - _EDGE))

    def within_px(self, metres: float) -> tuple[int, int]:
        """Return how many whole pixels (down, across) lie within a distance.

        >>> grid = Grid("EPSG:32633", (10.0, 20.0))
        >>> Around(ClassScheme.from_names(["a"]), (10.0, 20.0), grid).within_px(50)
        (5, 2)
        """
        height, width = self.resolution_yx
        return math.floor(metres / height + _EDGE), math.floor(metres / width + _EDGE)


def pixel_m(grid: Grid, box: Box) -> tuple[float, float]:
    """Return the height and width of a pixel in metres, in degrees at the centre of a box.

    >>> pixel_m(Grid("EPSG:32633", (10.0, 20.0)), Box(0, 0, 4, 4))
    (10.0, 20.0)
    >>> [round(m) for m in pixel_m(Grid("EPSG:4326", (0.001, 0.001)), Box(-60_000, 0, -60_000, 0))]
    [111, 56]
    """
    from pyproj import CRS, Geod

    crs, (height, width) = CRS.from_user_input(grid.crs), grid.resolution_yx
    if not crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor
        return height * unit, width * unit
    left, bottom, right, top = grid.bounds_of_box(box)
    lon, lat = (left + right) / 2, (bottom + top) / 2
    geod = Geod(ellps="WGS84")
    _, _, north = geod.inv(lon, lat - height / 2, lon, lat + height / 2)
    _, _, east = geod.inv(lon - width / 2, lat, lon + width / 2, lat)
    return float(north), float(east)


class StepConfig(BaseModel):
    """The settings of a step; each kind of step says in ``step: Literal[...]`` which it is.

    Attributes:
        step: Name of the kind of step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    reads: ClassVar[tuple[str, ...]] = ("label", "confidence")
    """Layers that the step looks at, where the map has them; one that reads ``probability`` needs it."""
    step: str

    def made(self, around: Around) -> Step:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash all that the step's answers depend on beside the map; files that it reads too, by what they hold."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
