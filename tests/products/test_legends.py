"""Styles and legends of one scheme: read back they are the scheme, and GDAL paints with them what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from matplotlib.image import imread

from engine.products.legends import sld, write_legend, write_styles
from engine.products.read_styles import read_style
from engine.products.styles import colour_table, ramp_qml
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from tests.conftest import require_service

SCHEME = ClassScheme(
    classes=(
        LandClass(
            value=3, name='maize, & <"sweet"> corn', colour="#e3b448", parent="Cropland", codes=(101, "M")
        ),
        LandClass(value=1, name="forêt: hêtre", colour="#106010"),
        LandClass(value=255, name="water", colour="#3070c0"),
    )
)
BY_VALUE = [1, 3, 255]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_styles(tmp_path_factory.mktemp("styles"), SCHEME, counts={0: 7, 1: 25, 3: 75})


def shown(scheme: ClassScheme) -> list[tuple[int, str, str]]:
    return [(c.value, c.name, c.colour) for c in scheme.classes]


@pytest.mark.parametrize("kind", ["style", "style-sld", "style-txt", "style-clr", "legend-json", "classes"])
def test_what_is_written_is_read_back(files: dict[str, Path], kind: str) -> None:
    read = read_style(files[kind])
    expected = shown(SCHEME)
    if kind in ("style-txt", "style-clr"):
        expected.sort()
    if kind == "style-clr":  # the format has no names
        expected = [(value, str(value), colour) for value, _, colour in expected]
    assert shown(read) == expected
    assert (read == SCHEME) == (kind in ("legend-json", "classes"))


def test_a_legend_for_programs_carries_shares(files: dict[str, Path]) -> None:
    told = json.loads(files["legend-json"].read_text())
    assert [(row["value"], row["share"]) for row in told["classes"]] == [(3, 0.75), (1, 0.25), (255, 0.0)]
    assert told["classes"][0]["parent"] == "Cropland"
    assert told["no_data"] == {"value": 0, "name": "no data"}


def test_no_data_is_transparent_in_each_style(files: dict[str, Path]) -> None:
    qml = ET.parse(files["style"]).getroot()
    hidden = qml.findall("./pipe/rasterrenderer/rasterTransparency/singleValuePixelList/pixelListEntry")
    assert [(h.get("min"), h.get("max"), h.get("percentTransparent")) for h in hidden] == [("0", "0", "100")]
    name = {"s": "http://www.opengis.net/sld"}
    colours = ET.fromstring(sld(SCHEME).encode()).find(".//s:RasterSymbolizer/s:ColorMap", name)
    assert colours is not None
    assert colours.get("type") == "values"
    opacity = {int(e.get("quantity", "")): e.get("opacity") for e in colours}
    assert opacity == {0: "0", 1: "1", 3: "1", 255: "1"}
    assert "0,0,0,0,0,no data" in files["style-txt"].read_text().splitlines()


@pytest.mark.service
@pytest.mark.parametrize("kind", ["style-txt", "style-clr"])
def test_gdal_paints_the_scheme(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    label = np.array([[0, *BY_VALUE]], np.uint8).repeat(2, 0)
    raster, painted = tmp_path / "label.tif", tmp_path / "painted.tif"
    with rasterio.open(
        raster, "w", driver="GTiff", width=4, height=2, count=1, dtype="uint8", nodata=0, crs="EPSG:32633",
        transform=rasterio.transform.from_origin(0, 2, 1, 1),
    ) as target:  # fmt: skip
        target.write(label, 1)
    gdaldem = shutil.which("gdaldem", path="/usr/bin") or require_service("gdaldem", "apt install gdal-bin")
    command = [gdaldem, "color-relief", str(raster), str(files[kind]), str(painted), "-alpha", "-q"]
    subprocess.run([*command, "-nearest_color_entry"], check=True, timeout=60)
    with rasterio.open(painted) as source:
        pixels = source.read()[:, 0].T.tolist()
    table = colour_table(SCHEME)
    assert [tuple(p) for p in pixels[1:]] == [table[v] for v in BY_VALUE]
    assert (pixels[0][3] == 0) == (kind == "style-txt")  # the other format has no transparency


def colours_of(path: Path) -> set[str]:
    pixels = (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return {"#{:02x}{:02x}{:02x}".format(*p) for p in np.unique(pixels, axis=0)}


def occurring(scheme: ClassScheme, values: Iterable[int]) -> set[str]:
    return {c.colour for c in scheme.classes if c.value in values}


def test_the_picture_shows_the_classes_that_occur(files: dict[str, Path], tmp_path: Path) -> None:
    every = occurring(SCHEME, SCHEME.values)
    assert colours_of(files["legend"]) & every == occurring(SCHEME, {1, 3})
    assert colours_of(write_legend(tmp_path / "all.png", SCHEME, title="All $x$")) & every == every
    assert [p.name for p in tmp_path.iterdir()] == ["all.png"]


def test_deep_and_circular_parents_lose_no_class(tmp_path: Path) -> None:
    parents = {"a": "b", "b": "c", "c": None, "d": "e", "e": "d", "f": "none of these"}
    colours = [f"#{16 * i:02x}a0{255 - 16 * i:02x}" for i in range(6)]
    rows = zip(parents.items(), colours, strict=True)
    scheme = ClassScheme(
        classes=tuple(
            LandClass(value=i + 1, name=n, colour=c, parent=p) for i, ((n, p), c) in enumerate(rows)
        )
    )
    assert set(colours) <= colours_of(write_legend(tmp_path / "deep.png", scheme))


def test_styles_of_others_are_read(tmp_path: Path) -> None:
    lines = "# my map\n0 0 0 0\n\n10 255 0 10\n20\t0\t0\t255\t255\n30 1 2 3 0\n"
    (tmp_path / "other.clr").write_text(lines)
    assert shown(read_style(tmp_path / "other.clr")) == [(10, "10", "#ff000a"), (20, "20", "#0000ff")]
    (tmp_path / "other.qml").write_text(
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'><qgis version='3.34'><pipe><rasterrenderer>"
        "<colorPalette><paletteEntry value='255' alpha='0' color='#000000' label='hole'/>"
        "<paletteEntry value='4' color='#AABBCC' label='Wald'/></colorPalette></rasterrenderer></pipe></qgis>"
    )
    assert shown(read_style(tmp_path / "other.qml")) == [(4, "Wald", "#aabbcc")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.clr", "1 2 3\n", "expected value, red, green, blue"),
        ("a.clr", "1.5 2 3 4\n", "whole values"),
        ("a.clr", "300 2 3 4\n", "not a style"),
        ("a.qml", "<qgis>", "not a style"),
        ("a.qml", "<qgis/>", "not a style"),
        ("a.sld", "<s><ColorMapEntry color='#000000'/></s>", "no 'quantity'"),
        ("a.json", "{}", "no 'classes'"),
        ("a.doc", "", "unknown kind"),
    ],
)
def test_what_is_no_style_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_style(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        read_style(tmp_path / "absent.qml")


def test_a_ramp_has_its_ends(tmp_path: Path) -> None:
    root = ET.fromstring(ramp_qml(["#000000", "#808080", "#ffffff"], 0, 1, "m").split("\n", 1)[1])
    items = root.findall("./pipe/rasterrenderer/rastershader/colorrampshader/item")
    assert [(i.get("value"), i.get("color"), i.get("label")) for i in items] == [
        ("0", "#000000", "0 m"),
        ("0.5", "#808080", "0.5 m"),
        ("1", "#ffffff", "1 m"),
    ]
