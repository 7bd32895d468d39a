"""Files that go to interpreters and come back: places to look at, empty columns, and nothing of the map.

Ids come from the pixel's row and column, so a larger sample of the same seed has the same ids for the same points.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.assessment.maps import ClassMap
from engine.products.styles import QGIS_VERSION, write_text
from engine.values.classes import ClassScheme
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

DESIGN_SCHEMA = "landweave/design/1"

ANSWERS = ("reference", "certainty", "notes")
CERTAINTY = {"3 certain": 3, "2 likely": 2, "1 a guess": 1}
TABLES, VECTORS = (".csv",), (".gpkg", ".geojson", ".json")


@dataclass(frozen=True)
class Place:
    """A point of a sample.

    Attributes:
        row: Of the grid.
        column: Of the grid.
        stratum: Index of its stratum.
        mapped: Class value of the map.
        cluster: Name of its cluster; empty where points are drawn singly.
        cluster_pixels: Pixels of the population in the cluster.
    """

    row: int
    column: int
    stratum: int
    mapped: int
    cluster: str = ""
    cluster_pixels: int = 0

    @property
    def id(self) -> str:
        """Name of the point: its pixel.

        >>> Place(-532056, 26844, 0, 1).id
        'r-532056_c26844'
        """
        return f"r{self.row}_c{self.column}"


def design_path(response: Path) -> Path:
    """Return where the design of a response file lies.

    >>> design_path(Path("a/points.gpkg")).name
    'points.design.json'
    """
    return response.with_name(f"{response.stem}.design.json")


def write_response(
    out: Path, source: ClassMap, places: list[Place], design: dict[str, Any], keep: Path | None = None
) -> tuple[Path, ...]:
    """Write the response file, its style, instructions, and the design beside it.

    Args:
        out: ``.gpkg``, ``.geojson`` or ``.csv``; must not exist.
        source: The map.
        places: Points in the order in which they are shown.
        design: What the design file holds beside them.
        keep: Answers so far, which are copied by id.

    Raises:
        InputError: If the ending is not known.
        ConflictError: If a file is in the way.
    """
    if out.suffix.lower() not in TABLES + VECTORS:
        raise InputError(
            "which format?",
            where=str(out),
            found=out.suffix or "no ending",
            limit=", ".join(VECTORS + TABLES),
        )
    for path in (out, design_path(out)):
        if path.exists():
            raise ConflictError(
                "the file exists already, and may hold answers",
                where=str(path),
                mend="name another file; --keep FILE copies the answers so far",
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    frame = _frame(source.grid, places)
    if keep is not None:
        frame = _with_answers(frame, keep)
    _write(frame, out, source.grid)
    files = [out]
    if out.suffix.lower() in VECTORS:
        files.append(write_text(out.with_suffix(".qml"), response_style(source.scheme)))
    files.append(write_text(out.with_suffix(".md"), _instructions(out.name, len(places), source)))
    told = design | {"points": [asdict(p) | {"id": p.id} for p in places]}
    files.append(write_text(design_path(out), json.dumps(told, indent=1) + "\n"))
    return tuple(files)


def read_design(path: Path) -> dict[str, Any]:
    """Read a design file.

    Raises:
        InputError: If it is missing or none.
    """
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("cannot read the design", where=str(path), mend=str(error)) from error
    except ValueError as error:
        raise InputError("the design is not JSON", where=str(path), found=str(error)) from error
    if not isinstance(told, dict) or told.get("schema") != DESIGN_SCHEMA:
        raise InputError("not a design that this version reads", where=str(path), limit=DESIGN_SCHEMA)
    return told


def grid_of(design: dict[str, Any]) -> Grid:
    """Return the grid on which points were drawn."""
    told = design["grid"]
    return Grid(told["crs"], tuple(told["resolution_yx"]), tuple(told["anchor_xy"]))


def read_response(path: Path, layer: str | None = None) -> pd.DataFrame:
    """Read a table of answers; a vector file comes as a GeoDataFrame.

    Raises:
        InputError: If the file is missing or cannot be read.
    """
    import geopandas as gpd
    import pandas as pd

    if not path.exists():
        raise InputError("no such file", where=str(path), mend="give the interpreters' file")
    try:
        if path.suffix.lower() in TABLES:
            return pd.read_csv(path, dtype=None)
        if path.suffix.lower() in (".parquet", ".pq"):
            return _parquet(path)
        layers = (
            {} if layer is None and path.suffix.lower() != ".gpkg" else {"layer": layer or _first_layer(path)}
        )
        return gpd.read_file(path, **layers)
    except Exception as error:  # GDAL, Arrow and pandas raise many kinds
        raise InputError("cannot read the answers", where=str(path), found=str(error)) from error


def _parquet(path: Path) -> pd.DataFrame:
    import geopandas as gpd
    import pandas as pd

    try:
        return gpd.read_parquet(path)
    except ValueError:  # without a geometry
        return pd.read_parquet(path)


def _first_layer(path: Path) -> str:
    """Return the layer of points that this module writes, else the first."""
    import pyogrio

    names = [str(row[0]) for row in pyogrio.list_layers(path)]
    return "points" if "points" in names else names[0]


def _frame(grid: Grid, places: list[Place]) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pandas as pd
    import shapely
    from pyproj import Transformer

    rows, columns = np.array([p.row for p in places]), np.array([p.column for p in places])
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    x, y = ax + (columns + 0.5) * res_x, ay - (rows + 0.5) * res_y
    lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    squares = [
        shapely.box(*grid.bounds_of_box(Box(p.row, p.column, p.row + 1, p.column + 1))) for p in places
    ]
    return gpd.GeoDataFrame(
        {
            "number": np.arange(1, len(places) + 1),
            "id": [p.id for p in places],
            "lon": np.round(lon, 8),
            "lat": np.round(lat, 8),
            "x": x,
            "y": y,
            "footprint": [shapely.to_wkt(s, rounding_precision=6) for s in squares],
            "reference": pd.Series([None] * len(places), dtype="object"),
            "certainty": pd.Series([pd.NA] * len(places), dtype="Int32"),
            "notes": pd.Series([None] * len(places), dtype="object"),
        },
        geometry=shapely.points(x, y),
        crs=grid.crs,
    )


def _with_answers(frame: gpd.GeoDataFrame, keep: Path) -> gpd.GeoDataFrame:
    """Copy answers of the same ids.

    Raises:
        InputError: If an answered point is not in the new sample: another seed, map or kind of design.
    """
    old = read_response(keep)
    if "id" not in old:
        raise InputError(
            "the answers so far have no column id", where=str(keep), found=", ".join(map(str, old))
        )
    there = [name for name in ANSWERS if name in old]
    old = old.set_index(old["id"].astype(str))
    answered = old.index[old[there].notna().any(axis=1)] if there else old.index[:0]
    lost = answered.difference(frame["id"])
    if len(lost):
        raise InputError(
            "answered points are not in the new sample",
            where=str(keep),
            found=f"{len(lost)} of {len(answered)}: {', '.join(lost[:5])}",
            mend="keep map, seed, kind and strata, and let no stratum have fewer points",
        )
    for name in there:
        found = frame["id"].map(old[name])
        frame[name] = found.astype("Int32") if name == "certainty" else found.astype("object")
    return frame


def _write(frame: gpd.GeoDataFrame, out: Path, grid: Grid) -> None:
    import shapely

    suffix = out.suffix.lower()
    if suffix in TABLES:
        frame.drop(columns="geometry").to_csv(out, index=False)
    elif suffix == ".gpkg":
        frame.drop(columns="footprint").to_file(out, layer="points", driver="GPKG")
        squares = frame[["number", "id"]].assign(geometry=shapely.from_wkt(frame["footprint"]))
        squares.set_geometry("geometry", crs=grid.crs).to_file(out, layer="footprints", driver="GPKG")
    else:
        frame.to_crs("EPSG:4326").to_file(out, driver="GeoJSON")


def response_style(scheme: ClassScheme) -> str:
    """Write a QGIS style (QML) that offers the classes as a list, so that no answer can be mistyped."""
    root = ET.Element("qgis", version=QGIS_VERSION, styleCategories="Fields|Forms")
    fields = ET.SubElement(root, "fieldConfiguration")
    _value_map(fields, "reference", {name: name for name in scheme.names})
    _value_map(fields, "certainty", {name: str(value) for name, value in CERTAINTY.items()})
    editable = ET.SubElement(root, "editable")
    for name in ("number", "id", "lon", "lat", "x", "y"):
        ET.SubElement(editable, "field", name=name, editable="0")
    for name in ANSWERS:
        ET.SubElement(editable, "field", name=name, editable="1")
    ET.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ET.tostring(root, encoding="unicode") + "\n"


def _value_map(fields: ET.Element, name: str, values: dict[str, str]) -> None:
    widget = ET.SubElement(ET.SubElement(fields, "field", name=name), "editWidget", type="ValueMap")
    options = ET.SubElement(ET.SubElement(widget, "config"), "Option", type="Map")
    listed = ET.SubElement(options, "Option", type="List", name="map")
    for shown, stored in values.items():
        one = ET.SubElement(listed, "Option", type="Map")
        ET.SubElement(one, "Option", type="QString", name=shown, value=stored)


def _instructions(name: str, n: int, source: ClassMap) -> str:
    from pyproj import CRS

    (height, width), names = source.grid.resolution_yx, source.scheme.names
    unit = CRS.from_user_input(source.grid.crs).axis_info[0].unit_name
    crs = source.grid.crs if len(source.grid.crs) < 40 else "the map's CRS"
    classes = "\n".join(f"- {c.name}" for c in source.scheme.classes)
    return f"""# How to interpret these points

`{name}` holds {n} points in random order. Each stands for one pixel of {width:g} x {height:g} {unit}
(its outline is the layer `footprints`, or the column `footprint` in {crs}).

1. Look at imagery and other evidence of the time that is mapped, never at the map itself.
2. Write into `reference` what covers most of the pixel, one of:

{classes}

3. Write into `certainty`: 3 certain, 2 likely, 1 a guess. Write into `notes` whatever helps.
4. Leave `reference` empty where nobody can say. Do not skip points that are hard: say so with `certainty`.
5. Delete no row, change no `id`. Any order, but all of them: the first ones alone are no sample.

The file `{Path(name).stem}.design.json` tells what the map says at each point. Do not open it before all is answered.

Then: `landweave assess run MAP --reference {name}` ({len(names)} classes).
"""
