"""Small map stores for tests, written with zarr alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS

from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid

GRID = Grid("EPSG:32633", (10.0, 10.0))


def write_map(
    url: Path,
    layers: dict[str, NDArray[np.uint8]] | dict[str, NDArray[np.int16]],
    scheme: ClassScheme,
    *,
    grid: Grid = GRID,
    origin_yx: tuple[int, int] = (-500_000, 50_000),
    shard_px: int = 256,
) -> Box:
    """Write a map.zarr of the given layers and return the box that it covers."""
    height, width = layers["label"].shape
    box = Box(origin_yx[0], origin_yx[1], origin_yx[0] + height, origin_yx[1] + width)
    root = zarr.open_group(str(url), mode="w", zarr_format=3)
    for name, values in layers.items():
        extra = values.ndim - 2
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(1,) * extra + (shard_px // 4,) * 2,
            shards=(1,) * extra + (shard_px,) * 2,
            fill_value=_no_data(name, values),
            dimension_names=("class",) * extra + ("y", "x"),
            attributes={"grid_mapping": "spatial_ref"}
            | ({"nodata": -32768} if values.dtype == np.int16 else {}),
        )
        array[...] = values
    root["label"].attrs.update(scheme.flag_attributes())
    y, x = grid.centres(box)
    for name, centres in (("y", y), ("x", x)):
        root.create_array(name, shape=centres.shape, dtype="f8", dimension_names=(name,))[:] = centres
    if "probability" in layers:
        values = np.asarray(scheme.values, np.uint8)
        root.create_array("class", shape=values.shape, dtype="uint8", dimension_names=("class",))[:] = values
    a, b, c, d, e, f = grid.transform_of(box)
    attributes = {"crs_wkt": CRS(grid.crs).to_wkt(), "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}
    root.create_array("spatial_ref", shape=(), dtype="i8", dimension_names=(), attributes=attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(str(url))
    return box


def _no_data(name: str, values: NDArray[np.generic]) -> int:
    if values.dtype == np.int16:
        return -32768
    return 255 if name in ("confidence", "probability") else 0


def patches(seed: int, shape_yx: tuple[int, int], n_classes: int, *, sites: int = 80) -> NDArray[np.uint8]:
    """Make a Voronoi field pattern, labels 1..n."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0), shape_yx, (sites, 2))
    classes = rng.integers(1, n_classes + 1, sites).astype(np.uint8)
    rows, cols = np.indices(shape_yx)
    _, nearest = cKDTree(points).query(np.stack([rows, cols], -1).reshape(-1, 2))
    return classes[nearest].reshape(shape_yx)
