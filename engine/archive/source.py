"""Source: one raster file to read from, its header, and what its numbers mean.

Files hold integers or floats, with or without a no-data value. Whatever they hold becomes one of two kinds
before anything else happens to it: DN (uint16, 0 = no data) or numbers (float32, NaN = no data).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gdal import explained
from engine.archive.mapping import file_pixels_per_pixel
from engine.archive.place import place
from engine.archive.signing import sign, sign_anew
from engine.archive.warp import Raster
from engine.values.errors import DataError
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling


@dataclass(frozen=True)
class Source:
    """One band of one raster file.

    Attributes:
        href: Unsigned address or local path.
        where: What an error names.
        provider: As in `ItemRecord.provider`.
        nodata: No-data value of integers for a file that declares none; None: every pixel of it counts.
        band: Number of the band within the file, from 1.
        level: Number of the overview to read instead of the image itself, or None.
    """

    href: str
    where: str
    provider: str = "other"
    nodata: float | None = None
    band: int = 1
    level: int | None = None

    @functools.cached_property
    def raster(self) -> Raster:
        """The header, read once a process; a local file's again after it changed.

        Raises:
            DataError: If the file has no CRS or not so many bands.
        """
        return _header(self, _stamp(self.href))

    @property
    def signed(self) -> str:
        """The address under which it can be opened now."""
        return sign(self.href, self.provider)

    def pixels(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Turn stored numbers into DN (uint16) or numbers (float32), as `dtype` says."""
        declared = self.raster.nodata
        if dtype == np.uint16:
            return as_dn(stored, self.nodata if declared is None else declared)
        by_catalogue = self.nodata if stored.dtype.kind in "ui" or self.nodata else None
        return as_float(stored, by_catalogue if declared is None else declared)

    def for_looking(self, grid: Grid, box: Box) -> Source:
        """Return the coarsest overview that is still no coarser than a grid, or the image itself."""
        ratio = file_pixels_per_pixel(self.raster, grid, box) * (1 + 1e-6)
        levels = [n for n, factor in enumerate(self.raster.overviews) if factor <= ratio]
        return dataclasses.replace(self, level=levels[-1]) if levels else self


@dataclass(frozen=True)
class Target:
    """Where pixels go.

    Attributes:
        grid: The grid.
        box: Which of its pixels.
        how: How coarser or reprojected pixels reach it.
        overviews: For looking only: read from a file's overviews where the grid is coarser.
    """

    grid: Grid
    box: Box
    how: Resampling
    overviews: bool = False


FetchFrom = Callable[[Source, Box], NDArray[Any]]
"""Fetches whole pixels of a file as they are stored, (y, x); the one thing in which readers differ."""


def read_source(source: Source, fetch: FetchFrom, target: Target, out: NDArray[Any]) -> None:
    """Read one file into a box of a grid, within `gdal_environment`.

    Args:
        source: The file.
        fetch: Fetches its pixels.
        target: Where they go.
        out: (y, x) uint16 for DN or float32 for numbers, all no data (0 or NaN) before.

    Raises:
        InputError: If the storage wants keys, or only a ballpark transformation is known.
        DataError: If the file is missing or broken, or has no numbers of that kind.
        RetryableError: If the service did not answer.
    """
    used = ""

    def read() -> None:
        nonlocal used
        used = source.signed
        grid, box = target.grid, target.box
        file = source.for_looking(grid, box) if target.overviews else source
        place(file.raster, lambda w: file.pixels(fetch(file, w), out.dtype), grid, box, target.how, out)

    explained(source.href, source.where, read, lambda: sign_anew(source.href, source.provider, used))


def as_dn(stored: NDArray[Any], nodata: float | None) -> NDArray[np.uint16]:
    """Turn a file's integers into DN: no data to 0, valid values to 1..65535.

    Raises:
        DataError: If they are no integers.

    >>> as_dn(np.array([-9999, -5, 700], np.int16), -9999)
    array([  0,   1, 700], dtype=uint16)
    """
    if stored.dtype.kind not in "ui":
        raise DataError(
            "the file holds no integers", found=stored.dtype.name, limit="uint8, uint16 or int16 DN"
        )
    if stored.dtype.kind == "u" and stored.dtype.itemsize <= 2 and nodata == 0:
        return stored.astype(np.uint16, copy=False)
    valid = np.clip(stored, 1, 65535).astype(np.uint16)
    if nodata is not None:
        valid[stored == nodata] = 0
    return valid


def as_float(stored: NDArray[Any], nodata: float | None) -> NDArray[np.float32]:
    """Turn a file's numbers into float32: no data to NaN.

    Raises:
        DataError: If they are complex.

    >>> as_float(np.array([-9999, 0, 700], np.int16), -9999)
    array([ nan,   0., 700.], dtype=float32)
    """
    if stored.dtype.kind not in "uif":
        raise DataError("the file holds no real numbers", found=stored.dtype.name, limit="integers or floats")
    values = stored.astype(np.float32)
    if nodata is not None:
        values[stored == nodata] = np.nan
    return values


def _stamp(href: str) -> tuple[int, int] | None:
    """Return size and time of a local file, so that a replaced file is looked at again."""
    if "://" in href or href.startswith("/vsi"):
        return None
    try:
        stat = Path(href).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=8192)
def _header(source: Source, stamp: tuple[int, int] | None) -> Raster:
    """Read a file's header; `stamp` is only there to tell versions of a local file apart."""
    import rasterio

    level = {} if source.level is None else {"overview_level": source.level}
    with rasterio.open(source.signed, sharing=False, **level) as file:
        if file.crs is None:
            raise DataError("the file has no CRS", where=source.href)
        if source.band > file.count:
            raise DataError("the file has too few bands", found=file.count, limit=source.band)
        a, b, c, d, e, f = tuple(file.transform)[:6]
        n = source.band - 1
        return Raster(
            file.crs.to_wkt(),
            (a, b, c, d, e, f),
            (file.height, file.width),
            file.dtypes[n],
            file.nodatavals[n],
            tuple(file.overviews(source.band)),
        )
