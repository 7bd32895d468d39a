"""Reader: the pixels of one item on a grid, the right pixel whoever asks.

Where a pixel comes from is decided in `engine.archive.place`, alike for all readers: whole file pixels by
integer offset in the same CRS, else a warp of exactly one fixed block. `OdcReader` fetches the file pixels
through odc-stac's own reading engine (the package ``odc.loader``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.archive.consistent import require_consistent
from engine.archive.gdal import gdal_environment
from engine.archive.items import ItemRecord
from engine.archive.source import FetchFrom, Source, Target, read_source
from engine.values.bands import common_name
from engine.values.errors import DataError, InputError, concerning
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling

_CATEGORICAL = {"scl"}


class Reader(Protocol):
    """Whatever reads the pixels of one item."""

    def read(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.uint16]:
        """Read bands of an item into a box of a grid.

        Args:
            item: The scene.
            bands: Band names.
            grid: Where the pixels go.
            box: Which pixels; it may lie partly or wholly outside the image.
            resampling: How coarser or reprojected bands reach the grid.

        Returns:
            DN, (band, y, x) uint16, 0 = no data.

        Raises:
            InputError: If the item lacks a band.
            DataError: If a file is missing, broken or no image of integers.
            RetryableError: If the service did not answer.
        """
        ...

    def read_float(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.float32]:
        """Read bands of an item as numbers: files of floats, and files of integers alike.

        Args:
            item: The scene.
            bands: Band names.
            grid: Where the pixels go.
            box: Which pixels; it may lie partly or wholly outside the image.
            resampling: How coarser or reprojected bands reach the grid.

        Returns:
            (band, y, x) float32 in the file's unit, NaN = no data. A file of integers that declares no
            no-data value has 0 for it, as in `read`.

        Raises:
            InputError: If the item lacks a band.
            DataError: If a file is missing or broken.
            RetryableError: If the service did not answer.
        """
        ...


@dataclass(frozen=True)
class OdcReader:
    """Read through odc-stac's reading engine.

    Attributes:
        options: GDAL options that differ from `GDAL_OPTIONS`, as pairs.
        overviews: Read a grid that is coarser than a file from the file's overviews: fast, for looking
            only. Overviews are another image, and not every file has them.
    """

    options: tuple[tuple[str, str], ...] = ()
    overviews: bool = False

    def read(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.uint16]:
        """Read bands of an item into a box of a grid; see `Reader.read`.

        Classes (``scl``) are always read by nearest neighbour.
        """
        out = np.zeros((len(bands), *box.shape_yx), np.uint16)
        with gdal_environment(dict(self.options)):
            read_item(item, bands, Target(grid, box, resampling, self.overviews), fetch_by_odc, out)
        return out

    def read_float(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.float32]:
        """Read bands of an item as numbers; see `Reader.read_float`."""
        out = np.full((len(bands), *box.shape_yx), np.nan, np.float32)
        with gdal_environment(dict(self.options)):
            read_item(item, bands, Target(grid, box, resampling, self.overviews), fetch_by_odc, out)
        return out


def fetch_by_odc(source: Source, window: Box) -> NDArray[Any]:
    """Fetch whole pixels of a file through odc-stac's engine, within `gdal_environment`.

    Args:
        source: The file.
        window: Rows and columns of the file, within it.

    Returns:
        (y, x) in the file's dtype.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from odc.loader import RasterLoadParams, RasterSource, RioDriver

    corner = Affine(*source.raster.transform) @ Affine.translation(window.x0, window.y0)
    geobox = GeoBox(window.shape_yx, corner, source.raster.crs)
    how = RasterLoadParams(dtype=source.raster.dtype, use_overviews=False, resampling="nearest")
    if source.level is not None:
        return _fetch_overview(source, window)
    driver = RioDriver()
    roi, pixels = driver.open(RasterSource(source.signed, band=source.band), _odc_context()).read(how, geobox)
    if pixels.shape != window.shape_yx:
        raise DataError(
            "the file gave another window than was asked for",
            where=str(roi),
            found=pixels.shape,
            limit=window.shape_yx,
        )
    return np.asarray(pixels)


@functools.cache
def _odc_context() -> Any:
    """Return what odc hands from one read to the next; made once, as it holds nothing yet."""
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from odc.loader import RioDriver

    driver = RioDriver()
    with driver.restore_env({}, driver.new_load(GeoBox((1, 1), Affine.identity(), None))) as context:
        return context


def _fetch_overview(source: Source, window: Box) -> NDArray[Any]:
    """Fetch whole pixels of an overview, which odc's engine cannot be asked for by number."""
    import rasterio
    from rasterio.windows import Window

    rows, cols = (window.y0, window.y1), (window.x0, window.x1)
    with rasterio.open(source.signed, sharing=False, overview_level=source.level) as file:
        return np.asarray(file.read(source.band, window=Window.from_slices(rows, cols)))


def read_item(
    item: ItemRecord, bands: Sequence[str], target: Target, fetch: FetchFrom, out: NDArray[Any]
) -> None:
    """Read bands of an item, within `gdal_environment`; classes by nearest neighbour.

    Args:
        item: The scene.
        bands: Band names.
        target: Where the pixels go.
        fetch: Fetches pixels of a file.
        out: (band, y, x) uint16 for DN or float32 for numbers, all no data (0 or NaN) before.

    Raises:
        InputError: If the item lacks a band; before anything is read.
        DataError: If a file does not agree with its item or with the other bands.
    """
    assets = [item.asset(common_name(b)) for b in bands]
    headers = {}
    for plane, asset in zip(out, assets, strict=True):
        where = f"item {item.id}, band {asset.band}, {asset.href}"
        nodata = 0.0 if asset.nodata is None else asset.nodata
        how: Resampling = "nearest" if asset.band in _CATEGORICAL else target.how
        source = Source(asset.href, where, item.provider, nodata)
        with concerning(item.id, asset.band):
            read_source(source, fetch, replace(target, how=how), plane)
            headers[asset.band] = source.raster  # known from the read
    require_consistent(item, headers)


def require_bands(item: ItemRecord, bands: Sequence[str]) -> None:
    """Check that an item has all the bands, before anything is opened.

    Raises:
        InputError: Naming the item and each band that it lacks.
    """
    missing = [b for b in map(common_name, bands) if b not in item.bands]
    if missing:
        raise InputError(
            "the item lacks bands",
            where=f"item {item.id}",
            found=", ".join(item.bands) or "no bands",
            limit=", ".join(missing),
        )
