"""The UTM zones of the simulated territory: the meridian between two zones runs through it.

The land is made once, on the canvas, which lies on the grid of the eastern zone. Tiles of the western zone
have pixels of their own zone, turned against the canvas by twice the grid convergence (4.5 degrees here)::

              12 E
      ┌─────────┼──────────────┐   canvas, EPSG:32633
      │ ┌╌╌╌╌╌╌╌┼╌┐            │
      │ ╎ 32XAA │ ╎            │   each zone has two tiles, one above the other, which overlap by a tenth;
      │ ├╌╌╌╌╌╌╌┼╌┤            │   the zones overlap around the meridian
      │ ╎ 32XAB │ ╎            │
      └─┴╌╌╌╌╌╌╌┼╌┴────────────┘

Every pixel of the western tiles takes the land under its own centre, and clouds and swaths at its own place,
so that both zones see one ground under one sky; the noise is each pixel's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numba
import numpy as np
import shapely
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.sample.noise import Float
from pipelines.sample.sky import Scene, Sky, in_swath
from pipelines.sample.truth import EDGE_M, EPSG, MERIDIAN_DEG, Landscape

Number = TypeVar("Number", bound=np.generic)

HOME = EPSG % 100
"""UTM zone of the canvas."""
ZONES = (32, HOME)
_OVERLAP_SHARE = 0.025  # of the canvas, to each side of the meridian
_TILE_SHARE = 1.9  # tiles per height, so that two of them overlap by about a tenth


@dataclass(frozen=True)
class Place:
    """Where the pixels of a sheet lie on the canvas.

    Attributes:
        rows: (y, x) float32, row of each pixel's centre in canvas pixels; 0.5 is the middle of the first.
        cols: (y, x) float32, the same for columns.
    """

    rows: Float
    cols: Float

    def nearest(self, values: NDArray[Number]) -> NDArray[Number]:
        """Take the canvas pixel that holds each centre, or the nearest one on its edge."""
        rows, cols = (
            np.clip(np.floor(p), 0, n - 1).astype(np.int32)
            for p, n in zip((self.rows, self.cols), values.shape[-2:], strict=True)
        )
        return values[..., rows, cols]

    def bilinear(self, values: Float) -> Float:
        """Interpolate a canvas map (y, x) at each centre; flat beyond its outermost centres."""
        out = np.empty(self.rows.shape, np.float32)
        _bilinear(np.ascontiguousarray(values), self.rows, self.cols, out)
        return out

    def inside(self, shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
        """Mark the pixels whose centre lies on the canvas."""
        height, width = shape_yx
        on = (self.rows >= 0) & (self.rows < height) & (self.cols >= 0)
        return np.asarray(on & (self.cols < width))


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _bilinear(values: Float, rows: Float, cols: Float, out: Float) -> None:
    height, width = values.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            row = min(max(rows[y, x] - np.float32(0.5), np.float32(0)), np.float32(height - 1))
            col = min(max(cols[y, x] - np.float32(0.5), np.float32(0)), np.float32(width - 1))
            i, j = min(int(row), max(height - 2, 0)), min(int(col), max(width - 2, 0))
            k, m = min(i + 1, height - 1), min(j + 1, width - 1)
            dy, dx = row - np.float32(i), col - np.float32(j)
            upper = values[i, j] + (values[i, m] - values[i, j]) * dx
            lower = values[k, j] + (values[k, m] - values[k, j]) * dx
            out[y, x] = upper + (lower - upper) * dy


@dataclass(frozen=True)
class Sheet:
    """The part of the canvas that the tiles of one zone show.

    Attributes:
        zone: UTM zone.
        canvas: The whole land.
        land: The land on the sheet's own pixels.
        place: Where these lie on the canvas; None for the canvas's own zone, whose pixels are the canvas's.
    """

    zone: int
    canvas: Landscape
    land: Landscape
    place: Place | None

    @property
    def epsg(self) -> int:
        """EPSG code of the zone."""
        return EPSG - HOME + self.zone

    @property
    def tiles(self) -> dict[str, Box]:
        """The tiles of the zone by name: pixels at 10 m."""
        return tile_boxes(self.zone, self.land.box)

    def sky(self, sky: Sky) -> Sky:
        """Return the canvas's sky over the sheet's pixels."""
        maps = (getattr(sky, f.name) for f in dataclasses.fields(Sky))
        return Sky(*(self._map(m) for m in maps))

    def _map(self, values: Float) -> Float:
        if self.place is None:
            return values[self.land.box.slices_in(self.canvas.box)]
        if not values.any():
            return np.zeros(self.place.rows.shape, np.float32)
        return self.place.bilinear(values)

    def seen(self, scene: Scene) -> NDArray[np.bool_]:
        """Mark the pixels that lie on the canvas and in the swath: (y, x) bool."""
        if self.place is None:
            y, x = self.land.grid.centres(self.land.box)
            return in_swath(self.canvas, scene, y[:, None], x[None, :])
        left, _, _, top = self.canvas.bounds
        x, y = left + 10.0 * self.place.cols.astype(float), top - 10.0 * self.place.rows.astype(float)
        return in_swath(self.canvas, scene, y, x) & self.place.inside(self.canvas.truth.shape)


def tile_boxes(zone: int, sheet: Box) -> dict[str, Box]:
    """Lay two tiles over a sheet, one above the other, overlapping by about a tenth of their height.

    Real Sentinel-2 tiles are 109.8 km high and overlap by 9.8 km. No squares of these names exist.

    >>> {k: (b.y0, b.y1) for k, b in tile_boxes(33, Box(0, 0, 2052, 1300)).items()}
    {'33XAA': (0, 1080), '33XAB': (972, 2052)}
    """
    step = EDGE_M // 10
    height = round((sheet.y1 - sheet.y0) / step / _TILE_SHARE) * step
    return {
        f"{zone}XAA": Box(sheet.y0, sheet.x0, sheet.y0 + height, sheet.x1),
        f"{zone}XAB": Box(sheet.y1 - height, sheet.x0, sheet.y1, sheet.x1),
    }


def make_sheets(canvas: Landscape, zones: tuple[int, ...] = ZONES) -> tuple[Sheet, ...]:
    """Divide the canvas between zones, each a little beyond the meridian; a single zone has it all.

    Args:
        canvas: The whole land.
        zones: UTM zones, of `ZONES`.

    Raises:
        InputError: If the canvas's own zone is not among them, or another one is.
    """
    if HOME not in zones or not set(zones) <= set(ZONES):
        raise InputError("cannot make these zones", where="zones", found=zones, limit=f"{HOME}, or {ZONES}")
    parts = {zone: sheet_box(canvas, zone, whole=len(zones) == 1) for zone in zones}
    return tuple(_sheet(canvas, zone, *parts[zone]) for zone in sorted(zones))


def sheet_box(canvas: Landscape, zone: int, *, whole: bool) -> tuple[Grid, Box]:
    """Return a zone's 10 m grid and the box of its part of the canvas, or of the whole canvas."""
    if whole and zone == HOME:
        return canvas.grid, canvas.box
    outline = shapely.segmentize(shapely.box(*canvas.bounds), 500.0)
    if not whole:
        west, _, east, _ = shapely.transform(outline, mover(EPSG, 4326)).bounds
        reach = _OVERLAP_SHARE * (east - west)
        half = (-180, -90, MERIDIAN_DEG + reach, 90) if zone < HOME else (MERIDIAN_DEG - reach, -90, 180, 90)
        degrees = shapely.intersection(shapely.transform(outline, mover(EPSG, 4326)), shapely.box(*half))
        outline = shapely.transform(degrees, mover(4326, EPSG))
    epsg = EPSG - HOME + zone
    grid = Grid.make(f"EPSG:{epsg}", 10)
    bounds = shapely.transform(outline, mover(EPSG, epsg)).bounds if zone != HOME else outline.bounds
    box = grid.box_of_bounds(bounds).snap_out(EDGE_M // 10)
    return grid, box & canvas.box if zone == HOME else box


def place_of(canvas: Landscape, grid: Grid, box: Box) -> Place:
    """Find the pixels of another zone on the canvas, each by its own centre.

    Args:
        canvas: The land, whose pixels are 10 m wide.
        grid: Grid of the other zone, of any pixel size.
        box: Pixels of it.
    """
    from pyproj import Transformer

    y, x = grid.centres(box)
    left, _, _, top = canvas.bounds
    moved = Transformer.from_crs(grid.crs, canvas.grid.crs, always_xy=True).transform(*np.meshgrid(x, y))
    rows, cols = (top - moved[1]) / 10.0, (moved[0] - left) / 10.0
    return Place(rows.astype(np.float32), cols.astype(np.float32))


def _sheet(canvas: Landscape, zone: int, grid: Grid, box: Box) -> Sheet:
    if zone == HOME:
        at = box.slices_in(canvas.box)
        land = dataclasses.replace(
            canvas,
            box=box,
            truth=canvas.truth[at],
            unit=canvas.unit[at],
            margin=canvas.margin[at],
            vigour=canvas.vigour[:, *at],
            soil=canvas.soil[at],
        )
        return Sheet(zone, canvas, land, None)
    place = place_of(canvas, grid, box)
    land = dataclasses.replace(
        canvas,
        grid=grid,
        box=box,
        truth=place.nearest(canvas.truth),
        unit=place.nearest(canvas.unit),
        margin=place.nearest(canvas.margin),
        vigour=np.stack([place.bilinear(v) for v in canvas.vigour]),
        soil=place.bilinear(canvas.soil),
    )
    return Sheet(zone, canvas, land, place)


def mover(source: int | str, target: int | str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return a function that moves (n, 2) x, y from one CRS to another."""
    from pyproj import Transformer

    move = Transformer.from_crs(source, target, always_xy=True).transform
    return lambda xy: np.stack(move(xy[:, 0], xy[:, 1]), axis=1)
