"""In which order an epoch's patches are given, and which blocks are held meanwhile: arithmetic, no pixels.

Patches that need the same block should come soon after one another, so that it is read once; patches of one
batch should come from far apart, so that the batch is not all alike. Both at once: the area is cut into
segments of a few block rows; the segments are shuffled and dealt to lanes; each lane sweeps through its
segments block column by block column, and the lanes are merged at random::

    lane 1   ┌──┬──┬──┬──┐       the patches of a column, in random order, need this
    (w = 2)  │  │▓▓│▓▓│  │       column and the next; the next column of patches needs
             ├──┼──┼──┼──┤       one column more, and the first is given back
             │  │▓▓│▓▓│  │
             └──┴──┴──┴──┘       ▓ = held by the lane: 2 (w + 1) blocks
              · ·▒▒·▒▒· ·        (patches may reach into the row below)

The more lanes, the more places a batch is drawn from; the wider the lanes, the fewer blocks are read twice. A
cube whose blocks are all held at once needs no lanes: its order is wholly random. Segments start at another
offset in each epoch.

Everything follows from the corners, the options, the seed and the epoch. The shares of ranks and streams
differ by at most one patch, and all have the same number of batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import BudgetError, InputError
from engine.values.grid import Box

_WIDTHS = (16, 8, 4, 2, 1)
_LENGTH = 4  # columns of a segment, in widths of a lane: a longer one reads less twice and shuffles less
_LARGEST_SEED = 2**63


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a cube and the size of patches.

    Attributes:
        edges_y: First global row of each block, and the end of the last.
        edges_x: The same for columns.
        patch_px: Side of a patch.
    """

    edges_y: NDArray[np.int64]
    edges_x: NDArray[np.int64]
    patch_px: int

    def spans(self, corners: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return first and last block row and column of each patch, (n, 4): row, last row, col, last col."""
        found = []
        for edges, first in ((self.edges_y, corners[:, 0]), (self.edges_x, corners[:, 1])):
            for pixel in (first, first + self.patch_px - 1):
                found.append(np.searchsorted(edges, pixel, side="right") - 1)
        return np.stack(found, axis=1)


@dataclass(frozen=True)
class Mix:
    """How an epoch is cut and mixed.

    Attributes:
        batch: Patches a batch, about: those of a stream are shared out evenly over its batches.
        streams: Parts that are read apart from each other, over all ranks.
        blocks: Blocks that one stream may hold at a time.
        places: Lanes of a stream that are worth reading blocks twice for.
        together: Patches of a batch are cut at once, when all its blocks are there (for single pixels).
    """

    batch: int
    streams: int
    blocks: int
    places: int = 16
    together: bool = False


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """One stream's epoch.

    Attributes:
        order: (n) int64, numbers of the patches in the order in which they are given.
        bounds: (m + 1) int64, where in `order` each batch begins, and the end.
        reads: (r, 2) int64, row and column of each block that is read, in the order of first use.
        first: (r) int64, position in `order` where a block is first used.
        last: (r) int64, position of its last use.
        lanes: Lanes that were merged; 0 where all blocks are held.
        peak: Most blocks used at one position, each from its first use to its last.
    """

    order: NDArray[np.int64]
    bounds: NDArray[np.int64]
    reads: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    lanes: int
    peak: int

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.bounds) - 1

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the patches of a batch."""
        return self.order[self.bounds[number] : self.bounds[number + 1]]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """All streams of an epoch.

    Attributes:
        streams: One plan each.
        corners: (n, 2) int64, global row and column of the upper left pixel of each patch.
    """

    streams: tuple[StreamPlan, ...]
    corners: NDArray[np.int64]

    @property
    def n_batches(self) -> int:
        """Number of batches of all streams."""
        return sum(s.n_batches for s in self.streams)

    @property
    def n_reads(self) -> int:
        """Blocks read in the epoch."""
        return sum(len(s.reads) for s in self.streams)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the patches of a batch; the streams take turns."""
        return self.streams[number % len(self.streams)].batch(number // len(self.streams))

    def digest(self) -> str:
        """Return a hash of patches and order: two plans with the same one give the same batches."""
        found = hashlib.sha256(np.ascontiguousarray(self.corners).tobytes())
        for stream in self.streams:
            found.update(stream.order.tobytes() + stream.bounds.tobytes())
        return found.hexdigest()


def rng_of(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Return a source of chance of its own for each seed, epoch and purpose.

    >>> bool(rng_of(1, 0, "a").integers(1 << 40) == rng_of(1, 0, "b").integers(1 << 40))
    False
    """
    digest = hashlib.sha256(f"landweave {purpose} {seed} {epoch}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big") % _LARGEST_SEED)


def plan_epoch(corners: NDArray[np.int64], blocks: Blocks, mix: Mix, seed: int, epoch: int) -> EpochPlan:
    """Plan an epoch.

    Args:
        corners: (n, 2) int64, global row and column of the upper left pixel of each patch.
        blocks: Of the cube.
        mix: How to cut and mix.
        seed: Of the order.
        epoch: Its number.

    Raises:
        InputError: If there are fewer patches than streams.
        BudgetError: If a stream may not hold the blocks of one patch.
    """
    n = len(corners)
    if n < mix.streams:
        raise InputError(
            "there are fewer patches than streams that share them",
            where="loader.streams",
            found=f"{n} patches",
            limit=f"{mix.streams} streams over all ranks",
            mend="draw more patches, or use fewer streams or ranks",
        )
    spans = blocks.spans(corners)
    _require_room(spans, mix, corners, blocks)
    rng = rng_of(seed, epoch, "order")
    segments = _segments(spans, _width(spans, mix), rng)
    shares = np.array_split(segments.order, mix.streams)
    n_batches = min(-(-len(shares[0]) // mix.batch), len(shares[-1]))
    children = rng.spawn(mix.streams)
    streams = (
        _stream(s, segments, spans, (mix, n_batches), r) for s, r in zip(shares, children, strict=True)
    )
    return EpochPlan(tuple(streams), corners)


def _require_room(spans: NDArray[np.int64], mix: Mix, corners: NDArray[np.int64], blocks: Blocks) -> None:
    each = (spans[:, 1] - spans[:, 0] + 1) * (spans[:, 3] - spans[:, 2] + 1)
    most = int(each.max())
    if most > mix.blocks:
        y, x = (int(v) for v in corners[int(each.argmax())])
        side = blocks.patch_px
        raise BudgetError(
            "the buffer cannot hold the blocks of one patch",
            where=f"loader.buffer, patch {Box(y, x, y + side, x + side)}",
            found=f"{mix.blocks} blocks a stream",
            limit=f"{most} blocks",
            mend="allow a larger buffer, use fewer streams or smaller patches, or chunk the cube smaller",
        )


def _width(spans: NDArray[np.int64], mix: Mix) -> int:
    """Choose the widest lanes of which there may be `places`; a width of 0 stands for no lanes at all."""
    if mix.streams == 1 and _n_blocks(spans) <= mix.blocks:
        return 0
    return next((w for w in _WIDTHS if mix.blocks // _held(spans, w) >= mix.places), 1)


def _n_blocks(spans: NDArray[np.int64]) -> int:
    """Count the blocks that any patch touches, at least; exact where patches are no larger than blocks."""
    corners = [spans[:, [i, j]] for i in (0, 1) for j in (2, 3)]
    return len(np.unique(np.concatenate(corners), axis=0))


def _held(spans: NDArray[np.int64], width: int) -> int:
    """Return how many blocks a lane holds at most."""
    reach_y = int((spans[:, 1] - spans[:, 0]).max())
    reach_x = int((spans[:, 3] - spans[:, 2]).max())
    return (width + reach_y) * (1 + reach_x)


@dataclass(frozen=True, eq=False)
class _Segments:
    """All patches in the order of shuffled segments, swept column by column; `of` tells a patch's segment."""

    order: NDArray[np.int64]
    of: NDArray[np.int64]
    width: int


def _segments(spans: NDArray[np.int64], width: int, rng: np.random.Generator) -> _Segments:
    n = len(spans)
    if not width:
        return _Segments(rng.permutation(n), np.zeros(n, np.int64), 0)
    length = _LENGTH * width
    shift_y, shift_x = int(rng.integers(width)), int(rng.integers(length))
    rows, cols = (spans[:, 0] + shift_y) // width, (spans[:, 2] + shift_x) // length
    of = np.unique(np.stack([rows, cols], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    n_segments = int(of.max()) + 1
    rank, west = rng.permutation(n_segments), rng.random(n_segments) < 0.5
    along = np.where(west[of], -spans[:, 2], spans[:, 2])
    return _Segments(np.lexsort((rng.random(n), along, rank[of])), of, width)


def _stream(
    share: NDArray[np.int64],
    segments: _Segments,
    spans: NDArray[np.int64],
    cut: tuple[Mix, int],
    rng: np.random.Generator,
) -> StreamPlan:
    """Merge a stream's lanes: as many as its blocks allow."""
    mix, n_batches = cut
    bounds = _even(len(share), n_batches)
    if not segments.width:
        plan = _held_plan(share, np.zeros(len(share), np.int64), spans, bounds, mix)
        return replace(plan, lanes=0)
    most = len(np.unique(segments.of[share]))
    lanes = min(len(share), max(1, mix.blocks // _held(spans, segments.width)))
    fits: StreamPlan | None = None
    for attempt in range(6):
        plan = _merged(share, segments, spans, (mix, bounds, lanes), rng.spawn(1)[0])
        if plan.peak <= mix.blocks:
            fits = plan
            # Where patches are sparse a lane holds less than it might: then there is room for more lanes.
            more = min(most, int(lanes * mix.blocks / max(1, plan.peak) * 0.95))
            if attempt >= 4 or more <= lanes * 1.25:
                return fits
            lanes = more
        elif fits is not None:
            return fits
        else:
            lanes = max(1, lanes // 2)
    if fits is None:
        raise _too_small(mix)
    return fits


def _too_small(mix: Mix) -> BudgetError:
    return BudgetError(
        "the buffer cannot hold the blocks of one batch",
        where="loader.buffer",
        found=f"{mix.blocks} blocks a stream",
        mend="allow a larger buffer, or use smaller batches or fewer streams",
    )


def _merged(
    share: NDArray[np.int64],
    segments: _Segments,
    spans: NDArray[np.int64],
    how: tuple[Mix, NDArray[np.int64], int],
    rng: np.random.Generator,
) -> StreamPlan:
    """Deal a share to lanes of equal length and merge them at random, each in its own order."""
    mix, bounds, lanes = how
    n = len(share)
    starts = _even(n, lanes)
    lane = np.repeat(np.arange(lanes), np.diff(starts))
    number = np.arange(n) - starts[lane]
    when = (number + rng.random(n)) / np.diff(starts)[lane]
    merged = np.argsort(when, kind="stable")
    # A segment that two lanes share is read by each of them.
    parts = lane * (int(segments.of.max()) + 1) + segments.of[share]
    return replace(_held_plan(share[merged], parts[merged], spans, bounds, mix), lanes=lanes)


def _held_plan(
    order: NDArray[np.int64],
    part: NDArray[np.int64],
    spans: NDArray[np.int64],
    bounds: NDArray[np.int64],
    mix: Mix,
) -> StreamPlan:
    """Find for each part's blocks the first and the last use."""
    n = len(order)
    at = np.arange(n)
    first_at, last_at = at, at
    if mix.together:
        batch = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        first_at, last_at = bounds[batch], bounds[batch + 1] - 1
    block, used_from, used_to = _uses(spans[order], part, (first_at, last_at), _n_cols(spans))
    block, first, last = _joined(block, used_from, used_to, n)
    by_use = np.lexsort((block, first))
    reads = np.stack(np.divmod(block[by_use], _n_cols(spans)), axis=1)
    first, last = first[by_use], last[by_use]
    return StreamPlan(order, bounds, reads, first, last, 0, _peak(first, last, n))


_Ints = NDArray[np.int64]


def _n_cols(spans: _Ints) -> int:
    return int(spans[:, 3].max()) + 1


def _uses(spans: _Ints, part: _Ints, at: tuple[_Ints, _Ints], n_cols: int) -> tuple[_Ints, _Ints, _Ints]:
    """Find the blocks of each part, and from where to where in the order the part uses them."""
    row, last_row, col, last_col = spans.T
    n_blocks = n_cols * (int(last_row.max()) + 1)
    keys, used_from, used_to = [], [], []
    for dy in range(int((last_row - row).max()) + 1):
        for dx in range(int((last_col - col).max()) + 1):
            there = (row + dy <= last_row) & (col + dx <= last_col)
            keys.append((part * n_blocks + (row + dy) * n_cols + col + dx)[there])
            used_from.append(at[0][there])
            used_to.append(at[1][there])
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    first, last = np.full(len(key), np.iinfo(np.int64).max), np.full(len(key), -1, np.int64)
    np.minimum.at(first, inverse.reshape(-1), np.concatenate(used_from))
    np.maximum.at(last, inverse.reshape(-1), np.concatenate(used_to))
    return key % n_blocks, first, last


def _joined(block: _Ints, first: _Ints, last: _Ints, n: int) -> tuple[_Ints, _Ints, _Ints]:
    """Join the uses of a block by several parts that overlap: it is read once for them.

    >>> block, first, last = (np.array(v) for v in ([7, 7, 7, 8], [0, 2, 9, 1], [4, 6, 9, 1]))
    >>> [v.tolist() for v in _joined(block, first, last, 10)]
    [[7, 7, 8], [0, 9, 1], [6, 9, 1]]
    """
    by_block = np.lexsort((first, block))
    block, first, last = block[by_block], first[by_block], last[by_block]
    own = np.unique(block, return_inverse=True)[1].reshape(-1) * (n + 1)
    until = np.maximum.accumulate(last + own)  # of this block: those before it end below its offset
    begins = np.ones(len(block), np.bool_)
    begins[1:] = (first + own)[1:] > until[:-1]
    ends = np.append(begins[1:], True)
    return block[begins], first[begins], (until - own)[ends]


def _peak(first: NDArray[np.int64], last: NDArray[np.int64], n: int) -> int:
    """Return the largest number of intervals over one position.

    >>> _peak(np.array([0, 1, 3]), np.array([1, 2, 3]), 4)
    2
    """
    change = np.bincount(first, minlength=n + 1) - np.bincount(last + 1, minlength=n + 1)
    return int(change.cumsum().max())


def _even(n: int, parts: int) -> NDArray[np.int64]:
    """Cut n into parts that differ by at most one.

    >>> _even(7, 3).tolist()
    [0, 3, 5, 7]
    """
    sizes = np.full(parts, n // parts, np.int64)
    sizes[: n % parts] += 1
    return np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
