"""StackstacReader: the pixels of one item through stackstac's reading engine, as right as `OdcReader`'s.

stackstac 0.5.1 learns from ``proj:epsg`` where an image lies. pystac 1.15 rewrites that field to
``proj:code``, and an item without it is placed by its footprint, silently off by a pixel or more. So nothing
that an item says is used here: stackstac's own reader is told the file's grid, from the file's header, and
asked for whole pixels in the file's dtype. Which of them a box needs, and how they reach another CRS, is
decided in `engine.archive.place`, as for every reader; both readers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gdal import gdal_environment
from engine.archive.items import ItemRecord
from engine.archive.reader import read_item
from engine.archive.source import Source, Target
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling


@dataclass(frozen=True)
class StackstacReader:
    """Read through stackstac; a `Reader`.

    Attributes:
        options: GDAL options that differ from `GDAL_OPTIONS`, as pairs.
    """

    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _stackstac("rio_reader")

    def read(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.uint16]:
        """Read bands of an item into a box of a grid; see `Reader.read`.

        Classes (``scl``) are always read by nearest neighbour.
        """
        out = np.zeros((len(bands), *box.shape_yx), np.uint16)
        with gdal_environment(dict(self.options)):
            read_item(item, bands, Target(grid, box, resampling), fetch_by_stackstac, out)
        return out

    def read_float(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.float32]:
        """Read bands of an item as numbers; see `Reader.read_float`."""
        out = np.full((len(bands), *box.shape_yx), np.nan, np.float32)
        with gdal_environment(dict(self.options)):
            read_item(item, bands, Target(grid, box, resampling), fetch_by_stackstac, out)
        return out


def fetch_by_stackstac(source: Source, window: Box) -> NDArray[Any]:
    """Fetch whole pixels of a file through stackstac's rasterio reader.

    Args:
        source: The file.
        window: Rows and columns of the file, within it.

    Returns:
        (y, x) in the file's dtype; no data as the file has it.

    Raises:
        DataError: If the file is rotated or has several bands, which stackstac does not know.
    """
    from rasterio.crs import CRS
    from rasterio.enums import Resampling as RioResampling
    from rasterio.windows import Window

    raster = source.raster
    a, _, c, _, e, f = raster.transform
    if not raster.north_up:
        raise DataError("stackstac cannot place a rotated file", where=source.href, mend="use OdcReader")
    height, width = raster.shape_yx
    own_grid = _stackstac("raster_spec").RasterSpec(
        CRS.from_wkt(raster.crs).to_epsg(), (c, f + e * height, c + a * width, f), (a, -e)
    )
    reader = _stackstac("rio_reader").AutoParallelRioReader(
        url=source.signed,
        spec=own_grid,
        resampling=RioResampling.nearest,
        dtype=np.dtype(raster.dtype),
        fill_value=0 if raster.nodata is None else raster.nodata,
        scale_offset=(1, 0),
        gdal_env=_stackstac("rio_env").LayeredEnv({}),  # the options in force stay
    )
    try:
        return np.asarray(reader.read(Window.from_slices((window.y0, window.y1), (window.x0, window.x1))))
    except (
        RuntimeError
    ) as error:  # stackstac wraps all errors; those of rasterio are told apart by the caller
        cause, said = error.__cause__, str(error)
    finally:
        reader.close()
    if isinstance(cause, Exception):
        raise cause
    raise DataError("stackstac cannot read the file", found=said.split(", but")[0], mend="use OdcReader")


def _stackstac(module: str) -> ModuleType:
    """Import one of stackstac's modules.

    Raises:
        InputError: If stackstac is not installed.
    """
    try:
        return import_module(f"stackstac.{module}")
    except ImportError as error:
        raise InputError(
            "reading through stackstac needs one more package",
            found=str(error),
            mend="pip install 'landweave[stackstac]'",
        ) from error
