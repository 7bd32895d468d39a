"""Zones: administrative units of any vector file, brought onto a map's pixels.

::

    file, any CRS ──► Unit (name, shape as given) ──► cut near the map ──► edges bent finely ──► Zone (edges in pixels)

Edges are straight in the file's own CRS, as GIS draw them, and are cut finely before they are moved into the map's;
points of an edge are the same whichever unit it belongs to, so neighbours still meet without a gap.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from engine.archive.warp import require_transform, same_crs
from engine.assessment.coverage import EDGE, SUB, edges_of
from engine.assessment.surface import ellipsoid_of
from engine.values.errors import InputError
from engine.values.grid import Box, Grid, normal_crs

_EDGE_DEG, _EDGE_M = 0.002, 200.0  # a chord of a parallel of 200 m is off by 1 mm, at 50 degrees
_NAMES = (
    "name",
    "unit",
    "name_1",
    "name_2",
    "name_3",
    "shapename",
    "nam",
    "nuts_name",
    "gen",
    "admin",
    "region",
)


@dataclass(frozen=True)
class Unit:
    """A unit as the file gives it.

    Attributes:
        name: What it is called.
        geometry: Valid shapely Polygon or MultiPolygon without z.
        crs: ``EPSG:4326`` or WKT2, of the geometry.
    """

    name: str
    geometry: Any
    crs: str

    @functools.cached_property
    def hectares(self) -> float:
        """Its surface on the ellipsoid of its CRS: geodesic polygons (Karney 2013, J. Geodesy 87:43-55)."""
        crs = _parsed(self.crs)
        fine = shapely.orient_polygons(_fine(self.geometry, self.crs))  # there, for no pole can be inside out
        if not crs.is_geographic:
            fine = _moved(fine, self.crs, _geodetic(self.crs))
        area, _ = ellipsoid_of(self.crs).geometry_area_perimeter(fine)
        return float(abs(area)) / 1e4


@dataclass(frozen=True, eq=False)
class Zone:
    """A unit on a grid.

    Attributes:
        unit: What it is.
        edges: (M,) of `engine.assessment.coverage.EDGE`; none where it does not come near the map.
        cut: Whether parts of the unit lie far from the map and were left out.
    """

    unit: Unit
    edges: NDArray[Any]
    cut: bool = False

    @functools.cached_property
    def box(self) -> Box:
        """The pixels that it touches, of those near the map."""
        if not len(self.edges):
            return Box(0, 0, 0, 0)
        e = self.edges
        left, right = min(e["x0"].min(), e["x1"].min()), max(e["x0"].max(), e["x1"].max())
        return Box(
            int(e["y0"].min()) // SUB, int(left) // SUB, -(-int(e["y1"].max()) // SUB), -(-int(right) // SUB)
        )


def read_units(
    path: str | Path,
    *,
    name_column: str | None = None,
    layer: str | None = None,
    where: str | None = None,
    dissolve: bool = False,
) -> list[Unit]:
    """Read units from any vector file.

    Args:
        path: GeoPackage, GeoJSON, GeoParquet, Shapefile or whatever GDAL reads.
        name_column: Column of names; None takes one that is called like one, or the only column of text.
        layer: Layer; None takes the first.
        where: Attribute filter in SQL, e.g. ``"admin = 'Slovenia'"``.
        dissolve: Join units of one name into one; otherwise each row is a unit.

    Returns:
        Units in the file's order; rows without a geometry are left out.

    Raises:
        InputError: If the file cannot be read, has no CRS, no polygon or no names.
    """
    frame = _frame(Path(path), layer, where)
    column = _name_column(frame, name_column, str(path))
    crs, units = normal_crs(frame.crs), []
    for name, geometry in zip(frame[column].tolist(), frame.geometry, strict=True):
        surface = _surface(geometry) if geometry is not None else shapely.Polygon()
        if not surface.is_empty:
            units.append(Unit(_text(name), surface, crs))
    if not units:
        raise InputError("the file holds no polygon", where=str(path), mend="units need a surface")
    return _dissolved(units) if dissolve else units


def _frame(path: Path, layer: str | None, where: str | None) -> Any:
    import geopandas as gpd
    import pyogrio

    if not path.exists():
        raise InputError("no such file", where=str(path), mend="check the path of --zones")
    try:
        parquet = path.suffix in (".parquet", ".geoparquet")
        first = layer if layer is not None or parquet else str(pyogrio.list_layers(path)[0][0])
        frame = gpd.read_parquet(path) if parquet else pyogrio.read_dataframe(path, layer=first, where=where)
    except Exception as error:  # GDAL raises many kinds: a wrong layer, a wrong filter, no vector file
        raise InputError("cannot read the zones", where=str(path), found=str(error)) from error
    if not hasattr(frame, "geometry") or frame.empty:
        raise InputError("no feature with a geometry", where=str(path), found=f"layer={layer} where={where}")
    if frame.crs is None:
        raise InputError("the zones have no CRS", where=str(path), mend="add it, e.g. with ogr2ogr -a_srs")
    return frame


def _name_column(frame: Any, asked: str | None, where: str) -> str:
    """Choose the column of names."""
    columns = [str(c) for c in frame.columns if c != frame.geometry.name]
    if asked is not None:
        if asked not in columns:
            raise InputError("no such column", where=where, found=asked, limit=", ".join(columns))
        return asked
    small = {c.lower(): c for c in columns}
    known = [small[name] for name in _NAMES if name in small]
    texts = [c for c in columns if frame[c].dtype == object or str(frame[c].dtype).startswith("str")]
    if not known and len(texts) != 1:
        raise InputError(
            "which column names the units?",
            where=where,
            found=", ".join(columns) or "no column",
            mend="say it with --name-column",
        )
    return (known or texts)[0]


def _text(name: Any) -> str:
    """Write a name; a whole number that came as a float, as such."""
    if name is None or name != name:
        return "(no name)"
    return str(int(name)) if isinstance(name, float) and name == int(name) else str(name).strip()


def _surface(geometry: Any) -> Any:
    """Repair a geometry and keep its surfaces only."""
    flat = shapely.force_2d(geometry)
    if not shapely.is_valid(flat):
        flat = shapely.make_valid(flat)
    if flat.geom_type in ("Polygon", "MultiPolygon"):
        return flat
    parts = [p for p in shapely.get_parts(flat) if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def _dissolved(units: Sequence[Unit]) -> list[Unit]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.name, []).append(unit)
    return [
        group[0]
        if len(group) == 1
        else Unit(name, _surface(shapely.union_all([u.geometry for u in group])), group[0].crs)
        for name, group in groups.items()
    ]


def zones_on(units: Iterable[Unit], grid: Grid, box: Box) -> list[Zone]:
    """Bring units onto the pixels of a map.

    Args:
        units: As they are.
        grid: The map's grid.
        box: Its pixels; units are only right over it, and what lies far from it is cut off.

    Returns:
        One zone for each unit, without edges where it does not come near the map.

    Raises:
        InputError: If only a ballpark transformation is known from the units' CRS into the map's.
    """
    return [_zone(unit, grid, box) for unit in units]


def _zone(unit: Unit, grid: Grid, box: Box) -> Zone:
    near, shape = _near(unit.crs, grid, box), unit.geometry
    if not any(shapely.intersects(shape, part) for part in near):
        return Zone(unit, np.empty(0, EDGE), cut=True)
    cut = not any(shapely.contains_properly(part, shapely.box(*shape.bounds)) for part in near)
    if cut:
        shape = _surface(shapely.union_all([shapely.intersection(shape, part) for part in near]))
    (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
    moved = _moved(_fine(shape, unit.crs), unit.crs, grid.crs)
    in_pixels = shapely.transform(moved, lambda xy: (xy - [ax, ay]) / [res_x, -res_y])
    return Zone(unit, _edges(in_pixels, unit.name), cut)


def _edges(shape: Any, where: str) -> NDArray[Any]:
    """Return the edges of polygons given in pixels."""
    found = [np.empty(0, EDGE)]
    for part in shapely.get_parts(shape):
        for ring, hole in [(part.exterior, False), *((ring, True) for ring in part.interiors)]:
            points = shapely.get_coordinates(ring)
            if not np.isfinite(points).all():
                raise InputError("the unit has no place in the map's CRS", where=where)
            found.append(edges_of(points, hole=hole))
    return np.concatenate(found)


@functools.lru_cache(maxsize=8)
def _near(crs: str, grid: Grid, box: Box) -> tuple[Any, ...]:
    """Return rectangles in the units' CRS that hold the map and some room around it; two across 180 degrees."""
    from pyproj import Transformer

    res = max(grid.resolution_yx)
    left, bottom, right, top = grid.bounds_of_box(box.pad(64))
    if same_crs(grid.crs, crs):
        return (shapely.box(left - res, bottom - res, right + res, top + res),)
    require_transform(crs, grid.crs)
    back = Transformer.from_crs(grid.crs, crs, always_xy=True)
    west, south, east, north = back.transform_bounds(left, bottom, right, top, densify_pts=101)
    high, wide = (north - south) / 50, abs(east - west) / 50
    south, north = south - high, north + high
    if west <= east or not _parsed(crs).is_geographic:
        return (shapely.box(west - wide, south, east + wide, north),)
    room = (east + 360 - west) / 50
    return shapely.box(west - room, south, 180, north), shapely.box(-180, south, east + room, north)


def _fine(geometry: Any, crs: str) -> Any:
    """Cut edges finely, so that they bend rightly when they are moved."""
    parsed = _parsed(crs)
    step = _EDGE_DEG if parsed.is_geographic else _EDGE_M / parsed.axis_info[0].unit_conversion_factor
    parts = [
        shapely.Polygon(_cut(p.exterior, step), [_cut(r, step) for r in p.interiors])
        for p in shapely.get_parts(geometry)
    ]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _cut(ring: Any, step: float) -> NDArray[np.float64]:
    """Put points on a ring's edges, no more than `step` apart, the same ones walked either way."""
    points = shapely.get_coordinates(ring)
    start, end = points[:-1], points[1:]
    pieces = np.maximum(1, np.ceil(np.hypot(*(end - start).T) / step).astype(np.int64))
    edge = np.repeat(np.arange(len(pieces)), pieces)
    k = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    n = pieces[edge].astype(np.float64)
    cut = start[edge] * ((n - k) / n)[:, None] + end[edge] * (k / n)[:, None]
    return np.concatenate([cut, points[-1:]])


def _moved(geometry: Any, source: str, target: str) -> Any:
    if same_crs(source, target):
        return geometry
    transformer = _transformer(source, target)
    return shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


@functools.lru_cache(maxsize=16)
def _transformer(source: str, target: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


@functools.lru_cache(maxsize=16)
def _parsed(crs: str) -> Any:
    from pyproj import CRS

    return CRS.from_user_input(crs)


@functools.lru_cache(maxsize=16)
def _geodetic(crs: str) -> str:
    return str(_parsed(crs).geodetic_crs.to_wkt())
