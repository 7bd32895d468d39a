"""A map of any size as files: one COG, or a mosaic of COGs with a VRT over them.

::

    cog/label.vrt ─┬─► cog/label/r-61_c7.tif  r-61_c8.tif ...     each with all its overviews
                   └─► cog/label/level_2.vrt ... level_16.vrt     the cells' overviews, joined
                       cog/label/level_32.vrt ... ─► cog/label/overview.tif     the whole map from afar

Cells are counted from the grid's anchor, and the mosaic's box lies on whole multiples of its coarsest
overview, so that each overview pixel of the whole lies within one cell: a level of the mosaic is the cells'
levels side by side, exact without ever reading the map as a whole.

A file carries the digest of what it was made of: its pixels (or what the caller knows of them), names,
colours, overviews. A cell whose digest is unchanged is not written again, so a run that was killed, or a
map of which a part has changed, costs the cells concerned.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.products.cog import (
    BLOCK_PX,
    DIGEST_TAG,
    CogRequest,
    Overviews,
    blocks_of,
    make_cog,
    pack,
    parts_beside,
    read_block,
)
from engine.products.look import Look, look_of
from engine.products.mosaic_files import Mosaic, MosaicCell
from engine.products.overviews import Listener, default_levels
from engine.products.styles import write_text
from engine.products.vrt import Frame, VrtSource, vrt_text
from engine.store.view import MapView, open_view
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, TileKey

CELL_PX = 16384
"""Side of a cell: 164 km at 10 m."""

_FORMAT = 1  # another number: all files are written again
_TILE_PX = 512

State = Callable[[Box], str]
"""Says what the pixels of a box were made of: the same text promises the same pixels."""


@dataclass(frozen=True)
class MosaicOptions:
    """How a map becomes files.

    Attributes:
        cell_px: Side of a cell, a power of two from 1024 on.
        overviews: How overviews are reduced.
        joined: Write cells and a VRT even where one COG would hold all.
        state: Tells unchanged cells without reading them; None compares the pixels.
        block_px: Side of the blocks that are read.

    Raises:
        InputError: If the side of a cell is not such a power of two.
    """

    cell_px: int = CELL_PX
    overviews: Overviews = "mode"
    joined: bool = False
    state: State | None = None
    block_px: int = BLOCK_PX

    def __post_init__(self) -> None:
        if self.cell_px < 2 * _TILE_PX or self.cell_px & (self.cell_px - 1):
            raise InputError(
                "the side of a cell is a power of two",
                where="cell_px",
                found=self.cell_px,
                limit=f"at least {2 * _TILE_PX}",
                mend=f"use 4096, 8192 or {CELL_PX}",
            )


def write_mosaic(
    map_url: str,
    folder: str | Path,
    variable: str = "label",
    *,
    box: Box | None = None,
    scheme: ClassScheme | None = None,
    options: MosaicOptions | None = None,
    listener: Listener | None = None,
) -> Mosaic:
    """Write one variable of a map as COGs: one file where the area fits one cell, else cells and a VRT.

    What is unchanged since the last time stays untouched; what is no longer a part of it is removed. Cells
    without data have no file. The VRT is replaced last, so that readers find a whole mosaic at any moment.

    Args:
        map_url: The map store.
        folder: Where ``<variable>.tif``, or ``<variable>.vrt`` and the folder ``<variable>``, are written.
        variable: A raster variable; a third dimension becomes bands.
        box: Area to cut out, in the store's global pixels; None takes the whole store. A mosaic's own box is
            grown to whole pixels of its coarsest overview; what is added is no data.
        scheme: Classes of a label variable; None takes those that the store's flags tell.
        options: Sizes and overviews.
        listener: Called with (cells done, cells in all, file).

    Returns:
        Which files it consists of.

    Raises:
        InputError: If there is no such map or variable, or the box reaches outside.
        DataError: If a label variable has no usable flags and no scheme is given.
    """
    view, options, folder = open_view(map_url), options or MosaicOptions(), Path(folder)
    box, look = view.crop(box), look_of(view, variable, scheme)
    folder.mkdir(parents=True, exist_ok=True)
    maker = _Maker(view, look, options, folder)
    if max(box.shape_yx) <= options.cell_px and not options.joined:
        return maker.single(box, listener)
    return maker.joined(box, listener)


def cells_over(box: Box, cell_px: int) -> Iterator[tuple[TileKey, Box]]:
    """Yield the cells that touch a box with the pixels they share, row by row.

    >>> [(str(key), part.shape_yx) for key, part in cells_over(Box(-10, 0, 5, 8), 8)]
    [('r-2_c0', (2, 8)), ('r-1_c0', (8, 8)), ('r0_c0', (5, 8))]
    """
    for part in box.blocks(cell_px):
        yield TileKey(part.y0 // cell_px, part.x0 // cell_px), part


@dataclass(frozen=True)
class _Maker:
    """Writes the files of one variable."""

    view: MapView
    look: Look
    options: MosaicOptions
    folder: Path

    @property
    def cells_folder(self) -> Path:
        return self.folder / self.look.variable

    @property
    def vrt(self) -> Path:
        return self.folder / f"{self.look.variable}.vrt"

    def single(self, box: Box, listener: Listener | None) -> Mosaic:
        """Write one COG."""
        path = self.folder / f"{self.look.variable}.tif"
        factors = default_levels(box.shape_yx)
        request = self._request(box, box, factors)
        key = TileKey(box.y0 // self.options.cell_px, box.x0 // self.options.cell_px)
        cell = self._cell(request, key, path, keep_empty=True)
        assert cell is not None
        if listener is not None:
            listener(1, 1, path.name)
        self.vrt.unlink(missing_ok=True)
        shutil.rmtree(self.cells_folder, ignore_errors=True)
        return Mosaic(self.look.variable, self.view.grid, box, (cell,))

    def joined(self, box: Box, listener: Listener | None) -> Mosaic:
        """Write cells, the overview of the whole and the VRTs."""
        factors = _factors(box, self.options.cell_px)
        within, box = box, box.snap_out(max(factors, default=1))
        wanted, cells = list(cells_over(box, self.options.cell_px)), []
        for done, (key, part) in enumerate(wanted, start=1):
            path = self.cells_folder / f"{key}.tif"
            if (cell := self._cell(self._request(part, part & within, factors), key, path)) is not None:
                cells.append(cell)
            if listener is not None:
                listener(done, len(wanted), f"{self.look.variable}/{path.name}")
        mosaic = Mosaic(
            self.look.variable,
            self.view.grid,
            box,
            tuple(cells),
            self.vrt,
            self.cells_folder / "overview.tif" if factors and cells else None,
        )
        _Joint(self.look, mosaic, factors, self.options.cell_px).write()
        self._tidy(mosaic, factors if mosaic.overview else ())
        return mosaic

    def _request(self, box: Box, within: Box, factors: tuple[int, ...]) -> CogRequest:
        return CogRequest(self.look, box, within, factors, self.options.overviews, self.options.block_px)

    def _cell(
        self, request: CogRequest, key: TileKey, path: Path, *, keep_empty: bool = False
    ) -> MosaicCell | None:
        """Make sure that a file holds these pixels; None if there are none, and then no file."""
        words = self._words(request)
        before = digest_of(path)
        if self.options.state is not None:
            digest = _hash(words, self.options.state(request.box))
            if before == digest:
                return MosaicCell(key, request.box, path, digest)
        elif before is not None:
            seen = _Seen()
            for block in _plain_blocks(self.view, request):
                seen.take(block)
            if before == _hash(words, seen.hexdigest()):
                return MosaicCell(key, request.box, path, before)
        return self._written(request, key, path, words, keep_empty)

    def _written(
        self, request: CogRequest, key: TileKey, path: Path, words: str, keep_empty: bool
    ) -> MosaicCell | None:
        if not keep_empty and self._is_empty(request):
            for name in (path.name, f"{path.name}.aux.xml"):
                path.with_name(name).unlink(missing_ok=True)
            return None
        seen = _Seen()
        state = self.options.state

        def digest() -> str:
            return _hash(words, seen.hexdigest() if state is None else state(request.box))

        make_cog(
            self.view,
            request,
            path,
            watch=seen.take if state is None else None,
            tags=lambda: {DIGEST_TAG: digest()},
        )
        return MosaicCell(key, request.box, path, digest())

    def _is_empty(self, request: CogRequest) -> bool:
        """Tell whether a part of the map holds no data; stops at the first pixel that does."""
        no_data = self.look.no_data
        return no_data is not None and not any(
            bool((block != no_data).any()) for block in _plain_blocks(self.view, request)
        )

    def _words(self, request: CogRequest) -> str:
        """Write down all that decides a file but its pixels."""
        scheme = None if self.look.scheme is None else self.look.scheme.model_dump(mode="json")
        grid = self.view.grid
        return json.dumps(
            [
                _FORMAT,
                [self.look.variable, self.look.dtype, self.look.bands, self.look.no_data],
                [scheme, self.look.scale, self.look.offset],
                [grid.crs, grid.resolution_yx, grid.anchor_xy],
                [str(request.box), str(request.within)],
                [request.factors, request.overviews, request.step_px],
            ]
        )

    def _tidy(self, mosaic: Mosaic, factors: tuple[int, ...]) -> None:
        """Remove what an earlier mosaic, or a single COG, left behind."""
        known = {path.name for path in mosaic.files} | {f"level_{factor}.vrt" for factor in factors}
        for path in self.cells_folder.glob("*"):
            if path.is_file() and path.name.removesuffix(".aux.xml") not in known:
                path.unlink()
        for name in (f"{self.look.variable}.tif", f"{self.look.variable}.tif.aux.xml"):
            (self.folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Joint:
    """Joins the cells of a mosaic: the coarse file of the whole, a VRT per level, the VRT of all."""

    look: Look
    mosaic: Mosaic
    factors: tuple[int, ...]
    cell_px: int

    def write(self) -> None:
        """Write all that joins the cells, the VRT of the whole last."""
        assert self.mosaic.vrt is not None
        home = self.mosaic.vrt.with_suffix("")
        home.mkdir(exist_ok=True)
        coarse = self._coarse()
        if self.mosaic.overview is not None:
            self._write_overview(self.mosaic.overview, coarse)
            for factor in self.factors:
                sources = self._far(factor, coarse) if factor in coarse else self._near(factor, "")
                write_text(home / f"level_{factor}.vrt", self._text(factor, sources))
        levels = self.factors if self.mosaic.overview else ()
        finer = [f"{home.name}/level_{factor}.vrt" for factor in levels]
        write_text(self.mosaic.vrt, self._text(1, self._near(1, f"{home.name}/"), finer))

    def _coarse(self) -> tuple[int, ...]:
        """Return the levels at which a cell is one TIFF tile or less: they have a file of their own."""
        return tuple(f for f in self.factors if self.cell_px // f <= _TILE_PX) or self.factors[-1:]

    def _text(self, factor: int, sources: list[VrtSource], finer: list[str] | None = None) -> str:
        frame = Frame(self.mosaic.grid, self.mosaic.box, factor)
        return vrt_text(self.look, frame, sources, finer or ())

    def _near(self, factor: int, prefix: str) -> list[VrtSource]:
        """Return the cells at one resolution, side by side."""
        corner, sources = self.mosaic.box, []
        for cell in self.mosaic.cells:
            at = ((cell.box.y0 - corner.y0) // factor, (cell.box.x0 - corner.x0) // factor)
            height, width = (n // factor for n in cell.box.shape_yx)
            level = None if factor == 1 else self.factors.index(factor)
            sources.append(VrtSource(prefix + cell.path.name, at, (height, width), _TILE_PX, level))
        return sources

    def _far(self, factor: int, coarse: tuple[int, ...]) -> list[VrtSource]:
        """Return the coarse file of the whole, or one of its overviews."""
        shape = Frame(self.mosaic.grid, self.mosaic.box, factor).shape_yx
        level = coarse.index(factor) - 1
        return [VrtSource("overview.tif", (0, 0), shape, _TILE_PX, level if level >= 0 else None)]

    def _write_overview(self, path: Path, coarse: tuple[int, ...]) -> None:
        """Pack the cells' coarse levels into one COG, unless it is there."""
        frame = Frame(self.mosaic.grid, self.mosaic.box, coarse[0])
        made_of = [[str(c.key), c.digest] for c in self.mosaic.cells]
        digest = _hash(json.dumps([_FORMAT, made_of, coarse, str(self.mosaic.box)]), "")
        if digest_of(path) == digest:
            return
        with parts_beside(path) as parts:
            for factor in coarse:
                (parts / f"{factor}.vrt").write_text(self._text(factor, self._near(factor, "../")))
            source = VrtSource(f"{coarse[0]}.vrt", (0, 0), frame.shape_yx)
            finer = [f"{factor}.vrt" for factor in coarse[1:]]
            pack(parts, vrt_text(self.look, frame, [source], finer, {DIGEST_TAG: digest}), self.look, path)


def _factors(box: Box, cell_px: int) -> tuple[int, ...]:
    """Return a mosaic's overviews; the coarsest leaves a cell eight pixels, which is enough for 4 million."""
    return tuple(f for f in default_levels(box.shape_yx) if f * 8 <= cell_px)


def _plain_blocks(view: MapView, request: CogRequest) -> Iterator[NDArray[Any]]:
    """Yield the pixels of a file, block by block, as they are copied."""
    return (read_block(view, request, plane, block) for plane, block in blocks_of(view, request))


class _Seen:
    """A digest of blocks as they pass."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def take(self, block: NDArray[Any]) -> None:
        """Add a block."""
        self._hash.update(np.ascontiguousarray(block).data)

    def hexdigest(self) -> str:
        """Return the digest of all blocks so far."""
        return self._hash.hexdigest()


def digest_of(path: Path) -> str | None:
    """Return the digest that a file of ours carries; None where there is no such file, or it is damaged."""
    import rasterio
    from rasterio.errors import RasterioIOError

    if not path.exists():
        return None
    try:
        with rasterio.open(path) as file:
            tag: str | None = file.tags().get(DIGEST_TAG)
    except RasterioIOError:
        return None
    return tag


def _hash(words: str, pixels: str) -> str:
    return hashlib.sha256(f"{words}\n{pixels}".encode()).hexdigest()[:32]
