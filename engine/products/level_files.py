"""Plain tiled files, one for each resolution of a raster that is being copied.

Blocks come row by row. A level whose share of a block fills whole tiles of its file is written at once;
coarser ones are gathered in a strip as high as a tile, so that no tile is packed twice::

    level 1, 2, 4   ┌────┐ a block's share = whole tiles: written as it comes
                    └────┘
    level 8, 16 ... ┌─┬─┬─┬─┬─┬─┬─┬─┐ one strip of 512 rows, written when the next begins
                    └─┴─┴─┴─┴─┴─┴─┴─┘
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.products.look import Look
from engine.products.vrt import Frame

TIFF_TILE_PX = 512


class LevelFiles:
    """The files ``1.tif``, ``2.tif``, ``4.tif``, ... of a folder, open for writing.

    Args:
        folder: Where they are made.
        look: Type, no data and number of bands.
        frame: Where the full resolution lies.
        factors: The coarser levels, powers of two.
        block_px: Side of the blocks that come, a power of two that holds the largest factor.
    """

    def __init__(
        self, folder: Path, look: Look, frame: Frame, factors: tuple[int, ...], block_px: int
    ) -> None:
        self._levels = [
            _LevelFile(folder, look, Frame(frame.grid, frame.box, factor), block_px // factor)
            for factor in (1, *factors)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for level in self._levels:
            level.close()

    def put(self, plane: int, y: int, x: int, levels: list[NDArray[Any]]) -> None:
        """Write one block of a plane at all resolutions.

        Args:
            plane: Number of the band, from 0.
            y: First row at full resolution; blocks lie on whole multiples of their side.
            x: First column.
            levels: (y, x) of each level, the full resolution first.
        """
        for level, values in zip(self._levels, levels, strict=True):
            level.put(plane, y // level.factor, x // level.factor, values)


class _LevelFile:
    """One file, and the strip that is being gathered."""

    def __init__(self, folder: Path, look: Look, frame: Frame, share_px: int) -> None:
        import rasterio
        from affine import Affine

        self.factor, (self.height, self.width) = frame.factor, frame.shape_yx
        whole = Affine(*frame.grid.transform_of(frame.box))
        self.file = rasterio.open(
            folder / f"{frame.factor}.tif",
            "w",
            driver="GTiff",
            dtype=look.dtype,
            count=len(look.bands),
            height=self.height,
            width=self.width,
            crs=frame.grid.crs,
            transform=whole * Affine.scale(frame.factor),
            nodata=look.no_data,
            tiled=True,
            blockxsize=TIFF_TILE_PX,
            blockysize=TIFF_TILE_PX,
            compress="lzw",
            bigtiff="if_safer",
            sparse_ok=True,
            interleave="band",
        )
        self.whole_tiles = share_px % TIFF_TILE_PX == 0
        self.dtype, self.fill = look.dtype, look.no_data or 0
        self.at: tuple[int, int] | None = None
        self.strip: NDArray[Any] | None = None

    def put(self, plane: int, y: int, x: int, values: NDArray[Any]) -> None:
        """Write a block's share, or gather it."""
        if self.whole_tiles:
            self._write(plane, y, x, values)
            return
        at = (plane, y // TIFF_TILE_PX)
        if at != self.at or self.strip is None:
            self._flush()
            rows = min(TIFF_TILE_PX, self.height - at[1] * TIFF_TILE_PX)
            self.at, self.strip = at, np.full((rows, self.width), self.fill, self.dtype)
        row = y - at[1] * TIFF_TILE_PX
        self.strip[row : row + values.shape[0], x : x + values.shape[1]] = values

    def close(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.at is not None and self.strip is not None:
            self._write(self.at[0], self.at[1] * TIFF_TILE_PX, 0, self.strip)
        self.at, self.strip = None, None

    def _write(self, plane: int, y: int, x: int, values: NDArray[Any]) -> None:
        from rasterio.windows import Window

        window = Window(x, y, *values.shape[::-1])
        self.file.write(np.ascontiguousarray(values), plane + 1, window=window)
