"""Rasters of classes as files: where their pixels lie, their numbers as they are, and the names that they tell.

Names and colours come from wherever GDAL's world keeps them: band tags ``class_<value>``, the category names
of a PAM sidecar (``<raster>.aux.xml``), the colour table.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.gdal import explained, gdal_environment
from engine.archive.reader import fetch_by_odc
from engine.archive.source import Source
from engine.values.grid import Box, Grid


@dataclass(frozen=True)
class ClassRaster:
    """A band of a raster file.

    Attributes:
        href: File or address.
        band: Number of the band, from 1.
        grid: Where its pixels lie.
        box: Which pixels of the grid it has.
        no_data: Declared no-data value, or None.
        names: Name of each value that has one.
        colours: ``#rrggbb`` of each value that has one.
    """

    href: str
    band: int
    grid: Grid
    box: Box
    no_data: float | None
    names: dict[int, str]
    colours: dict[int, str]

    def read(self, box: Box) -> NDArray[Any]:
        """Read the numbers of a box inside the file, (y, x) in the file's dtype.

        Raises:
            DataError: If the file is broken.
            RetryableError: If the service did not answer.
        """
        window = Box(box.y0 - self.box.y0, box.x0 - self.box.x0, box.y1 - self.box.y0, box.x1 - self.box.x0)
        source, out = _source(self.href, self.band), []
        with gdal_environment():
            explained(
                self.href, source.where, lambda: out.append(fetch_by_odc(source, window)), lambda: False
            )
        return np.asarray(out[0])


def open_class_raster(href: str, band: int = 1) -> ClassRaster:
    """Read the header of a raster file.

    Args:
        href: File or address that GDAL opens.
        band: Number of the band, from 1.

    Raises:
        InputError: If the raster is rotated.
        DataError: If the file is missing or broken, lacks the band or a CRS.
        RetryableError: If the service did not answer.
    """
    from affine import Affine

    source = _source(href, band)
    told: list[tuple[dict[int, str], dict[int, str]]] = []

    def look() -> None:
        told.append(_names(source))

    with gdal_environment():
        explained(href, source.where, look, lambda: False)
        raster = source.raster
    grid, box = Grid.of_transform(raster.crs, Affine(*raster.transform), raster.shape_yx)
    return ClassRaster(href, band, grid, box, raster.nodata, *told[0])


def _source(href: str, band: int) -> Source:
    return Source(href, f"{href}, band {band}", band=band)


def _names(source: Source) -> tuple[dict[int, str], dict[int, str]]:
    """Return names and colours of values, as far as the file tells them."""
    import rasterio

    with rasterio.open(source.signed, sharing=False) as file:
        if source.band > file.count:  # the header's own reading tells it
            return {}, {}
        tags = file.tags(source.band)
        try:
            table = file.colormap(source.band)
        except ValueError:
            table = {}
    names = {
        int(key[6:]): str(name)
        for key, name in tags.items()
        if key.startswith("class_") and key[6:].isdigit()
    }
    colours = {int(v): "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for v, rgba in table.items()}
    return names or _category_names(source), colours


def _category_names(source: Source) -> dict[int, str]:
    """Read the category names beside a local file, or in a VRT itself."""
    if "://" in source.href:
        return {}
    places = [(f"{source.href}.aux.xml", "PAMRasterBand")]
    if source.href.lower().endswith(".vrt"):
        places.append((source.href, "VRTRasterBand"))
    for path, element in places:
        if Path(path).exists() and (names := _names_in(Path(path), element, source.band)):
            return names
    return {}


def _names_in(path: Path, element: str, band: int) -> dict[int, str]:
    """Read the category names of a band in one of GDAL's XML files; none of a file that is no XML."""
    try:
        root = ET.fromstring(path.read_bytes())
    except ET.ParseError:
        return {}
    for own in root.iter(element):
        if own.get("band") == str(band):
            found = [category.text or "" for category in own.iter("Category")]
            return {value: name for value, name in enumerate(found) if name}
    return {}
