"""From annotations to labels on the cube's own pixels: polygons, points, rasters, tables.

0 means *not annotated*: such pixels are ignored by the loss and by the scores; they are not a background
class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_burn import burn, gather_blocks
from training.label_sources import PolygonSource, read_labels
from training.label_values import FULL_WEIGHT, LabelRaster, Labels, combine

__all__ = [
    "FULL_WEIGHT",
    "LabelRaster",
    "Labels",
    "PolygonSource",
    "combine",
    "rasterise",
    "read_labels",
    "write_raster",
]


def rasterise(
    source: PolygonSource | Labels,
    classes: ClassScheme,
    grid: Grid,
    box: Box,
    how: PolygonSource | None = None,
) -> LabelRaster:
    """Burn polygons, points or lines into a box of the grid.

    A pixel takes a polygon's class when its centre lies inside (or when it is touched, if the source says
    so), a point's when the point lies in it. Where labels of two classes claim a pixel, the larger weight
    wins; of equal weight, the pixel is not annotated. Each pixel is the same whatever box asks.

    Args:
        source: A file, or labels in memory, in any CRS.
        classes: Scheme; ``codes`` map the source's own codes.
        grid: The cube's grid.
        box: The cube's box.
        how: Pixel rule, inner buffer and background for labels in memory.

    Raises:
        InputError: If the file or column cannot be read, a class is unknown, or no pixel is annotated.
    """
    name = source.title if isinstance(source, PolygonSource) else "labels"
    raster = gather_blocks(burn(source, classes, grid, box, how), box, classes, name)
    if not raster.values.any():
        raise InputError(
            "no pixel of the cube is annotated",
            where=str(source.path) if isinstance(source, PolygonSource) else name,
            mend="check that polygons and cube overlap and that the inner buffer leaves something",
        )
    return raster


def write_raster(
    path: str | Path, source: PolygonSource | Labels, classes: ClassScheme, grid: Grid, box: Box
) -> int:
    """Burn labels straight into a GeoTIFF, block by block: a country in bounded memory.

    The file has the classes' values with 0 = not annotated and their colours and names; it is a source of
    labels itself.

    Args:
        path: File to write.
        source: A file (read block by block if it is indexed) or labels in memory.
        classes: Scheme.
        grid: The grid.
        box: Its pixels.

    Returns:
        Number of annotated pixels.

    Raises:
        InputError: As `rasterise`.
    """
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    height, width = box.shape_yx
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "crs": grid.crs,
        "transform": Affine(*grid.transform_of(box)),
        "nodata": 0,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "sparse_ok": True,
    }
    annotated = 0
    with rasterio.open(path, "w", **profile) as file:
        file.write_colormap(1, {c.value: (*c.rgb, 255) for c in classes.classes})
        file.update_tags(**{f"class_{c.value}": c.name for c in classes.classes})
        for part in burn(source, classes, grid, box):
            rows, cols = part.box.slices_in(box)
            file.write(part.values, 1, window=Window.from_slices(rows, cols))
            annotated += int(np.count_nonzero(part.values))
    if not annotated:
        raise InputError("no pixel of the grid is annotated", where=str(path))
    return annotated
