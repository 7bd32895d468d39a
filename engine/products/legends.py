"""Legends and styles beside a map, all from its class scheme, each for another reader.

::

    label.qml      QGIS, by itself where it lies beside label.tif
    label.sld      OGC Styled Layer Descriptor 1.0 with exact values: GeoServer, MapServer, QGIS
    label.clr      value red green blue: ArcGIS, GDAL (gdaldem color-relief -nearest_color_entry)
    label.txt      QGIS colour map with names and transparency; GDAL reads it too
    legend.json    values, names, colours, groups, codes, shares: programs and web pages
    legend.png     people
    classes.yaml   the scheme itself

`engine.products.read_styles` reads all but the picture back.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.products.styles import LegendEntry, colour_table, legend, qml, write_text
from engine.values.classes import NO_DATA_LABEL, ClassScheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLD_NAMESPACE = "http://www.opengis.net/sld"
"""Of Styled Layer Descriptor 1.0 (OGC 02-070)."""

QGIS_COLOUR_MAP = "# QGIS Generated Color Map Export File"
"""First line by which QGIS and GDAL know a colour map of QGIS."""

_INK, _QUIET, _EDGE = "#1b2327", "#66727a", "#c9d0d4"
_DPI, _ROW_PX, _MARGIN_PX, _SWATCH_PX, _TEXT_PX = 200, 64, 48, 40, 30
_CHAR_PX = 0.62 * _TEXT_PX  # mean width of a letter of DejaVu Sans


def sld(scheme: ClassScheme, title: str = "label") -> str:
    """Write a scheme as a Styled Layer Descriptor: one colour for each value, no data transparent."""
    ET.register_namespace("", SLD_NAMESPACE)
    root = ET.Element(_sld("StyledLayerDescriptor"), version="1.0.0")
    layer = ET.SubElement(root, _sld("NamedLayer"))
    ET.SubElement(layer, _sld("Name")).text = title
    style = ET.SubElement(layer, _sld("UserStyle"))
    ET.SubElement(style, _sld("Title")).text = title
    rule = ET.SubElement(ET.SubElement(style, _sld("FeatureTypeStyle")), _sld("Rule"))
    colours = ET.SubElement(ET.SubElement(rule, _sld("RasterSymbolizer")), _sld("ColorMap"), type="values")
    hidden = {"quantity": str(NO_DATA_LABEL), "color": "#000000", "opacity": "0", "label": "no data"}
    ET.SubElement(colours, _sld("ColorMapEntry"), hidden)
    for land in scheme.classes:
        shown = {"quantity": str(land.value), "color": land.colour, "opacity": "1", "label": land.name}
        ET.SubElement(colours, _sld("ColorMapEntry"), shown)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _sld(tag: str) -> str:
    return f"{{{SLD_NAMESPACE}}}{tag}"


def clr(scheme: ClassScheme) -> str:
    r"""Write a scheme as lines of ``value red green blue``, by ascending value.

    >>> from engine.values.classes import LandClass
    >>> clr(ClassScheme(classes=(LandClass(value=3, name="wheat", colour="#ff8000"),)))
    '3 255 128 0\n'
    """
    rows = sorted((c.value, *c.rgb) for c in scheme.classes)
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def qgis_colour_map(scheme: ClassScheme) -> str:
    """Write a scheme as the colour map that QGIS exports: ``value,red,green,blue,alpha,name``.

    Without the line ``INTERPOLATION:``, which GDAL takes for a colour; QGIS reads it as unique values.
    The format has no quoting, so a line break in a name becomes a space; commas stay, names come last.
    """
    names = {NO_DATA_LABEL: "no data"} | {c.value: " ".join(c.name.splitlines()) for c in scheme.classes}
    rows = (f"{value},{','.join(map(str, rgba))},{names[value]}" for value, rgba in _sorted_table(scheme))
    return "\n".join([QGIS_COLOUR_MAP, *rows]) + "\n"


def _sorted_table(scheme: ClassScheme) -> list[tuple[int, tuple[int, int, int, int]]]:
    return sorted(colour_table(scheme).items())


def legend_json(scheme: ClassScheme, counts: Mapping[int, int] | None = None) -> str:
    """Write a legend for programs: the scheme's classes in their order, with shares if they were counted.

    Args:
        scheme: The classes.
        counts: Pixels (or any area) per label; no data (0) does not count.
    """
    shares = {entry.value: entry.share for entry in legend(scheme, counts or {})}
    rows = []
    for land in scheme.classes:
        row: dict[str, Any] = land.model_dump(mode="json", exclude_defaults=True)
        rows.append(row | ({"share": shares.get(land.value, 0.0)} if counts else {}))
    no_data = {"value": NO_DATA_LABEL, "name": "no data"}
    return json.dumps({"classes": rows, "no_data": no_data}, indent=2, ensure_ascii=False) + "\n"


def write_styles(
    folder: str | Path,
    scheme: ClassScheme,
    *,
    title: str = "",
    counts: Mapping[int, int] | None = None,
    name: str = "label",
) -> dict[str, Path]:
    """Write all styles and legends of a map of classes.

    Args:
        folder: Where; made if missing. QGIS wants the QML beside the raster.
        scheme: The classes.
        title: Heading of the picture; empty for none.
        counts: Pixels (or any area) per label, for the shares in the legends.
        name: Stem of the raster's file.

    Returns:
        Path per kind: ``style``, ``style-sld``, ``style-clr``, ``style-txt``, ``legend``, ``legend-json``
        and ``classes``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "style": write_text(folder / f"{name}.qml", qml(scheme)),
        "style-sld": write_text(folder / f"{name}.sld", sld(scheme, name)),
        "style-clr": write_text(folder / f"{name}.clr", clr(scheme)),
        "style-txt": write_text(folder / f"{name}.txt", qgis_colour_map(scheme)),
        "legend": write_legend(folder / "legend.png", scheme, title=title, counts=counts),
        "legend-json": write_text(folder / "legend.json", legend_json(scheme, counts)),
        "classes": write_text(folder / "classes.yaml", scheme.to_yaml()),
    }


@dataclass(frozen=True)
class _Row:
    """A line of the picture: a class, or the heading of a group."""

    text: str
    entry: LegendEntry | None = None
    depth: int = 0

    @property
    def width_px(self) -> float:
        return len(self.text) * _CHAR_PX + (_SWATCH_PX + 24 if self.entry else 0) + 24 * self.depth


def write_legend(
    path: str | Path, scheme: ClassScheme, *, title: str = "", counts: Mapping[int, int] | None = None
) -> Path:
    """Draw a legend: colours and names, grouped below their parents, with shares if they were counted.

    Args:
        path: PNG to write.
        scheme: The classes.
        title: Heading; empty for none.
        counts: Pixels (or any area) per label: classes that do not occur are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows, path = _rows(scheme, counts), Path(path)
    figure = _draw(rows, title, with_shares=bool(counts))
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.png")
    FigureCanvasAgg(figure).print_png(str(part))
    part.replace(path)
    return path


def _rows(scheme: ClassScheme, counts: Mapping[int, int] | None) -> list[_Row]:
    """List the classes in the scheme's order, children below their parent, which is a class or a heading."""
    entries = {entry.name: entry for entry in legend(scheme, counts or None)}
    shown = [land for land in scheme.classes if land.name in entries]
    rows: dict[str, _Row] = {}

    def add(name: str, depth: int) -> None:
        if name not in rows:
            rows[name] = _Row(name, entries.get(name), depth)
            for child in shown:
                if child.parent == name:
                    add(child.name, depth + 1)

    for land in shown:
        if land.parent not in entries:
            add(land.parent or land.name, 0)
    for land in shown:  # parents that go round in a circle
        add(land.name, 0)
    return list(rows.values())


def _draw(rows: Sequence[_Row], title: str, *, with_shares: bool) -> Figure:
    """Lay the rows out in whole pixels of a figure without axes."""
    from matplotlib.figure import Figure

    head = _ROW_PX + 16 if title else 0
    widest = max([row.width_px for row in rows], default=200.0)
    width = max(widest + 160 * with_shares, len(title) * _CHAR_PX * 1.2) + 2 * _MARGIN_PX
    height = head + _ROW_PX * max(1, len(rows)) + 2 * _MARGIN_PX - (_ROW_PX - _SWATCH_PX)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    if title:
        _text(axes, (_MARGIN_PX, _MARGIN_PX + 20), title, size_px=36, weight="bold")
    for index, row in enumerate(rows):
        middle = _MARGIN_PX + head + index * _ROW_PX + _SWATCH_PX / 2
        _draw_row(axes, row, middle, width - _MARGIN_PX)
    return figure


def _draw_row(axes: Any, row: _Row, middle: float, right: float) -> None:
    from matplotlib.patches import Rectangle

    left = _MARGIN_PX + 24 * row.depth
    if row.entry is None:
        _text(axes, (left, middle), row.text, colour=_QUIET)
        return
    corner = (left, middle - _SWATCH_PX / 2)
    axes.add_patch(Rectangle(corner, _SWATCH_PX, _SWATCH_PX, fc=row.entry.colour, ec=_EDGE, lw=0.5))
    _text(axes, (left + _SWATCH_PX + 24, middle), row.text)
    if row.entry.share is not None:
        _text(axes, (right, middle), f"{100 * row.entry.share:.1f} %", ha="right", colour=_QUIET)


def _text(axes: Any, xy: tuple[float, float], text: str, **style: Any) -> None:
    size_px, colour = style.pop("size_px", _TEXT_PX), style.pop("colour", _INK)
    known = {
        "fontsize": size_px * 72 / _DPI,
        "color": colour,
        "va": "center_baseline",
        "family": "DejaVu Sans",
    }
    axes.text(*xy, text, parse_math=False, **(known | style))
