"""What travels: labels as vectors (`Labels`) and labels on the pixels of a grid (`LabelRaster`).

0 means *not annotated*: such pixels are ignored by the loss and by the scores. It is not a background
class; background is a class of the scheme like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box

if TYPE_CHECKING:
    import geopandas as gpd

FULL_WEIGHT = 250
"""Weight of one in a raster of weights (uint8)."""

COLUMNS = ("value", "source", "weight", "start", "end")
"""Columns of a frame of labels beside its geometry."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Annotated polygons, points or lines.

    Attributes:
        frame: One row a feature, with a CRS; the index is the feature's number in its file. Columns:
            ``value`` uint8, a class value of the scheme; ``source`` str, where the label is from;
            ``weight`` float 0..1, how much it counts; ``start``, ``end`` datetime64, the first and last day
            for which it holds (NaT: at any time).
        classes: The classes.
    """

    frame: gpd.GeoDataFrame
    classes: ClassScheme

    def __post_init__(self) -> None:
        missing = sorted({*COLUMNS, "geometry"} - set(self.frame.columns))
        if missing or self.frame.crs is None:
            raise InputError(
                "not a frame of labels",
                where="labels",
                found=f"without {', '.join(missing) or 'a CRS'}",
                limit=", ".join(COLUMNS),
            )
        strange = sorted(set(self.frame["value"].unique().tolist()) - set(self.classes.values))
        if strange:
            raise InputError(
                "labels hold values that are no class",
                where="labels",
                found=strange[:20],
                limit=self.classes.values,
            )
        weights = self.frame["weight"].to_numpy(float)
        if not ((weights >= 0) & (weights <= 1)).all():
            raise InputError(
                "weights of labels lie outside 0..1",
                where="labels",
                found=f"{np.nanmin(weights)}..{np.nanmax(weights)}, {int(np.isnan(weights).sum())} missing",
                limit="0..1",
            )

    def __len__(self) -> int:
        return len(self.frame)

    def counts(self) -> dict[str, int]:
        """Number of features of each class, in the scheme's order."""
        found = self.frame["value"].value_counts()
        return {c.name: int(found.get(c.value, 0)) for c in self.classes.classes}


@dataclass(frozen=True, eq=False)
class LabelRaster:
    """Labels on a box of a grid.

    Attributes:
        values: (y, x) uint8: class values, 0 = not annotated.
        box: Its global pixels; the split hangs on them.
        classes: The classes, in the order of the network's outputs.
        weights: (y, x) uint8: 0..250 = 0..1, how much a pixel counts; None = all one.
        origin: (y, x) uint8: number of the pixel's source in `sources`, from 1; 0 = not annotated. None =
            all from the only source.
        sources: Names of the sources.
        contested: Pixels that are not annotated because labels of one weight contradict each other.
    """

    values: NDArray[np.uint8]
    box: Box
    classes: ClassScheme
    weights: NDArray[np.uint8] | None = None
    origin: NDArray[np.uint8] | None = None
    sources: tuple[str, ...] = ()
    contested: int = 0

    def __post_init__(self) -> None:
        for layer in (self.values, self.weights, self.origin):
            if layer is not None and (layer.shape != self.box.shape_yx or layer.dtype != np.uint8):
                raise InputError(
                    "labels do not cover their box",
                    where="labels",
                    found=f"{layer.dtype} {layer.shape}",
                    limit=f"uint8 {self.box.shape_yx}",
                )
        strange = set(np.flatnonzero(byte_counts(self.values)).tolist()) - {0, *self.classes.values}
        if strange:
            raise InputError(
                "labels hold values that are no class",
                where="labels",
                found=sorted(strange),
                limit=self.classes.values,
            )

    def counts(self) -> dict[str, int]:
        """Annotated pixels of each class, in the scheme's order."""
        found = byte_counts(self.values)
        return {c.name: int(found[c.value]) for c in self.classes.classes}

    def source_counts(self) -> dict[str, int]:
        """Annotated pixels from each source."""
        if self.origin is None:
            return {name: int(np.count_nonzero(self.values)) for name in self.sources[:1]}
        found = byte_counts(self.origin)
        return {name: int(found[i]) for i, name in enumerate(self.sources, 1)}


def byte_counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count each of the 256 values; in strips, as numpy counts in a copy of eight times the size."""
    found = np.zeros(256, np.int64)
    for strip in np.array_split(values, max(1, values.size // 2**22)):
        found += np.bincount(strip.ravel(), minlength=256)
    return found


def combine(rasters: list[LabelRaster]) -> LabelRaster:
    """Lay labels of several sources on one another.

    Where sources agree, the larger weight counts. Where they contradict, the label of larger weight
    wins; of equal weight, the pixel is not annotated.

    Args:
        rasters: Of the same box and classes; the first of equals gives the source.

    Raises:
        InputError: If there are none or more than 255 sources, or boxes or classes differ.
    """
    if not rasters or any((r.box, r.classes) != (rasters[0].box, rasters[0].classes) for r in rasters):
        raise InputError(
            "labels to combine must have one box and one scheme",
            where="labels",
            found=[r.box for r in rasters] or "none",
        )
    names = [name for r in rasters for name in r.sources or ("labels",)]
    if len(names) > 255:
        raise InputError("too many sources of labels", where="labels", found=len(names), limit=255)
    shape = rasters[0].values.shape
    values, weights, origin = (np.zeros(shape, np.uint8) for _ in range(3))
    clash = np.zeros(shape, bool)
    before = 0
    if len(rasters) == 1:
        return rasters[0]
    for raster in rasters:
        mine = _weights(raster)
        wins = (raster.values != 0) & ((mine > weights) | (values == 0))
        equal = (raster.values != 0) & (values != 0) & (mine == weights)
        clash = (clash & ~wins) | (equal & (raster.values != values))
        values[wins], weights[wins] = raster.values[wins], mine[wins]
        origin[wins] = before + (1 if raster.origin is None else raster.origin[wins])
        before += len(raster.sources) or 1
    for layer in (values, weights, origin):
        layer[clash] = 0
    whole = all(r.weights is None for r in rasters)
    contested = int(clash.sum()) + sum(r.contested for r in rasters)
    first = rasters[0]
    return LabelRaster(
        values, first.box, first.classes, None if whole else weights, origin, tuple(names), contested
    )


def _weights(raster: LabelRaster) -> NDArray[np.uint8]:
    if raster.weights is not None:
        return raster.weights
    return np.full(raster.values.shape, FULL_WEIGHT, np.uint8)
