"""Reader: the pixels of one item on a grid, the right pixel whoever asks.

`OdcReader` reads through odc-stac's own reading engine (the package ``odc.loader``). Two ways lead to a
pixel, and neither depends on the box that is asked for:

- The file lies in the grid's CRS, and nearest is asked for (or the pixels coincide): whole file pixels are
  copied and repeated, without any warp.
- Otherwise: each block of 512 x 512 grid pixels is warped by itself and the box cut out of the blocks,
  because GDAL's warps of different windows differ.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import AssetRecord, ItemRecord
from engine.archive.signing import sign
from engine.archive.stac import unsigned
from engine.archive.warp import WARP_BLOCK_PX, Raster, coincides, require_transform, same_crs, source_index
from engine.values.bands import common_name
from engine.values.errors import DataError, InputError, LandweaveError, RetryableError
from engine.values.grid import Box, Grid
from engine.values.spec import Resampling

GDAL_OPTIONS: Mapping[str, str] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}
"""How GDAL reads from the cloud; set around each read, never globally."""

_FORCED = {"GDAL_NUM_THREADS": "1"}
"""GDAL 3.10 decodes JPEG 2000 in threads whose errors it loses: a read that failed half-way would come back
as zeros, a hole that nobody reports. In one thread it raises."""

_TRANSIENT = re.compile(
    r"HTTP (?:response|error) code\s*:?\s*(?:408|429|5\d\d)|timed? ?out|resolve host|connect to|connection"
    r"|recv failure|empty reply|too slow|slowdown|throttl",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"HTTP (?:response|error) code\s*:?\s*4\d\d|does not exist|no such file|not recognized|NoSuchKey|denied",
    re.IGNORECASE,
)
_NO_KEYS = re.compile(r"AWS_SECRET_ACCESS_KEY|InvalidCredentials|InvalidAccessKeyId", re.IGNORECASE)
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


@dataclass(frozen=True)
class OdcReader:
    """Read through odc-stac's reading engine.

    Attributes:
        options: GDAL options that differ from `GDAL_OPTIONS`, as pairs.
    """

    options: tuple[tuple[str, str], ...] = ()

    def read(
        self, item: ItemRecord, bands: Sequence[str], grid: Grid, box: Box, resampling: Resampling = "nearest"
    ) -> NDArray[np.uint16]:
        """Read bands of an item into a box of a grid; see `Reader.read`.

        Classes (``scl``) are always read by nearest neighbour.
        """
        assets = [item.asset(common_name(b)) for b in bands]
        out = np.zeros((len(assets), *box.shape_yx), np.uint16)
        if not out.size:
            return out
        with gdal_environment(dict(self.options)) as env:
            for plane, asset in zip(out, assets, strict=True):
                how: Resampling = "nearest" if asset.band in _CATEGORICAL else resampling
                _read_or_explain(_Source(item, asset, env), grid, box, how, plane)
        return out


@dataclass(frozen=True)
class _Source:
    """One file to read.

    Attributes:
        item: The scene.
        asset: The band.
        env: GDAL options in force.
    """

    item: ItemRecord
    asset: AssetRecord
    env: dict[str, Any]

    @functools.cached_property
    def raster(self) -> Raster:
        """The header, read once a process."""
        return _header(self.asset.href, self.item.provider, _stamp(self.asset.href))

    @property
    def nodata(self) -> float:
        """No-data value: the file's, else the catalogue's, else 0."""
        declared = (self.raster.nodata, self.asset.nodata, 0.0)
        return next(v for v in declared if v is not None)

    def pixels(self, geobox: Any, resampling: Resampling) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Read through odc's engine: where in the geobox there are pixels, and they, in the file's dtype."""
        from odc.loader import RasterLoadParams, RasterSource, RioDriver

        driver = RioDriver()
        load = driver.new_load(geobox)
        how = RasterLoadParams(
            dtype=self.raster.dtype,
            fill_value=self.nodata,
            src_nodata_fallback=self.nodata,
            use_overviews=False,  # overviews are another image, and not every file has them
            resampling=resampling,
        )
        source = RasterSource(sign(self.asset.href, self.item.provider))
        with driver.restore_env(self.env, load) as context:
            roi, pixels = driver.open(source, context).read(how, geobox)
        return roi, np.asarray(pixels)


def _read_band(
    source: _Source, grid: Grid, box: Box, resampling: Resampling, out: NDArray[np.uint16]
) -> None:
    """Read one band into `out` (y, x) uint16, which is zero before."""
    raster = source.raster
    if same_crs(raster.crs, grid.crs) and raster.north_up:
        if resampling == "nearest" or coincides(raster, grid):
            return _copy(source, grid, box, out)
    else:
        require_transform(raster.crs, grid.crs)
    for block in box.snap_out(WARP_BLOCK_PX).blocks(WARP_BLOCK_PX):
        part = block & box
        roi, pixels = source.pixels(grid.geobox(block), resampling)
        if pixels.size:
            whole = np.zeros(block.shape_yx, np.uint16)
            whole[roi] = _as_dn(pixels, source)
            out[part.slices_in(box)] = whole[part.slices_in(block)]
    return None


def _copy(source: _Source, grid: Grid, box: Box, out: NDArray[np.uint16]) -> None:
    """Copy whole file pixels into `out` (y, x), repeated or dropped where the pixel sizes differ."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    raster = source.raster
    rows, cols = source_index(raster, grid, box)
    in_y, in_x = (_inside(i, n) for i, n in zip((rows, cols), raster.shape_yx, strict=True))
    rows, cols = rows[in_y], cols[in_x]
    if not rows.size or not cols.size:
        return
    shape = int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1
    a, _, c, _, e, f = raster.transform
    corner = Affine(a, 0.0, c + a * int(cols[0]), 0.0, e, f + e * int(rows[0]))
    roi, pixels = source.pixels(GeoBox(shape, corner, raster.crs), "nearest")
    if pixels.shape != shape:
        raise DataError(
            "the file gave another window than was asked for", where=str(roi), found=pixels.shape, limit=shape
        )
    values = _as_dn(pixels, source)
    if shape != (rows.size, cols.size):
        values = values.take(cols - cols[0], axis=1).take(rows - rows[0], axis=0)
    out[in_y, in_x] = values


def _inside(index: NDArray[np.int64], size: int) -> slice:
    """Return the slice of a rising index that lies within ``0 <= index < size``."""
    first, last = np.searchsorted(index, [0, size])
    return slice(int(first), int(last))


def _as_dn(pixels: NDArray[Any], source: _Source) -> NDArray[np.uint16]:
    """Turn a file's integers into DN: no data to 0, valid values to 1..65535."""
    kind, nodata = pixels.dtype.kind, source.nodata
    if kind not in "ui":
        raise DataError(
            "the file holds no integers", found=pixels.dtype.name, limit="uint8, uint16 or int16 DN"
        )
    if kind == "u" and pixels.dtype.itemsize <= 2 and nodata == 0:
        return pixels.astype(np.uint16, copy=False)
    valid = np.clip(pixels, 1, 65535).astype(np.uint16)
    valid[pixels == nodata] = 0
    return valid


@contextmanager
def gdal_environment(options: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Set GDAL up for reading from the cloud, for the length of a ``with`` block and this thread only.

    Options that the user set (with rasterio.Env) win over `GDAL_OPTIONS`,
    but for the number of threads.
    PROJ's network is switched off for the whole process: a grid file fetched on one worker and not on
    another would move pixels.

    Yields:
        The options in force.
    """
    import rasterio
    from odc.loader import RioDriver

    _switch_proj_network_off()
    _keep_secrets_out_of_logs()
    user = RioDriver().capture_env() if rasterio.env.hasenv() else {}
    env = {**GDAL_OPTIONS, **user, **(options or {}), **_FORCED}
    with rasterio.Env(**{k: v for k, v in env.items() if k != "_aws"}):
        yield env


@functools.cache
def _switch_proj_network_off() -> None:
    from pyproj.network import set_network_enabled  # type: ignore[attr-defined]

    os.environ["PROJ_NETWORK"] = "OFF"
    set_network_enabled(False)


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
def _header(href: str, provider: str, stamp: tuple[int, int] | None) -> Raster:
    """Read a file's header; `stamp` is only there to tell versions of a local file apart."""
    import rasterio

    with rasterio.open(sign(href, provider), sharing=False) as file:
        if file.crs is None:
            raise DataError("the file has no CRS", where=href)
        a, b, c, d, e, f = tuple(file.transform)[:6]
        return Raster(
            file.crs.to_wkt(), (a, b, c, d, e, f), (file.height, file.width), file.dtypes[0], file.nodata
        )


_FAILED: set[str] = set()
"""Hrefs whose last read failed in passing: GDAL remembers such a failure and must be told to ask again."""


def _read_or_explain(
    source: _Source, grid: Grid, box: Box, resampling: Resampling, out: NDArray[np.uint16]
) -> None:
    """Read a band; turn rasterio's errors into ours, naming item, band and file, without secrets."""
    import rasterio
    from rasterio.errors import RasterioError

    href = source.asset.href
    where = f"item {source.item.id}, band {source.asset.band}, {href}"
    again = {"CPL_VSIL_CURL_NON_CACHED": _vsi_path(href)} if href in _FAILED else {}
    try:
        with rasterio.Env(**again):
            _read_band(dataclasses.replace(source, env=source.env | again), grid, box, resampling, out)
        _FAILED.discard(href)
        return
    except LandweaveError as error:
        error.where = where if not error.where or error.where == href else f"{where}: {error.where}"
        raise
    except (RasterioError, OSError) as error:
        failure = _explain(error, where)
    if isinstance(failure, RetryableError):
        _FAILED.add(href)
    raise failure  # outside the handler: GDAL's own error in its context could not be unpickled by Dask


def _explain(error: Exception, where: str) -> LandweaveError:
    """Tell a service that did not answer from a file that is not there or broken.

    GDAL often says no more than "read failed" when a transfer breaks off, so whatever a remote file did is
    tried again unless the answer was final.
    """
    text = _scrub(" ".join(dict.fromkeys(str(e) for e in (error, error.__cause__, error.__context__) if e)))
    if _NO_KEYS.search(text):
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES"
        return InputError("the storage wants keys", where=where, found=text, mend=mend)
    if _TRANSIENT.search(text) or ("://" in where and not _FINAL.search(text)):
        mend = "try again; if it lasts, read fewer files at once"
        return RetryableError("the service did not answer", where=where, found=text, mend=mend)
    mend = "check the file, or leave the item out"
    return DataError("cannot read the file", where=where, found=text, mend=mend)


def _vsi_path(href: str) -> str:
    """Return GDAL's own name for an address.

    >>> _vsi_path("s3://eodata/B04.jp2")
    '/vsis3/eodata/B04.jp2'
    """
    return f"/vsis3/{href[5:]}" if href.startswith("s3://") else f"/vsicurl/{href}"


def _scrub(text: str) -> str:
    """Take signatures out of a message.

    >>> _scrub("cannot open https://h.net/a.tif?sv=1&sig=abc: 403")
    'cannot open https://h.net/a.tif: 403'
    """
    query = r"\?[^\s'\"]*?(?=[:,.]*(?:[\s'\"]|$))"
    return re.sub(query, lambda m: unsigned(f"x://x{m[0]}").removeprefix("x://x"), text)


class _SecretFilter(logging.Filter):
    """Take signatures out of what odc and rasterio log about a file."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _scrub(record.getMessage()), None
        return True


@functools.cache
def _keep_secrets_out_of_logs() -> None:
    for name in ("odc.loader._rio", "rasterio._base", "rasterio._err", "rasterio._io", "rasterio._env"):
        logging.getLogger(name).addFilter(_SecretFilter())


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
