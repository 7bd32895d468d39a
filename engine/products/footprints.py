"""Where a product lies, in degrees: its outline, or the part of it inside a box of pixels.

Boxes and outlines that cross the antimeridian come as parts cut at 180 degrees (RFC 7946, section 3.1.9),
and their bounding box has its west edge greater than its east edge (section 5.2)::

    -180       0      180
     ├█─────────────██─┤        bbox = (174, south, -172, north)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.values.area import to_lonlat
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_SIMPLER_DEG = 1e-6
"""Vertices that a straight line misses by less than this, 0.1 m, are left out of a box's edges."""


@dataclass(frozen=True)
class Footprint:
    """An outline as GeoJSON has it.

    Attributes:
        geometry: GeoJSON Polygon or MultiPolygon, EPSG:4326, outer rings counterclockwise.
        bbox: West, south, east, north in degrees; west > east across the antimeridian.
        centre_lonlat: Centroid, degrees.
    """

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]
    centre_lonlat: tuple[float, float]


def footprint_of(grid: Grid, box: Box, outline: BaseGeometry | None = None) -> Footprint:
    """Return the footprint of a box of pixels.

    Args:
        grid: The pixels' grid.
        box: The pixels.
        outline: Outline of the map, EPSG:4326; what of it lies inside the box is taken. None, or one that
            does not touch the box, takes the box itself.
    """
    from shapely.geometry import mapping

    around = _box_outline(grid, box)
    shape = around if outline is None else _inside(outline, around)
    parts = _counterclockwise(shape)
    bbox = _bbox(parts)
    return Footprint(dict(mapping(parts)), bbox, _centre(parts, bbox))


class RowCuts:
    """Cuts an outline to one box after the other: to the row of boxes first, so that each cut is small.

    Args:
        grid: The pixels' grid.
        box: All pixels.
        outline: Outline in EPSG:4326, or None.
    """

    def __init__(self, grid: Grid, box: Box, outline: BaseGeometry | None) -> None:
        import shapely

        self._grid, self._box = grid, box
        valid = outline is None or outline.is_valid
        self._outline = outline if valid else shapely.make_valid(outline)
        self._row: tuple[int, int] | None = None
        self._part = outline

    def footprint(self, box: Box) -> Footprint:
        """Return the footprint of a box; fast if boxes come row by row."""
        if self._outline is None or box == self._box:
            return footprint_of(self._grid, box, self._outline)
        if self._row != (box.y0, box.y1):
            row = Box(box.y0, min(box.x0, self._box.x0), box.y1, max(box.x1, self._box.x1)).pad(8)
            self._part = _cut(self._outline, _box_outline(self._grid, row))
            self._row = box.y0, box.y1
        return footprint_of(self._grid, box, self._part)


def _box_outline(grid: Grid, box: Box) -> BaseGeometry:
    """Return a box in degrees; its straight edges become curves of many vertices."""
    import shapely

    outline = to_lonlat(shapely.box(*grid.bounds_of_box(box)), grid.crs)
    simple: BaseGeometry = shapely.simplify(outline, _SIMPLER_DEG)
    return shapely.transform(simple, lambda xy: xy.round(7))  # a centimetre


def _inside(outline: BaseGeometry, around: BaseGeometry) -> BaseGeometry:
    """Cut an outline to a box; the outline as it is where the box holds all of it."""
    import shapely

    if around.contains(outline):
        return outline
    cut = _cut(outline if outline.is_valid else shapely.make_valid(outline), around)
    return around if cut.is_empty else cut


def _cut(outline: BaseGeometry, around: BaseGeometry) -> BaseGeometry:
    """Return the faces that two outlines share; edges and points that they share are none."""
    import shapely

    shared = shapely.get_parts(shapely.intersection(outline, around)).tolist()
    polygons = [p for part in shared for p in shapely.get_parts(part).tolist() if p.area > 0]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _counterclockwise(shape: BaseGeometry) -> BaseGeometry:
    """Turn outer rings counterclockwise, as RFC 7946 asks."""
    import shapely
    from shapely.geometry.polygon import orient

    polygons = [orient(part) for part in shapely.get_parts(shape).tolist()]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _bbox(shape: BaseGeometry) -> tuple[float, float, float, float]:
    import shapely

    west, south, east, north = (float(v) for v in shape.bounds)
    bounds = [part.bounds for part in shapely.get_parts(shape).tolist()]
    if west > -180 + 1e-6 or east < 180 - 1e-6 or len(bounds) == 1:
        return west, south, east, north
    eastern, western = [b for b in bounds if b[0] >= 0], [b for b in bounds if b[2] <= 0]
    if len(eastern) + len(western) < len(bounds):  # a part spans Greenwich: all around the globe
        return west, south, east, north
    return float(min(b[0] for b in eastern)), south, float(max(b[2] for b in western)), north


def _centre(shape: BaseGeometry, bbox: tuple[float, float, float, float]) -> tuple[float, float]:
    import shapely

    if bbox[0] > bbox[2]:  # unrolled, so that the centre does not fall on the other side of the globe
        shape = shapely.transform(shape, lambda xy: xy + (xy[:, :1] < 0) * [360.0, 0.0])
    lon, lat = float(shape.centroid.x), float(shape.centroid.y)
    return round(lon - 360 if lon > 180 else lon, 7), round(lat, 7)
