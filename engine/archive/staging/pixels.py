"""What staging does with pixels: address one band of a file, copy it if asked, look where it has data.

A band that is not alone in its file is addressed by a small GDAL VRT beside the STAC item, so that whoever
reads the catalogue opens band 1 of one address, always::

    image.tif (8 bands)  ◄──  out/staged/image_2021-05-01/B04_10m.vrt  ◄──  image_2021-05-01.json
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from engine.archive.staging.layers import Layer, opened
from engine.values.spec import REFLECTANCE_ONE

COPY_SUFFIX = ".staged.tif"
"""Copies end so, and a folder that is staged again passes them over."""

_EXACT_PX = 2048  # images up to this side are looked at whole, larger ones decimated
_LOOK_PX = 1024
_STRIP_BYTES = 64 << 20
_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64",
}  # fmt: skip
_CLOUD_PERCENT = 40  # as `CloudProbabilityMask` has it
_CLOUDS = (8, 9, 10)
"""SCL classes that count as cloud cover: medium and high probability, thin cirrus (ESA L2A product)."""


def address(layer: Layer, folder: Path, copy: bool) -> str:
    """Make a layer readable as band 1 of one address, and return the address.

    Args:
        layer: The layer.
        folder: Where the item will be; VRTs and copies go there.
        copy: Write the pixels into a Cloud Optimized GeoTIFF instead of pointing at them.

    Raises:
        InputError: If the pixels cannot be copied.
    """
    plain = layer.alone and not (layer.is_class and layer.raster.nodata not in (None, 0.0))
    if not copy and plain:
        return layer.source
    folder.mkdir(parents=True, exist_ok=True)
    if copy:
        return str(_copied(layer, folder / f"{layer.key}{COPY_SUFFIX}"))
    path = folder / f"{layer.key}.vrt"
    path.write_text(vrt_of(layer, folder), encoding="utf-8")
    return str(path)


def vrt_of(layer: Layer, folder: Path) -> str:
    """Return the VRT of one band of a dataset; classes get 0 for no data, which is their own class for it.

    Format: https://gdal.org/en/stable/drivers/raster/vrt.html.
    """
    raster = layer.raster
    height, width = raster.shape_yx
    a, b, c, d, e, f = (repr(float(v)) for v in raster.transform)
    nodata = 0.0 if raster.nodata is None else raster.nodata
    kind, inner = "SimpleSource", ""
    if layer.is_class and nodata != 0:
        kind, inner, nodata = "ComplexSource", f"<NODATA>{nodata:.17g}</NODATA>", 0.0
    name, relative = _relative(layer.source, folder)
    window = f'xOff="0" yOff="0" xSize="{width}" ySize="{height}"'
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">\n'
        f"  <SRS>{escape(raster.crs)}</SRS>\n"
        f"  <GeoTransform>{c}, {a}, {b}, {f}, {d}, {e}</GeoTransform>\n"
        f'  <VRTRasterBand dataType="{_GDAL_TYPES[raster.dtype]}" band="1">\n'
        f"    <NoDataValue>{nodata:.17g}</NoDataValue>\n"
        f"    <{kind}>\n"
        f'      <SourceFilename relativeToVRT="{int(relative)}">{escape(name)}</SourceFilename>\n'
        f"      <SourceBand>{layer.index}</SourceBand>\n"
        f"      <SrcRect {window}/>\n      <DstRect {window}/>\n      {inner}\n"
        f"    </{kind}>\n  </VRTRasterBand>\n</VRTDataset>\n"
    )


def _relative(source: str, folder: Path) -> tuple[str, bool]:
    """Write a source relative to the VRT where its file is local, so that both can move together."""
    subdataset = re.fullmatch(r'(NETCDF):"?([^"]+?)"?:([^":]+)', source, re.IGNORECASE)
    if subdataset:
        return f'{subdataset[1]}:"{os.path.relpath(subdataset[2], folder)}":{subdataset[3]}', True
    if source.startswith("/vsi") or "://" in source:
        return source, False
    return os.path.relpath(source, folder), True


def _copied(layer: Layer, path: Path) -> Path:
    """Copy a layer into a Cloud Optimized GeoTIFF, strip by strip: integers as they are, others as DN."""
    import rasterio
    from rasterio.shutil import copy

    part = path.with_name(f".{path.stem}.{os.getpid()}.part.tif")
    floats = layer.raster.dtype.startswith("float")
    nodata = 0.0 if floats or layer.raster.nodata is None else layer.raster.nodata
    with opened(layer.source) as file:
        profile = {
            "driver": "GTiff", "width": file.width, "height": file.height, "count": 1, "crs": file.crs,
            "transform": file.transform, "dtype": "uint16" if floats else layer.raster.dtype,
            "nodata": nodata, "tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        try:
            with rasterio.open(part, "w", **profile) as out:
                for window in _strips(layer):
                    values = file.read(layer.index, window=window)
                    out.write(_as_dn(values, layer) if floats else values, 1, window=window)
            copy(str(part), str(path), driver="COG", compress="DEFLATE", overviews="AUTO")
        finally:
            part.unlink(missing_ok=True)
    return path


def _as_dn(values: NDArray[Any], layer: Layer) -> NDArray[np.uint16]:
    """Turn floating-point numbers into reflectance x 10000, uint16, 0 = no data; halves are rounded up.

    What is not finite or equals the declared no-data value becomes 0; valid values are clipped to 1..65535.
    """
    scale, offset = layer.scale or 1.0, layer.offset or 0.0
    reflectance = values.astype(np.float64) * scale + offset
    valid = np.isfinite(reflectance)
    if layer.raster.nodata is not None:
        valid &= values != layer.raster.nodata
    dn = np.floor(np.where(valid, reflectance, 0.0) * REFLECTANCE_ONE + 0.5)
    return np.where(valid, np.clip(dn, 1, 65535), 0).astype(np.uint16)


def _strips(layer: Layer) -> list[Any]:
    """Cut an image into strips of whole rows of blocks."""
    from rasterio.windows import Window

    height, width = layer.raster.shape_yx
    rows = max(512, _STRIP_BYTES // (8 * width) // 512 * 512)
    return [Window(0, y, width, min(rows, height - y)) for y in range(0, height, rows)]


def valid_area(href: str) -> tuple[Any, float]:
    """Outline the pixels with data of band 1, generously, and tell their share.

    Images of at most 2048 pixels a side are looked at whole, larger ones on a decimated read; the outline is
    widened by two pixels of that look and simplified by one.

    Args:
        href: What GDAL opens.

    Returns:
        The outline in the file's CRS (the whole image where all or none of it is valid), and the percentage
        of its pixels that are valid.
    """
    import shapely
    from affine import Affine
    from rasterio.features import shapes
    from shapely.geometry import shape

    with opened(href) as data:
        step = 1 if max(data.shape) <= _EXACT_PX else -(-max(data.shape) // _LOOK_PX)
        small = tuple(-(-n // step) for n in data.shape)
        values = data.read(1, out_shape=small)
        valid = values != (0 if data.nodata is None else data.nodata)
        whole = shapely.box(*data.bounds)
        a, _, c, _, e, f = tuple(data.transform)[:6]
        pixel_xy = a * data.width / small[1], e * data.height / small[0]
        transform = Affine(pixel_xy[0], 0.0, c, 0.0, pixel_xy[1], f)
    share = 100 * float(valid.mean())
    if valid.all() or not valid.any():
        return whole, share
    coarse, factor = _any_of(valid, 512)
    found = shapes(coarse.astype(np.uint8), mask=coarse, transform=transform @ Affine.scale(factor))
    rings = [shapely.Polygon(shape(g).exterior) for g, _ in found]
    pixel = factor * max(map(abs, pixel_xy))
    outline = shapely.union_all(rings).buffer(2 * pixel, join_style="mitre").simplify(pixel)
    return shapely.intersection(outline, whole), share


def _any_of(valid: NDArray[np.bool_], side: int) -> tuple[NDArray[np.bool_], int]:
    """Reduce a mask to at most `side` pixels a side: a pixel is valid where any of its parts is."""
    factor = -(-max(valid.shape) // side)
    padded = np.pad(valid, [(0, -n % factor) for n in valid.shape])
    rows, cols = (n // factor for n in padded.shape)
    return np.asarray(padded.reshape(rows, factor, cols, factor).any(axis=(1, 3))), factor


def value_counts(href: str) -> NDArray[np.int64]:
    """Count the values of a quality layer, all of its pixels: (256,) int64, larger values with 255."""
    counts = np.zeros(256, np.int64)
    with opened(href) as file:
        rows = max(1, _STRIP_BYTES // (2 * file.width))
        for y in range(0, file.height, rows):
            values = file.read(1, window=((y, min(file.height, y + rows)), (0, file.width)))
            counts += np.bincount(np.clip(values, 0, 255).astype(np.uint8).ravel(), minlength=256)
    return counts


def class_shares(counts: NDArray[np.int64]) -> tuple[float, float | None]:
    """Tell coverage and cloud cover of an SCL layer in percent.

    Returns:
        Share of pixels with data (class not 0), and among these the share of cloud of medium and high
        probability and thin cirrus; None without data.

    >>> class_shares(np.bincount([0, 4, 4, 9], minlength=256))
    (75.0, 33.333333333333336)
    """
    total, valid = int(counts.sum()), int(counts[1:].sum())
    cloudy = int(counts[list(_CLOUDS)].sum())
    return 100 * valid / total, 100 * cloudy / valid if valid else None


def cloud_share(counts: NDArray[np.int64], coverage: float) -> float | None:
    """Tell the cloud cover by a layer of cloud probabilities, percent of the pixels with data.

    Args:
        counts: Pixels per probability, 0..100; above 100 is no data.
        coverage: Percentage of the scene's pixels with data.

    >>> cloud_share(np.bincount([0, 0, 39, 80], minlength=256), 50.0)
    50.0
    """
    total = int(counts[:101].sum()) * coverage / 100
    return min(100.0, 100 * int(counts[_CLOUD_PERCENT:101].sum()) / total) if total else None
