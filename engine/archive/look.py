"""A look at a whole file: few pixels of all of it, from its overviews, for checks and pictures only.

Maps are never made of these pixels: an overview is another image than the file (averaged, or a lower
resolution level of the wavelet of JPEG 2000).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gdal import gdal_environment
from engine.archive.items import ItemRecord
from engine.archive.signing import sign
from engine.values.bands import common_name
from engine.values.errors import DataError, LandweaveError


def look(item: ItemRecord, band: str, max_px: int = 512) -> NDArray[np.uint16]:
    """Look at one band of an item, decimated, in the file's own grid.

    Every n-th pixel of the coarsest overview that is fine enough; without overviews, of the file itself.

    Args:
        item: The scene.
        band: Any of the band's names.
        max_px: Longest side in pixels; a smaller file comes as it is.

    Returns:
        (y, x) uint16 DN, 0 = no data.

    Raises:
        InputError: If the item lacks the band.
        DataError: If the file cannot be read; names item, band and file, no secret.
    """
    import rasterio
    from rasterio.errors import RasterioError

    asset = item.asset(common_name(band))
    where = f"item {item.id}, band {asset.band}, {asset.href}"
    failed = ""
    try:
        with gdal_environment(), rasterio.open(sign(asset.href, item.provider), sharing=False) as file:
            step = max(1, -(-max(file.shape) // max_px))
            shape = tuple(-(-side // step) for side in file.shape)
            pixels = file.read(1, out_shape=shape)
            nodata = next((v for v in (file.nodata, asset.nodata) if v is not None), 0.0)
        return _as_dn(pixels, nodata, where)
    except LandweaveError:
        raise
    except (RasterioError, OSError) as error:
        failed = re.sub(r"\?\S*", "", " ".join(str(e) for e in (error, error.__cause__) if e))
    raise DataError("cannot look at the file", where=where, found=failed)  # without GDAL's own error inside


def _as_dn(pixels: NDArray[Any], nodata: float, where: str) -> NDArray[np.uint16]:
    """Turn a file's integers into DN: no data to 0, valid values to 1..65535."""
    if pixels.dtype.kind not in "ui":
        raise DataError("the file holds no integers", where=where, found=pixels.dtype.name)
    valid = np.clip(pixels, 1, 65535).astype(np.uint16)
    valid[pixels == nodata] = 0
    return valid
