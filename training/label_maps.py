"""Labels from maps: rasters of classes on another grid and with another legend.

A pixel of the cube takes the map's pixel in which its centre lies. Maps are older and coarser than the cube:
`erode_px` leaves out the rims of their patches, where they are wrong most often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.archive.rasters import read_raster
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_sources import key_of
from training.label_values import FULL_WEIGHT, LabelRaster
from training.legends import legend


@dataclass(frozen=True)
class MapSource:
    """A raster of classes.

    Attributes:
        path: File or address that GDAL reads, any CRS.
        band: Number of its band, from 1.
        legend: What its numbers mean: ``worldcover``, ``corine``, ``eucropmap``, ``cdl``; None takes the codes
            and values of the scheme.
        remap: Numbers, or names of the legend or of its broader classes, to classes of the scheme; None to
            leave out. What is not mapped goes by its name or number.
        skip_unknown: Leave out numbers that mean no class of the scheme, instead of an error.
        erode_px: Pixels of the cube at the rim of each patch that are left out.
        weight: How much the labels count, 0..1.
        name: Name of the source; default the file's.
    """

    path: str | Path
    band: int = 1
    legend: str | None = None
    remap: Mapping[str, str | None] = field(default_factory=dict)
    skip_unknown: bool = True
    erode_px: int = 0
    weight: float = 1.0
    name: str | None = None

    @property
    def title(self) -> str:
        """Name of the source."""
        return self.name or Path(self.path).stem


def read_map(source: MapSource, classes: ClassScheme, grid: Grid, box: Box) -> LabelRaster:
    """Bring a map onto the cube's pixels and classes.

    Args:
        source: The map.
        classes: Scheme.
        grid: The cube's grid.
        box: The cube's box.

    Raises:
        InputError: If a number means no class and `skip_unknown` is off, or no pixel is annotated.
        DataError: If the file cannot be read.
    """
    found = read_raster(str(source.path), source.band, grid, box, "nearest")
    numbers = np.unique(found[np.isfinite(found)])
    meaning = {float(n): _meaning(source, classes, float(n)) for n in numbers}
    unknown = [key_of(n) for n, value in meaning.items() if value is None and n != 0]
    if unknown and not source.skip_unknown:
        raise InputError(
            "numbers of the map mean no class",
            where=str(source.path),
            found=unknown[:20],
            limit=classes.names,
            mend="remap them (to nothing: null), or set skip_unknown",
        )
    values = np.zeros(box.shape_yx, np.uint8)
    for number, value in meaning.items():
        if value:
            values[found == number] = value
    values = eroded(values, source.erode_px)
    if not values.any():
        raise InputError(
            "no pixel of the cube is annotated",
            where=str(source.path),
            found=[key_of(n) for n in numbers[:20]] or "no data",
            mend="check that map and cube overlap, and the legend",
        )
    return LabelRaster(values, box, classes, weights_of(values, source.weight), None, (source.title,))


def _meaning(source: MapSource, classes: ClassScheme, number: float) -> int | None:
    """Return the class value of a number; 0 for what is left out by intent, None for what is unknown."""
    names = [key_of(number)]
    if source.legend:
        scheme = legend(source.legend)
        value = scheme.lookup().get(key_of(number)) if number else None
        known = {c.value: c for c in scheme.classes}
        if value is None or key_of(number) not in {str(code) for code in known[value].codes}:
            return None
        found = known[value]
        names += [found.name] if found.parent is None else [found.name, found.parent]
    remap = {key_of(k): v for k, v in source.remap.items()}
    lookup = classes.lookup()
    for name in names:
        if name in remap:
            return 0 if remap[name] is None else _named(str(remap[name]), lookup, source, classes)
    # A legend's names speak first: its numbers are no values of the scheme.
    for name in names[1:] or names:
        if name in lookup:
            return lookup[name]
    return None


def _named(name: str, lookup: dict[str, int], source: MapSource, classes: ClassScheme) -> int:
    if name not in lookup:
        raise InputError(
            "a remap names no class of the scheme",
            where=f"{source.path}: remap",
            found=name,
            limit=classes.names,
        )
    return lookup[name]


def eroded(values: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Leave out pixels that have another class within some pixels (rows and columns alike).

    The edge of the array is no rim.

    Args:
        values: (y, x) uint8.
        pixels: How far.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    if not pixels:
        return values
    size = 2 * pixels + 1
    low = minimum_filter(values, size, mode="nearest")
    same = low == maximum_filter(values, size, mode="nearest")
    return np.where(same, values, 0).astype(np.uint8)


def weights_of(values: NDArray[np.uint8], weight: float) -> NDArray[np.uint8] | None:
    """Return a raster of one weight, None for full weight."""
    if not 0 <= weight <= 1:
        raise InputError("a weight lies within 0..1", where="labels.weight", found=weight)
    if weight == 1:
        return None
    return np.where(values != 0, np.uint8(round(weight * FULL_WEIGHT)), np.uint8(0)).astype(np.uint8)
