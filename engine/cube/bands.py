"""Bands: the reflectance of one scene on the cube's grid, sharpened if its spec says so.

A sharpened band is a 10 m image in the scene's own projection, made there from whole file pixels, and is then
placed on the grid like any 10 m file: by integer offset, or by position where the grid lies otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.archive.place import place
from engine.archive.radiometry import radiometry, to_reflectance
from engine.archive.reader import Reader
from engine.archive.warp import Raster
from engine.cube.plan import CubePlan
from engine.cube.sharpen import FINE_M, PAN, is_coarse, sharpen
from engine.values.bands import band
from engine.values.grid import Box, Grid
from engine.values.recipe import Sharpen

_CORNER_PX = 3_000_000  # the endless image is counted from a corner that lies beyond any projection
_SIDE_PX = 2 * _CORNER_PX


def read_reflectance(plan: CubePlan, item: ItemRecord, box: Box) -> NDArray[np.uint16]:
    """Read the bands of a scene.

    Args:
        plan: The cube.
        item: The scene.
        box: Global pixels.

    Returns:
        (band, y, x) uint16 reflectance x 10000, 0 = no data, in the order of the spec.
    """
    spec, reader = plan.spec, plan.reader
    coarse = tuple(b for b in spec.bands if spec.sharpen is not None and is_coarse(b))
    plain = [b for b in spec.bands if b not in coarse]
    dn = reader.read(item, plain, plan.grid, box, spec.resampling)
    values = to_reflectance(dn, radiometry(item))
    if spec.sharpen is None or not coarse:
        return values
    image = _SharpImage(reader, item, coarse, spec.sharpen)
    out = np.zeros((len(spec.bands), *box.shape_yx), np.uint16)
    for plane, name in zip(out, spec.bands, strict=True):
        if name in coarse:
            n = coarse.index(name)
            place(image.raster, lambda w, n=n: image.fetch(w)[n], plan.grid, box, spec.resampling, plane)  # type: ignore[misc]
        else:
            plane[:] = values[plain.index(name)]
    return out


@dataclass(frozen=True)
class _SharpImage:
    """The sharpened bands of a scene as an endless 10 m image in its own projection.

    Attributes:
        reader: How pixels are read.
        item: The scene.
        bands: Bands to sharpen.
        how: Method and weight.
        made: Windows made so far: each band asks for the same ones.
    """

    reader: Reader
    item: ItemRecord
    bands: tuple[str, ...]
    how: Sharpen
    made: dict[Box, NDArray[np.uint16]] = field(default_factory=dict)

    @property
    def raster(self) -> Raster:
        """Its header. Sentinel-2's pixels of 10, 20 and 60 m all lie on whole multiples of their size."""
        west, north = -_CORNER_PX * float(FINE_M), _CORNER_PX * float(FINE_M)
        transform = (float(FINE_M), 0.0, west, 0.0, -float(FINE_M), north)
        return Raster(self.item.crs, transform, (_SIDE_PX, _SIDE_PX), "uint16", 0)

    def fetch(self, window: Box) -> NDArray[np.uint16]:
        """Return (band, y, x) uint16 reflectance x 10000 of a window of the image."""
        if window not in self.made:
            self.made[window] = self._make(window)
        return self.made[window]

    def _make(self, window: Box) -> NDArray[np.uint16]:
        corner = _CORNER_PX
        box = Box(window.y0 - corner, window.x0 - corner, window.y1 - corner, window.x1 - corner)
        factors = {name: round(band(name).resolution_m / FINE_M) for name in self.bands}
        widest = max(factors.values())
        around = box.snap_out(widest).pad(widest)  # whole coarse pixels, and one more on each side
        pan = self._read(PAN, FINE_M, around)
        out = np.empty((len(self.bands), *box.shape_yx), np.uint16)
        for factor in sorted(set(factors.values())):
            names = tuple(name for name in self.bands if factors[name] == factor)
            whole = box.snap_out(factor)
            near = whole.pad(factor)
            small = Box(near.y0 // factor, near.x0 // factor, near.y1 // factor, near.x1 // factor)
            detail = pan[:, *near.slices_in(around)]
            for name, plane in zip(names, self._read(names, FINE_M * factor, small), strict=True):
                sharp = sharpen(plane, detail, factor, self.how)
                out[self.bands.index(name)] = sharp[box.slices_in(whole)]
        return out

    def _read(self, bands: tuple[str, ...], pixel_m: int, box: Box) -> NDArray[np.uint16]:
        """Read whole file pixels of the scene as reflectance."""
        grid = Grid(self.item.crs, (float(pixel_m), float(pixel_m)))
        return to_reflectance(self.reader.read(self.item, bands, grid, box, "nearest"), radiometry(self.item))
