"""A class scheme out of a style file that others wrote, or we did: the way back of `legends` and `styles`.

======  ========================================  ======  =====================================
suffix  what                                      names   order and the rest of the scheme
======  ========================================  ======  =====================================
.qml    QGIS style with a paletted renderer       yes     order
.sld    Styled Layer Descriptor, ColorMap         yes     order
.txt    colour map of QGIS                        yes     by value
.clr    value red green blue (alpha)              none    by value; named by their value
.json   legend.json                               yes     all: order, parents, codes
.yaml   a class scheme                            yes     all
======  ========================================  ======  =====================================
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from engine.values.classes import NO_DATA_LABEL, ClassScheme, LandClass
from engine.values.errors import InputError

_Entry = tuple[float, str, str, float]
"""Value, ``#rrggbb``, name, opacity 0..1."""


def read_style(path: str | Path) -> ClassScheme:
    """Read the classes of a style, a colour map, a legend or a scheme.

    What is transparent, or is value 0, is no class. A class without a name is named by its value.

    Raises:
        InputError: If the file is missing, of an unknown kind, or holds no classes with values 1..255.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return ClassScheme.from_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the style", where=str(path), mend=str(error)) from error
    try:
        return _READERS[path.suffix.lower()](text)
    except KeyError as error:
        known = ", ".join([*_READERS, ".yaml"])
        if path.suffix.lower() in _READERS:
            raise InputError("not a style with classes", where=str(path), found=f"no {error}") from error
        raise InputError("unknown kind of style", where=str(path), found=path.suffix, limit=known) from error
    except (ValueError, ET.ParseError, ValidationError) as error:
        raise InputError("not a style with classes", where=str(path), found=str(error)) from error


def _from_json(text: str) -> ClassScheme:
    known = LandClass.model_fields
    rows = [{k: v for k, v in row.items() if k in known} for row in json.loads(text)["classes"]]
    return ClassScheme.model_validate({"classes": rows})


def _from_qml(text: str) -> ClassScheme:
    entries = ET.fromstring(text).iter("paletteEntry")
    return _scheme(
        (float(e.attrib["value"]), e.attrib["color"], e.get("label", ""), float(e.get("alpha", "255")) / 255)
        for e in entries
    )


def _from_sld(text: str) -> ClassScheme:
    entries = (e for e in ET.fromstring(text.encode()).iter() if e.tag.rpartition("}")[2] == "ColorMapEntry")
    return _scheme(
        (float(e.attrib["quantity"]), e.attrib["color"], e.get("label", ""), float(e.get("opacity", "1")))
        for e in entries
    )


def _from_lines(text: str) -> ClassScheme:
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("#") and ":" not in line.split(",")[0]]
    return _scheme(_line(line) for line in kept)


def _line(line: str) -> _Entry:
    """Read ``value red green blue [alpha [name]]``, divided by commas, blanks or tabs."""
    cells = line.split(",", 5) if "," in line else line.split(None, 5)
    value, *numbers = (float(cell) for cell in cells[:5])
    if len(numbers) < 3:
        raise ValueError(f"expected value, red, green, blue, got {line!r}")
    red, green, blue, alpha = (int(n) for n in [*numbers, 255.0][:4])
    return value, f"#{red:02x}{green:02x}{blue:02x}", cells[5].strip() if len(cells) > 5 else "", alpha / 255


def _scheme(entries: Iterator[_Entry]) -> ClassScheme:
    classes = [
        LandClass(value=_whole(value), name=name or str(_whole(value)), colour=colour.lower())
        for value, colour, name, opacity in entries
        if opacity > 0 and value != NO_DATA_LABEL
    ]
    return ClassScheme(classes=tuple(classes))


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"classes have whole values, got {value}")
    return int(value)


_READERS: dict[str, Callable[[str], ClassScheme]] = {
    ".qml": _from_qml,
    ".sld": _from_sld,
    ".txt": _from_lines,
    ".clr": _from_lines,
    ".json": _from_json,
}
