"""The seam statistic: does the map change more across window and tile borders than beside them?

A line is the border between pixel rows (or columns) ``l - 1`` and ``l``. Its rate is the share of pixel
pairs across it whose labels differ (or the mean step of a layer of amounts), over pairs that are valid on
both sides. A map without seams has, on average, the same rate on a border as on the lines a few pixels
beside it, whatever the landscape::

        l-12 ... l-3        l        l+3 ... l+12
    ─────┼───────┼──────────╋─────────┼───────┼────     ╋ a window or tile border
         controls      (±2 left out)      controls

Two questions are put to the sums of each line:

- `engine.inference.seam_families`: do all window borders, or all tile borders, change more than the lines
  beside them? This finds a blending that does not blend, however faint, once there are many borders.
- `engine.inference.seam_suspects`: is there a single tile, border or line, or a whole grid of borders, that
  changes more than any other place of the map? This finds, and names, the one tile that is shifted or was
  made by another model.

Sums are whole numbers per piece of a line, so blocks may come in any size and order: the report is the
same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.seam_families import SeamFamily, compare, near_borders
from engine.inference.seam_sums import AXES, Axis, Measure, Pieces, line_sums, measure_of, piece_px
from engine.inference.seam_suspects import LISTED, AxisSums, Suspect, Suspects
from engine.store.view import MapView, in_flight, open_view
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice

_UINT8_LAYERS = ("label", "confidence", "probability")


@dataclass(frozen=True)
class Limits:
    """When a family of lines, or a single place, counts as a seam.

    Attributes:
        ratio: Rate on the lines over rate on the controls that must be passed.
        z: Difference of a family over its error that must be passed.
    """

    ratio: float = 1.05
    z: float = 4.0


@dataclass(frozen=True)
class SeamReport:
    """The seam statistic of a map.

    Attributes:
        box: The pixels looked at.
        tile_px: Tile size.
        lattices: Window lattices.
        limits: Thresholds of the verdicts.
        families: One entry per family, axis and measure.
        suspects: Single places that stand out, the plainest first; at most 20.
        n_suspects: How many there are.
    """

    box: Box
    tile_px: int
    lattices: tuple[Lattice, ...]
    limits: Limits
    families: tuple[SeamFamily, ...]
    suspects: tuple[Suspect, ...] = ()
    n_suspects: int = 0

    @property
    def seam(self) -> bool:
        """Whether any family shows a seam, or any place stands out."""
        return bool(self.suspects) or any(f.seam for f in self.families)

    def told(self) -> str:
        """Say in a line what was found.

        >>> SeamReport(Box(0, 0, 9, 9), 9, (Lattice(1, 0),), Limits(), ()).told()
        'the map is too small to tell'
        """
        known = [f for f in self.families if f.lines]
        if not known:
            return "the map is too small to tell"
        worst = max(known, key=lambda f: f.z)
        if not self.seam:
            return f"none found; largest z {worst.z:.1f} at ratio {worst.ratio:.3f} ({_name(worst)})"
        families = [f"{_name(f)} (z {f.z:.1f}, ratio {f.ratio:.3f})" for f in known if f.seam]
        places = [f"{s.kind} {s.where} ({s.measure} changes {s.ratio:.2f} times)" for s in self.suspects[:3]]
        more = [f"{self.n_suspects - 3} more places"] if self.n_suspects > 3 else []
        return "SEEN: " + "; ".join([*families, *places, *more])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"seam": self.seam, "told": self.told(), **asdict(self)}


def _telling(lines: Mapping[str, NDArray[np.int64]], n_lines: int) -> dict[str, NDArray[np.int64]]:
    """Drop window borders so dense that too little room for controls is left: nothing can be said of them."""
    windows = [at for name, at in lines.items() if name != "tile"]
    marked = near_borders(np.concatenate([*windows, np.empty(0, np.int64)]), n_lines)
    dense = 2 * int(marked.sum()) > n_lines
    return {name: at[:0] if dense and name != "tile" else at for name, at in lines.items()}


def _name(family: SeamFamily) -> str:
    kind = "tiles" if family.family == "tile" else family.family
    return f"{kind} along {family.axis}, {family.measure}"


def seam_lines(
    lattices: Lattice | Sequence[Lattice], tile_px: int, lo: int, hi: int
) -> dict[str, NDArray[np.int64]]:
    """List the borders strictly inside ``[lo, hi)`` of one axis, by family.

    A window begins to count at ``k * stride`` (``window starts``) and stops to at ``k * stride + window``
    (``window ends``); under the trim kernel one window's part ends where the next one's begins, at
    ``k * stride`` (``window cuts``). A line of several kinds counts with the tiles, or with
    the first of the others, so that a seam is blamed on one of them. Windows of one pixel (a pixel-wise
    model) have no borders.

    Args:
        lattices: The window lattice, or those of an ensemble's members (numbered from 1), in pixels of
            the map.
        tile_px: Tile size.
        lo: First pixel.
        hi: Pixel after the last.

    >>> lines = seam_lines(Lattice(8, 3), 16, 0, 20)
    >>> {name: at.tolist() for name, at in lines.items()}
    {'tile': [16], 'window starts': [5, 10, 15], 'window ends': [3, 8, 13, 18]}
    """
    every = tuple(dict.fromkeys([lattices] if isinstance(lattices, Lattice) else lattices))
    found = {"tile": _multiples(tile_px, 0, lo, hi)}
    for i, lattice in enumerate(every):
        for name, start in _window_borders(lattice).items():
            taken = np.concatenate(list(found.values()))
            lines = _multiples(lattice.stride_px, start, lo, hi)
            found[name if len(every) == 1 else f"{name} {i + 1}"] = np.setdiff1d(lines, taken)
    return found


def _window_borders(lattice: Lattice) -> dict[str, int]:
    """Return where a window's borders lie, by kind."""
    if lattice.window_px == 1:
        return {}
    if lattice.kernel == "trim":
        return {"window cuts": 0}
    return {"window starts": 0, "window ends": lattice.window_px}


def _multiples(step: int, start: int, lo: int, hi: int) -> NDArray[np.int64]:
    first = start - (start - lo - 1) // step * step  # the first one above lo
    return np.arange(first, hi, step, dtype=np.int64)


class SeamSums:
    """Sums per line of a box, filled block by block in any order.

    Args:
        box: All pixels that will be added.
        tile_px: Tile size of the map.
    """

    def __init__(self, box: Box, tile_px: int):
        self.box, self.tile_px = box, tile_px
        height, width = box.shape_yx
        self._piece_yx = piece_px(height, tile_px), piece_px(width, tile_px)
        along = zip((box.y0, box.x0), self._piece_yx, strict=True)  # whole segments from the box's corner
        first_y, first_x = (at % max(piece, tile_px) for at, piece in along)
        self._first_yx = first_y, first_x
        self._sums: dict[str, dict[Axis, NDArray[Any]]] = {}
        self._measures: dict[str, Measure] = {}

    def add(self, block: Box, layers: Mapping[str, NDArray[Any]]) -> None:
        """Add the pixels of a block.

        Args:
            block: Its box; each pixel of the whole belongs to one block.
            layers: ``label`` (y, x) uint8 and layers of amounts (..., y, x), uint8 or int16, any of them,
                covering `with_overlap(block)`.

        Raises:
            InputError: If an array does not cover that box, or is of another type.
        """
        padded = self.with_overlap(block)
        y, x = padded.y0 - self.box.y0, padded.x0 - self.box.x0
        first = y + self._first_yx[0], x + self._first_yx[1]
        pieces = Pieces(first, self._piece_yx, (block.y0 - padded.y0, block.x0 - padded.x0))
        for name, values in layers.items():
            if values.shape[-2:] != padded.shape_yx:
                raise InputError(
                    "a layer does not cover the block and its overlap",
                    where=name,
                    found=values.shape,
                    limit=padded.shape_yx,
                )
            of, measure = self._of(name, values.dtype)
            for plane in values.reshape(-1, *padded.shape_yx):
                rows, cols = line_sums(plane, measure, pieces)
                of["y"][:, y : y + rows.shape[1], : rows.shape[2]] += rows
                of["x"][:, x : x + cols.shape[1], : cols.shape[2]] += cols

    def with_overlap(self, block: Box) -> Box:
        """Return a block with the row above and the column to the left, where the box has them."""
        return block.pad(1, 0) & self.box

    def report(self, lattices: Lattice | Sequence[Lattice], limits: Limits | None = None) -> SeamReport:
        """Compare borders with their controls, and single places with all others."""
        every = (lattices,) if isinstance(lattices, Lattice) else tuple(dict.fromkeys(lattices))
        limits = limits or Limits()
        families = []
        axes: dict[Axis, AxisSums] = {}
        for axis, (lo, hi) in self._spans().items():
            lines = {name: at - lo for name, at in seam_lines(every, self.tile_px, lo, hi).items()}
            lines = _telling(lines, hi - lo)
            borders = np.unique(np.concatenate(list(lines.values())))
            axes[axis] = self._axis_sums(axis, lines, borders)
            for family, name in itertools.product(lines, sorted(self._sums)):
                found = compare(self._sums[name][axis], lines[family], borders, self._measures[name])
                seam = found["lines"] > 0 and found["ratio"] > limits.ratio and found["z"] > limits.z
                families.append(SeamFamily(family=family, axis=axis, measure=name, seam=seam, **found))
        suspects = Suspects(axes, self._measures).found(limits.ratio, limits.z)
        return SeamReport(
            self.box, self.tile_px, every, limits, tuple(families), suspects[:LISTED], len(suspects)
        )

    def _spans(self) -> dict[Axis, tuple[int, int]]:
        return {"y": (self.box.y0, self.box.y1), "x": (self.box.x0, self.box.x1)}

    def _axis_sums(
        self, axis: Axis, lines: dict[str, NDArray[np.int64]], borders: NDArray[np.int64]
    ) -> AxisSums:
        across, along = AXES.index(axis), 1 - AXES.index(axis)
        piece, corner = self._piece_yx[along], (self.box.y0, self.box.x0)
        return AxisSums(
            sums={name: of[axis] for name, of in self._sums.items()},
            pieces=max(1, self.tile_px // piece),
            tiles=max(1, piece // self.tile_px),
            lines=lines,
            borders=borders,
            first_line=corner[across],
            first_tile=(corner[along] - self._first_yx[along]) // self.tile_px,
            tile_px=self.tile_px,
        )

    def _of(self, name: str, dtype: np.dtype[Any]) -> tuple[dict[Axis, NDArray[Any]], Measure]:
        if name not in self._sums:
            measure = self._measures[name] = measure_of(name, dtype)
            height, width = self.box.shape_yx
            along_y, along_x = Pieces(self._first_yx, self._piece_yx).count(self.box.shape_yx)
            self._sums[name] = {
                "y": np.zeros((2, height, along_x), measure.total),
                "x": np.zeros((2, width, along_y), measure.total),
            }
        return self._sums[name], self._measures[name]


def map_seams(
    map_url: str,
    lattices: Lattice | Sequence[Lattice],
    tile_px: int,
    box: Box | None = None,
    *,
    grid: Grid | None = None,
    block_px: int = 2048,
) -> SeamReport:
    """Compute the seam statistic of a map store, block by block.

    Args:
        map_url: The map store.
        lattices: Window lattice that made it, several for an ensemble; in pixels of the map.
        tile_px: Tile size that made it.
        box: Area to look at; None takes the whole store.
        grid: Grid that lattice and tiles are anchored to; None takes the store's own.
        block_px: Side of the blocks that are read.

    Returns:
        The report, the same for every `block_px`.

    Raises:
        InputError: If there is no map, or the box reaches outside it.
    """
    view = open_view(map_url, grid)
    sums = SeamSums(view.crop(box), tile_px)
    names = _layers(view)

    def read(block: Box) -> tuple[Box, dict[str, NDArray[Any]]]:
        padded = sums.with_overlap(block)
        return block, {n: view.read(n, padded) for n in names}

    for block, layers in in_flight(read, sums.box.blocks(block_px), workers=1):
        sums.add(block, layers)
    return sums.report(lattices)


def _layers(view: MapView) -> list[str]:
    """Name the layers to look at: label, confidence, probability, and planes of values (int16)."""
    return [n for n in view.variables if n in _UINT8_LAYERS or view.array(n).dtype == np.int16]
