"""Sentinel-1 GRD: calibrate ground range detected scenes and lay them on a grid. NO terrain correction.

A GRD file has no CRS: its rows follow the flight, its columns the ground range on the ellipsoid, and a net of
some two hundred ground control points (GCPs) says where they lie. Here

- numbers become sigma nought by the product's own table, ``DN^2 / A^2`` with A from ``sigmaNought`` of the
  calibration annotation, interpolated bilinearly between its vectors (Sentinel-1 Product Specification, ESA
  S1-RS-MDA-52-7441; Radiometric Calibration of S-1 Level-1 Products, ESA-EOPG-CSCOP-TN-0002). Thermal noise
  stays in;
- power, not DN, is interpolated at each grid pixel's place, which a thin plate spline through the GCPs gives.

GCPs know the terrain only from point to point (some 15 km apart): in hills a pixel lies hundreds of metres off,
slopes that face the radar stay bright, and two orbits do not fit. Where there is relief, use
terrain-corrected scenes (``sentinel-1-rtc``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from engine.archive.gather import gather
from engine.archive.gdal import explained, gdal_environment
from engine.archive.items import ItemRecord
from engine.archive.signing import sign, sign_anew
from engine.archive.warp import WARP_BLOCK_PX
from engine.values.errors import DataError, InputError, LandweaveError, RetryableError, concerning
from engine.values.grid import Box, Grid
from engine.values.recipe import Resampling

_XML_MAX_BYTES = 32 << 20  # real ones have 1 to 2 MB
_NODE_PX = 32  # positions are exact every so many pixels; between them they are straight to a millimetre
_REACH_PX = {"nearest": 0, "bilinear": 1, "cubic": 2}
_AS_ONE = 1.05  # pixels hardly finer than the grid's are not averaged

MEND = "use a terrain-corrected collection, such as sentinel-1-rtc"


@dataclass(frozen=True, eq=False)
class SigmaTable:
    """The calibration of one GRD file: A of ``DN^2 / A^2``, known at some pixels of some lines.

    Attributes:
        lines: (n,) float64, rising.
        pixels: n vectors of float64, rising.
        values: n vectors of float64, A at those pixels.
    """

    lines: NDArray[np.float64]
    pixels: tuple[NDArray[np.float64], ...]
    values: tuple[NDArray[np.float64], ...]


def is_grd(item: ItemRecord) -> bool:
    """Tell whether an item's files are ground range detected, not terrain-corrected."""
    name = item.collection.lower()
    return "grd" in name and "rtc" not in name


def read_sigma_nought(
    item: ItemRecord, polarisations: Sequence[str], grid: Grid, box: Box, resampling: Resampling
) -> NDArray[np.float32]:
    """Read a GRD scene as sigma nought on the ellipsoid, without terrain correction; see the module.

    Each fixed block of the grid is made by itself, so the box that asks moves nothing.

    Args:
        item: The scene; its annotation lies beside its measurement as in ESA's SAFE folder.
        polarisations: ``vv``, ``vh``.
        grid: Where the pixels go.
        box: Which pixels.
        resampling: How the scene's power reaches the grid.

    Returns:
        (polarisation, y, x) float32 linear power, NaN = no data (DN 0, or outside the scene).

    Raises:
        InputError: If the item lacks a polarisation, or the storage wants keys.
        DataError: If a file has no GCPs, or a calibration is missing or broken.
        RetryableError: If the service did not answer.
    """
    out = np.full((len(polarisations), *box.shape_yx), np.nan, np.float32)
    with gdal_environment():
        for plane, name in zip(out, polarisations, strict=True):
            asset = item.asset(name)
            where = f"item {item.id}, band {name}, {asset.href}"
            read = functools.partial(_read, asset.href, item.provider, (grid, box, resampling), plane)
            with concerning(item.id, name):
                renew = functools.partial(
                    sign_anew, asset.href, item.provider, sign(asset.href, item.provider)
                )
                explained(asset.href, where, read, renew)
    return out


def calibration_href(href: str) -> str:
    """Return the address of the calibration annotation of a measurement file (SAFE folder layout).

    >>> calibration_href("s3://b/S1A.SAFE/measurement/iw-vv.tiff")
    's3://b/S1A.SAFE/annotation/calibration/calibration-iw-vv.xml'

    Raises:
        DataError: If the file does not lie in such a folder.
    """
    folder, found, name = href.rpartition("/measurement/")
    if not found:
        raise DataError(
            "the file does not lie in a SAFE folder", where=href, limit=".../measurement/", mend=MEND
        )
    return f"{folder}/annotation/calibration/calibration-{name.rpartition('.')[0]}.xml"


def parse_calibration(xml: bytes, where: str = "") -> SigmaTable:
    """Read the ``sigmaNought`` vectors of a calibration annotation.

    Documents with a type declaration or entities are refused unread: no annotation has any, and entities can
    blow up memory or reach for other files.

    Args:
        xml: The document.
        where: Its address, for errors.

    Raises:
        DataError: If it is too large, declares entities, or holds no whole table.
    """
    if len(xml) > _XML_MAX_BYTES:
        raise DataError(
            "calibration is too large", where=where, found=len(xml), limit=f"{_XML_MAX_BYTES} bytes"
        )
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml or xml[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("calibration declares a document type or entities", where=where, mend=MEND)
    try:
        vectors = ElementTree.fromstring(xml).findall("calibrationVectorList/calibrationVector")
        rows = [(float(v.findtext("line") or "nan"), *_vector(v)) for v in vectors]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError("cannot read the calibration", where=where, found=str(error), mend=MEND) from error
    rows.sort(key=lambda row: row[0])
    lines = np.array([row[0] for row in rows])
    broken = [r[0] for r in rows if len(r[1]) != len(r[2]) or len(r[1]) < 2 or not (r[2] > 0).all()]
    rising = all((np.diff(r[1]) > 0).all() for r in rows) and bool((np.diff(lines) > 0).all())
    if len(rows) < 2 or broken or not rising:
        found = f"{len(rows)} vectors, broken at lines {broken[:3]}" if rising else "indices that do not rise"
        raise DataError("the calibration holds no table", where=where, found=found, mend=MEND)
    return SigmaTable(lines, tuple(r[1] for r in rows), tuple(r[2] for r in rows))


def _vector(element: ElementTree.Element) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pixels, values = (np.array((element.findtext(n) or "").split(), float) for n in ("pixel", "sigmaNought"))
    return pixels, values


def sigma_table_at(table: SigmaTable, window: Box) -> NDArray[np.float64]:
    """Interpolate a calibration bilinearly: along its vectors, then between them; flat beyond its ends.

    Args:
        table: The calibration.
        window: Rows and columns of the file.

    Returns:
        (y, x) float64, A of ``DN^2 / A^2``.

    >>> two = SigmaTable(np.array([0.0, 10.0]), (np.array([0.0, 4.0]),) * 2, (np.ones(2), np.array([1.0, 5.0])))
    >>> sigma_table_at(two, Box(5, 0, 6, 5)).tolist()
    [[1.0, 1.5, 2.0, 2.5, 3.0]]
    """
    rows, cols = np.arange(window.y0, window.y1), np.arange(window.x0, window.x1)
    above = np.searchsorted(table.lines, rows, side="right").clip(1, table.lines.size - 1) - 1
    first, last = int(above.min()), int(above.max()) + 2
    along = np.stack([np.interp(cols, table.pixels[k], table.values[k]) for k in range(first, last)])
    upper, lower = table.lines[above], table.lines[above + 1]
    share = ((rows - upper) / (lower - upper)).clip(0, 1)[:, None]
    return np.asarray(along[above - first] * (1 - share) + along[above - first + 1] * share)


def sigma_nought(dn: NDArray[Any], table: SigmaTable, window: Box) -> NDArray[np.float32]:
    """Calibrate a window of a file: (y, x) float32 ``DN^2 / A^2``, NaN where DN is 0."""
    power = (dn.astype(np.float64) / sigma_table_at(table, window)) ** 2
    return np.where(dn == 0, np.nan, power).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Scene:
    """An open GRD file: its GCPs and their CRS, shape and calibration."""

    file: Any
    table: SigmaTable

    def power(self, window: Box) -> NDArray[np.float32]:
        from rasterio.windows import Window

        at = Window(window.x0, window.y0, window.x1 - window.x0, window.y1 - window.y0)
        return sigma_nought(self.file.read(1, window=at), self.table, window)


def _read(href: str, provider: str, target: tuple[Grid, Box, Resampling], out: NDArray[np.float32]) -> None:
    """Fill one polarisation, block by block."""
    import rasterio

    grid, box, how = target
    table = _calibration(calibration_href(href), provider)
    with rasterio.open(sign(href, provider), sharing=False) as file:
        if len(file.gcps[0]) < 4 or file.gcps[1] is None:
            found = f"{len(file.gcps[0])} points"
            raise DataError("the GRD file has no ground control points", where=href, found=found, mend=MEND)
        scene = _Scene(file, table)
        for part in box.blocks(WARP_BLOCK_PX):
            _fill(scene, grid, part, how, out[part.slices_in(box)])


def _fill(scene: _Scene, grid: Grid, part: Box, how: Resampling, out: NDArray[np.float32]) -> None:
    """Fill the part of one fixed block."""
    block = part.snap_out(WARP_BLOCK_PX)
    points, crs = scene.file.gcps
    where, ratio = positions(points, crs, grid, block)
    rows, cols = part.slices_in(block)
    where = np.ascontiguousarray(where[:, rows, cols])
    reach = np.ceil(_REACH_PX[how] * np.array(ratio)) + 1
    low = np.floor(where.reshape(2, -1).min(axis=1) - reach).astype(int).tolist()
    high = np.ceil(where.reshape(2, -1).max(axis=1) + reach).astype(int).tolist()
    window = Box(low[0], low[1], high[0], high[1]) & Box(0, 0, scene.file.height, scene.file.width)
    if window:
        where -= np.array([window.y0, window.x0], float)[:, None, None]
        gather(scene.power(window), where, how, ratio, out)


def positions(
    gcps: Sequence[Any], crs: Any, grid: Grid, block: Box
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Find where the pixels of a fixed block lie in a file, by a thin plate spline through its GCPs.

    Args:
        gcps: rasterio's ground control points.
        crs: Their CRS.
        grid: The grid.
        block: A whole block of `WARP_BLOCK_PX` pixels.

    Returns:
        (2, y, x) float64 rows and columns, 0.5 = middle of the first; file pixels per grid pixel, at least 1.
    """
    from pyproj import Transformer
    from rasterio.transform import GCPTransformer

    node = np.arange(0, WARP_BLOCK_PX + 1, _NODE_PX)
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    y, x = np.meshgrid(ay - (block.y0 + node) * res_y, ax + (block.x0 + node) * res_x, indexing="ij")
    lon, lat = Transformer.from_crs(grid.crs, crs.to_wkt(), always_xy=True).transform(x, y)
    middle = np.mean([g.x for g in gcps])
    if crs.is_geographic:
        lon = middle + (lon - middle + 180) % 360 - 180
    with GCPTransformer(list(gcps), tps=True) as spline:
        rows, cols = spline.rowcol(lon.ravel(), lat.ravel(), op=np.positive)
    coarse = np.stack([np.reshape(rows, lon.shape), np.reshape(cols, lon.shape)])
    steps = np.stack([np.diff(coarse, axis=1)[:, :, :-1], np.diff(coarse, axis=2)[:, :-1]]) / _NODE_PX
    ratio_y, ratio_x = (float(np.median(r)) for r in np.hypot(*steps))
    at = np.arange(WARP_BLOCK_PX) + 0.5
    low = (at // _NODE_PX).astype(int)
    share = at / _NODE_PX - low
    down = coarse[:, low] * (1 - share)[None, :, None] + coarse[:, low + 1] * share[None, :, None]
    where = down[:, :, low] * (1 - share) + down[:, :, low + 1] * share
    return where, (ratio_y if ratio_y > _AS_ONE else 1.0, ratio_x if ratio_x > _AS_ONE else 1.0)


@functools.lru_cache(maxsize=256)
def _calibration(href: str, provider: str) -> SigmaTable:
    """Read a calibration annotation, once a process."""
    import fsspec

    try:
        with fsspec.open(sign(href, provider), "rb", **_storage_options(href)) as file:
            return parse_calibration(file.read(_XML_MAX_BYTES + 1), href)
    except LandweaveError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError("the GRD scene has no calibration", where=href, mend=MEND) from error
    except ImportError as error:
        raise InputError(
            "reading a GRD scene from here needs one more package",
            where=href,
            found=str(error),
            mend="pip install 'landweave[s3]'",
        ) from error
    except Exception as error:  # file systems let the errors of their own libraries through
        reason = type(error).__name__
    # outside the handler: the library's error could hold what cannot be pickled
    raise RetryableError("the storage did not give the calibration", where=href, found=reason)


def _storage_options(href: str) -> dict[str, Any]:
    """Tell fsspec of S3 what GDAL reads from the environment by itself."""
    if not href.startswith("s3://"):
        return {}
    options: dict[str, Any] = {}
    if os.environ.get("AWS_REQUEST_PAYER") == "requester":
        options["requester_pays"] = True
    if endpoint := os.environ.get("AWS_S3_ENDPOINT"):
        options["endpoint_url"] = f"https://{endpoint.removeprefix('https://')}"
    return options
