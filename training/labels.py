"""From polygons to a label raster on the cube's own pixels.

A pixel takes a polygon's class when its centre lies inside. 0 means *not annotated*: such pixels are
ignored by the loss and by the scores; they are not a background class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import geopandas as gpd


@dataclass(frozen=True, eq=False)
class LabelRaster:
    """Labels on a box of a grid.

    Attributes:
        values: (y, x) uint8: class values, 0 = not annotated.
        box: Its global pixels; the split hangs on them.
        classes: The classes, in the order of the network's outputs.
    """

    values: NDArray[np.uint8]
    box: Box
    classes: ClassScheme

    def __post_init__(self) -> None:
        if self.values.shape != self.box.shape_yx or self.values.dtype != np.uint8:
            raise InputError(
                "labels do not cover their box",
                where="labels",
                found=f"{self.values.dtype} {self.values.shape}",
                limit=f"uint8 {self.box.shape_yx}",
            )
        strange = set(np.unique(self.values).tolist()) - {0, *self.classes.values}
        if strange:
            raise InputError(
                "labels hold values that are no class",
                where="labels",
                found=sorted(strange),
                limit=self.classes.values,
            )


@dataclass(frozen=True)
class PolygonSource:
    """Annotated polygons in a file.

    Attributes:
        path: Any vector file that GDAL reads (GeoPackage, GeoJSON, shapefile, GeoParquet).
        column: Column that holds the class: a name, a source code or a value of the scheme.
        layer: Layer of the file; None takes the first.
        inner_buffer_m: Polygons shrink by this many CRS units of the grid first: mixed pixels at field
            edges teach the wrong thing.
        skip_unknown: Leave out polygons whose class is not in the scheme, instead of an error.
    """

    path: str | Path
    column: str
    layer: str | None = None
    inner_buffer_m: float = 0.0
    skip_unknown: bool = False


def rasterise(source: PolygonSource, classes: ClassScheme, grid: Grid, box: Box) -> LabelRaster:
    """Burn polygons into a box of the grid.

    Pixels that polygons of two classes claim are not annotated.

    Args:
        source: The polygons, in any CRS.
        classes: Scheme; ``codes`` map the source's own codes.
        grid: The cube's grid.
        box: The cube's box.

    Raises:
        InputError: If the file or column cannot be read, a class is unknown, or no pixel is annotated.
    """
    frame = _read(source, grid)
    values = _class_values(frame[source.column].tolist(), classes)
    unknown = sorted({str(v) for v, found in zip(frame[source.column], values, strict=True) if found is None})
    if unknown and not source.skip_unknown:
        raise InputError(
            "polygons have classes that the scheme does not know",
            where=f"{source.path}: {source.column}",
            found=unknown[:20],
            limit=f"names {classes.names}, or codes of the scheme",
            mend="add them as codes of a class, or set skip_unknown",
        )
    geometry = frame.geometry.buffer(-source.inner_buffer_m) if source.inner_buffer_m else frame.geometry
    labels = _burn(list(geometry), values, grid, box)
    if not labels.any():
        raise InputError(
            "no pixel of the cube is annotated",
            where=str(source.path),
            found=f"{len(frame)} polygons",
            mend="check that polygons and cube overlap and that the inner buffer leaves something",
        )
    return LabelRaster(labels, box, classes)


def _read(source: PolygonSource, grid: Grid) -> gpd.GeoDataFrame:
    import geopandas as gpd

    try:
        frame = gpd.read_file(source.path, layer=source.layer)
    except Exception as error:  # pyogrio and GDAL raise their own kinds
        raise InputError("cannot read the polygons", where=str(source.path), mend=str(error)) from error
    if source.column not in frame.columns:
        raise InputError(
            "the file has no such column",
            where=str(source.path),
            found=source.column,
            limit=", ".join(map(str, frame.columns)),
        )
    if frame.crs is None:
        raise InputError("the polygons have no CRS", where=str(source.path), mend="declare it in the file")
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    return frame.to_crs(grid.crs)


def _class_values(found: list[Any], classes: ClassScheme) -> list[int | None]:
    """Map names, codes and values of the source to class values; None where nothing fits.

    A name wins over a code, a code over a plain value.
    """
    table: dict[str, int] = {}
    for c in classes.classes:
        table.setdefault(str(c.value), c.value)
    table.update({_key(code): c.value for c in classes.classes for code in c.codes})
    table.update({c.name: c.value for c in classes.classes})
    return [table.get(_key(value)) for value in found]


def _key(value: Any) -> str:
    """Write 3, 3.0 and "3" alike: GIS files turn integers into floats when a row is empty."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _burn(geometry: list[Any], values: list[int | None], grid: Grid, box: Box) -> NDArray[np.uint8]:
    from affine import Affine
    from rasterio.features import rasterize

    labels = np.zeros(box.shape_yx, np.uint8)
    claims = np.zeros(box.shape_yx, np.uint8)
    transform = Affine(*grid.transform_of(box))
    for value in sorted({v for v in values if v is not None}):
        shapes = [g for g, v in zip(geometry, values, strict=True) if v == value and not g.is_empty]
        if not shapes:
            continue
        mine = rasterize(shapes, box.shape_yx, transform=transform, dtype="uint8").astype(bool)
        labels[mine] = value
        claims += mine
    labels[claims > 1] = 0
    return labels
