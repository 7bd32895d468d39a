"""What a tile costs in bytes, by arithmetic, before anything runs.

The figures follow the code paths of `engine.cube` and `engine.inference`; a run measures its peak and a
test compares the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.values.errors import BudgetError
from engine.values.grid import Box
from engine.values.lattice import Lattice

GIB = 2**30
MIB = 2**20

PROCESS_BYTES = {"map": 620 * MIB, "cube": 640 * MIB}
"""A worker beside its arrays, by what it makes: interpreter, Dask, GDAL, numba's code, for maps torch, for cubes
what is between Dask's steps. Found as measured peaks less the parts below, on Linux, and rounded up."""

INPUT_BYTES, CHANNEL_BYTES, CLASS_BYTES = 16, 44, 28
"""Bytes of one pixel of a window in the network, measured with torch on a CPU: for each date of each band (as
integers, normalised, joined with the validity, laid out for the convolutions), for each channel of the finest
level (both convolutions, the skip and what they are joined to), and for each class. Inputs are gone by the
time the finest level is at its widest."""

SHARPEN_BYTES = 140
"""Bytes of one pixel of a piece while a band is sharpened: pan band, sums and interpolations in double."""

FEATURE_STRIP_BYTES, FEATURE_STRIPS = 64 * MIB, 3
"""A strip of a series over all dates in float32, at most; and how many of its size statistics are made from."""


@dataclass(frozen=True)
class Reading:
    """What decides the memory of making one piece of one time step.

    Attributes:
        n_bands: Bands.
        overpasses: Largest number of overpasses in one time step.
        chunk_px: Side of a piece, about.
        geomedian: Whether the spectrum's median is sought: it is held in float32.
        deviations: Whether deviations from it are kept, three in float32.
        distances: Whether the distance from clouds is kept for each overpass.
        sharpened: Whether coarse bands are sharpened.
    """

    n_bands: int
    overpasses: int
    chunk_px: int
    geomedian: bool = False
    deviations: bool = False
    distances: bool = False
    sharpened: bool = False

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel: all overpasses, one being read as file values and as reflectance, the composite."""
        found = 2 * (self.n_bands * (self.overpasses + 3) + 2)
        found += (4 * self.n_bands if self.geomedian or self.deviations else 0) + 12 * self.deviations
        return found + (2 * self.overpasses + 6) * self.distances + SHARPEN_BYTES * self.sharpened

    def side_px(self, span_px: int) -> int:
        """Return the side of the largest piece that an axis is cut into, as `engine.cube.cube` cuts it.

        >>> [Reading(3, 1, 1024).side_px(n) for n in (700, 1376, 2336)]
        [700, 1376, 1425]
        """
        pieces = max(1, round(span_px / self.chunk_px))
        edges_that_move = (
            min(2, pieces - 1) if self.chunk_px >= 1024 else 0
        )  # each to a block, by half of one
        return min(span_px, -(-span_px // pieces) + 1 + 256 * edges_that_move)


@dataclass(frozen=True)
class TileShape:
    """What decides the memory of a tile of a map.

    Attributes:
        core: Pixels wanted.
        lattice: Windows; the halo follows.
        reading: How pieces are made.
        n_dates: Time steps of the cube.
        n_classes: Classes of the network.
        channels: Channels of the network's finest level.
        filled: Whether gaps are filled.
        layer_bytes: Bytes of one pixel in all layers of the map.
        threads: Pieces made at the same time.
        batch: Windows in one batch.
        weights_bytes: Size of the network.
    """

    core: Box
    lattice: Lattice
    reading: Reading
    n_dates: int
    n_classes: int
    channels: int = 32
    filled: bool = False
    layer_bytes: int = 3
    threads: int = 1
    batch: int = 1
    weights_bytes: int = 0


def tile_bytes(shape: TileShape) -> dict[str, int]:
    """Project the peak memory of one worker that makes one tile of a map.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``cube`` (the tile's input as
        uint16, halo included, as it is made and joined over time, and once more the part that is extended for
        its windows); ``filling`` (a piece over all dates while its gaps are filled); ``reading`` (one time step
        of one piece); ``sums`` (int32 per class and pixel, once more the pieces cut out of them); ``batch``
        (windows in the network, and its weights); ``layers`` (what the tile gives, and what is written of it).
    """
    side_y, side_x = widest(shape.lattice, shape.core)
    outer, reading = side_y * side_x, shape.reading
    piece_y, piece_x = reading.side_px(side_y), reading.side_px(side_x)
    reach = shape.lattice.reach_px
    extended = min(side_y, piece_y + reach) * min(side_x, piece_x + reach)
    series, window = 2 * shape.n_dates * reading.n_bands, shape.lattice.window_px**2
    inputs = INPUT_BYTES * shape.n_dates * (reading.n_bands + 1)
    in_network = max(inputs, CHANNEL_BYTES * shape.channels) + CLASS_BYTES * shape.n_classes
    parts = {
        "process": PROCESS_BYTES["map"],
        "cube": series * (2 * outer + shape.threads * extended),
        "filling": shape.filled * shape.threads * piece_y * piece_x * (series + 3 * shape.n_dates),
        "reading": shape.threads * piece_y * piece_x * reading.pixel_bytes,
        "sums": 4 * (shape.n_classes + 1) * (outer + shape.threads * extended),
        "batch": shape.threads * shape.batch * window * in_network + 3 * shape.weights_bytes,
        "layers": 3 * shape.layer_bytes * shape.core.area_px,
    }
    return {**parts, "total": sum(parts.values())}


def widest(lattice: Lattice, core: Box) -> tuple[int, int]:
    """Return the largest height and width of a tile with its halo, wherever on the lattice the tile lies.

    >>> widest(Lattice(8, 3), Box(0, 0, 10, 10))
    (18, 18)
    """
    return _widest(lattice, core.y1 - core.y0), _widest(lattice, core.x1 - core.x0)


def _widest(lattice: Lattice, side_px: int) -> int:
    step = math.gcd(side_px, lattice.stride_px)  # tiles start on multiples of their side
    spans = (lattice.span(lo, lo + side_px) for lo in range(0, lattice.stride_px, step))
    return max(b - a for a, b in spans)


@dataclass(frozen=True)
class CubeTileShape:
    """What decides the memory of a tile of a staged cube.

    Attributes:
        tile: Pixels of a tile.
        reading: How pieces are made.
        pixel_bytes: Bytes of one pixel in all variables and time steps.
        step_bytes: Bytes of one pixel in the largest chunk along the extra dimensions.
        series_bytes: Bytes of one pixel's reflectance in all dates, where gaps are filled; else 0.
        features: Whether features are made from all dates.
        shard_px: Side of a shard.
        threads: Pieces made at the same time.
        radar_bytes: Bytes of one pixel in all radar passes of one time step.
    """

    tile: Box
    reading: Reading
    pixel_bytes: int
    step_bytes: int
    shard_px: int
    series_bytes: int = 0
    features: bool = False
    threads: int = 1
    radar_bytes: int = 0


def cube_tile_bytes(shape: CubeTileShape) -> dict[str, int]:
    """Project the peak memory of one worker that stages one tile of a cube.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``arrays`` (the tile, all variables);
        ``reading`` (one time step of one piece, as in `tile_bytes`, and put into place; and of radar);
        ``filling`` (a piece over all dates, as chunks and as one array; the chunks are gone before
        features are made); ``features`` (a piece over all dates, and strips of it); ``writing`` (a shard of
        one step: cut out, and compressed; or one step of the tile read back).
    """
    side = shape.reading.side_px(max(shape.tile.shape_yx))
    piece = shape.threads * side**2
    strip = min(FEATURE_STRIP_BYTES, 2 * side**2 * shape.pixel_bytes)
    parts = {
        "process": PROCESS_BYTES["cube"],
        "arrays": shape.tile.area_px * shape.pixel_bytes,
        "reading": piece * (shape.reading.pixel_bytes + 2 * shape.step_bytes + 2 * shape.radar_bytes),
        "filling": piece * (1 if shape.features else 2) * shape.series_bytes,
        "features": shape.features * (shape.threads * FEATURE_STRIPS * strip + piece * shape.pixel_bytes),
        "writing": shape.step_bytes * max(2 * shape.shard_px**2, shape.tile.area_px),
    }
    return {**parts, "total": sum(parts.values())}


def require_fit(projected: dict[str, int], limit_bytes: int, where: str) -> None:
    """Refuse a tile that would not fit into a worker.

    Raises:
        BudgetError: With both figures and the setting that helps.
    """
    if projected["total"] > limit_bytes:
        raise BudgetError(
            "a tile would not fit into a worker's memory",
            where=where,
            found=f"{projected['total'] / GIB:.2f} GiB projected",
            limit=f"{limit_bytes / GIB:.2f} GiB",
            mend="a smaller tile_px, fewer workers on this machine, or a larger cluster.memory_limit",
        )
