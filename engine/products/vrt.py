"""GDAL virtual rasters: many files as one, with colours, names and overviews that lie in other files.

Element names follow GDAL's VRT driver; all paths are relative to the VRT, so a folder may move, or lie
behind a web server.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.products.look import Look
from engine.products.styles import colour_table, pam
from engine.values.grid import Box, Grid

_TYPES = {"uint8": "Byte", "int8": "Int8", "float32": "Float32", "float64": "Float64"}


@dataclass(frozen=True)
class VrtSource:
    """A file, or one of its overviews, in a virtual raster.

    Attributes:
        path: Relative to the VRT, with forward slashes.
        at_yx: Upper-left corner in pixels of the VRT.
        shape_yx: Height and width in pixels, of file and VRT alike.
        block_px: Side of the file's tiles.
        overview: Number of the file's overview, from 0; None takes the file's own pixels.
    """

    path: str
    at_yx: tuple[int, int]
    shape_yx: tuple[int, int]
    block_px: int = 512
    overview: int | None = None


@dataclass(frozen=True)
class Frame:
    """Where a virtual raster lies.

    Attributes:
        grid: CRS and anchor of the pixels at full resolution.
        box: Those that it covers.
        factor: Its pixels hold ``factor x factor`` of them, counted from the box's corner.
    """

    grid: Grid
    box: Box
    factor: int = 1

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in its own pixels."""
        height, width = (-(-n // self.factor) for n in self.box.shape_yx)
        return height, width


def vrt_text(
    look: Look,
    frame: Frame,
    sources: Sequence[VrtSource],
    overviews: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> str:
    """Write a virtual raster.

    Args:
        look: Type, names, colours.
        frame: Where it lies.
        sources: The files; what none covers is no data.
        overviews: Files at half, quarter, ... resolution, relative to the VRT, the finest first.
        tags: Further tags of the whole.

    Returns:
        The XML.
    """
    from rasterio.crs import CRS

    height, width = frame.shape_yx
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    srs = ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2")
    srs.text = CRS.from_user_input(frame.grid.crs).to_wkt()
    a, b, c, d, e, f = frame.grid.transform_of(frame.box)
    k = frame.factor
    ET.SubElement(root, "GeoTransform").text = f"{c!r}, {a * k!r}, {b!r}, {f!r}, {d!r}, {e * k!r}"
    _metadata(root, {"AREA_OR_POINT": "Area", "variable": look.variable} | dict(tags or {}))
    for number in range(1, len(look.bands) + 1):
        band = _band(root, look, number)
        for source in sources:
            _source(band, look, source, number)
        for path in overviews:
            overview = ET.SubElement(band, "Overview")
            ET.SubElement(overview, "SourceFilename", relativeToVRT="1").text = path
            ET.SubElement(overview, "SourceBand").text = str(number)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _metadata(node: ET.Element, tags: dict[str, str]) -> None:
    if tags:
        metadata = ET.SubElement(node, "Metadata")
        for key, text in tags.items():
            ET.SubElement(metadata, "MDI", key=key).text = text


def _band(root: ET.Element, look: Look, number: int) -> ET.Element:
    kind = (
        _TYPES.get(look.dtype)
        or f"{'U' if look.dtype[0] == 'u' else ''}Int{np.dtype(look.dtype).itemsize * 8}"
    )
    band = ET.SubElement(root, "VRTRasterBand", dataType=kind, band=str(number))
    ET.SubElement(band, "Description").text = look.bands[number - 1]
    _metadata(band, look.tags)
    if look.no_data is not None:
        ET.SubElement(band, "NoDataValue").text = str(look.no_data)
    if look.scale is not None:
        ET.SubElement(band, "Offset").text = repr(look.offset)
        ET.SubElement(band, "Scale").text = repr(look.scale)
    if look.scheme is None:
        ET.SubElement(band, "ColorInterp").text = "Gray"
        return band
    ET.SubElement(band, "ColorInterp").text = "Palette"
    table, colours = ET.SubElement(band, "ColorTable"), colour_table(look.scheme)
    for value in range(max(colours) + 1):
        rgba = colours.get(value, (0, 0, 0, 0))
        ET.SubElement(table, "Entry", {f"c{i}": str(n) for i, n in enumerate(rgba, 1)})
    band.extend(
        ET.fromstring(pam(look.scheme, look.zero)).iterfind("PAMRasterBand/*")
    )  # category names, attribute table
    return band


def _source(band: ET.Element, look: Look, source: VrtSource, number: int) -> None:
    node = ET.SubElement(band, "SimpleSource")
    ET.SubElement(node, "SourceFilename", relativeToVRT="1").text = source.path
    if source.overview is not None:
        options = ET.SubElement(node, "OpenOptions")
        ET.SubElement(options, "OOI", key="OVERVIEW_LEVEL").text = str(source.overview)
    ET.SubElement(node, "SourceBand").text = str(number)
    (y, x), (height, width) = source.at_yx, source.shape_yx
    ET.SubElement(  # lets GDAL open thousands of files only when it needs them
        node,
        "SourceProperties",
        RasterXSize=str(width),
        RasterYSize=str(height),
        DataType=band.get("dataType", "Byte"),
        BlockXSize=str(min(source.block_px, width)),
        BlockYSize=str(min(source.block_px, height)),
    )
    for tag, xoff, yoff in (("SrcRect", 0, 0), ("DstRect", x, y)):
        ET.SubElement(node, tag, xOff=str(xoff), yOff=str(yoff), xSize=str(width), ySize=str(height))
