"""Parcels of a vector file, place by place: of an indexed file only those near a box are ever in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.grid import Box, Grid, normal_crs

MOST_UNINDEXED = 100_000
"""Features of a file without spatial index that are held in memory; more are refused."""

_POLYGON, _MULTI = 3, 6  # shapely's type numbers
_BATCH = 65_536
_DEGREE_M = 111_700.0
_STRETCH = 8.0  # no projection that maps are made in stretches a field by more


@dataclass(frozen=True)
class ParcelFile:
    """Polygons in a file that GDAL reads, or a GeoParquet.

    Attributes:
        path: Where it lies.
        layer: Layer name; None takes the first.
        where: Attribute filter in SQL; None takes all features. Not for GeoParquet.
    """

    path: Path
    layer: str | None = None
    where: str | None = None

    @property
    def crs(self) -> str:
        """The CRS of the polygons."""
        return _facts(self, _stamp(self.path))[0]

    def digest(self) -> str:
        """Return the sha256 of the file's bytes; of a shapefile those of all its parts."""
        return _digest(self.path, _stamp(self.path))

    def near(self, grid: Grid, box: Box) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return the parcels whose bounds touch a box.

        Args:
            grid: Where pixels lie.
            box: Global pixels.

        Returns:
            Feature numbers (n,) int64, ascending, and valid shapely polygons in the CRS of the grid (n,).

        Raises:
            InputError: If the file cannot be read, has no CRS, or only a ballpark transformation is known.
        """
        from engine.archive.warp import require_transform, same_crs

        crs, indexed = _facts(self, _stamp(self.path))
        around = grid.bounds_of_box(box.pad(2))
        if not indexed:
            numbers, shapes = _all(self, grid, _stamp(self.path))
        elif same_crs(crs, grid.crs):
            numbers, shapes = _polygons(*_read(self, around))
        else:
            require_transform(crs, grid.crs)
            numbers, shapes = _polygons(*_read(self, _bounds_in(around, grid.crs, crs)))
            shapes = _moved(shapes, crs, grid.crs)
        left, bottom, right, top = around
        import shapely

        w, s, e, n = shapely.bounds(shapes).reshape(-1, 4).T
        here = (w <= right) & (e >= left) & (s <= top) & (n >= bottom)
        return numbers[here], shapes[here]

    def larger_than(self, size_px: int, grid: Grid) -> list[int]:
        """List the first parcels that are longer or wider than a size, read in batches; at most ten.

        Args:
            size_px: Rows or columns of pixels.
            grid: Where pixels lie.

        Raises:
            InputError: If the file cannot be read, has no CRS, or only a ballpark transformation is known.
        """
        return list(_larger(self, size_px, grid, _stamp(self.path)))


@functools.lru_cache(maxsize=16)
def _larger(file: ParcelFile, size_px: int, grid: Grid, stamp: tuple[int, ...]) -> tuple[int, ...]:
    import shapely

    found: list[int] = []
    crs = file.crs  # whatever is wrong with the file is told before it is read
    harmless = size_px * min(grid.resolution_yx) * _unit_m(grid.crs) / _unit_m(crs) / _STRETCH
    for numbers, shapes in _batches(file):
        w, s, e, n = shapely.bounds(shapes).reshape(-1, 4).T  # NaN of what is missing or empty
        doubtful = (np.fmax(e - w, n - s) > harmless) & (np.fmin(e - w, n - s) > 0)
        w, s, e, n = shapely.bounds(_moved(_boxes(shapes[doubtful]), crs, grid.crs)).reshape(-1, 4).T
        size_yx = (n - s) / grid.resolution_yx[0], (e - w) / grid.resolution_yx[1]
        found += numbers[doubtful][np.fmax(*size_yx) > size_px].tolist()
        if len(found) > 10:
            break
    return tuple(found[:10])


def _unit_m(crs: str) -> float:
    """Return how long a unit of a CRS is at most, in metres, but for the stretch of projections."""
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    return _DEGREE_M if parsed.is_geographic else float(parsed.axis_info[0].unit_conversion_factor)


def _boxes(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return the bounding boxes of shapes, with points along their edges."""
    import shapely

    boxes = shapely.box(*shapely.bounds(shapes).reshape(-1, 4).T)
    return shapely.segmentize(boxes, shapely.length(boxes) / 16)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does: size and time of its parts."""
    if not path.exists():
        raise InputError("no such file", where=str(path), mend="check the path of the parcels")
    return tuple(n for part in _parts(path) for n in (part.stat().st_size, part.stat().st_mtime_ns))


def _parts(path: Path) -> list[Path]:
    """Return the files that make up a vector file."""
    if path.suffix.lower() == ".shp":
        return sorted(p for p in path.parent.iterdir() if p.stem == path.stem)
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@functools.lru_cache(maxsize=16)
def _digest(path: Path, stamp: tuple[int, ...]) -> str:
    total = hashlib.sha256()
    for part in _parts(path):
        with part.open("rb") as file:
            total.update(part.suffix.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@functools.lru_cache(maxsize=16)
def _facts(file: ParcelFile, stamp: tuple[int, ...]) -> tuple[str, bool]:
    """Return the CRS of a file, and whether it finds the features of a place without reading them all."""
    import pyogrio

    if file.path.suffix == ".parquet":
        frame = _frame(file)
        crs, count, indexed, kind = frame.crs, len(frame), False, "Polygon"
    else:
        try:
            info = pyogrio.read_info(file.path, layer=file.layer, force_feature_count=True)
        except Exception as error:  # GDAL raises many kinds
            raise _unreadable(file, error) from error
        crs, count, kind = info["crs"], info["features"], info["geometry_type"] or "no geometry"
        indexed = bool(info["capabilities"]["fast_spatial_filter"])
    if crs is None:
        raise InputError("the parcels have no CRS", where=str(file.path), mend="add it: ogr2ogr -a_srs")
    if "Polygon" not in kind and kind not in ("Unknown", "GeometryCollection"):
        raise InputError("the parcels are no polygons", where=str(file.path), found=kind, limit="Polygon")
    if not indexed and count > MOST_UNINDEXED:
        raise InputError(
            "the file has no spatial index, and too many parcels to hold them in memory",
            where=str(file.path),
            found=count,
            limit=f"at most {MOST_UNINDEXED}",
            mend="ogr2ogr parcels.gpkg FILE writes a GeoPackage, which has one",
        )
    return normal_crs(crs), indexed


@functools.lru_cache(maxsize=2)
def _all(file: ParcelFile, grid: Grid, stamp: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Hold all parcels of a file without spatial index, in the CRS of a grid."""
    from engine.archive.warp import require_transform

    require_transform(file.crs, grid.crs)
    numbers, shapes = _polygons(*_read(file, None))
    return numbers, _moved(shapes, file.crs, grid.crs)


def _read(
    file: ParcelFile, bounds: tuple[float, float, float, float] | None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Read feature numbers and shapes whose bounds touch others, ascending."""
    import pyogrio
    import shapely

    if file.path.suffix == ".parquet":
        shapes = _frame(file).geometry.to_numpy()
        return np.arange(len(shapes)), shapes
    try:
        _, numbers, wkb, _ = pyogrio.raw.read(
            file.path,
            layer=file.layer,
            where=file.where,
            bbox=bounds,
            columns=[],
            force_2d=True,
            return_fids=True,
        )
    except Exception as error:  # GDAL raises many kinds
        raise _unreadable(file, error) from error
    order = np.argsort(numbers, kind="stable")
    return np.asarray(numbers, np.int64)[order], shapely.from_wkb(wkb)[order]


def _batches(file: ParcelFile) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield all features, a batch at a time."""
    import pyogrio
    import shapely

    if file.path.suffix == ".parquet":
        yield _read(file, None)
        return
    start = 0
    try:
        with pyogrio.raw.open_arrow(
            file.path,
            layer=file.layer,
            where=file.where,
            columns=[],
            return_fids=True,
            batch_size=_BATCH,
            use_pyarrow=True,
        ) as (facts, batches):
            name = facts["geometry_name"] or "wkb_geometry"
            for batch in batches:
                wkb = batch.column(name).to_numpy(zero_copy_only=False)
                fids = [batch.column(i) for i, n in enumerate(batch.schema.names) if n != name]
                numbers = fids[0].to_numpy() if fids else np.arange(start, start + len(wkb))
                yield np.asarray(numbers, np.int64), shapely.from_wkb(wkb)
                start += len(wkb)
    except InputError:
        raise
    except Exception as error:  # GDAL and pyarrow raise many kinds
        raise _unreadable(file, error) from error


def _frame(file: ParcelFile) -> Any:
    import geopandas as gpd

    if file.where:
        raise InputError(
            "a GeoParquet is read as a whole",
            where=str(file.path),
            found=f"where: {file.where}",
            mend="leave `where` out, or write a GeoPackage",
        )
    try:
        return gpd.read_parquet(file.path)
    except Exception as error:  # pyarrow raises many kinds
        raise _unreadable(file, error) from error


def _unreadable(file: ParcelFile, error: Exception) -> InputError:
    return InputError(
        "cannot read the parcels", where=str(file.path), found=str(error), mend="open it in QGIS"
    )


def _bounds_in(bounds: tuple[float, ...], crs: str, target: str) -> tuple[float, float, float, float]:
    """Return bounds in another CRS, a little too large."""
    from pyproj import Transformer

    left, bottom, right, top = bounds
    pad = max(right - left, top - bottom) / 64
    wide = (left - pad, bottom - pad, right + pad, top + pad)
    moved = Transformer.from_crs(crs, target, always_xy=True).transform_bounds(*wide, densify_pts=21)
    west, south, east, north = (float(v) for v in moved)
    return west, south, east, north


def _moved(shapes: NDArray[Any], crs: str, target: str) -> NDArray[Any]:
    """Bring shapes into another CRS, vertex by vertex: no other shape and no box has a say."""
    import shapely
    from pyproj import Transformer

    from engine.archive.warp import same_crs

    if same_crs(crs, target) or not len(shapes):
        return shapes
    transform = Transformer.from_crs(crs, target, always_xy=True).transform
    return shapely.transform(shapes, lambda xy: np.column_stack(transform(xy[:, 0], xy[:, 1])))


def _polygons(numbers: NDArray[np.int64], shapes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Keep what has a surface, made valid."""
    import shapely

    shapes = shapely.force_2d(shapes)
    invalid = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    mixed = np.flatnonzero(shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION)
    for at in mixed:
        parts = shapely.get_parts(shapes[at])
        shapes[at] = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    kept = np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTI)) & ~shapely.is_empty(shapes)
    return numbers[kept], shapes[kept]
