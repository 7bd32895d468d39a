"""The map as a Cloud-Optimised GeoTIFF, which every GIS opens.

The store is copied block by block into a plain tiled file beside the target, and GDAL's COG driver makes
the final one from it, with overviews. Both are renamed at the end, so a COG is there whole or not at all.

Class names: a GeoTIFF has room for a colour table but not for category names. They are written three
times, for whoever reads which: in ``<raster>.aux.xml`` (GDAL and QGIS: category names and attribute table),
as band tags ``class_<value>`` inside the file (they travel with it), and in the QML that `styles` writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.products.styles import colour_table, pam, scheme_of_flags, write_text
from engine.store.view import MapView, in_flight, open_view
from engine.values.classes import ClassScheme
from engine.values.grid import Box

BLOCK_PX = 2048
TIFF_TILE_PX = 512

_SCALES = {"confidence": 1 / 250, "probability": 1 / 250}
"""Of layers that do not state theirs."""


def write_cog(
    map_url: str,
    path: str | Path,
    *,
    variable: str = "label",
    box: Box | None = None,
    scheme: ClassScheme | None = None,
    block_px: int = BLOCK_PX,
) -> Path:
    """Write one variable of a map store as a Cloud-Optimised GeoTIFF.

    Overviews are GDAL's, by majority for classes and by mean for amounts. No-data, CRS and transform are
    set, and scale and offset where the layer states them.

    Args:
        map_url: The map store.
        path: Local file to write; parent folders are made.
        variable: A raster variable; a third dimension becomes bands.
        box: Area to cut out, in the store's global pixels; None takes the whole store, padding included.
        scheme: Classes of a label variable; None takes those that the store's flags tell.
        block_px: Side of the blocks that are copied.

    Returns:
        The path.

    Raises:
        InputError: If there is no such map or variable, or the box reaches outside.
        DataError: If a label variable has no usable flags and no scheme is given.
    """
    from rasterio.shutil import copy

    view = open_view(map_url)
    box, path = view.crop(box), Path(path)
    if not view.is_classes(variable):
        scheme = None
    elif scheme is None:
        scheme = scheme_of_flags(view.attributes(variable), view.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(path, "plain") as plain, _scratch(path, "cog") as final:
        _copy_blocks(view, variable, box, plain, block_px)
        _describe(view, variable, plain, scheme)
        copy(str(plain), str(final), driver="COG", **_cog_options(scheme is not None))
        if scheme is not None:
            write_text(path.with_name(path.name + ".aux.xml"), pam(scheme))
        _sync(final)
        final.replace(path)
    return path


def _cog_options(classes: bool) -> dict[str, Any]:
    """Return the COG driver's options; prediction helps amounts only."""
    return {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "NO" if classes else "STANDARD",
        "BLOCKSIZE": TIFF_TILE_PX,
        "OVERVIEW_RESAMPLING": "MODE" if classes else "AVERAGE",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
    }


@contextmanager
def _scratch(path: Path, role: str) -> Iterator[Path]:
    """Give the name of a temporary TIFF beside `path`; whatever is left of it is removed."""
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.{role}.tif")
    try:
        yield scratch
    finally:
        for left in (scratch, scratch.with_name(scratch.name + ".aux.xml")):
            left.unlink(missing_ok=True)


def _copy_blocks(view: MapView, variable: str, box: Box, plain: Path, block_px: int) -> None:
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    array = view.array(variable)
    height, width = box.shape_yx
    profile = {
        "driver": "GTiff",
        "dtype": array.dtype,
        "count": array.shape[0] if array.ndim == 3 else 1,
        "height": height,
        "width": width,
        "crs": view.grid.crs,
        "transform": Affine(*view.grid.transform_of(box)),
        "nodata": view.no_data(variable),
        "tiled": True,
        "blockxsize": TIFF_TILE_PX,
        "blockysize": TIFF_TILE_PX,
        "compress": "lzw",
        "bigtiff": "if_safer",
        "sparse_ok": True,
        "interleave": "band",
    }

    def read(block: Box) -> tuple[Box, Any]:
        values = view.read(variable, block)
        return block, values if values.ndim == 3 else values[None]

    # Blocks are counted from the area's corner, so that each fills whole tiles of the file.
    blocks = Box(0, 0, height, width).blocks(block_px)
    moved = (Box(b.y0 + box.y0, b.x0 + box.x0, b.y1 + box.y0, b.x1 + box.x0) for b in blocks)
    with rasterio.open(plain, "w", **profile) as target:
        for block, values in in_flight(read, moved, workers=1):
            window = Window(block.x0 - box.x0, block.y0 - box.y0, *block.shape_yx[::-1])
            target.write(values, window=window)


def _describe(view: MapView, variable: str, plain: Path, scheme: ClassScheme | None) -> None:
    """Set colours, names, scale and tags on the plain file, from which the COG takes them."""
    import rasterio

    with rasterio.open(plain, "r+") as target:
        target.update_tags(variable=variable, AREA_OR_POINT="Area")
        if scheme is not None:
            target.write_colormap(1, colour_table(scheme))
            target.update_tags(1, **{f"class_{c.value}": c.name for c in scheme.classes})
            target.set_band_description(1, variable)
            return
        attributes = view.attributes(variable)
        if (scale := attributes.get("scale", _SCALES.get(variable))) is not None:
            target.scales = (float(scale),) * target.count
            target.offsets = (float(attributes.get("offset", 0.0)),) * target.count
        for band, name in enumerate(_band_names(view, variable), start=1):
            target.set_band_description(band, name)


def _band_names(view: MapView, variable: str) -> list[str]:
    """Name the bands: the variable itself, or the classes that its planes belong to."""
    array = view.array(variable)
    if array.ndim == 2:
        return [variable]
    if "label" in view.variables and view.is_classes("label"):
        names = scheme_of_flags(view.attributes("label"), view.url).names
        if len(names) == array.shape[0]:
            return [f"{variable} {name}" for name in names]
    return [f"{variable} {index}" for index in range(1, array.shape[0] + 1)]


def _sync(path: Path) -> None:
    """Bring a file to the disk before its name says that it is done."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
