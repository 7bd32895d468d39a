"""A training's cube, loaded whole where it fits and read block by block where it does not.

Shape suffixes: T date, C band, Y X the whole box, H row, W column, N pixel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.values.budget import GIB
from engine.values.errors import BudgetError
from engine.values.grid import Box
from engine.values.planes import Plane
from training.sources import Block, Source, seen_of, source_of

if TYPE_CHECKING:
    import xarray as xr

_FEWEST_BLOCKS = 9


class Pixels(Protocol):
    """What networks see of a cube over a box; C are its planes (`engine.values.planes`)."""

    n_dates: int
    n_bands: int
    planes: tuple[Plane, ...]

    def cut(self, box: Box) -> NDArray[np.uint16]:
        """Return the pixels of a box, (T, C, H, W) uint16."""
        ...

    def at(self, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return single pixels by row and column of the whole box, (T, C, N) uint16."""
        ...

    def sweep(self, boxes: Iterable[Box]) -> list[Box]:
        """Order boxes so that few blocks are read twice when they are cut one after the other."""
        ...


@dataclass(frozen=True, eq=False)
class Loaded:
    """All pixels in memory.

    Attributes:
        x_TCYX: uint16, 0 = no data.
        box: Its global pixels.
        planes: What its planes are; empty: bands of reflectance.
    """

    x_TCYX: NDArray[np.uint16]  # noqa: N815
    box: Box
    planes: tuple[Plane, ...] = ()

    @property
    def n_dates(self) -> int:
        """Number of dates."""
        return int(self.x_TCYX.shape[0])

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return int(self.x_TCYX.shape[1])

    def cut(self, box: Box) -> NDArray[np.uint16]:
        """Return a view."""
        return self.x_TCYX[(..., *box.slices_in(self.box))]

    def at(self, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return a copy."""
        return self.x_TCYX[:, :, ys, xs]

    def sweep(self, boxes: Iterable[Box]) -> list[Box]:
        """Leave them as they are."""
        return list(boxes)


class Streamed:
    """Pixels read when they are asked for; the blocks used last are kept.

    Args:
        source: The cube.
        box: Global pixels that count.
        most_bytes: Of the blocks kept.

    Raises:
        BudgetError: If this is less than a few blocks.
    """

    def __init__(self, source: Source, box: Box, most_bytes: int) -> None:
        self.source, self.box, self.most_bytes = source, box, most_bytes
        self.planes = source.shape.planes
        self._most = most_bytes // source.shape.block_bytes
        if self._most < _FEWEST_BLOCKS:
            raise BudgetError(
                "the cube does not fit into memory, and neither do a few of its blocks",
                where="train.memory_bytes",
                found=f"{most_bytes / GIB:.2f} GiB for blocks",
                limit=f"{_FEWEST_BLOCKS * source.shape.block_bytes / GIB:.2f} GiB: {_FEWEST_BLOCKS} blocks",
                mend="open the cube in smaller chunks (chunks_yx), or allow more memory",
            )
        self._kept: OrderedDict[tuple[int, int], Block] = OrderedDict()

    @property
    def n_dates(self) -> int:
        """Number of dates."""
        return len(self.source.shape.days)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.source.shape.bands)

    def cut(self, box: Box) -> NDArray[np.uint16]:
        """Put a box together from its blocks."""
        out_TCHW = np.empty((self.n_dates, self.n_bands, *box.shape_yx), np.uint16)
        shape = self.source.shape
        rows = _touching(shape.edges_y, box.y0, box.y1)
        for row in rows:
            for col in _touching(shape.edges_x, box.x0, box.x1):
                block = self._block(row, col)
                both = box & block.box
                out_TCHW[(..., *both.slices_in(box))] = block.x[(..., *both.slices_in(block.box))]
        return out_TCHW

    def at(self, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Gather single pixels, block by block; none is read twice."""
        shape = self.source.shape
        ys, xs = ys + self.box.y0, xs + self.box.x0
        rows = np.searchsorted(shape.edges_y, ys, side="right") - 1
        cols = np.searchsorted(shape.edges_x, xs, side="right") - 1
        out_TCN = np.empty((self.n_dates, self.n_bands, len(ys)), np.uint16)
        for row, col in np.unique(np.stack([rows, cols], axis=1), axis=0):
            here = np.flatnonzero((rows == row) & (cols == col))
            block = self._block(int(row), int(col))
            out_TCN[:, :, here] = block.x[:, :, ys[here] - block.box.y0, xs[here] - block.box.x0]
        return out_TCN

    def sweep(self, boxes: Iterable[Box]) -> list[Box]:
        """Go along each row of blocks."""
        edges = self.source.shape.edges_y
        return sorted(boxes, key=lambda b: (int(np.searchsorted(edges, b.y0, side="right")), b.x0, b.y0))

    def _block(self, row: int, col: int) -> Block:
        key = row, col
        if key not in self._kept:
            while len(self._kept) >= self._most:
                self.source.release(self._kept.popitem(last=False)[1])
            self._kept[key] = self.source.read(row, col)
        self._kept.move_to_end(key)
        return self._kept[key]


def pixels_of(cube: xr.Dataset, box: Box, limit_bytes: int | None) -> Loaded | Streamed:
    """Load what networks see of a cube whole if it fits, else read it by blocks.

    Args:
        cube: ``reflectance`` (time, band, y, x) uint16 over `box`, and whatever else its spec names; or planes alone
            (`engine.inference.planes`).
        box: Its global pixels.
        limit_bytes: What the pixels may take; None: half of the memory that is free.

    Raises:
        BudgetError: If not even a few blocks fit.
    """
    seen, planes = seen_of(cube)
    if limit_bytes is None:
        import psutil

        limit_bytes = psutil.virtual_memory().available // 2
    in_memory = isinstance(seen.data, np.ndarray)
    if in_memory or seen.nbytes <= limit_bytes:
        return Loaded(np.ascontiguousarray(seen.compute(scheduler="threads").values), box, planes)
    return Streamed(source_of(cube, box, planes=planes), box, limit_bytes // 2)


def _touching(edges: NDArray[np.int64], lo: int, hi: int) -> range:
    """Return the blocks that hold pixels of ``lo..hi``."""
    return range(int(np.searchsorted(edges, lo, side="right")) - 1, int(np.searchsorted(edges, hi)))
