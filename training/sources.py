"""Where patches get their pixels: blocks of a cube, each read once for all patches that touch it.

A block is what reading is cheapest for: of ``cube.zarr`` an inner chunk over all dates, decompressed straight
into place; of a lazy cube a chunk of its Dask arrays, computed once.

Shape suffixes: T date, C band, P polarisation, L layer, H row, W column.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.cube.stored import open_stored, read_staged, store_of
from engine.inference.planes import PLANES, plane_array, planes_in
from engine.inference.predict import days_of
from engine.store.chunks import Chunks
from engine.values.bands import find_band
from engine.values.errors import InputError, SpecError
from engine.values.georef import georef_of
from engine.values.grid import Box
from engine.values.planes import Plane

_IN_MEMORY_PX = 256


@dataclass(frozen=True, eq=False)
class Block:
    """The pixels of one block.

    Attributes:
        box: Global pixels.
        x: (T, C, H, W) uint16 reflectance x 10000, 0 = no data.
        radar: (T, P, H, W) float32 dB, NaN = no data, or None.
        layers: (L, H, W) float32, NaN = no data, or None.
    """

    box: Box
    x: NDArray[np.uint16]
    radar: NDArray[np.float32] | None = None
    layers: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Shape:
    """What a cube has to give.

    Attributes:
        box: Global pixels for which there are values; blocks may reach beyond.
        edges_y: First global row of each block, and the end of the last, int64.
        edges_x: The same for columns.
        days: (T) int16 running day of each date (`engine.values.days`); 0 where the cube's dates are no dates.
        bands: Common names.
        polarisations: P; 0 without radar.
        layers: L; 0 without layers.
        planes: What `Block.x` holds where it is more than reflectance; empty: bands of reflectance.
    """

    box: Box
    edges_y: NDArray[np.int64]
    edges_x: NDArray[np.int64]
    days: NDArray[np.int16]
    bands: tuple[str, ...]
    polarisations: int = 0
    layers: int = 0
    planes: tuple[Plane, ...] = ()

    def block(self, row: int, col: int) -> Box:
        """Return the global pixels of a block."""
        ys, xs = self.edges_y, self.edges_x
        return Box(int(ys[row]), int(xs[col]), int(ys[row + 1]), int(xs[col + 1]))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel over all dates."""
        return len(self.days) * (2 * len(self.bands) + 4 * self.polarisations) + 4 * self.layers

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block."""
        sides = (int(np.diff(edges).max()) for edges in (self.edges_y, self.edges_x))
        return int(np.prod(tuple(sides))) * self.pixel_bytes


class Source(Protocol):
    """A cube that gives blocks, to any number of threads; it pickles."""

    shape: Shape

    def read(self, row: int, col: int) -> Block:
        """Read one block."""
        ...

    def submit(self, client: Any, row: int, col: int) -> Any:
        """Let a `distributed.Client` read one block; returns its future of a `Block`."""
        ...

    def release(self, block: Block) -> None:
        """Take back the memory of a block that nobody uses any more."""
        ...


def seen_of(cube: xr.Dataset) -> tuple[xr.DataArray, tuple[Plane, ...]]:
    """Return what networks see of a cube, (time, plane, y, x) uint16, and its planes; no planes for reflectance alone.

    Raises:
        InputError: If there is neither reflectance nor planes.
        SpecError: If reflectance or planes are not uint16.
    """
    planes = planes_in(cube)
    if PLANES not in cube and all(plane.kind == "reflectance" for plane in planes):
        _require_reflectance(cube)
        return cube["reflectance"], ()
    if PLANES in cube and isinstance(cube[PLANES].data, np.ndarray):  # gathered before
        return cube[PLANES], planes
    coords = {name: cube[name] for name in ("time", "y", "x", "spatial_ref") if name in cube.coords}
    return xr.DataArray(plane_array(cube, planes), dims=("time", "plane", "y", "x"), coords=coords), planes


def source_of(
    cube: xr.Dataset | str | Path, box: Box | None = None, *, planes: tuple[Plane, ...] = ()
) -> Source:
    """Make a source of a cube.

    Args:
        cube: A run folder or ``cube.zarr``, path or URL; or a Dataset, lazy or loaded, as `engine.open_cube`
            makes it.
        box: Global pixels of a Dataset that does not say itself where it lies.
        planes: What a network sees of it, through Dask; none: its reflectance, radar and layers beside it.

    Raises:
        InputError: If there is no cube.
        SpecError: If its reflectance is not (time, band, y, x) uint16, or it lacks a plane.
    """
    if planes:
        whole = open_stored(cube) if isinstance(cube, str | Path) else cube
        return LazySource(whole, box, planes)
    return StoredSource(store_of(cube)) if isinstance(cube, str | Path) else LazySource(cube, box)


class StoredSource:
    """Blocks of ``cube.zarr``: its inner chunks, past Dask and xarray."""

    def __init__(self, url: str) -> None:
        self.url = url
        cube = open_stored(url)
        layout, staged, _ = read_staged(url)
        self.shape = _shape_of(cube, staged.box, *_even_edges(layout.box, layout.chunk_px))
        self._chunk_px = layout.chunk_px
        self._spare: dict[str, deque[NDArray[Any]]] = {
            name: deque() for name in ("reflectance", "backscatter", "layers")
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredSource, (self.url,)

    def read(self, row: int, col: int) -> Block:
        """Read one block, all dates of it."""
        shape = self.shape
        n_dates, box = len(shape.days), shape.block(row, col)
        return Block(
            box,
            self._read("reflectance", (n_dates, len(shape.bands)), (row, col)),
            self._read("backscatter", (n_dates, shape.polarisations), (row, col))
            if shape.polarisations
            else None,
            self._read("layers", (shape.layers,), (row, col)) if shape.layers else None,
        )

    def submit(self, client: Any, row: int, col: int) -> Any:
        """Let a worker read one block; it must see the store under the same path or URL."""
        return client.submit(_read_stored, self.url, row, col, pure=False)

    def release(self, block: Block) -> None:
        """Keep the memory: to lend and clear new pages takes as long as to decompress into them."""
        if block.x.flags.owndata:  # not what came over a network
            self._spare["reflectance"].append(block.x)
            for name, values in (("backscatter", block.radar), ("layers", block.layers)):
                if values is not None:
                    self._spare[name].append(values)

    def _read(self, name: str, lead: tuple[int, ...], at: tuple[int, int]) -> NDArray[Any]:
        chunks = _chunks(self.url, name)
        try:
            out = self._spare[name].popleft()
        except IndexError:
            out = np.empty((*lead, self._chunk_px, self._chunk_px), chunks.dtype)
        steps = chunks.chunk_shape[0]
        for first in range(0, lead[0], steps):
            index = (first // steps, *(0 for _ in lead[1:]), *at)
            chunks.read_into(index, out[first : first + steps])
        return out


@functools.lru_cache(maxsize=32)
def _chunks(url: str, name: str) -> Chunks:
    """Open an array once a process."""
    return Chunks(url, name)


@functools.lru_cache(maxsize=4)
def _stored(url: str) -> StoredSource:
    return StoredSource(url)


def _read_stored(url: str, row: int, col: int) -> Block:
    """Read a block on a worker, which opens the store once."""
    return _stored(url).read(row, col)


class LazySource:
    """Blocks of a Dataset: the chunks of its Dask arrays; of loaded arrays squares of 256 pixels."""

    def __init__(self, cube: xr.Dataset, box: Box | None = None, planes: tuple[Plane, ...] = ()) -> None:
        box = georef_of(cube)[1] if box is None or {"y", "x", "spatial_ref"} <= set(cube.coords) else box
        if planes:
            seen = xr.DataArray(plane_array(cube, planes), dims=("time", "band", "y", "x"))
            kept = [name for name in ("time", "y", "x", "spatial_ref") if name in cube.coords]
            cube = xr.Dataset({"reflectance": seen}, coords={name: cube[name] for name in kept})
            cube = cube.assign_coords(band=[plane.name for plane in planes])
        names = [n for n in ("reflectance", "backscatter", "layers") if n in cube]
        self._cube = cube[names]
        chunks = cube["reflectance"].chunksizes if "reflectance" in cube else {}
        even = _even_edges(box, _IN_MEMORY_PX)
        edges = (
            _edges(chunks.get(k), lo, own) for k, lo, own in zip("yx", (box.y0, box.x0), even, strict=True)
        )
        self.shape = replace(_shape_of(cube, box, *edges), planes=planes)

    def read(self, row: int, col: int) -> Block:
        """Compute one block on the caller's threads."""
        return self._named(row, col, self._part(row, col).compute(scheduler="threads"))

    def submit(self, client: Any, row: int, col: int) -> Any:
        """Let the cluster compute one block."""
        part = client.compute(self._part(row, col))
        return client.submit(functools.partial(_block_of, self.shape.block(row, col)), part, pure=False)

    def release(self, block: Block) -> None:
        """Nothing: Dask makes its arrays itself."""

    def _part(self, row: int, col: int) -> xr.Dataset:
        box = self.shape.block(row, col)
        ys, xs = (box & self.shape.box).slices_in(self.shape.box)
        return self._cube.isel(y=ys, x=xs)

    def _named(self, row: int, col: int, part: xr.Dataset) -> Block:
        return _block_of(self.shape.block(row, col) & self.shape.box, part)


def _block_of(box: Box, part: xr.Dataset) -> Block:
    radar, layers = (part[n].values if n in part else None for n in ("backscatter", "layers"))
    return Block(box, part["reflectance"].values, radar, layers)


def _shape_of(cube: xr.Dataset, box: Box, edges_y: NDArray[np.int64], edges_x: NDArray[np.int64]) -> Shape:
    reflectance = _require_reflectance(cube)
    days = days_of(cube) or (0,) * reflectance.sizes["time"]
    return Shape(
        box,
        edges_y,
        edges_x,
        np.array(days, np.int16),
        _band_names(cube),
        cube["backscatter"].sizes["polarisation"] if "backscatter" in cube else 0,
        cube["layers"].sizes["layer"] if "layers" in cube else 0,
    )


def _require_reflectance(cube: xr.Dataset) -> xr.DataArray:
    if "reflectance" not in cube:
        raise InputError("the cube has no variable 'reflectance'", found=sorted(map(str, cube.data_vars)))
    reflectance = cube["reflectance"]
    if reflectance.dims != ("time", "band", "y", "x") or reflectance.dtype != np.uint16:
        raise SpecError(
            "reflectance must be (time, band, y, x) uint16 (x 10000, 0 = no data)",
            where="cube",
            found=f"{reflectance.dims} {reflectance.dtype}",
        )
    return reflectance


def _band_names(cube: xr.Dataset) -> tuple[str, ...]:
    """Return common names, or the numbers of bands that have none."""
    if "band" not in cube.coords:
        return tuple(map(str, range(cube.sizes["band"])))
    named = (str(b) for b in cube["band"].values)
    return tuple(known.name if (known := find_band(name)) else name for name in named)


def _even_edges(box: Box, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a box into squares counted from its corner; the last ones may be smaller."""
    ys, xs = np.arange(box.y0, box.y1, step), np.arange(box.x0, box.x1, step)
    return np.append(ys, box.y1).astype(np.int64), np.append(xs, box.x1).astype(np.int64)


def _edges(sizes: tuple[int, ...] | None, first: int, even: NDArray[np.int64]) -> NDArray[np.int64]:
    return even if sizes is None else np.cumsum([first, *sizes], dtype=np.int64)
