"""Reading: how many bytes of the archive a box of a cube takes, counted before anything is read.

A file is counted by the part of its footprint that the box meets, grown by half a block of the file on each
side: files are read in whole blocks, and each piece of a tile reads those on its edge for itself::

     ┌──────────────┐ footprint       bytes = size of the file x area met / area of the footprint
     │      ┌───────┼──────┐
     │      │▒▒▒▒▒▒▒│      │  box, grown by half a block
     └──────┼───────┘      │
            └──────────────┘

A file's size is what the catalogue says, or the local file's own, or else pixels x bytes a pixel x
`COMPRESSED`. Clouds are not looked at: where a mask hides a whole piece its bands are not read, so the true
figure is lower rather than higher.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import AssetRecord, ItemRecord
from engine.cube.maskers import mask_bands
from engine.cube.sharpen import PAN, is_coarse
from engine.values.bands import band
from engine.values.grid import Box, Grid
from engine.values.recipe import BestPixel
from engine.values.spec import CubeSpec

FILE_BLOCK_PX = 512
"""Side of a block of the files: 512 in most COGs, 1024 in JPEG 2000 and some COGs."""

COMPRESSED = {"reflectance": 0.6, "class": 0.06, "probability": 0.2, "backscatter": 0.8}
"""Size of a file against its pixels, by kind of band, where nobody tells: deflate with a predictor on whole
Sentinel-2 scenes, between clear ones (0.8) and overcast or half-empty ones (0.3)."""

_BYTES_A_PIXEL = {"reflectance": 2, "class": 1, "probability": 1, "backscatter": 4}


def bands_read(spec: CubeSpec) -> dict[str, int]:
    """Say how often each band of a scene is read for a cube: bands, masks, sharpening, cloud distances, radar.

    >>> bands_read(CubeSpec(bands=["red", "swir16"], sharpen="ratio"))
    {'red': 2, 'swir16': 1, 'blue': 1, 'green': 1, 'nir': 1, 'scl': 1}
    """
    times = Counter(spec.bands)
    times.update(spec.sentinel1.polarisations if spec.sentinel1 else ())
    if spec.sharpen is not None and any(map(is_coarse, spec.bands)):
        times.update(PAN)
    masks: Counter[str] = Counter()
    for mask in spec.mask:
        masks.update(mask_bands(mask))
    if isinstance(spec.reducer, BestPixel) and spec.reducer.cloud_weight > 0 and spec.mask:
        times.update(spec.bands[:1])
        times.update(masks)  # once more, with a wide margin
    return {**times, **{b: times[b] + n for b, n in masks.items()}}


@dataclass(frozen=True)
class Sizes:
    """Where the sizes of files come from.

    Attributes:
        told: Files whose catalogue says how large they are.
        local: Files that are at hand.
        guessed: Files by pixels x bytes x `COMPRESSED`.
    """

    told: int
    local: int
    guessed: int

    def __str__(self) -> str:
        parts = [(self.told, "by their catalogue"), (self.local, "by the files"), (self.guessed, "by pixels")]
        return ", ".join(f"{n} {how}" for n, how in parts if n) or "no files"


class Archive:
    """The scenes of a cube as sizes and footprints in its grid.

    Args:
        items: The scenes, those of the radar among them.
        spec: What is read of them.
        grid: The cube's grid.
    """

    def __init__(self, items: Sequence[ItemRecord], spec: CubeSpec, grid: Grid):
        self.grid, self._at = grid, {item.id: i for i, item in enumerate(items)}
        self._shapes = _projected(items, grid.crs)
        times = bands_read(spec)
        pixels = sorted({band(b).resolution_m for b in times})
        self._pixels_m = pixels
        self._density = np.zeros((len(pixels), len(items)))  # bytes per square unit of the CRS
        areas = _areas(self._shapes)
        counted: Counter[str] = Counter()
        for i, item in enumerate(items):
            ground_m2 = _ground_m2(item)
            for asset in item.assets:
                if asset.band in times and areas[i] > 0:
                    size, how = _size_of(asset, ground_m2)
                    counted[how] += 1
                    row = pixels.index(band(asset.band).resolution_m)
                    self._density[row, i] += times[asset.band] * size / areas[i]
        self.sizes = Sizes(counted["told"], counted["local"], counted["guessed"])

    def bytes_in(self, items: Iterable[ItemRecord], box: Box, pieces: int = 1) -> float:
        """Count what reading a box takes.

        Args:
            items: Scenes near the box, among those of this archive.
            box: Global pixels.
            pieces: Pieces along a side that are read one by one.
        """
        import shapely

        at = [self._at[item.id] for item in items]
        if not at or not box:
            return 0.0
        left, bottom, right, top = self.grid.bounds_of_box(box)
        shapes, total = self._shapes[at], 0.0
        unit = _metres_a_unit(self.grid.crs)
        for row, pixel_m in enumerate(self._pixels_m):
            block = FILE_BLOCK_PX * pixel_m / unit
            half = block / 2
            met = shapely.area(
                shapely.clip_by_rect(shapes, left - half, bottom - half, right + half, top + half)
            )
            again = math.prod(
                (side + pieces * block) / (side + block) for side in (right - left, top - bottom)
            )
            total += again * float(met @ self._density[row, at])
        return total


def _size_of(asset: AssetRecord, ground_m2: float) -> tuple[float, str]:
    if asset.size_bytes is not None:
        return float(asset.size_bytes), "told"
    if "://" not in asset.href and (path := Path(asset.href)).is_file():
        return float(path.stat().st_size), "local"
    found = band(asset.band)
    pixels = ground_m2 / found.resolution_m**2
    return pixels * _BYTES_A_PIXEL[found.kind] * COMPRESSED[found.kind], "guessed"


def _ground_m2(item: ItemRecord) -> float:
    """Return the surface of a footprint on the ellipsoid."""
    from pyproj import Geod

    if item.geometry.is_empty:
        return 0.0
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(item.geometry)
    return abs(float(area))


def _projected(items: Sequence[ItemRecord], crs: str) -> NDArray[Any]:
    """Project all footprints at once, with corners every few kilometres."""
    import shapely
    from pyproj import Transformer

    shapes = shapely.segmentize(shapely.from_wkb([i.geometry_wkb for i in items]), 0.1)
    points = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    moved = shapely.transform(shapes, lambda lonlat: np.column_stack(points.transform(*lonlat.T)))
    return np.asarray(shapely.make_valid(moved))


def _areas(shapes: NDArray[Any]) -> NDArray[np.float64]:
    import shapely

    return np.asarray(shapely.area(shapes))


def _metres_a_unit(crs: str) -> float:
    """Return the length of a unit of a CRS in metres, degrees by their length on the equator."""
    from pyproj import CRS

    read = CRS.from_user_input(crs)
    return 111_320.0 if read.is_geographic else float(read.axis_info[0].unit_conversion_factor or 1.0)
