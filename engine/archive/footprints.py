"""Footprints: outlines of scenes in degrees, also where they cross the antimeridian.

Catalogues write such a footprint in three ways; a record keeps the first (RFC 7946, section 3.1.9)::

     two parts                 one ring that jumps         one ring beyond 180
    ├█─────────────█┤         ├█═════════════█┤           ├──────────────██
   -180           180        -180            180         -180           180 185

A scene is at most a few hundred kilometres wide, so a ring wider than half the globe is one that jumps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_HALF_DEG, _TURN_DEG = 180.0, 360.0
_MARGIN_M = 2000.0  # footprints are simplified and their straight edges bend in a projection: up to 1 km
_MARGIN_DEG = 0.02


def cut_footprint(geometry: Any) -> Any:
    """Return a footprint whose parts lie within ±180 degrees and do not jump.

    Args:
        geometry: Shapely geometry, EPSG:4326, (longitude, latitude).

    >>> import shapely
    >>> jumps = shapely.Polygon([(179, 60), (-179, 60), (-179, 61), (179, 61)])
    >>> sorted(part.bounds for part in cut_footprint(jumps).geoms)
    [(-180.0, 60.0, -179.0, 61.0), (179.0, 60.0, 180.0, 61.0)]
    """
    import shapely

    parts = shapely.get_parts(geometry)
    if all(_plain(p) for p in parts):
        return geometry
    cut = [piece for part in parts for piece in _cut(_unjumped(part))]
    return shapely.union_all(cut)


def _plain(part: Any) -> bool:
    west, _, east, _ = part.bounds
    return bool(west >= -_HALF_DEG and east <= _HALF_DEG and east - west <= _HALF_DEG)


def _unjumped(part: Any) -> Any:
    """Move the western vertices of a ring that jumps one turn to the east."""
    import shapely

    west, _, east, _ = part.bounds
    if east - west <= _HALF_DEG:
        return part
    turn = np.array([_TURN_DEG, 0.0])
    moved = shapely.transform(part, lambda xy: np.where(xy[:, :1] < 0, xy + turn, xy))
    return moved if moved.is_valid else shapely.make_valid(moved)


def _cut(part: Any) -> list[Any]:
    """Cut what lies beyond ±180 degrees and move it to the other side."""
    import shapely
    from shapely.affinity import translate

    pieces = []
    for turn in (-_TURN_DEG, 0.0, _TURN_DEG):
        band = shapely.box(-_HALF_DEG - turn, -90, _HALF_DEG - turn, 90)
        piece = shapely.intersection(part, band)
        if piece.area > 0:
            pieces.append(translate(piece, xoff=turn))
    return pieces


def box_outline(bounds_xyxy: tuple[float, float, float, float], crs: str) -> Any:
    """Return a box of a CRS, grown by 2 km, as a polygon in degrees; longitudes may pass ±180.

    Args:
        bounds_xyxy: ``(left, bottom, right, top)`` in units of `crs`.
        crs: ``EPSG:n`` or WKT.
    """
    import shapely

    left, bottom, right, top = bounds_xyxy
    margin, to_degrees = _frame(crs)
    box = shapely.box(left - margin, bottom - margin, right + margin, top + margin)
    box = shapely.segmentize(box, max(right - left, top - bottom, margin) / 32)
    xy = shapely.get_coordinates(box)
    lon, lat = to_degrees.transform(xy[:, 0], xy[:, 1])
    lon = lon - _TURN_DEG * np.round((lon - lon[0]) / _TURN_DEG)
    outline = shapely.Polygon(np.column_stack([lon, lat]))
    return outline if outline.is_valid else shapely.make_valid(outline)


def turned(outline: Any) -> list[Any]:
    """Return an outline in degrees, and a whole turn to the side of it, where that meets ±180 degrees.

    >>> import shapely
    >>> [shape.bounds[::2] for shape in turned(shapely.box(179, 0, 181, 1))]
    [(-181.0, -179.0), (179.0, 181.0)]
    """
    import shapely
    from shapely.affinity import translate

    if outline.is_empty:
        return []
    west, _, east, _ = shapely.bounds(outline)
    turns = (t for t in (-_TURN_DEG, 0.0, _TURN_DEG) if west + t <= _HALF_DEG and east + t >= -_HALF_DEG)
    return [translate(outline, xoff=turn) if turn else outline for turn in turns]


def from_degrees(shapes: Any, crs: str) -> Any:
    """Move shapes from EPSG:4326 into a CRS, vertex by vertex.

    Args:
        shapes: One shapely geometry or an array of them.
        crs: ``EPSG:n`` or WKT.
    """
    import shapely
    from pyproj.enums import TransformDirection

    _, to_degrees = _frame(crs)

    def move(xy: Any) -> Any:
        back = to_degrees.transform(xy[:, 0], xy[:, 1], direction=TransformDirection.INVERSE)
        return np.column_stack(back)

    return shapely.transform(shapes, move)


@functools.lru_cache(maxsize=16)
def _frame(crs: str) -> tuple[float, Any]:
    """Return the margin in units of a CRS and the way from it to degrees; both are slow to make."""
    from pyproj import CRS, Transformer

    parsed = CRS.from_user_input(crs)
    factor = parsed.axis_info[0].unit_conversion_factor or 1.0
    margin = _MARGIN_DEG if parsed.is_geographic else _MARGIN_M / factor
    return margin, Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
