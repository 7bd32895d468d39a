"""How a map looks elsewhere: QGIS style, colour table, category names, legend; all from the class scheme."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.values.classes import NO_DATA_LABEL, ClassScheme, LandClass
from engine.values.errors import DataError

QGIS_VERSION = "3.16.0"
"""Oldest QGIS with a long-term release that reads the style as written here."""

CONFIDENCE_COLOURS = ("#f6efe6", "#d9b98a", "#7fa08c", "#2f6f73", "#12343f")
"""From unsure to sure, light to dark."""

_QGIS_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    Attributes:
        value: Label in the map.
        name: Name of the class.
        colour: ``#rrggbb``.
        share: Part of the valid area, 0..1; None if it was not counted.
    """

    value: int
    name: str
    colour: str
    share: float | None = None


def legend(scheme: ClassScheme, counts: Mapping[int, int] | None = None) -> tuple[LegendEntry, ...]:
    """List the classes for a legend; with counts, those that occur, the largest first.

    Args:
        scheme: The classes.
        counts: Pixels (or any area) per label; no data (0) does not count.

    >>> scheme = ClassScheme.from_names(["wheat", "maize", "rice"])
    >>> [(e.name, e.share) for e in legend(scheme, {0: 9, 1: 10, 2: 30})]
    [('maize', 0.75), ('wheat', 0.25)]
    """
    if counts is None:
        return tuple(LegendEntry(c.value, c.name, c.colour) for c in scheme.classes)
    total = sum(counts.get(v, 0) for v in scheme.values)
    there = [c for c in scheme.classes if counts.get(c.value, 0)]
    there.sort(key=lambda c: (-counts[c.value], c.value))
    return tuple(LegendEntry(c.value, c.name, c.colour, counts[c.value] / total) for c in there)


def scheme_of_flags(attributes: Mapping[str, Any], where: str = "") -> ClassScheme:
    """Read a class scheme back from a label variable's CF flags.

    CF joins words by underscores; they come back as spaces. Flags without colours, as others write them,
    get well separated ones.

    Args:
        attributes: With flag_values, flag_meanings, flag_colors.
        where: The store, for the error.

    Raises:
        DataError: If the flags are missing or do not fit together.

    >>> scheme = ClassScheme.from_names(["winter wheat", "maize"])
    >>> scheme_of_flags(scheme.flag_attributes()) == scheme
    True
    """
    values = list(attributes.get("flag_values", []))
    names = str(attributes.get("flag_meanings", "")).split()
    colours = str(attributes.get("flag_colors", "")).split()
    if "flag_colors" not in attributes and names:
        colours = ["#000000", *(c.colour for c in ClassScheme.from_names(names).classes)][: len(names)]
    if not values or not len(values) == len(names) == len(colours):
        raise DataError(
            "the label variable has no complete CF flags",
            where=where,
            found=f"{len(values)} values, {len(names)} meanings, {len(colours)} colours",
            limit="one of each per class",
        )
    rows = zip(values, names, colours, strict=True)
    classes = tuple(
        LandClass(value=int(v), name=n.replace("_", " "), colour=c)
        for v, n, c in rows
        if int(v) != NO_DATA_LABEL
    )
    return ClassScheme(classes=classes)


def colour_table(scheme: ClassScheme) -> dict[int, tuple[int, int, int, int]]:
    """Return RGBA per label for a TIFF's colour table; no data is transparent."""
    table = {c.value: (*c.rgb, 255) for c in scheme.classes}
    return {NO_DATA_LABEL: (0, 0, 0, 0), **table}


def qml(scheme: ClassScheme) -> str:
    """Write a scheme as a QGIS layer style for a single-band paletted raster (QML, XML)."""
    root = ET.Element(
        "qgis", version=QGIS_VERSION, styleCategories="Symbology", hasScaleBasedVisibilityFlag="0"
    )
    pipe = _pipe(root)
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    hidden = ET.SubElement(ET.SubElement(renderer, "rasterTransparency"), "singleValuePixelList")
    no_data = str(NO_DATA_LABEL)  # also where the raster does not say that it is no data
    ET.SubElement(hidden, "pixelListEntry", min=no_data, max=no_data, percentTransparent="100")
    palette = ET.SubElement(renderer, "colorPalette")
    for land in scheme.classes:
        ET.SubElement(
            palette, "paletteEntry", value=str(land.value), color=land.colour, label=land.name, alpha="255"
        )
    ET.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")  # nearest: classes have no in-between
    return _document(root, _QGIS_HEAD)


def ramp_qml(colours: Sequence[str], low: float, high: float, unit: str = "") -> str:
    """Write a QGIS layer style for amounts: colours at equal steps, linear in between.

    Args:
        colours: ``#rrggbb``, at least two, from low to high.
        low: Amount of the first colour, scale and offset of the raster applied, as QGIS does by itself.
        high: Amount of the last.
        unit: Written after the numbers of the legend.
    """
    root = ET.Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    pipe = _pipe(root)
    ends = {"classificationMin": f"{low:g}", "classificationMax": f"{high:g}"}
    kind = {
        "type": "singlebandpseudocolor",
        "band": "1",
        "opacity": "1",
        "alphaBand": "-1",
        "nodataColor": "",
    }
    renderer = ET.SubElement(pipe, "rasterrenderer", {**kind, **ends})
    ramp = ET.SubElement(
        ET.SubElement(renderer, "rastershader"),
        "colorrampshader",
        {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
        | {"minimumValue": f"{low:g}", "maximumValue": f"{high:g}"},
    )
    for index, colour in enumerate(colours):
        value = low + (high - low) * index / (len(colours) - 1)
        label = f"{value:g} {unit}".strip()
        ET.SubElement(ramp, "item", value=f"{value:g}", color=colour, label=label, alpha="255")
    ET.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    return _document(root, _QGIS_HEAD)


def _pipe(root: ET.Element) -> ET.Element:
    """Begin the pipe of a raster's style: pixels as they are, never smoothed."""
    pipe = ET.SubElement(root, "pipe")
    methods = {f"zoomed{way}ResamplingMethod": "nearestNeighbour" for way in ("In", "Out")}
    provider = ET.SubElement(pipe, "provider")
    ET.SubElement(provider, "resampling", {"enabled": "false", "maxOversampling": "2"} | methods)
    return pipe


def pam(scheme: ClassScheme, zero: str = "no data") -> str:
    """Write the names of the labels as a GDAL PAM document (``<raster>.aux.xml``).

    A GeoTIFF cannot hold category names; GDAL and QGIS read them from this sidecar, once as the list of
    category names and once as a thematic attribute table with colours. `zero` is the name of value 0.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = {NO_DATA_LABEL: zero} | {c.value: c.name for c in scheme.classes}
    categories = ET.SubElement(band, "CategoryNames")
    for value in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(value, "")
    _attribute_table(band, scheme)
    return _document(root, "")


# GDAL's GDALRATFieldType (0 integer, 2 text) and GDALRATFieldUsage (2 name, 5 value, 6 to 8 red to blue).
_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def _attribute_table(band: ET.Element, scheme: ClassScheme) -> None:
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", str(kind)), ("Usage", str(usage))):
            ET.SubElement(column, tag).text = text
    for index, land in enumerate(scheme.classes):
        row = ET.SubElement(table, "Row", index=str(index))
        for cell in (land.value, land.name, *land.rgb):
            ET.SubElement(row, "F").text = str(cell)


def _document(root: ET.Element, head: str) -> str:
    ET.indent(root)
    return head + ET.tostring(root, encoding="unicode") + "\n"


def write_qml(path: str | Path, scheme: ClassScheme) -> Path:
    """Write a scheme as a QML file; QGIS takes it by itself if it is named like the raster.

    Args:
        path: Such as ``label.qml`` beside ``label.tif``.
        scheme: The classes.

    Returns:
        The path.
    """
    return write_text(path, qml(scheme))


def write_text(path: str | Path, text: str) -> Path:
    """Write a small text file so that nobody sees half of it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
