"""Which files a raster product consists of: one COG, or cells with a VRT over them.

::

    cog/label.tif                         a map that fits one cell

    cog/label/r-61_c7.tif  r-61_c8.tif    cells of cell_px x cell_px, counted from the grid's anchor, each a COG
              r-60_c7.tif  ...            of its own; one without any data has no file
    cog/label/overview.tif                the whole map, coarse, for a look from afar
    cog/label.vrt                         one raster of all of them, with colours, names and overviews
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.values.grid import Box, Grid, TileKey


@dataclass(frozen=True)
class MosaicCell:
    """One COG of a mosaic.

    Attributes:
        key: Row and column of the cell, counted from the grid's anchor; names the file.
        box: Its pixels, in the grid's global indices: the cell, cut to the mosaic's box.
        path: The file, a complete COG with colours and overviews.
        digest: What it was made of: the same digest, the same pixels. Empty for a single COG.
    """

    key: TileKey
    box: Box
    path: Path
    digest: str = ""


@dataclass(frozen=True)
class Mosaic:
    """One variable of a map as files.

    Attributes:
        variable: Its name in the store, such as ``label``.
        grid: Grid of the pixels.
        box: Pixels that all files together cover; the cells lie inside, and where none lies is no data.
        cells: The COGs that hold data, in order of row and column; one, where `vrt` is None.
        vrt: The file that joins the cells; None where one COG holds all.
        overview: The coarse COG of the whole mosaic to which `vrt` refers; None where one COG holds all.
    """

    variable: str
    grid: Grid
    box: Box
    cells: tuple[MosaicCell, ...]
    vrt: Path | None = None
    overview: Path | None = None

    @property
    def main(self) -> Path:
        """The file to open for all of it: the VRT, or the only COG."""
        return self.vrt or self.cells[0].path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the main one first; names and colours beside them (``.aux.xml``) are not counted."""
        extra = (self.overview,) if self.overview else ()
        cells = tuple(cell.path for cell in self.cells)
        return (self.vrt, *extra, *cells) if self.vrt else cells
