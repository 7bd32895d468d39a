"""Regions of a vector file: administrative units, as an index over pixels or by point."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid

if TYPE_CHECKING:
    import geopandas as gpd


def region_names(path: str, column: str) -> list[str]:
    """List the regions of a file, each once, in its order.

    Raises:
        InputError: If the file or the column cannot be read.
    """
    return list(dict.fromkeys(_read(path, column, _changed(path))[column]))


def region_index(path: str, column: str, grid: Grid, box: Box) -> NDArray[np.int64]:
    """Return the region of each pixel: the first in the file that holds its centre.

    Returns:
        (y, x) int64, an index into `region_names`; -1 outside all.
    """
    from training.label_burn import BLOCK_PX, mask
    from training.label_sources import to_grid_crs

    frame = to_grid_crs(_read(path, column, _changed(path)), grid.crs)
    names = region_names(path, column)
    found = np.full(box.shape_yx, -1, np.int64)
    for part in box.blocks(BLOCK_PX):
        block, where = part.snap_out(BLOCK_PX), part.slices_in(box)
        left, bottom, right, top = grid.bounds_of_box(block)
        here = frame.cx[left:right, bottom:top]
        for name, shape in zip(here[column], here.geometry, strict=True):
            mine = mask(np.array([shape], object), grid, block, "centre")[part.slices_in(block)]
            found[where][mine & (found[where] < 0)] = names.index(name)
    return found


def regions_at(
    path: str, column: str, x: NDArray[np.float64], y: NDArray[np.float64], crs: str
) -> NDArray[Any]:
    """Return the region of each point: the first in the file that holds it; ``""`` outside all, (n,) str."""
    import geopandas as gpd

    frame = _read(path, column, _changed(path)).to_crs(crs)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(x, y), crs=crs)
    found = gpd.sjoin(points, frame.reset_index(drop=True), how="left", predicate="within")
    first = found.sort_values("index_right", kind="stable")
    first = first[~first.index.duplicated()].sort_index()
    return np.array([name if isinstance(name, str) else "" for name in first[column]], object)


def outlines(path: str, column: str) -> tuple[str, dict[str, Any]]:
    """Return the CRS of the regions and the outline of each."""
    frame = _read(path, column, _changed(path))
    shapes = {str(name): rows.geometry.union_all() for name, rows in frame.groupby(column)}
    return frame.crs.to_wkt(), shapes


def _changed(path: str) -> float:
    return Path(path).stat().st_mtime if Path(path).exists() else 0.0


@functools.lru_cache(maxsize=4)
def _read(path: str, column: str, changed: float) -> gpd.GeoDataFrame:
    """Read a file once, and again when it has changed."""
    import geopandas as gpd

    try:
        frame = gpd.read_parquet(path) if path.endswith(".parquet") else gpd.read_file(path)
    except Exception as error:  # pyogrio, GDAL and pyarrow raise their own kinds
        raise InputError("cannot read the regions", where=path, mend=str(error)) from error
    if column not in frame.columns or frame.crs is None:
        raise InputError(
            "the regions need a CRS and a column with their names",
            where=path,
            found=", ".join(map(str, frame.columns)),
            limit=column,
            mend="name another column",
        )
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty & frame[column].notna()]
    return frame[[column, "geometry"]].astype({column: str})
