"""Parcels of the simulated territory: blocks between roads, split again and again into fields.

::

    ┌─────────────┬───────┐      a block (Voronoi cell) is split across its longer side,
    │      1      │   3   │      each part again, until the parts have the size of a field;
    │             ├───────┤      at last all vertices are bent by one smooth displacement,
    ├──────┬──────┤   4   │      so that roads and field edges curve together.
    │  2   │  5   │       │
    └──────┴──────┴───────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipelines.sample.noise import stream, wave_field

Points = NDArray[np.float64]

_BLOCK_M = 1000.0  # spacing of the blocks
_FIELD_HA = 5.4  # median field size
_FIELD_SPREAD = 0.7  # of the logarithm
_BEND_M = 34.0  # standard deviation of the displacement along each axis


@dataclass(frozen=True)
class Parcels:
    """Fields and the blocks that they lie in.

    Attributes:
        fields: (n,) shapely polygons in CRS metres, clipped to the canvas.
        block_of: (n,) int64, the block of each field.
        blocks: (m,) shapely polygons, which reach beyond the canvas.
    """

    fields: NDArray[Any]
    block_of: NDArray[np.int64]
    blocks: NDArray[Any]


def make_parcels(seed: int, bounds_xyxy: tuple[float, float, float, float]) -> Parcels:
    """Divide a rectangle into blocks and fields.

    Args:
        seed: Seed of the archive.
        bounds_xyxy: Left, bottom, right, top in CRS metres.

    Returns:
        Fields that cover the rectangle but for slivers below a metre.
    """
    rng = stream(seed, "parcels")
    cells = _blocks(rng, bounds_xyxy)
    fields: list[Points] = []
    block_of: list[int] = []
    for number, cell in enumerate(cells):
        ring = shapely.get_coordinates(cell)[:-1]
        angle = rng.uniform(0, np.pi)
        parts = _split(rng, ring, angle)
        fields += parts
        block_of += [number] * len(parts)
    polygons = shapely.polygons([shapely.linearrings(f) for f in fields])
    canvas = shapely.box(*bounds_xyxy)
    bent = shapely.intersection(_bend(seed, polygons), canvas)
    kept = shapely.area(bent) > 2000  # what is left at the rim below 0.2 ha joins its neighbour
    return Parcels(bent[kept], np.array(block_of)[kept], _bend(seed, cells))


def _blocks(rng: np.random.Generator, bounds_xyxy: tuple[float, float, float, float]) -> NDArray[Any]:
    """Make the Voronoi cells of a jittered grid that reaches beyond the rectangle."""
    left, bottom, right, top = bounds_xyxy
    x = np.arange(left - 2 * _BLOCK_M, right + 2 * _BLOCK_M, _BLOCK_M)
    y = np.arange(bottom - 2 * _BLOCK_M, top + 2 * _BLOCK_M, _BLOCK_M)
    seeds = np.stack(np.meshgrid(x, y), axis=-1)
    seeds[1::2, :, 0] += _BLOCK_M / 2
    seeds = (seeds + rng.uniform(-0.38, 0.38, seeds.shape) * _BLOCK_M).reshape(-1, 2)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(seeds)))
    near = shapely.box(left - 300, bottom - 300, right + 300, top + 300)
    cells = cells[shapely.intersects(cells, near)]
    # The order of Voronoi cells is GEOS's affair: sort by place.
    centre = shapely.get_coordinates(shapely.centroid(cells))
    return np.asarray(cells[np.lexsort((centre[:, 0].round(), centre[:, 1].round()))])


def _split(rng: np.random.Generator, ring: Points, angle: float) -> list[Points]:
    """Split a convex ring into fields, across the longer extent in the block's own direction."""
    fields, todo = [], [ring]
    while todo:
        ring = todo.pop()
        area_ha = _area(ring) / 1e4
        target_ha = np.clip(rng.lognormal(np.log(_FIELD_HA), _FIELD_SPREAD), 0.9, 26.0)
        if area_ha < 1.5 * target_ha:
            fields.append(ring)
            continue
        turn = angle + rng.normal(0, 0.06)
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        extent = np.ptp(ring @ axes.T, axis=0)
        # Fields are longer than wide: an across-split is less likely than the extents alone would say.
        axis = axes[int(extent[1] * rng.uniform(0.75, 2.2) > extent[0])]
        along = ring @ axis
        cut = along.min() + np.ptp(along) * rng.uniform(0.36, 0.64)
        todo += [_clip(ring, axis, cut), _clip(ring, -axis, -cut)]
    return fields


def _clip(ring: Points, axis: Points, cut: float) -> Points:
    """Keep the part of a convex ring where ``point . axis <= cut`` (Sutherland and Hodgman 1974)."""
    side = ring @ axis - cut
    kept = []
    for i in range(len(ring)):
        j = (i + 1) % len(ring)
        if side[i] <= 0:
            kept.append(ring[i])
        if (side[i] < 0 < side[j]) or (side[j] < 0 < side[i]):
            kept.append(ring[i] + (ring[j] - ring[i]) * (side[i] / (side[i] - side[j])))
    return np.array(kept)


def _area(ring: Points) -> float:
    """Return the area of a ring (shoelace formula)."""
    x, y = ring[:, 0], ring[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _bend(seed: int, geometries: NDArray[Any]) -> NDArray[Any]:
    """Move all vertices by one smooth displacement, after adding vertices every 50 m."""
    wave_x = wave_field(stream(seed, "bend", 0), (900, 4000))
    wave_y = wave_field(stream(seed, "bend", 1), (900, 4000))
    dense = shapely.segmentize(geometries, 50.0)
    return np.asarray(
        shapely.transform(dense, lambda xy: xy + _BEND_M * np.stack([wave_x(xy), wave_y(xy)], axis=-1))
    )
