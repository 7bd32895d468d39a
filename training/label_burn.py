"""Burn labels into pixels, block by block of the grid, in bounded memory.

Every block is one fixed square of the grid, whoever asks for which part of it, so no box moves a pixel; and
of a file with a spatial index only the features of one block are in memory::

      features      ┌───────┬───────┐     box asked for
      ◇  ◇◇         │ ◇  ┌──┼────┐  │
         ◇   ──────►│    │◇ │    │  │──►  keys (y, x) of one block at a time
      ◇    ◇        ├────┼──┼────┼──┤
                    │    └──┼────┘  │

A key is weight x 256 + class. Burnt in rising order, the label of largest weight stays; where two classes
have that weight, the pixel is not annotated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_sources import (
    PolygonSource,
    Rule,
    crs_of,
    frame_of,
    known_labels,
    refuse_unknown,
    to_grid_crs,
)
from training.label_values import FULL_WEIGHT, LabelRaster, Labels

if TYPE_CHECKING:
    import geopandas as gpd

BLOCK_PX = 1024
"""Side of the blocks that are burnt at once; 2 MB of keys."""


@dataclass(frozen=True)
class Burnt:
    """What was burnt into one part of a box.

    Attributes:
        box: The part.
        values: (y, x) uint8: class values, 0 = not annotated.
        weights: (y, x) uint8: 0..250 = 0..1.
        contested: Pixels left out because labels of one weight contradict each other.
    """

    box: Box
    values: NDArray[np.uint8]
    weights: NDArray[np.uint8]
    contested: int


def burn(
    labels: Labels | PolygonSource,
    classes: ClassScheme,
    grid: Grid,
    box: Box,
    how: PolygonSource | None = None,
) -> Iterator[Burnt]:
    """Burn labels into a box of a grid, one block after the other.

    Args:
        labels: Labels in memory, or a file. Of a file with a spatial index (GeoPackage, FlatGeobuf,
            shapefile with .qix) the features of one block at a time are read.
        classes: Scheme.
        grid: Where the pixels lie.
        box: Which pixels.
        how: Pixel rule, inner buffer and background for labels in memory; default the source's own.

    Yields:
        The part of the box in each block of `BLOCK_PX` that labels touch; elsewhere nothing is annotated.

    Raises:
        InputError: If the file cannot be read, has unknown classes, or its CRS has no exact transformation.
    """
    rule = how or (labels if isinstance(labels, PolygonSource) else PolygonSource("labels", "value"))
    _require_metres(rule, grid)
    fill = _Background.of(rule, classes, grid)
    features = _features(labels, classes, grid, box, fill)
    for part in box.blocks(BLOCK_PX):
        block = part.snap_out(BLOCK_PX)
        here = features.near(block)
        if len(here) or fill:
            values, weights, contested = _burn_block(here, grid, block, rule, fill)
            if values.any() or contested.any():
                cut = part.slices_in(block)
                yield Burnt(part, values[cut], weights[cut], int(contested[cut].sum()))


class _Features:
    """Labels in memory, in the grid's CRS."""

    def __init__(self, frame: gpd.GeoDataFrame, grid: Grid) -> None:
        self.frame = to_grid_crs(frame, grid.crs)
        self.tree, self.grid = self.frame.sindex, grid

    def near(self, block: Box) -> gpd.GeoDataFrame:
        """Return the features whose box touches a block or the pixel around it."""
        from shapely import box as rectangle

        found = self.tree.query(rectangle(*self.grid.bounds_of_box(block.pad(1))))
        return self.frame.iloc[np.sort(found)]


class _Streamed:
    """Labels in an indexed file, read block by block."""

    def __init__(self, source: PolygonSource, classes: ClassScheme, grid: Grid, unknown: bool) -> None:
        from pyproj import Transformer

        self.source, self.classes, self.grid, self.unknown = source, classes, grid, unknown
        self.to_file = Transformer.from_crs(grid.crs, crs_of(source), always_xy=True)

    def near(self, block: Box) -> gpd.GeoDataFrame:
        """Read the features whose box touches a block or its surroundings."""
        bounds = self.grid.bounds_of_box(block.pad(max(2, BLOCK_PX // 64)))
        frame = frame_of(self.source, self.classes, self.to_file.transform_bounds(*bounds, densify_pts=21))
        refuse_unknown(self.source, self.classes, frame.loc[frame["value"] == 0, "label"])
        kept = frame if self.unknown else known_labels(frame, self.classes).frame
        return to_grid_crs(kept[kept.geometry.notna() & ~kept.geometry.is_empty], self.grid.crs)


def _features(
    labels: Labels | PolygonSource, classes: ClassScheme, grid: Grid, box: Box, fill: _Background | None
) -> _Features | _Streamed:
    if isinstance(labels, Labels):
        return _Features(labels.frame, grid)
    if is_indexed(labels) and box.area_px > BLOCK_PX**2:
        return _Streamed(labels, classes, grid, unknown=fill is not None)
    frame = frame_of(labels, classes)
    refuse_unknown(labels, classes, frame.loc[frame["value"] == 0, "label"])
    # Unknown features are no background: they hide it.
    kept = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    return _Features(kept if fill else known_labels(frame, classes).frame, grid)


def is_indexed(source: PolygonSource) -> bool:
    """Tell whether a file finds the features of a place without reading them all."""
    import pyogrio

    if source.xy or str(source.path).endswith(".parquet"):
        return False
    try:
        return bool(pyogrio.read_info(source.path, layer=source.layer)["capabilities"]["fast_spatial_filter"])
    except Exception:  # what cannot be opened is told by the reading itself
        return False


def _require_metres(rule: PolygonSource, grid: Grid) -> None:
    from pyproj import CRS

    if rule.inner_buffer_m and CRS.from_user_input(grid.crs).is_geographic:
        raise InputError(
            "an inner buffer in metres needs a grid in metres",
            where="labels.inner_buffer_m",
            found=grid.crs[:40],
            mend="give the grid a projected crs",
        )


def _burn_block(
    frame: gpd.GeoDataFrame, grid: Grid, block: Box, rule: PolygonSource, fill: _Background | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    known = frame[(frame["value"].to_numpy() != 0) & (frame["weight"].to_numpy() > 0)]
    shapes = _Shapes.of(shrunk(known.geometry.to_numpy(), rule.inner_buffer_m), _keys(known))
    high = shapes.burn(shapes.keys, grid, block, rule.rule)
    contested = _contested(high, shapes, grid, block, rule.rule)
    high[contested] = 0
    values, weights = (high & 0xFF).astype(np.uint8), (high >> 8).astype(np.uint8)
    if fill:
        fill.paint(values, weights, frame, grid, block)
    return values, weights, contested


def shrunk(geometry: NDArray[Any], inner_buffer_m: float) -> NDArray[Any]:
    """Shrink polygons; what is no polygon stays, and what vanishes is empty."""
    import shapely

    if not inner_buffer_m or not len(geometry):
        return geometry
    polygons = shapely.get_dimensions(geometry) == 2
    found = geometry.copy()
    found[polygons] = shapely.buffer(geometry[polygons], -inner_buffer_m)
    return found


def _keys(frame: gpd.GeoDataFrame) -> NDArray[np.uint16]:
    """Return weight x 256 + class of each label; any weight above zero counts at least a little."""
    steps = np.maximum(1, np.rint(frame["weight"].to_numpy(float) * FULL_WEIGHT)).astype(np.uint16)
    return steps << 8 | frame["value"].to_numpy().astype(np.uint16)


def _contested(
    high: NDArray[np.uint16], shapes: _Shapes, grid: Grid, block: Box, rule: Rule
) -> NDArray[np.bool_]:
    """Find pixels that two classes claim with one weight: the other order of classes changes them.

    Only features whose boxes come within a pixel of one of another key are burnt again.
    """
    rivals = shapes.rivals(max(grid.resolution_yx))
    if not rivals.any():
        return np.zeros(block.shape_yx, bool)
    low = shapes[rivals].burn(shapes.keys[rivals] ^ np.uint16(0xFF), grid, block, rule)
    difference = (low ^ 0xFF) ^ high
    found: NDArray[np.bool_] = (low != 0) & (difference != 0) & (difference < 0x100)
    return found


@dataclass(frozen=True)
class _Shapes:
    """Features as rasterio takes them, made once and burnt in several orders.

    Attributes:
        geojson: Objects; empty geometries are left out.
        keys: uint16 each.
        bounds: (n, 4).
    """

    geojson: NDArray[Any]
    keys: NDArray[np.uint16]
    bounds: NDArray[np.float64]

    @classmethod
    def of(cls, geometry: NDArray[Any], keys: NDArray[np.uint16]) -> _Shapes:
        import shapely

        there = ~shapely.is_empty(geometry)
        geometry = geometry[there]
        objects = np.empty(len(geometry), object)
        surfaces = np.isin(shapely.get_type_id(geometry), (3, 6))
        objects[surfaces] = _surfaces(geometry[surfaces])
        for i in np.flatnonzero(~surfaces):
            objects[i] = shapely.geometry.mapping(geometry[i])
        return cls(objects, keys[there], shapely.bounds(geometry))

    def __getitem__(self, which: NDArray[np.bool_]) -> _Shapes:
        return _Shapes(self.geojson[which], self.keys[which], self.bounds[which])

    def burn(self, keys: NDArray[np.uint16], grid: Grid, block: Box, rule: Rule) -> NDArray[np.uint16]:
        """Burn keys in rising order, the last one stays: (y, x) uint16."""
        from affine import Affine
        from rasterio.features import rasterize

        out = np.zeros(block.shape_yx, np.uint16)
        order = np.argsort(keys, kind="stable")
        if len(order):
            pairs = zip(self.geojson[order].tolist(), keys[order].tolist(), strict=True)
            transform = Affine(*grid.transform_of(block))
            rasterize(pairs, out=out, transform=transform, all_touched=rule == "all_touched")
        return out

    def rivals(self, pixel: float) -> NDArray[np.bool_]:
        """Tell which features come within a pixel of one of another key, by their boxes."""
        import shapely

        rivals = np.zeros(len(self.keys), bool)
        if len(self.keys) < 2 or (self.keys == self.keys[0]).all():
            return rivals
        boxes = shapely.box(*(self.bounds + np.array([-pixel, -pixel, pixel, pixel]) / 2).T)
        one, other = shapely.STRtree(boxes).query(boxes)
        rivals[one[self.keys[one] != self.keys[other]]] = True
        return rivals


def _surfaces(geometry: NDArray[Any]) -> NDArray[Any]:
    """Write polygons and multipolygons as GeoJSON, several times as fast as one by one."""
    import shapely

    found = np.empty(len(geometry), object)
    if not len(geometry):
        return found
    parts, of = shapely.get_parts(shapely.force_2d(geometry), return_index=True)
    _, points, offsets = shapely.to_ragged_array(shapely.multipolygons(parts, indices=of))
    rings, polygons, features = (o.tolist() for o in offsets)
    xy = points.tolist()
    for i in range(len(geometry)):
        found[i] = {
            "type": "MultiPolygon",
            "coordinates": [
                [xy[rings[r] : rings[r + 1]] for r in range(polygons[p], polygons[p + 1])]
                for p in range(features[i], features[i + 1])
            ],
        }
    return found


@dataclass(frozen=True)
class _Background:
    """A class for what no feature claims, within the places where everything is annotated."""

    value: int
    places: tuple[Any, ...]
    weight: int

    @classmethod
    def of(cls, rule: PolygonSource, classes: ClassScheme, grid: Grid) -> _Background | None:
        if rule.background is None and rule.complete is None:
            return None
        value = classes.lookup().get(str(rule.background), 0)
        if not value or rule.complete is None:
            raise InputError(
                "a background needs its class and the places in which everything is annotated",
                where="labels.background",
                found=f"background {rule.background}, complete {rule.complete}",
                limit=f"one of {classes.names} and a vector file",
                mend="without both, what no feature claims is not annotated",
            )
        import geopandas as gpd

        try:
            places = to_grid_crs(gpd.read_file(rule.complete), grid.crs).geometry
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                "cannot read the completely annotated places", where=str(rule.complete), mend=str(error)
            ) from error
        return cls(value, tuple(places[places.notna() & ~places.is_empty]), round(rule.weight * FULL_WEIGHT))

    def paint(
        self,
        values: NDArray[np.uint8],
        weights: NDArray[np.uint8],
        frame: gpd.GeoDataFrame,
        grid: Grid,
        block: Box,
    ) -> None:
        """Give the background to pixels whose centre lies in a complete place and that nothing touches."""
        inside = mask(np.array(self.places, object), grid, block, "centre")
        touched = mask(frame.geometry.to_numpy(), grid, block, "all_touched")
        free = inside & ~touched & (values == 0)
        values[free], weights[free] = self.value, self.weight


def mask(geometry: NDArray[Any], grid: Grid, block: Box, rule: Rule) -> NDArray[np.bool_]:
    """Return the pixels of a block that any geometry takes."""
    ones = np.ones(len(geometry), np.uint16)
    found: NDArray[np.bool_] = _Shapes.of(geometry, ones).burn(ones, grid, block, rule) != 0
    return found


def gather_blocks(parts: Iterator[Burnt], box: Box, classes: ClassScheme, source: str) -> LabelRaster:
    """Lay burnt parts side by side."""
    values = np.zeros(box.shape_yx, np.uint8)
    weights: NDArray[np.uint8] | None = None
    contested = 0
    for part in parts:
        where = part.box.slices_in(box)
        values[where] = part.values
        contested += part.contested
        if weights is None and ((part.values != 0) & (part.weights != FULL_WEIGHT)).any():
            weights = np.where(values != 0, np.uint8(FULL_WEIGHT), np.uint8(0))
        if weights is not None:
            weights[where] = part.weights
    return LabelRaster(values, box, classes, weights, None, (source,), contested)
