"""GDAL's sieve of a whole map, in strips of rows: the same pixels, whatever the size of the map.

What ``gdal_sieve.py`` and `rasterio.features.sieve` do (GDAL's ``GDALSieveFilter``, as its documentation and its
answers tell it): a region of equal pixels smaller than the threshold takes the class of its largest neighbour; where
that is small too, of its largest neighbour, and so on; regions from which no chain ends in one that is large enough
stay. Of equally large neighbours the one counts that a scan meets first: pixel by pixel, at each pixel first the one
above, with eight neighbours then those above to the left and to the right, then the one to the left. Pixels that are
masked are neither changed nor neighbours.

Which chain a region follows depends on regions as far away as they reach, so the answer for a part of a map is not a
part of the answer: this is done for the whole map, in one process. The map is read three times, strip by strip; what is
kept is a strip with its runs and 14 bytes for each piece of a region, 20 while the tables grow (`engine.refine.objects`
says what a piece is; a calm map has one for thousands of pixels, one where each pixel differs has one for each)::

    first pass    pieces, joined to regions; their sizes
    second pass   the largest neighbour of each small region      ──► chains followed
    third pass    the map with the new classes                    ──► written strip by strip
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from engine.refine.objects import HIDDEN, check_classes, cut_rows, first_above, flatten, number_rows
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import DataError, InputError

ReadRows = Callable[[int, int], NDArray[Any]]
"""Gives rows ``y0 <= y < y1``, (y, x): of a map uint8, of a mask uint8 or bool."""

WriteRows = Callable[[int, NDArray[np.uint8]], None]
"""Takes the number of the first row, and the rows, (y, x) uint8."""

_SIZE_LIMIT = 2**31 - 1  # GDAL counts a region's pixels no further: larger ones are equal
_PIECES_LIMIT = 2**31 - 1  # pieces are numbered in 32 bits
_STRIP_PX = 2**20


@dataclass(frozen=True)
class Sieved:
    """What a sieve did.

    Attributes:
        regions: Regions of the map, no data and masked pixels aside.
        small: Those below the threshold.
        merged: Small ones that took a neighbour's class; from the others no chain leads to a region large enough.
        changed_px: Pixels that have another class now.
    """

    regions: int
    small: int
    merged: int
    changed_px: int


def sieve(
    label: NDArray[np.uint8],
    min_px: int,
    *,
    connectivity: int = 4,
    mask: NDArray[Any] | None = None,
    hidden: int | None = NO_DATA_LABEL,
) -> NDArray[np.uint8]:
    """Sieve an array as `rasterio.features.sieve` does.

    Args:
        label: (y, x) classes.
        min_px: Regions of fewer pixels are merged into their largest neighbour.
        connectivity: 4: pixels of a region share edges; 8: corners join too.
        mask: (y, x) uint8 or bool, 0 = not part of any region.
        hidden: Class of pixels that are not part of any region (GDAL's tool reads it from the file's no-data value);
            None where all pixels count.

    Raises:
        InputError: If the connectivity is neither 4 nor 8, the threshold below 1, or the array not of bytes.

    >>> sieve(np.array([[1, 1, 1], [1, 2, 1], [3, 3, 3]], np.uint8), 2).tolist()
    [[1, 1, 1], [1, 1, 1], [3, 3, 3]]
    """
    out = np.empty_like(label)

    def write(y0: int, rows: NDArray[np.uint8]) -> None:
        out[y0 : y0 + len(rows)] = rows

    shown = None if mask is None else lambda y0, y1: mask[y0:y1]
    how = Sieve(min_px=min_px, connectivity=connectivity, hidden=hidden)
    how.run(lambda y0, y1: label[y0:y1], write, label.shape, mask=shown)
    return out


@dataclass(frozen=True)
class Sieve:
    """GDAL's sieve of a map of any size.

    Attributes:
        min_px: Regions of fewer pixels are merged into their largest neighbour.
        connectivity: 4: pixels of a region share edges; 8: corners join too.
        hidden: Class of pixels that are not part of any region; None where all pixels count.
        strip_px: Pixels read at once, about; whole rows.
    """

    min_px: int
    connectivity: int = 4
    hidden: int | None = NO_DATA_LABEL
    strip_px: int = _STRIP_PX

    def __post_init__(self) -> None:
        if self.connectivity not in (4, 8):
            raise InputError(
                "pixels touch by edges or by corners too", found=self.connectivity, limit="4 or 8"
            )
        if self.min_px < 1:
            raise InputError("a sieve needs a size", where="min_px", found=self.min_px, limit="1 or more")

    def run(
        self, read: ReadRows, write: WriteRows, shape_yx: tuple[int, int], mask: ReadRows | None = None
    ) -> Sieved:
        """Read the map three times, strip by strip, and write it sieved.

        Args:
            read: Gives rows of classes; gives the same ones each time.
            write: Takes the rows in order; may write where `read` reads, for rows are not read again after that.
            shape_yx: Height and width of the map.
            mask: Gives rows of a mask, 0 = not part of any region.

        Raises:
            InputError: If rows are not of bytes, or of another shape than asked for.
            DataError: If the map falls into more pieces than can be numbered (2**31), or changes meanwhile.
        """
        strips = _Strips(self, read, shape_yx, mask)
        pieces = _Pieces()
        for _, _, cut, _ in strips.numbered(pieces, unites=True):
            _add_sizes(cut, pieces.sizes, pieces.classes)
        pieces.trim()
        regions = flatten(pieces.parents, False)
        _gather(pieces.parents, pieces.sizes)
        largest = np.full(pieces.n, HIDDEN, np.int32)
        known = (pieces.parents, pieces.sizes, self.min_px)
        for _, _, cut, above in strips.numbered(pieces):
            _compare(cut, above, self.connectivity == 8, known, largest)
        small, merged = _follow_chains(known, largest)
        becomes = np.empty(pieces.n, np.uint8)
        _new_classes(pieces.parents, pieces.classes, largest, becomes)
        changed = 0
        for y0, rows, cut, _ in strips.numbered(pieces):
            out = rows.copy()
            changed += _paint(cut, becomes, out)
            write(y0, out)
        return Sieved(regions, small, merged, changed)


class _Pieces:
    """The forest of pieces, their sizes and classes."""

    def __init__(self) -> None:
        self.n = 0
        self.parents, self.sizes = np.empty(0, np.int32), np.empty(0, np.int32)
        self.classes = np.empty(0, np.uint8)

    def make_room(self, more: int) -> None:
        """Make room for so many more pieces.

        Raises:
            DataError: If they could not be numbered.
        """
        if self.n + more <= len(self.parents):
            return
        if self.n + more > _PIECES_LIMIT:
            mend = "use the minimum mapping unit instead, which works tile by tile"
            raise DataError(
                "the map has too many regions for a sieve", found=self.n, limit=_PIECES_LIMIT, mend=mend
            )
        self._resize(min(max(self.n + more, len(self.parents) * 3 // 2), _PIECES_LIMIT))

    def trim(self) -> None:
        """Keep no more room than pieces."""
        self._resize(self.n)

    def _resize(self, room: int) -> None:
        for name in ("parents", "sizes", "classes"):
            new = np.zeros(room, getattr(self, name).dtype)
            new[: self.n] = getattr(self, name)[: self.n]
            setattr(self, name, new)


_Cut = tuple[NDArray[np.int32], NDArray[np.int64]]


class _Strips:
    """A map's rows, some at a time, cut into runs that carry the numbers of their pieces."""

    def __init__(self, how: Sieve, read: ReadRows, shape_yx: tuple[int, int], mask: ReadRows | None):
        self.how, self.read, self.mask = how, read, mask
        self.height, self.width = shape_yx
        self.rows = max(1, how.strip_px // max(self.width, 1))

    def numbered(
        self, pieces: _Pieces, unites: bool = False
    ) -> Iterator[tuple[int, NDArray[np.uint8], _Cut, NDArray[np.int32]]]:
        """Yield first row, classes, runs, and the runs of the row above; in the first pass pieces are made."""
        above, n = first_above(self.width), 0
        hidden = HIDDEN if self.how.hidden is None else self.how.hidden
        corner = int(self.how.connectivity == 8)
        for y0 in range(0, self.height, self.rows):
            y1 = min(y0 + self.rows, self.height)
            rows = np.ascontiguousarray(self.read(y0, y1))
            check_classes(rows, (y1 - y0, self.width))
            cut = cut_rows(rows, self._shown(y0, y1), hidden)
            if unites:
                pieces.make_room(len(cut[0]))
            n = number_rows(cut, above, pieces.parents, n, (corner, unites))
            if unites:
                pieces.n = n
            elif n > pieces.n:
                mend = "let nothing else write it, and sieve it again"
                raise DataError("the map changed while it was read", found=n, limit=pieces.n, mend=mend)
            yield y0, rows, cut, above
            above = cut[0][cut[1][-2] :].copy()

    def _shown(self, y0: int, y1: int) -> NDArray[np.uint8]:
        if self.mask is None:
            return np.empty((0, self.width), np.uint8)
        shown = np.ascontiguousarray(self.mask(y0, y1) != 0).view(np.uint8)
        check_classes(shown, (y1 - y0, self.width))
        return shown


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _add_sizes(cut: _Cut, sizes: NDArray[np.int32], classes: NDArray[np.uint8]) -> None:
    """Count the pixels of each piece, and note its class."""
    records = cut[0]
    for i in range(len(records) - 1):
        own = records[i, 2]
        if own != HIDDEN:
            sizes[own] = min(np.int64(sizes[own]) + records[i + 1, 0] - records[i, 0], _SIZE_LIMIT)
            classes[own] = records[i, 1]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _gather(parents: NDArray[np.int32], sizes: NDArray[np.int32]) -> None:
    """Turn the sizes of pieces into those of their regions."""
    for i in range(len(parents)):
        if parents[i] != i:
            sizes[parents[i]] = min(np.int64(sizes[parents[i]]) + sizes[i], _SIZE_LIMIT)
    for i in range(len(parents)):
        sizes[i] = sizes[parents[i]]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _meet(
    a: int, b: int, known: tuple[NDArray[np.int32], NDArray[np.int32], int], largest: NDArray[np.int32]
) -> None:
    """Let two pieces that touch take each other's region as neighbour where it is larger than what they have."""
    parents, sizes, min_px = known
    if a == HIDDEN or b == HIDDEN:
        return
    size_a, size_b = sizes[a], sizes[b]
    if size_a >= min_px and size_b >= min_px:
        return
    a, b = parents[a], parents[b]
    if a == b:
        return
    if size_a < min_px and (largest[a] == HIDDEN or sizes[largest[a]] < size_b):
        largest[a] = b
    if size_b < min_px and (largest[b] == HIDDEN or sizes[largest[b]] < size_a):
        largest[b] = a


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _compare(
    cut: _Cut,
    above: NDArray[np.int32],
    corners: bool,
    known: tuple[NDArray[np.int32], NDArray[np.int32], int],
    largest: NDArray[np.int32],
) -> None:
    """Let regions that touch meet, in the order of a scan over pixels.

    A row and the one above it are gone over together, from one beginning of a run in either to the next. A run's
    first pixel meets those above it and then the one to the left; its other pixels meet further runs above where these
    begin, with corners one pixel before that. To meet again what was met changes nothing.
    """
    records, rows = cut
    for y in range(len(rows) - 1):
        row = records[rows[y] : rows[y + 1]]
        width = row[len(row) - 1, 0]
        i = j = x = 0
        last = len(above) - 1
        while x < width:
            own, other = row[i, 2], above[j, 2]
            begins, ends, other_ends = row[i, 0] == x, row[i + 1, 0], width
            if last:
                other_ends = above[j + 1, 0]
                if row[i, 1] != above[j, 1]:
                    _meet(own, other, known, largest)
            if begins:
                if corners and last:
                    if j > 0 and above[j, 0] == x:
                        _meet(own, above[j - 1, 2], known, largest)
                    if j + 1 < last and above[j + 1, 0] == x + 1:
                        _meet(own, above[j + 1, 2], known, largest)
                if i > 0:
                    _meet(own, row[i - 1, 2], known, largest)
            if corners and other_ends == ends and j + 1 < last:
                _meet(own, above[j + 1, 2], known, largest)
            x = min(ends, other_ends)
            i += ends == x
            j += other_ends == x
        above = row


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _follow_chains(
    known: tuple[NDArray[np.int32], NDArray[np.int32], int], largest: NDArray[np.int32]
) -> tuple[int, int]:
    """Point each small region to the first one on its chain that is large enough, or to none.

    Args:
        known: Regions of pieces, sizes, threshold.
        largest: (piece,) the largest neighbour of each small region, -1 = none; replaced by the end of its chain.

    Returns:
        Number of small regions, and of those whose chain ends well.
    """
    parents, sizes, min_px = known
    walked = np.zeros(len(parents), np.bool_)
    small = merged = 0
    for first in range(len(parents)):
        if parents[first] != first or sizes[first] >= min_px:
            continue
        small += 1
        at = first
        while at != HIDDEN and sizes[at] < min_px and not walked[at]:
            walked[at] = True
            at = largest[at]
        # a region on a chain that was followed before knows its end; one of this very chain closes a circle
        end = at
        if at != HIDDEN and sizes[at] < min_px:
            end = largest[at] if largest[at] == HIDDEN or sizes[largest[at]] >= min_px else HIDDEN
        at = first
        while at != HIDDEN and sizes[at] < min_px and largest[at] != end:
            after = largest[at]
            largest[at] = end
            at = after
        if largest[first] != HIDDEN:
            merged += 1
    return small, merged


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _new_classes(
    parents: NDArray[np.int32],
    classes: NDArray[np.uint8],
    largest: NDArray[np.int32],
    becomes: NDArray[np.uint8],
) -> None:
    """Give each piece the class of the region that its own is merged into, else its own."""
    for i in range(len(parents)):
        into = largest[parents[i]]
        becomes[i] = classes[i] if into == HIDDEN else classes[into]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _paint(cut: _Cut, becomes: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
    """Give runs their new class; return the pixels that changed."""
    records, rows = cut
    changed = 0
    for y in range(len(rows) - 1):
        for i in range(rows[y], rows[y + 1] - 1):
            own = records[i, 2]
            if own != HIDDEN and becomes[own] != records[i, 1]:
                out[y, records[i, 0] : records[i + 1, 0]] = becomes[own]
                changed += records[i + 1, 0] - records[i, 0]
    return changed
