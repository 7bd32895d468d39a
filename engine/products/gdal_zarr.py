"""The map as a Zarr that GDAL opens: version 2 of the format, unsharded, in a CRS and with no data that GDAL reads.

GDAL 3.10 and older open no Zarr v3 that zarr-python writes, and QGIS, R and many services read through GDAL.
What it looks for in a Zarr v2 group::

    label/.zattrs    _ARRAY_DIMENSIONS: ["y", "x"]     so that it finds the coordinates y and x
                     _CRS: {"wkt": ...}                GDAL's own way to say the CRS; CF's spatial_ref is beside it
    label/.zarray    fill_value                        no data
    y, x             pixel centres                     the transform

    ../map-label.vrt                               label with colours and class names, which the driver cannot show

GDAL 3.6 takes the axes of any Zarr's CRS, its own included, in the wrong order when it transforms coordinates
(``gdalwarp``, the longitudes and latitudes of ``gdalinfo``; not ``gdal_translate``). Through the VRT it does not.

An array of planes keeps its planes: GDAL shows each as ``ZARR:"map.zarr":/probability:0``. The chunks are those
files that a reader fetches, and those without data are not written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.products.look import look_of
from engine.products.overviews import Listener
from engine.products.styles import write_text
from engine.products.vrt import Frame, VrtSource, vrt_text
from engine.store.view import MapView, in_flight, open_view
from engine.values.errors import ConflictError
from engine.values.grid import Box

if TYPE_CHECKING:
    import zarr

CHUNK_PX = 1024
_LEFT_OUT = ("spatial:", "proj:", "zarr_", "grid_mapping", "coordinates", "nodata")


def write_gdal_zarr(
    map_url: str,
    path: str | Path,
    *,
    variables: Sequence[str] | None = None,
    box: Box | None = None,
    chunk_px: int = CHUNK_PX,
    listener: Listener | None = None,
) -> Path:
    """Write layers of a map store as an unsharded Zarr v2, block by block.

    It is made beside the target and renamed when it is whole; an earlier one is replaced. Beside it
    each layer of one plane gets a VRT with its colours and class names: ``map-gdal-label.vrt``.

    Args:
        map_url: The map store.
        path: Local folder to write, such as ``map-gdal.zarr``; parent folders are made.
        variables: Layers; None takes all.
        box: Area to cut out, in the store's global pixels; None takes the whole store.
        chunk_px: Side of a chunk, which is one file.
        listener: Called with (blocks done, blocks in all, layer).

    Returns:
        The path.

    Raises:
        InputError: If there is no such map or layer, or the box reaches outside.
        ConflictError: If something that is no Zarr stands at the path.
    """
    import zarr

    view, path = open_view(map_url), Path(path)
    box, names = view.crop(box), list(view.variables if variables is None else variables)
    for name in names:
        view.array(name)  # refuses before anything is written
    if path.exists() and not (path / ".zgroup").exists():
        raise ConflictError("something else is in the way", where=str(path), mend="name another folder")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        root = zarr.open_group(str(part), mode="w", zarr_format=2)
        copier = _Copier(view, box, root, chunk_px)
        copier.describe(names)
        copier.copy(names, listener)
        zarr.consolidate_metadata(root.store, zarr_format=2)
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
        copier.join(names, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


@dataclass(frozen=True)
class _Copier:
    """Copies layers of a map into a group of version 2."""

    view: MapView
    box: Box
    root: zarr.Group
    chunk_px: int

    def describe(self, names: Sequence[str]) -> None:
        """Make the arrays, empty, with coordinates and CRS."""
        attributes = {k: v for k, v in self.view.group.attrs.items() if k in ("title", "Conventions")}
        self.root.attrs.update(attributes)
        wkt = _gdal_wkt(self.view.grid.crs)
        for name, values in zip("yx", self.view.grid.centres(self.box), strict=True):
            known: Any = self.view.group[name].attrs if name in self.view.group else {}
            self._plain(name, values, (name,), dict(known) | {"axis": name.upper()})
        a, b, c, d, e, f = self.view.grid.transform_of(self.box)
        transform = f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"
        told = {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": transform}
        self._plain("spatial_ref", np.int64(0), (), told)
        for name in names:
            self._raster(name, wkt)

    def copy(self, names: Sequence[str], listener: Listener | None) -> None:
        """Fill the arrays; each block is one chunk."""
        items = [item for name in names for item in self._blocks(name)]

        def read(item: tuple[str, int | None, Box]) -> tuple[str, int | None, Box, NDArray[Any]]:
            name, plane, block = item
            y, x = self.box.y0, self.box.x0
            moved = Box(block.y0 + y, block.x0 + x, block.y1 + y, block.x1 + x)
            return name, plane, block, self.view.read(name, moved, plane)

        for done, (name, plane, block, values) in enumerate(in_flight(read, items, workers=2), start=1):
            at = (slice(block.y0, block.y1), slice(block.x0, block.x1))
            array: Any = self.root[name]
            array[at if plane is None else (plane, *at)] = values
            if listener is not None:
                listener(done, len(items), name)

    def join(self, names: Sequence[str], path: Path) -> None:
        """Write a VRT over each layer of one plane beside the group, in which Zarr readers expect no such file."""
        for name in names:
            if self.view.array(name).ndim == 2:
                source = VrtSource(f"{path.name}/{name}", (0, 0), self.box.shape_yx, self.chunk_px)
                text = vrt_text(look_of(self.view, name), Frame(self.view.grid, self.box), [source])
                write_text(path.with_name(f"{path.stem}-{name}.vrt"), text)

    def _blocks(self, name: str) -> Iterator[tuple[str, int | None, Box]]:
        for layer, plane in self.view.planes():
            if layer == name:
                for block in Box(0, 0, *self.box.shape_yx).blocks(self.chunk_px):
                    yield name, plane, block

    def _raster(self, name: str, wkt: str) -> None:
        source, no_data = self.view.array(name), self.view.no_data(name)
        dims = tuple(source.metadata.dimension_names)
        attributes = {k: v for k, v in source.attrs.items() if not k.startswith(_LEFT_OUT)}
        self._create(
            name,
            (*source.shape[:-2], *self.box.shape_yx),
            source.dtype,
            (*(1 for _ in dims[:-2]), self.chunk_px, self.chunk_px),
            dims,
            attributes | {"grid_mapping": "spatial_ref", "_CRS": {"wkt": wkt}},
            None if no_data is None else source.dtype.type(no_data),
        )
        for dim, length in zip(dims[:-2], source.shape[:-2], strict=True):
            if dim not in self.root:
                self._plain(dim, np.arange(length), (dim,), self._names_of(dim))

    def _names_of(self, dim: str) -> dict[str, Any]:
        """Name the planes of a dimension, where the map does: GDAL reads no texts as a coordinate."""
        if dim not in self.view.group:
            return {}
        labels: Any = self.view.group[dim]
        return {"long_name": ", ".join(str(v) for v in np.asarray(labels[...]))}

    def _plain(self, name: str, values: Any, dims: tuple[str, ...], attributes: dict[str, Any]) -> None:
        self._create(
            name, np.shape(values), np.asarray(values).dtype, np.shape(values), dims, attributes, None
        )
        array: Any = self.root[name]
        array[...] = values

    def _create(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        chunks: tuple[int, ...],
        dims: tuple[str, ...],
        attributes: dict[str, Any],
        fill: Any,
    ) -> None:
        import numcodecs  # type: ignore[import-untyped]

        self.root.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            compressors=numcodecs.Zlib(level=6) if shape else None,
            fill_value=fill,
            attributes=attributes | {"_ARRAY_DIMENSIONS": list(dims)},
            chunk_key_encoding={"name": "v2", "separator": "."},
        )


def _gdal_wkt(crs: str) -> str:
    """Write a CRS as GDAL does: WKT1 where it has a code, else WKT2."""
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    return str(parsed.to_wkt("WKT1_GDAL") if parsed.to_authority() else parsed.to_wkt("WKT2_2019"))
