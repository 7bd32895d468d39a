"""Coverage: how often the scenes of a search see each place of an area.

Footprints are burnt into a coarse grid of an equal-area CRS centred on the area, so that a share of the
cells is a share of the ground::

      overpass 1        overpass 2         observations
     ┌───┬───┐            ┌───┬───┐       ┌───┬───┬───┐
     │ 1 │ 1 │      +     │ 1 │ 1 │   =   │ 1 │ 2 │ 1 │     a cell is seen where its centre is
     └───┴───┘            └───┴───┘       └───┴───┴───┘

Scenes of one overpass are one observation, however many tiles overlap there. Clouds are not looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord, ItemTable
from engine.values.area import Area
from engine.values.grid import Box, Grid, normal_crs

CELLS = 160
"""Cells along the longer side of an area, about."""


@dataclass(frozen=True)
class Coverage:
    """How often each cell of an area is seen.

    Attributes:
        grid: Equal-area grid.
        box: Its cells that hold the area.
        inside: (y, x) bool, cells whose centre lies in the area.
        observations: (y, x) uint16, overpasses that see the cell, also outside the area.
    """

    grid: Grid
    box: Box
    inside: NDArray[np.bool_]
    observations: NDArray[np.uint16]

    @property
    def cell_m(self) -> float:
        """Side of a cell in metres."""
        return self.grid.resolution_yx[0]

    def share(self, at_least: int) -> float:
        """Return the share of the area that is seen at least so often, 0..1."""
        return float((self.observations[self.inside] >= at_least).mean())

    def percentiles(self, percents: Sequence[float]) -> list[int]:
        """Return observations per place: the number that so many percent of the area do not exceed."""
        seen = self.observations[self.inside]
        return [int(v) for v in np.percentile(seen, percents, method="lower")]


def coverage(items: ItemTable, area: Area, cells: int = CELLS) -> Coverage:
    """Count the overpasses that see each place of an area.

    Args:
        items: The scenes.
        area: The outline.
        cells: Cells along its longer side, about.
    """
    import shapely

    crs = equal_area_crs(area)
    outline = area.to_crs(crs)
    left, bottom, right, top = outline.bounds
    grid = Grid.make(crs, cell_size_m(max(right - left, top - bottom), cells))
    box = grid.box_of_bounds(outline.bounds)
    y, x = grid.centres(box)
    inside = shapely.contains_xy(outline, *np.meshgrid(x, y))
    if not inside.any():  # an area thinner than a cell: the cells that it touches
        inside = np.ones(box.shape_yx, np.bool_)
    ordered = sorted(items, key=_overpass)
    groups = (_projected(g, crs) for _, g in itertools.groupby(ordered, key=_overpass))
    return Coverage(grid, box, inside, count_cover(groups, grid.transform_of(box), box.shape_yx))


def count_cover(
    groups: Iterable[Sequence[Any]],
    transform: tuple[float, float, float, float, float, float],
    shape_yx: tuple[int, int],
) -> NDArray[np.uint16]:
    """Count the groups of shapes that hold each cell's centre.

    Args:
        groups: Shapely polygons in the grid's CRS; a group counts once.
        transform: Affine coefficients ``(a, b, c, d, e, f)`` of the array.
        shape_yx: Height and width.

    Returns:
        (y, x) uint16.

    >>> import shapely
    >>> two = [[shapely.box(0, 0, 2, 1)], [shapely.box(1, 0, 2, 1), shapely.box(1, 0, 3, 1)]]
    >>> count_cover(two, (1, 0, 0, 0, -1, 1), (1, 3)).tolist()
    [[1, 2, 1]]
    """
    from affine import Affine
    from rasterio.features import rasterize

    total = np.zeros(shape_yx, np.uint16)
    for shapes in groups:
        if shapes:
            total += rasterize(
                shapes, shape_yx, fill=0, transform=Affine(*transform), dtype="uint8", default_value=1
            )
    return total


def equal_area_crs(area: Area) -> str:
    """Return a Lambert azimuthal equal-area CRS centred on an area, as WKT2.

    >>> "Lambert Azimuthal Equal Area" in equal_area_crs(Area.from_bbox((177, -20, -178, -15)))
    True
    """
    from pyproj import Transformer

    near = area.default_crs()  # there even an area across the antimeridian is in one piece
    middle = area.to_crs(near).centroid
    lon, lat = Transformer.from_crs(near, "EPSG:4326", always_xy=True).transform(middle.x, middle.y)
    return normal_crs(f"+proj=laea +lat_0={lat:.2f} +lon_0={lon:.2f} +datum=WGS84 +units=m +type=crs")


def cell_size_m(extent_m: float, cells: int) -> float:
    """Return a round cell size (1, 2 or 5 times a power of ten) that makes at most so many cells.

    >>> [cell_size_m(e, 160) for e in (8_000, 80_000, 1_000_000)]
    [50.0, 500.0, 10000.0]
    """
    least = extent_m / cells
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _overpass(item: ItemRecord) -> str:
    return item.datatake or f"{item.platform} {item.datetime:%Y-%m-%d} {item.relative_orbit}"


def _projected(items: Iterable[ItemRecord], crs: str) -> list[Any]:
    """Move footprints into the grid's CRS, their edges cut finely so that they bend rightly."""
    import shapely

    from engine.archive.footprints import from_degrees

    shapes = shapely.from_wkb(sorted({item.geometry_wkb for item in items}))
    moved = from_degrees(shapely.segmentize(shapes, 0.05), crs)
    return [shape for shape in moved if not shape.is_empty and np.isfinite(shape.bounds).all()]
