"""The known truth of the simulated archive: what grows or stands in each 10 m pixel.

Fields get their crops from smooth random preferences, so that the mixture changes over the
territory; forest, hedges, roads, settlements and water are laid over them in that order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.sample.noise import Float, power_noise, stream, wave_field
from pipelines.sample.parcels import Parcels, make_parcels

EPSG = 32633
"""Grid of the canvas: truth and labels lie on it."""
MERIDIAN_DEG = 12.0
"""The boundary between UTM zones 32 and 33, which runs through the territory."""
EDGE_M = 60
"""All edges lie on multiples of the coarsest pixel, so that the three resolutions share corners."""
_BOTTOM_M = 5_300_040
_WEST_SHARE = (
    0.36  # of the canvas lies west of the boundary, so that the territory's own zone is the eastern one
)
_SMALLEST_M = 1_200

# Class, colour, parent, wanted share of the farmland in percent (None: not grown on fields).
_CLASSES: tuple[tuple[str, str, str, float | None], ...] = (
    ("winter wheat", "#e0b34a", "cropland", 22.0),
    ("winter barley", "#c98f2e", "cropland", 10.0),
    ("winter rapeseed", "#f4e22b", "cropland", 10.0),
    ("maize", "#f08a1d", "cropland", 17.0),
    ("sugar beet", "#b5379b", "cropland", 7.0),
    ("potato", "#8c564b", "cropland", 5.0),
    ("sunflower", "#ffcf9e", "cropland", 6.0),
    ("alfalfa", "#2fb6a0", "cropland", 6.0),
    ("grassland", "#9bd45a", "grassland", 15.5),
    ("flax", "#6f86e8", "cropland", 1.5),
    ("forest", "#1f6b2d", "forest", None),
    ("water", "#2a6fd6", "water", None),
    ("built-up", "#8a8a8a", "built-up", None),
)
SCHEME = ClassScheme(
    classes=tuple(
        LandClass(value=i + 1, name=name, colour=colour, parent=parent)
        for i, (name, colour, parent, _) in enumerate(_CLASSES)
    )
)
"""Classes of the simulated territory."""
GRASSLAND, FOREST, WATER, BUILT_UP = (
    SCHEME.names.index(n) + 1 for n in ("grassland", "forest", "water", "built-up")
)
CROPS = tuple(i + 1 for i, row in enumerate(_CLASSES) if row[3] is not None)
"""Values of the classes that are grown on fields, 1..n without a gap."""
_WANTED = np.array([row[3] for row in _CLASSES if row[3] is not None])
_FOREST_SHARE = 0.20


@dataclass(frozen=True)
class Landscape:
    """The truth, and what the spectra need beyond it.

    A *unit* is a set of pixels with one spectrum per date: a field, a forest stand, a quarter of a
    settlement. With n fields, unit i is field i, n + i the forest and 2n + i the built-up land on
    the parcel of field i; then follow river, lake, road and hedge.

    Attributes:
        seed: Seed of the archive.
        grid: 10 m grid.
        box: Pixels of the canvas.
        truth: (y, x) uint8, class values, no 0.
        unit: (y, x) int32.
        margin: (y, x) float32, share of a pixel that is grassy field margin, 0..0.4.
        vigour: (2, y, x) float32, two textures of unit variance for how well plants grow.
        soil: (y, x) float32, texture of unit variance for the soil's brightness.
        parcels: Field and block polygons.
        crop: (n,) uint8, class value of each field.
        share: (n,) float64, part of each field's parcel that no forest, road or house covers.
    """

    seed: int
    grid: Grid
    box: Box
    truth: NDArray[np.uint8]
    unit: NDArray[np.int32]
    margin: Float
    vigour: Float
    soil: Float
    parcels: Parcels
    crop: NDArray[np.uint8]
    share: NDArray[np.float64]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in metres."""
        return self.grid.bounds_of_box(self.box)


def canvas(size_m: int) -> tuple[Grid, Box]:
    """Return the 10 m grid and the pixels of the territory's square, widened to whole 60 m pixels.

    >>> canvas(2560)[1].shape_yx
    (258, 258)

    Raises:
        InputError: If the side is too small to hold two overlapping tiles.
    """
    if size_m < _SMALLEST_M:
        raise InputError(
            "sample territory is too small", where="size_m", found=f"{size_m} m", limit=f">= {_SMALLEST_M} m"
        )
    side_m = math.ceil(size_m / EDGE_M) * EDGE_M
    grid = Grid.make(f"EPSG:{EPSG}", 10)
    left_m = EDGE_M * round((_boundary_x_m(_BOTTOM_M + side_m / 2) - _WEST_SHARE * side_m) / EDGE_M)
    return grid, grid.box_of_bounds((left_m, _BOTTOM_M, left_m + side_m, _BOTTOM_M + side_m))


def _boundary_x_m(y_m: float) -> float:
    """Return where the boundary between the zones crosses a northing of the canvas's zone."""
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(f"EPSG:{EPSG}", "EPSG:4326", always_xy=True)
    latitude = to_degrees.transform(275_000.0, y_m)[
        1
    ]  # a kilometre to the side changes it by a metre's worth
    return float(to_degrees.transform(MERIDIAN_DEG, latitude, direction="INVERSE")[0])


def make_landscape(seed: int, size_m: int) -> Landscape:
    """Make the whole truth from a seed.

    Args:
        seed: Seed of the archive.
        size_m: Side of the territory's square in metres.

    Raises:
        InputError: If the side is too small.
    """
    grid, box = canvas(size_m)
    parcels = make_parcels(seed, grid.bounds_of_box(box))
    parcel = _burn_parcels(parcels, grid, box)
    n = len(parcels.fields)
    unit = parcel.copy()
    _lay_forest(seed, unit, parcel, n)
    _lay_lines(seed, unit, parcels, grid, box)
    _lay_settlements(seed, unit, parcel, n)
    _lay_water(seed, unit, n)
    size = np.bincount(parcel.ravel(), minlength=n)
    free = np.bincount(unit[unit < n], minlength=n)
    crop = _sow(seed, parcels, free)
    kind = np.concatenate([crop, np.full(n, FOREST), np.full(n, BUILT_UP), [WATER, WATER, BUILT_UP, FOREST]])
    house = unit // n == 2
    return Landscape(
        seed=seed,
        grid=grid,
        box=box,
        truth=kind.astype(np.uint8)[unit],
        unit=unit,
        margin=_margins(seed, unit, n),
        vigour=_vigour(seed, house),
        soil=power_noise(stream(seed, "soil"), unit.shape, 10, 2.8, (60, 2500)),
        parcels=parcels,
        crop=crop,
        share=free / np.maximum(size, 1),
    )


def burn(shapes: list[tuple[Any, int]], grid: Grid, box: Box, fill: int = -1) -> NDArray[np.int32]:
    """Write the value of the polygon that holds each pixel centre.

    Args:
        shapes: Polygons in the grid's CRS with their values; later ones win.
        grid: Grid of the array.
        box: Pixels of the array.
        fill: Value where there is no polygon.

    Returns:
        (y, x) int32.
    """
    from affine import Affine
    from rasterio.features import rasterize

    transform = Affine(*grid.transform_of(box))
    if not shapes:
        return np.full(box.shape_yx, fill, np.int32)
    burnt = rasterize(shapes, out_shape=box.shape_yx, transform=transform, fill=fill, dtype="int32")
    return np.asarray(burnt, np.int32)


def _burn_parcels(parcels: Parcels, grid: Grid, box: Box) -> NDArray[np.int32]:
    """Number the parcel of each pixel; the few pixels in slivers take a neighbour's."""
    from scipy.ndimage import maximum_filter

    parcel = burn([(f, i) for i, f in enumerate(parcels.fields)], grid, box)
    while (hole := parcel < 0).any():
        parcel[hole] = maximum_filter(parcel, size=3)[hole]
    return parcel


def _lay_forest(seed: int, unit: NDArray[np.int32], parcel: NDArray[np.int32], n: int) -> None:
    """Cover the high places of a smooth noise with forest, whose edge often follows the parcels."""
    noise = power_noise(stream(seed, "forest"), unit.shape, 10, 3.2, (90, 7000))
    noise += 0.05 * power_noise(stream(seed, "forest edge"), unit.shape, 10, 1.5, (50, 300))
    forest = noise > np.quantile(noise[::4, ::4], 1 - _FOREST_SHARE)
    unit[_follow_parcels(forest, parcel, n)] += n


def _follow_parcels(
    patch: NDArray[np.bool_], parcel: NDArray[np.int32], n: int, limits: tuple[float, float] = (0.2, 0.7)
) -> NDArray[np.bool_]:
    """Clear parcels that a patch covers by less than the lower share; fill those above the upper one."""
    share = np.bincount(parcel[patch], minlength=n) / np.maximum(np.bincount(parcel.ravel(), minlength=n), 1)
    return np.asarray((patch & (share > limits[0])[parcel]) | (share > limits[1])[parcel])


def _lay_lines(seed: int, unit: NDArray[np.int32], parcels: Parcels, grid: Grid, box: Box) -> None:
    """Draw hedges and roads along some of the block borders."""
    import shapely

    rng = stream(seed, "lines")
    what = rng.random(len(parcels.blocks))
    rings = shapely.boundary(parcels.blocks)
    hedges = shapely.buffer(rings[what < 0.18], rng.uniform(6, 11, int((what < 0.18).sum())))
    roads = shapely.buffer(rings[what > 0.62], rng.uniform(5.5, 9, int((what > 0.62).sum())))
    n = len(parcels.fields)
    for shapes, value in ((hedges, 3 * n + 3), (roads, 3 * n + 2)):
        lines = burn([(s, value) for s in shapes if not s.is_empty], grid, box)
        open_land = (lines >= 0) & (unit < n)
        unit[open_land] = lines[open_land]


def _lay_settlements(seed: int, unit: NDArray[np.int32], parcel: NDArray[np.int32], n: int) -> None:
    """Put villages and one town on the land."""
    rng = stream(seed, "settlements")
    area_km2 = unit.size / 1e4
    radii_m = np.append(rng.lognormal(np.log(240), 0.35, max(1, round(area_km2 / 13))), 260)
    if area_km2 > 100:
        radii_m[-1] = 950  # the town
    built = _follow_parcels(_blobs(rng, unit.shape, radii_m, rough=0.3), parcel, n, (0.12, 0.8))
    unit[built] = parcel[built] + 2 * n


def _lay_water(seed: int, unit: NDArray[np.int32], n: int) -> None:
    """Let a river meander from the north to the south edge and dig a few lakes."""
    rng = stream(seed, "water")
    height, width = unit.shape
    y = (np.arange(height) + 0.5) * 10.0
    meander = wave_field(rng, (1500, 5000), 8)(np.stack([y, np.zeros(height)], axis=1))
    course = width * 10 * (rng.uniform(0.3, 0.6) + rng.uniform(-0.25, 0.25) * (y / y[-1] - 0.5))
    course = course + 260.0 * meander * min(1.0, width / 500)
    slope = np.gradient(course, 10.0)
    half_m = rng.uniform(22, 30) * np.sqrt(1 + slope**2)
    x = (np.arange(width) + 0.5) * 10.0
    unit[np.abs(x[None, :] - course[:, None]) < half_m[:, None]] = 3 * n
    lakes = np.clip(rng.lognormal(np.log(210), 0.5, max(1, round(unit.size / 1e4 / 45))), 100, 600)
    unit[_blobs(rng, unit.shape, lakes, rough=0.2)] = 3 * n + 1


def _blobs(
    rng: np.random.Generator, shape_yx: tuple[int, int], radii_m: NDArray[np.float64], rough: float
) -> NDArray[np.bool_]:
    """Mark roundish patches with a ragged edge, at random places inside the array."""
    marked = np.zeros(shape_yx, bool)
    ragged = power_noise(rng, shape_yx, 10, 2.6, (70, 900))
    for radius_m in radii_m:
        radius = radius_m / 10
        cy, cx = rng.uniform(0.08, 0.92, 2) * shape_yx
        reach = int(2.5 * radius) + 2
        y0, x0 = max(0, int(cy) - reach), max(0, int(cx) - reach)
        part = (slice(y0, int(cy) + reach), slice(x0, int(cx) + reach))
        yy, xx = np.ogrid[part[0].start : part[0].stop, part[1].start : part[1].stop]
        yy, xx = yy[: shape_yx[0] - y0], xx[:, : shape_yx[1] - x0]
        distance = np.hypot(yy - cy, xx - cx) / radius
        marked[part] |= distance + rough * ragged[part] < 1
    return marked


def _sow(seed: int, parcels: Parcels, free_px: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Choose a crop for each field: smooth preferences, chance, and the wanted shares.

    The shares are reached by shifting all preferences of a crop until the areas fit. Every crop
    gets at least one field, also on a small canvas.
    """
    import shapely

    rng = stream(seed, "crops")
    centres = shapely.get_coordinates(shapely.centroid(parcels.fields))
    liking = [wave_field(rng, (3500, 14000), 12)(centres) for _ in CROPS]
    score = 0.75 * np.stack(liking, axis=1) + rng.gumbel(size=(len(centres), len(CROPS)))
    wanted = _WANTED / _WANTED.sum()
    bias = np.log(wanted)
    for _ in range(40):
        area = np.bincount((score + bias).argmax(axis=1), weights=free_px, minlength=len(CROPS))
        bias += 0.5 * np.log(wanted / np.maximum(area / area.sum(), wanted / 20))
    crop = (score + bias).argmax(axis=1)
    for missing in set(range(len(CROPS))) - set(crop[free_px > 40].tolist()):
        counts = np.bincount(crop, minlength=len(CROPS))
        spare = (free_px > 40) & (counts[crop] > 2)
        crop[np.where(spare, score[:, missing], -np.inf).argmax()] = missing
    return (crop + 1).astype(np.uint8)


def _margins(seed: int, unit: NDArray[np.int32], n: int) -> Float:
    """Give the outermost pixels of fields a share of grassy margin that differs by field."""
    differs = np.zeros(unit.shape, bool)
    across, down = unit[:, 1:] != unit[:, :-1], unit[1:] != unit[:-1]
    differs[:, 1:] |= across
    differs[:, :-1] |= across
    differs[1:] |= down
    differs[:-1] |= down
    width = np.zeros(3 * n + 4, np.float32)
    width[:n] = stream(seed, "margins").uniform(0.0, 0.4, n)
    return np.where(differs, width[unit], np.float32(0))


def _vigour(seed: int, house: NDArray[np.bool_]) -> Float:
    """Make two growth textures; on built-up land, where nothing grows, the pattern of houses."""
    first = power_noise(stream(seed, "vigour", 0), house.shape, 10, 2.9, (70, 900))
    second = power_noise(stream(seed, "vigour", 1), house.shape, 10, 2.7, (70, 500))
    houses = power_noise(stream(seed, "houses"), house.shape, 10, 0.8, (15, 120))
    return np.stack([np.where(house, houses, first), np.where(house, houses, second)])
