"""A map of classes, whatever it lies in: labels of any box, and the same labels on another map's pixels.

::

    store or file ──► ClassMap.labels(box)            values of the scheme, 0 = no data, 0 outside
                      ClassMap.labels_on(grid, box)   by the pixel that holds each centre

Whoever asks for which box, a pixel's label is the same one: other grids are read by the rule that places scenes
(`engine.archive.place`), which decides per pixel or per fixed block of 512.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.place import place
from engine.archive.warp import Raster
from engine.values.classes import NO_DATA_LABEL, ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

LABEL, CONFIDENCE, OBSERVATIONS = "label", "confidence", "observations"

ReadLayer = Callable[[str, Box], NDArray[Any]]
"""Gives the pixels (y, x) of a layer over a box that lies inside the map."""


@dataclass(frozen=True)
class ClassMap:
    """A map of classes, opened for reading.

    Attributes:
        where: Store or file, for errors and reports.
        grid: Where its pixels lie.
        box: Which pixels it has.
        scheme: Its classes.
        read: Reads a layer; the label in values of the scheme, uint8, 0 = no data.
        layers: Names of its flat layers, `label` among them.
        no_data: No-data value of each layer that has one.
        note: What whoever looks at the map must know, such as tiles that are missing.
    """

    where: str
    grid: Grid
    box: Box
    scheme: ClassScheme
    read: ReadLayer
    layers: tuple[str, ...] = (LABEL,)
    no_data: Mapping[str, int] = field(default_factory=lambda: {LABEL: NO_DATA_LABEL, CONFIDENCE: 255})
    note: str = ""

    def labels(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of any box, (y, x) uint8; 0 outside the map."""
        return self.layer(LABEL, box)

    def layer(self, name: str, box: Box) -> NDArray[Any]:
        """Return a layer over any box, (y, x) in its own dtype; outside the map its no-data value, else 0.

        Raises:
            InputError: If the map has no such layer.
        """
        if name not in self.layers:
            raise InputError(
                "the map has no such layer", where=self.where, found=name, limit=", ".join(self.layers)
            )
        inside = box & self.box
        if inside == box:
            return self.read(name, box)
        empty = self.no_data.get(name, 0)
        if not inside:
            return np.full(box.shape_yx, empty, np.uint8)
        found = self.read(name, inside)
        out = np.full(box.shape_yx, empty, found.dtype)
        out[inside.slices_in(box)] = found
        return out

    def labels_on(self, grid: Grid, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box of another grid, (y, x) uint8: those of the pixels that hold its centres.

        Raises:
            InputError: If only a ballpark transformation is known between the two.
        """
        if grid == self.grid:
            return self.labels(box)
        header = Raster(self.grid.crs, self.grid.transform_of(self.box), self.box.shape_yx, "uint8", 0.0)

        def fetch(window: Box) -> NDArray[np.uint16]:
            moved = Box(window.y0, window.x0, window.y1, window.x1)
            at = Box(
                moved.y0 + self.box.y0, moved.x0 + self.box.x0, moved.y1 + self.box.y0, moved.x1 + self.box.x0
            )
            return self.labels(at).astype(np.uint16)

        out = np.zeros(box.shape_yx, np.uint16)
        place(header, fetch, grid, box, "nearest", out)
        return out.astype(np.uint8)

    def box_on(self, grid: Grid) -> Box:
        """Return the smallest box of another grid that covers the map."""
        if grid == self.grid:
            return self.box
        from pyproj import Transformer

        from engine.archive.warp import require_transform, same_crs

        bounds = self.grid.bounds_of_box(self.box)
        if not same_crs(self.grid.crs, grid.crs):
            require_transform(self.grid.crs, grid.crs)
            moved = Transformer.from_crs(self.grid.crs, grid.crs, always_xy=True)
            bounds = moved.transform_bounds(*bounds, densify_pts=101)
        return grid.box_of_bounds(bounds).pad(1)


@dataclass(frozen=True)
class Codes:
    """What the numbers of a file of classes mean.

    Attributes:
        found: (N,) int64, rising: the file's own numbers.
        values: (N,) uint8: the class value of each, 0 = no data.
    """

    found: NDArray[np.int64]
    values: NDArray[np.uint8]

    @classmethod
    def of(cls, scheme: ClassScheme, no_data: float | None) -> Codes:
        """Read a scheme's codes and values; the file's declared no-data value, else 0, is no data.

        A code wins over a plain value, so files in which 0 is a class can be read: ``{value: 1, codes: [0]}``.
        """
        table = {c.value: c.value for c in scheme.classes}
        table |= {int(code): c.value for c in scheme.classes for code in c.codes if _is_whole(code)}
        if no_data is not None and np.isfinite(no_data) and no_data == int(no_data):
            table[int(no_data)] = NO_DATA_LABEL
        else:
            table.setdefault(0, NO_DATA_LABEL)
        order = sorted(table)
        return cls(np.array(order, np.int64), np.array([table[n] for n in order], np.uint8))

    def translate(self, stored: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Turn stored numbers into class values, (y, x) uint8.

        Args:
            stored: (y, x) whole numbers, or floats that hold such; NaN is no data.
            where: The file, for the error.

        Raises:
            InputError: If a number means no class, naming those.

        >>> scheme = ClassScheme.from_names(["crop", "forest"])
        >>> Codes.of(scheme, 255).translate(np.array([[1, 255, 2]], np.uint8), "a.tif").tolist()
        [[1, 0, 2]]
        """
        if stored.dtype.kind == "f":
            filled = np.where(np.isnan(stored), 0, stored)
            broken = filled != np.trunc(filled)
            if broken.any():
                raise InputError(
                    "the file holds amounts, not classes", where=where, found=float(stored[broken].flat[0])
                )
            found = self._translate(filled.astype(np.int64), where)
            found[np.isnan(stored)] = NO_DATA_LABEL
            return found
        return self._translate(stored, where)

    def _translate(self, stored: NDArray[Any], where: str) -> NDArray[np.uint8]:
        if stored.dtype == np.uint8:
            table = np.zeros(256, np.uint8)
            known = np.zeros(256, np.bool_)
            inside = (self.found >= 0) & (self.found <= 255)
            table[self.found[inside]], known[self.found[inside]] = self.values[inside], True
            seen = np.bincount(stored.ravel(), minlength=256) > 0
            if (strange := seen & ~known).any():
                raise _unknown(np.flatnonzero(strange), where, self.found)
            return table[stored]
        at = np.searchsorted(self.found, stored).clip(max=len(self.found) - 1)
        if (strange := self.found[at] != stored).any():
            raise _unknown(np.unique(stored[strange]), where, self.found)
        return self.values[at]


def _is_whole(code: int | str) -> bool:
    return isinstance(code, int) or str(code).lstrip("-").isdigit()


def _unknown(numbers: NDArray[Any], where: str, known: NDArray[np.int64]) -> InputError:
    shown = ", ".join(map(str, numbers[:10].tolist())) + (", ..." if len(numbers) > 10 else "")
    return InputError(
        "the map holds numbers that mean no class",
        where=where,
        found=shown,
        limit=", ".join(map(str, known[:30].tolist())),
        mend="give a class scheme (--classes) with these as values or codes",
    )
