"""Rasters: any file on a grid, for what does not change with time: elevation, slope, distance to water."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.archive.gdal import gdal_environment
from engine.archive.reader import fetch_by_odc
from engine.archive.source import Source, Target, read_source
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling


def read_raster(
    href: str, band: int, grid: Grid, box: Box, resampling: Resampling = "bilinear"
) -> NDArray[np.float32]:
    """Read a band of a raster file into a box of a grid.

    Pixels lie as right as a scene's: whole file pixels in the same CRS, else a warp of exactly one fixed
    block, so the box that asks moves nothing.

    Args:
        href: File or address, any CRS, integers or floats.
        band: Number of the band, from 1.
        grid: Where the pixels go.
        box: Which pixels; it may lie partly or wholly outside the file.
        resampling: How coarser or reprojected pixels reach the grid.

    Returns:
        (y, x) float32 in the file's unit, NaN = no data: outside the file, or where it has its declared
        no-data value. Without a declared value every number counts, 0 too.

    Raises:
        InputError: If the storage wants keys, or only a ballpark transformation is known.
        DataError: If the file is missing or broken, or lacks the band.
        RetryableError: If the service did not answer.
    """
    out = np.full(box.shape_yx, np.nan, np.float32)
    with gdal_environment():
        source = Source(href, f"{href}, band {band}", band=band)
        read_source(source, fetch_by_odc, Target(grid, box, resampling), out)
    return out
