"""What a tile costs in bytes, by arithmetic, before anything runs.

The figures follow the code paths of `engine.cube` and `engine.inference`; a run measures its peak and a
test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.values.errors import BudgetError
from engine.values.grid import Box
from engine.values.lattice import Lattice

GIB = 2**30
MIB = 2**20

PROCESS_BYTES = {"map": 680 * MIB, "cube": 700 * MIB}
"""A worker beside its arrays, by what it makes: interpreter, Dask, GDAL, numba's code, for maps torch, for cubes
what is between Dask's steps, in a process that has made maps too. Found as measured peaks less the parts below, on
Linux, and rounded up."""

INPUT_BYTES, KEPT_BYTES, CHANNEL_BYTES, CLASS_BYTES = 20, 4, 54, 14
"""Bytes of one pixel of a window in the network, measured with torch on a CPU: for each date of each band while
the input is made ready (as integers, normalised, joined with the validity, laid out for the convolutions), and
from then on; for each channel of the finest level (both convolutions, the skip and what they are joined to); and
for each class. Freed memory is kept for the next window and lies in pieces: what is measured differs from run to run
by a third, and these are rounded up (``benchmarks/window_memory.py``)."""

ROWS_PX, PIXEL_BYTES = 4096, 36 * 2**10
"""Pixels of one evaluation of a network that looks at single pixels, and bytes of one in the largest that was
measured: Presto over 12 dates."""

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
        lattice: Windows, of an ensemble the largest; the halo follows.
        reading: How pieces are made.
        n_dates: Time steps of the cube.
        n_classes: Classes of the network.
        channels: Channels of the network's finest level.
        filled: Whether gaps are filled.
        layer_bytes: Bytes of one pixel in all layers of the map.
        threads: Pieces of a tile made at the same time.
        at_once: Tiles that a worker makes at the same time.
        batch: Windows in one batch.
        weights_bytes: Size of the network, or of all.
        others: Windows of the other members of an ensemble.
        views: In which the network sees each window.
        tile_px: Side of the tile that the core is a part of, in pixels of the cube; 0: not known.
        more_planes: What the network sees of each date beside the bands: indices, radar, layers.
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
    at_once: int = 1
    batch: int = 1
    weights_bytes: int = 0
    others: tuple[Lattice, ...] = ()
    views: int = 1
    tile_px: int = 0
    more_planes: int = 0


def tile_bytes(shape: TileShape) -> dict[str, int]:
    """Project the peak memory of one worker that makes tiles of a map.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``cube`` (the tile's input as
        uint16, halo included, and the floats of what lies beside its bands, as it is made and joined over time,
        and once more the part that is extended for its windows, and for a member's own bands); ``filling`` (a
        piece over all dates while its gaps are filled); ``reading`` (one time step of one piece); ``sums``
        (int32 per class and pixel, once more the pieces cut out of them; of an ensemble for each member, and
        its shares in uint16); ``batch`` (windows in the network, and its weights); ``layers`` (what the tile
        gives, and what is written of it).
    """
    side_y, side_x = widest(shape.lattice, shape.core, shape.others)
    if shape.tile_px and not shape.others:  # a part of a tile needs no more than the tile
        whole = _widest(shape.lattice, shape.tile_px)
        side_y, side_x = min(side_y, whole), min(side_x, whole)
    outer, reading = side_y * side_x, shape.reading
    piece_y, piece_x = reading.side_px(side_y), reading.side_px(side_x)
    block_y, block_x = (
        _block(side, piece, shape.lattice) for side, piece in ((side_y, piece_y), (side_x, piece_x))
    )
    reach = shape.lattice.reach_px
    extended = min(side_y, block_y + reach) * min(side_x, block_x + reach)
    planes = reading.n_bands + max(0, shape.more_planes)
    series, window = 2 * shape.n_dates * planes, shape.lattice.window_px**2
    inputs = shape.n_dates * (planes + 1)
    finest = CHANNEL_BYTES * shape.channels + CLASS_BYTES * shape.n_classes
    in_network = max(INPUT_BYTES * inputs, KEPT_BYTES * inputs + finest)
    if shape.lattice.window_px == 1:
        window, in_network = ROWS_PX, max(in_network, PIXEL_BYTES)
    in_network += (2 * shape.views + 8) * shape.n_classes * (shape.views > 1)
    models = 1 + len(shape.others)
    shares = 2 * (shape.n_classes + 1) * models * outer * (models > 1)
    parts = {
        "cube": series * (2 * outer + min(2, models) * shape.threads * extended)
        + 4 * shape.n_dates * max(0, shape.more_planes) * outer,
        "filling": shape.filled * shape.threads * piece_y * piece_x * (series + 3 * shape.n_dates),
        "reading": shape.threads * piece_y * piece_x * reading.pixel_bytes,
        "sums": 4 * (shape.n_classes + 1) * models * (outer + shape.threads * extended) + shares,
        "batch": shape.threads * shape.batch * window * in_network,
        "layers": 3 * shape.layer_bytes * shape.core.area_px,
    }
    parts = {"process": PROCESS_BYTES["map"]} | {k: shape.at_once * v for k, v in parts.items()}
    parts["batch"] += 3 * shape.weights_bytes
    return {**parts, "total": sum(parts.values())}


def _block(side_px: int, piece_px: int, lattice: Lattice) -> int:
    """Return the side of the largest block that windows are evaluated for: pieces, merged until a window fits.

    >>> _block(2144, 1072, Lattice(1120, 96, "trim")), _block(2558, 1279, Lattice(256, 96))
    (2144, 1279)
    """
    if piece_px > lattice.reach_px:
        return piece_px
    each = -(-lattice.reach_px // max(1, piece_px - 1))
    return min(side_px, piece_px * (2 * each - 1))  # the last block takes what is left over


def widest(lattice: Lattice, core: Box, others: tuple[Lattice, ...] = ()) -> tuple[int, int]:
    """Return the largest height and width of a tile with its halo, wherever on the lattice the tile lies.

    With other lattices: a little more than the largest, where the halo is what any of them needs.

    >>> widest(Lattice(8, 3), Box(0, 0, 10, 10))
    (18, 18)
    """
    height, width = core.shape_yx
    if not others:
        return _widest(lattice, height), _widest(lattice, width)
    margin = max(
        2 * each.reach_px for each in (lattice, *others)
    )  # of no lattice more, wherever the tile lies
    return height + margin, width + margin


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
        threads: Pieces of a tile made at the same time.
        at_once: Tiles that a worker makes at the same time.
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
    at_once: int = 1
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
        "arrays": shape.tile.area_px * shape.pixel_bytes,
        "reading": piece * (shape.reading.pixel_bytes + 2 * shape.step_bytes + 2 * shape.radar_bytes),
        "filling": piece * (1 if shape.features else 2) * shape.series_bytes,
        "features": shape.features * (shape.threads * FEATURE_STRIPS * strip + piece * shape.pixel_bytes),
        "writing": shape.step_bytes * max(2 * shape.shard_px**2, shape.tile.area_px),
    }
    parts = {"process": PROCESS_BYTES["cube"]} | {k: shape.at_once * v for k, v in parts.items()}
    return {**parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class Smaller:
    """A setting under which a worker needs less.

    Attributes:
        setting: Its name in the YAML.
        value: The value.
        total_bytes: What is projected with it.
    """

    setting: str
    value: int
    total_bytes: int


TILES_PX = (*range(14336, 2048, -2048), *range(2048, 0, -256), 128, 64)
CHUNKS_PX = (2048, 1536, 1024, 768, 512, 384, 256, 128, 64)
"""Sizes that a refusal may propose, largest first; tiles beyond 2048 pixels are whole shards."""


def smaller_settings(
    shape: TileShape, tile_px: int, stride: int = 1, lattices: Sequence[Lattice] = ()
) -> list[Smaller]:
    """Project what smaller settings of a map would need: tiles, pieces, windows, tiles at once.

    Args:
        shape: As it is set.
        tile_px: Side of a tile, in pixels of the map.
        stride: Pixels of the cube per pixel of the map.
        lattices: Other windows that the network takes.
    """
    found = [
        ("tile_px", px, replace(shape, core=Box(0, 0, px * stride, px * stride), tile_px=px * stride))
        for px in TILES_PX
        if px < tile_px
    ]
    found += [
        ("chunk_px", px, replace(shape, reading=replace(shape.reading, chunk_px=px)))
        for px in CHUNKS_PX
        if px < shape.reading.chunk_px
    ]
    smaller = sorted(
        (x for x in lattices if x.window_px < shape.lattice.window_px), key=lambda x: -x.window_px
    )
    found += [("window", lattice.window_px, replace(shape, lattice=lattice)) for lattice in smaller]
    found += [
        ("cluster.threads_per_worker", n, replace(shape, at_once=n)) for n in range(shape.at_once - 1, 0, -1)
    ]
    return [Smaller(name, value, tile_bytes(other)["total"]) for name, value, other in found]


def smaller_cube_settings(shape: CubeTileShape) -> list[Smaller]:
    """Project what smaller settings of a staged cube would need: tiles and pieces."""
    side = max(shape.tile.shape_yx)
    found = [
        ("tile_px", px, replace(shape, tile=Box(0, 0, px, px), shard_px=min(px, shape.shard_px)))
        for px in TILES_PX
        if px < side
    ]
    found += [
        ("chunk_px", px, replace(shape, reading=replace(shape.reading, chunk_px=px)))
        for px in CHUNKS_PX
        if px < shape.reading.chunk_px
    ]
    found += [
        ("cluster.threads_per_worker", n, replace(shape, at_once=n)) for n in range(shape.at_once - 1, 0, -1)
    ]
    return [Smaller(name, value, cube_tile_bytes(other)["total"]) for name, value, other in found]


def require_fit(total_bytes: int, limit_bytes: int, smaller: Sequence[Smaller] = ()) -> None:
    """Refuse a tile that would not fit into a worker.

    Args:
        total_bytes: Projected for a worker.
        limit_bytes: What a worker has.
        smaller: Other settings, of each kind the largest first.

    Raises:
        BudgetError: With both figures, and of each setting the largest value that fits.
    """
    if total_bytes <= limit_bytes:
        return
    fitting: dict[str, Smaller] = {}
    for other in smaller:
        if other.total_bytes <= limit_bytes:
            fitting.setdefault(other.setting, other)
    told = [f"{s.setting}: {s.value} ({s.total_bytes / GIB:.2f} GiB)" for s in fitting.values()]
    least = min([total_bytes, *(s.total_bytes for s in smaller)])
    helps = f"a cluster.memory_limit of {total_bytes / GIB:.2f} GiB, or fewer workers on this machine"
    nothing = f"no smaller setting fits alone: the least is {least / GIB:.2f} GiB"
    raise BudgetError(
        "a tile would not fit into a worker's memory",
        where="tile_px",
        found=f"{total_bytes / GIB:.2f} GiB projected",
        limit=f"{limit_bytes / GIB:.2f} GiB",
        mend=", or ".join([*(told or [nothing]), helps]),
    )
