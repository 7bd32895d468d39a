from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from engine.products.styles import colour_table, legend, pam, qml, scheme_of_flags, write_qml
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import DataError

SCHEME = ClassScheme(
    classes=(
        LandClass(value=3, name='maize & <"sweet"> corn', colour="#E3B448"),
        LandClass(value=1, name="forêt", colour="#106010"),
        LandClass(value=7, name="water", colour="#3070c0"),
    )
)


def test_the_qml_read_back_is_the_scheme(tmp_path: Path) -> None:
    root = ET.parse(write_qml(tmp_path / "label.qml", SCHEME)).getroot()
    assert root.tag == "qgis"
    renderer = root.find("./pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = renderer.findall("./colorPalette/paletteEntry")
    read = [(int(e.get("value", "")), e.get("label"), e.get("color")) for e in entries]
    assert read == [(c.value, c.name, c.colour) for c in SCHEME.classes]
    assert {e.get("alpha") for e in entries} == {"255"}
    assert qml(SCHEME).startswith("<!DOCTYPE qgis")
    assert [p.name for p in tmp_path.iterdir()] == ["label.qml"]


def test_category_names_stand_at_their_values() -> None:
    band = ET.fromstring(pam(SCHEME)).find("./PAMRasterBand[@band='1']")
    assert band is not None
    names = [c.text or "" for c in band.findall("./CategoryNames/Category")]
    assert names == ["no data", "forêt", "", SCHEME.classes[0].name, "", "", "", "water"]
    rows = [[f.text for f in row.findall("F")] for row in band.findall("./GDALRasterAttributeTable/Row")]
    assert rows[1] == ["1", "forêt", "16", "96", "16"]
    assert len(rows) == 3


def test_colour_table_hides_no_data() -> None:
    assert colour_table(SCHEME) == {
        0: (0, 0, 0, 0),
        1: (16, 96, 16, 255),
        3: (227, 180, 72, 255),
        7: (48, 112, 192, 255),
    }


def test_legend_orders_by_area_and_leaves_out_what_is_not_there() -> None:
    entries = legend(SCHEME, {0: 1000, 1: 25, 3: 75, 99: 5})
    assert [(e.value, e.share) for e in entries] == [(3, 0.75), (1, 0.25)]
    assert [e.value for e in legend(SCHEME)] == [3, 1, 7]
    assert legend(SCHEME, {0: 5}) == ()


def test_flags_without_colours_get_some() -> None:
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "unchanged 1_mmu 2_majority"}
    scheme = scheme_of_flags(flags)
    assert (scheme.values, scheme.names) == ((1, 2), ("1 mmu", "2 majority"))
    assert len({c.colour for c in scheme.classes}) == 2


def test_flags_that_do_not_fit_together_are_an_error() -> None:
    flags = SCHEME.flag_attributes()
    assert scheme_of_flags(flags).values == SCHEME.values
    with pytest.raises(DataError, match="no complete CF flags"):
        scheme_of_flags({**flags, "flag_colors": "#000000"}, "map.zarr")
    with pytest.raises(DataError, match="no complete CF flags"):
        scheme_of_flags({})
