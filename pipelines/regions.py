"""Regions by which accuracy is told: polygons of any vector file, burnt block by block, and looked up at points.

A pixel belongs to the region that holds its centre; where regions overlap, to the first in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from training.label_sources import to_grid_crs

BLOCK_PX = 2048
"""Regions are burnt on fixed blocks of the grid of this size, whoever asks for which part."""

_NAMES = ("name", "name_1", "name_en", "nuts_name", "admin", "region", "id")


@dataclass(frozen=True, eq=False)
class Regions:
    """Named polygons on a grid.

    Attributes:
        names: Of the regions, in the order of the file; region n has number n + 1.
        frame: GeoDataFrame in the grid's CRS, with a column `number`.
        grid: The grid.
    """

    names: tuple[str, ...]
    frame: Any
    grid: Grid

    def burn(self, box: Box) -> NDArray[np.uint16]:
        """Return the number of the region of each pixel, (y, x); 0 = in none."""
        out = np.zeros(box.shape_yx, np.uint16)
        for part in box.blocks(BLOCK_PX):
            block = part.snap_out(BLOCK_PX)
            out[part.slices_in(box)] = self._burn(block)[part.slices_in(block)]
        return out

    def _burn(self, block: Box) -> NDArray[np.uint16]:
        from affine import Affine
        from rasterio.features import rasterize
        from shapely import box as rectangle

        found = np.sort(self.frame.sindex.query(rectangle(*self.grid.bounds_of_box(block))))[::-1]
        if not len(found):
            return np.zeros(block.shape_yx, np.uint16)
        rows = self.frame.iloc[found]  # the last one burnt stays: the first of the file
        shapes = zip(rows.geometry, rows["number"].astype(int), strict=True)
        transform = Affine(*self.grid.transform_of(block))
        return np.asarray(rasterize(shapes, block.shape_yx, transform=transform, fill=0, dtype="uint16"))

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the number of the region of each point, (N,); 0 = in none.

        Args:
            x: (N,) float64 in the grid's CRS.
            y: (N,) float64.
        """
        import shapely

        out = np.zeros(len(x), np.intp)
        points, regions = self.frame.sindex.query(shapely.points(x, y), predicate="intersects")
        numbers = self.frame["number"].to_numpy()[regions]
        for point, number in sorted(zip(points, numbers, strict=True), key=lambda pair: -pair[1]):
            out[point] = number
        return out


def open_regions(path: str | Path, grid: Grid, column: str | None = None) -> Regions:
    """Read regions; rows of one name are one region.

    Args:
        path: Any vector file that GDAL reads, or GeoParquet, in any CRS.
        grid: The grid on which they are looked up.
        column: Column with the names; default the first of the usual ones.

    Raises:
        InputError: If the file cannot be read, has no polygon, no CRS or no such column.
    """
    frame = _read(Path(path))
    column = column or _name_column(frame, str(path))
    if column not in frame:
        raise InputError(
            "the regions have no such column",
            where=str(path),
            found=column,
            limit=", ".join(c for c in frame if c != frame.geometry.name),
        )
    frame = frame[frame.geometry.notna() & frame.geometry.geom_type.isin(("Polygon", "MultiPolygon"))]
    if frame.empty:
        raise InputError("no polygon among the regions", where=str(path))
    texts = frame[column].astype(str)
    names = tuple(dict.fromkeys(texts))
    if len(names) >= 2**16 - 1:
        raise InputError("too many regions", where=str(path), found=len(names), limit=2**16 - 2)
    number = {name: i + 1 for i, name in enumerate(names)}
    frame = frame.assign(number=texts.map(number))
    return Regions(names, to_grid_crs(frame, grid.crs), grid)


def _read(path: Path) -> Any:
    import geopandas as gpd

    if not path.exists():
        raise InputError("no such file", where=str(path), mend="check the path of the regions")
    try:
        frame = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
    except Exception as error:  # GDAL and Arrow raise many kinds
        raise InputError("cannot read the regions", where=str(path), found=str(error)) from error
    if not hasattr(frame, "geometry") or frame.crs is None:
        raise InputError("the regions have no geometry or no CRS", where=str(path))
    return frame


def _name_column(frame: Any, where: str) -> str:
    known = {str(c).lower(): str(c) for c in frame.columns}
    found = next((known[name] for name in _NAMES if name in known), None)
    if found is None:
        raise InputError(
            "which column names the regions?",
            where=where,
            limit=", ".join(c for c in frame if c != frame.geometry.name),
            mend="give --region-column",
        )
    return found
