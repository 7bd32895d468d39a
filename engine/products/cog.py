"""The map as a Cloud-Optimised GeoTIFF, which every GIS opens.

The store is copied block by block into plain tiled files beside the target, one for each resolution, all
reduced from the full one; GDAL's COG driver packs them into the final file, which is renamed at the end,
so that a COG is there whole or not at all::

    store ──► blocks ──► 1.tif  2.tif  4.tif ...  ──► whole.vrt ──► COG
                         (each level from full resolution)    colours, names, scale

Class names: a GeoTIFF has room for a colour table but not for category names. They are written three
times, for whoever reads which: in ``<raster>.aux.xml`` (GDAL and QGIS: category names and attribute table),
as band tags ``class_<value>`` inside the file (they travel with it), and in the QML that `styles` writes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.products.level_files import TIFF_TILE_PX, LevelFiles
from engine.products.look import Look, look_of
from engine.products.overviews import default_levels
from engine.products.reducers import mean_levels, mode_levels, nearest_blocks
from engine.products.styles import pam, write_text
from engine.products.vrt import Frame, VrtSource, vrt_text
from engine.store.view import MapView, in_flight, open_view
from engine.values.classes import ClassScheme
from engine.values.grid import Box

BLOCK_PX = 2048

_CACHE_MIB = 128  # of GDAL's, which takes a twentieth of all memory by itself

Overviews = Literal["mode", "nearest"]
"""``mode``: the majority of the pixels below for classes, their mean for amounts; ``nearest``: the middle one."""

DIGEST_TAG = "LANDWEAVE_DIGEST"
"""Tag of a file that says what it was made of."""


@dataclass(frozen=True)
class CogRequest:
    """One file to write.

    Attributes:
        look: Layer, type, names, colours.
        box: Pixels, in the store's global indices.
        within: Pixels that are taken from the store, inside it; all others are no data.
        factors: Overviews, powers of two in rising order, counted from the box's corner.
        overviews: How they are reduced.
        block_px: Side of the blocks that are read; grown to a power of two that holds the largest factor.
    """

    look: Look
    box: Box
    within: Box
    factors: tuple[int, ...]
    overviews: Overviews = "mode"
    block_px: int = BLOCK_PX

    @property
    def step_px(self) -> int:
        """Side of the blocks that are read."""
        return 1 << (max([self.block_px, 16, *self.factors]) - 1).bit_length()


def write_cog(
    map_url: str,
    path: str | Path,
    *,
    variable: str = "label",
    box: Box | None = None,
    scheme: ClassScheme | None = None,
    overviews: Overviews = "mode",
    block_px: int = BLOCK_PX,
) -> Path:
    """Write one variable of a map store as a Cloud-Optimised GeoTIFF.

    Each overview is reduced from full resolution, counted from the file's upper-left corner: the exact
    majority of the pixels below it, not GDAL's majority of majorities. No-data, CRS and transform are set, and
    scale and offset where the layer states them.

    Args:
        map_url: The map store.
        path: Local file to write; parent folders are made.
        variable: A raster variable; a third dimension becomes bands.
        box: Area to cut out, in the store's global pixels; None takes the whole store, padding included.
        scheme: Classes of a label variable; None takes those that the store's flags tell.
        overviews: How overviews are reduced.
        block_px: Side of the blocks that are copied.

    Returns:
        The path.

    Raises:
        InputError: If there is no such map or variable, or the box reaches outside.
        DataError: If a label variable has no usable flags and no scheme is given.
    """
    view = open_view(map_url)
    box, look = view.crop(box), look_of(view, variable, scheme)
    request = CogRequest(look, box, box, default_levels(box.shape_yx), overviews, block_px)
    make_cog(view, request, Path(path))
    return Path(path)


Watch = Callable[[NDArray[Any]], None]
"""Sees each block that is copied, (y, x), plane by plane and row by row."""


def make_cog(
    view: MapView,
    request: CogRequest,
    path: Path,
    *,
    watch: Watch | None = None,
    tags: Callable[[], dict[str, str]] | None = None,
) -> None:
    """Write a COG of part of a map; memory is bounded by a few blocks and a strip of the coarser levels.

    Args:
        view: The map.
        request: What to write.
        path: Local file; what stood there is replaced at the end.
        watch: Sees the pixels as they come.
        tags: Asked for further tags when all pixels have been seen.
    """
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB), parts_beside(path) as parts:
        frame = Frame(view.grid, request.box)
        with LevelFiles(parts, request.look, frame, request.factors, request.step_px) as files:
            for plane, y, x, levels in _reduced_blocks(view, request, watch):
                files.put(plane, y, x, levels)
        source = VrtSource("1.tif", (0, 0), request.box.shape_yx)
        finer = [f"{factor}.tif" for factor in request.factors]
        text = vrt_text(request.look, frame, [source], finer, tags() if tags else None)
        pack(parts, text, request.look, path)


def pack(parts: Path, vrt: str, look: Look, path: Path) -> None:
    """Turn a virtual raster with overviews into a COG, with its class names beside it.

    Args:
        parts: Folder to work in, on the target's file system.
        vrt: The virtual raster's XML; its paths are relative to `parts`.
        look: How it presents itself.
        path: The file to write.
    """
    import rasterio
    from rasterio.shutil import copy

    whole, final = parts / "whole.vrt", parts / "final.tif"
    whole.write_text(vrt, encoding="utf-8")
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB):
        copy(str(whole), str(final), driver="COG", **_cog_options(look.scheme is not None))
    _sync(final)
    if look.scheme is not None:
        write_text(path.with_name(path.name + ".aux.xml"), pam(look.scheme, look.zero))
    final.replace(path)


def blocks_of(view: MapView, request: CogRequest) -> Iterator[tuple[int | None, Box]]:
    """Yield plane and box (counted from the request's corner) of each block, in the order of copying."""
    array = view.array(request.look.variable)
    planes: Sequence[int | None] = [None] if array.ndim == 2 else range(array.shape[0])
    for plane in planes:
        for block in Box(0, 0, *request.box.shape_yx).blocks(request.step_px):
            yield plane, block


def read_block(view: MapView, request: CogRequest, plane: int | None, block: Box) -> NDArray[Any]:
    """Read one block; what is not taken from the store is no data (0 in a layer that has none)."""
    y, x = request.box.y0, request.box.x0
    box = Box(block.y0 + y, block.x0 + x, block.y1 + y, block.x1 + x)
    inside = box & request.within
    if inside == box:
        return view.read(request.look.variable, box, plane)
    values = np.full(box.shape_yx, request.look.no_data or 0, request.look.dtype)
    if inside:
        values[inside.slices_in(box)] = view.read(request.look.variable, inside, plane)
    return values


def _reduced_blocks(
    view: MapView, request: CogRequest, watch: Watch | None
) -> Iterator[tuple[int, int, int, list[NDArray[Any]]]]:
    """Yield (plane, y, x, levels) of each block, row by row; (y, x) counted from the request's corner."""

    def read(item: tuple[int | None, Box]) -> tuple[int, int, int, list[NDArray[Any]]]:
        plane, block = item
        values = read_block(view, request, plane, block)
        return plane or 0, block.y0, block.x0, [values, *_levels(values, request)]

    for plane, y, x, levels in in_flight(read, blocks_of(view, request), workers=2):
        if watch is not None:
            watch(levels[0])
        yield plane, y, x, levels


def _levels(values: NDArray[Any], request: CogRequest) -> Sequence[NDArray[Any]]:
    if request.overviews == "nearest":
        return [nearest_blocks(values, factor) for factor in request.factors]
    if request.look.scheme is not None:
        return mode_levels(values, request.factors)
    return mean_levels(values, request.factors, request.look.no_data)


def _cog_options(classes: bool) -> dict[str, Any]:
    """Return the COG driver's options; prediction helps amounts only."""
    return {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "NO" if classes else "STANDARD",
        "BLOCKSIZE": TIFF_TILE_PX,
        "OVERVIEWS": "FORCE_USE_EXISTING",  # ours; GDAL makes none
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
    }


@contextmanager
def parts_beside(path: Path) -> Iterator[Path]:
    """Give a folder for temporary files beside a file to write; it is removed in the end.

    What a killed process of this machine left behind is removed first.
    """
    for left in path.parent.glob(f".{path.stem}.*.parts"):
        if not _runs(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    parts = path.with_name(f".{path.stem}.{os.getpid()}.parts")
    parts.mkdir()
    try:
        yield parts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    """Bring a file to the disk before its name says that it is done."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
