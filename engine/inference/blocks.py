"""Run a model over a lazy cube: `map_overlap` on the global window lattice, each window once.

Two lazy layers, which work on any Dask scheduler and give the same bytes on each:

1. `dask.array.map_overlap` with one-sided depth (a block sees W - 1 pixels of its right and lower
   neighbours, nothing is trimmed): each block evaluates the windows that start in it (`blend`).
2. One task per block adds the spills of its left and upper neighbours and takes the decision.

Layer 1 must not be fused into its up to four consumers, or windows would be evaluated again: its
pieces are cut out by tasks of their own, and the tests count evaluations.

Of an ensemble each member goes through both layers, on the same blocks of one cube, and gives fixed-point
shares instead of a decision; a third layer takes their weighted mean, block by block, and decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from engine.inference.blend import Frame, window_sums
from engine.inference.decide import Layers, decide
from engine.inference.mean import shares, totals
from engine.values.grid import Box

_STRIP_PX = 64  # rows finished at a time: their sums stay in the cache

LaneFor = Callable[[], Any]
"""Gives this process's lane: ``.run``, ``.batch`` and ``.n_classes``; must pickle."""

Finish = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[Any]]
"""Turns a block's sums and summed weights into planes; must pickle."""


@dataclass(frozen=True)
class Voice:
    """One model of several that answer together.

    Attributes:
        frame: Input, wanted pixels and lattice; all but the lattice and the border as of the others.
        lane_for: Gives its lane.
        bands: Where its bands stand among those of the cube.
        order: Where the map's classes stand among its outputs.
        weight: How much it counts.
    """

    frame: Frame
    lane_for: LaneFor
    bands: tuple[int, ...]
    order: tuple[int, ...]
    weight: int = 1


def predict_array(values: da.Array, frame: Frame, lane_for: LaneFor, layers: Layers) -> da.Array:
    """Run a lane over a Dask array on the window lattice and decide.

    Args:
        values: (time, band, y, x) uint16 over ``frame.outer``, 0 = no data.
        frame: Input, wanted pixels and lattice.
        lane_for: Gives the lane of the process that runs the task.
        layers: What to make.

    Returns:
        (`Layers.n_planes`, y, x) uint8 or int16 over the output pixels of ``frame.core``.
    """
    merged = _in_blocks(values, (frame,))
    sums = _lazy_sums(merged, frame, lane_for, layers.n_outputs)
    packed = _gather(
        sums, frame, merged.chunks[2:], partial(decide, layers=layers), (layers.n_planes, layers.dtype)
    )
    small = frame.small
    return packed[(slice(None), *small.core.slices_in(small.outer))]


def predict_mean(values: da.Array, voices: Sequence[Voice], layers: Layers) -> da.Array:
    """Run several lanes over one Dask array, each on its own lattice, and decide on their weighted mean.

    A pixel counts where all of them have data.

    Args:
        values: (time, band, y, x) uint16, 0 = no data; all bands that any of them looks at.
        voices: The models; their frames agree in all but lattice and border.
        layers: What to make; with ``disagreement`` that of the models.

    Returns:
        (`Layers.n_planes`, y, x) uint8 or int16 over the output pixels of the core.
    """
    merged = _in_blocks(values, [v.frame for v in voices])
    answers = []
    n_outputs = len(layers.labels) + ("unfamiliar" in layers.extras)
    for voice in voices:
        sums = _lazy_sums(merged, voice.frame, voice.lane_for, n_outputs, voice.bands)
        answers.append(_gather(sums, voice.frame, merged.chunks[2:], shares, (n_outputs + 1, np.uint16)))
    packed = da.map_blocks(
        _decide_together,
        *answers,
        orders=tuple(v.order for v in voices),
        weights=tuple(v.weight for v in voices),
        layers=layers,
        chunks=((layers.n_planes,), *answers[0].chunks[1:]),
        dtype=layers.dtype,
        meta=np.empty((0, 0, 0), layers.dtype),
    )
    small = voices[0].frame.small
    return packed[(slice(None), *small.core.slices_in(small.outer))]


def _decide_together(
    *answers: NDArray[np.uint16],
    orders: tuple[tuple[int, ...], ...],
    weights: tuple[int, ...],
    layers: Layers,
) -> NDArray[Any]:
    """Layer 3, one block."""
    parts = np.stack([answer[list(order)] for answer, order in zip(answers, orders, strict=True)])
    everywhere = np.all([answer[-1] for answer in answers], axis=0)
    sums = totals(parts, weights, layers.head, disagreement="disagreement" in layers.extras)
    if "unfamiliar" in layers.extras:
        strange_MYX = np.stack([answer[-2].astype(np.int32) for answer in answers])
        sums = np.concatenate([sums, np.tensordot(np.array(weights, np.int32), strange_MYX, axes=1)[None]])
    weight_sums = np.full(everywhere.shape, sum(weights), np.int32)
    return decide(np.concatenate([sums, everywhere[None].astype(np.int32)]), weight_sums, layers)


def _in_blocks(values: da.Array, frames: Sequence[Frame]) -> da.Array:
    """Cut a cube into blocks of whole output pixels, none thinner than what its windows look at beyond it."""
    reach, factor = max(f.reach_px for f in frames), frames[0].factor
    rows, cols = (_merge_thin(_even(c, factor), reach) for c in values.chunks[2:])
    return values.rechunk((-1, -1, rows, cols))


def _lazy_sums(
    merged: da.Array,
    frame: Frame,
    lane_for: LaneFor,
    n_outputs: int,
    bands: tuple[int, ...] | None = None,
) -> da.Array:
    """Layer 1: the sums of each block with its spill, from some of its bands or all."""
    reach, factor = frame.reach_px, frame.factor
    rows, cols = merged.chunks[2:]
    extended = (n_outputs + 1,), _extend(rows, reach, factor), _extend(cols, reach, factor)
    depth = {0: 0, 1: 0, **{axis: (0, reach if len(c) > 1 else 0) for axis, c in ((2, rows), (3, cols))}}
    return da.map_overlap(
        _block_sums,
        merged,
        depth=depth,
        boundary="none",
        trim=False,
        allow_rechunk=False,
        drop_axis=1,
        chunks=extended,
        dtype=np.int32,
        meta=np.empty((0, 0, 0), np.int32),
        frame=frame,
        edges=(_edges(rows, frame.outer.y0), _edges(cols, frame.outer.x0)),
        lane_for=lane_for,
        n_outputs=n_outputs,
        bands=bands,
    )


def _block_sums(
    values: NDArray[np.uint16],
    frame: Frame,
    edges: tuple[tuple[int, ...], tuple[int, ...]],
    lane_for: LaneFor,
    n_outputs: int,
    bands: tuple[int, ...] | None = None,
    block_id: tuple[int, ...] | None = None,
) -> NDArray[np.int32]:
    """Layer 1, one block. The position comes from the block's number (block_info counts overlaps in)."""
    if block_id is None:
        return np.empty((0, 0, 0), np.int32)
    row, col = block_id[-2:]
    block = Box(edges[0][row], edges[1][col], edges[0][row + 1], edges[1][col + 1])
    extent = Box(block.y0, block.x0, block.y0 + values.shape[2], block.x0 + values.shape[3])
    if bands not in (None, tuple(range(values.shape[1]))):
        values = values[:, bands]
    lane = lane_for()
    return window_sums(values, extent, block, frame, (lane.run, lane.batch, n_outputs))


def _gather(
    sums: da.Array,
    frame: Frame,
    chunks: tuple[tuple[int, ...], ...],
    finish: Finish,
    planes: tuple[int, Any],
) -> da.Array:
    """Layer 2: add the spills of the left and upper neighbours to each block, then finish sums and weights.

    `planes` are the number and type of what `finish` gives; `chunks` the blocks' sides in input pixels.
    """
    small = frame.small
    rows, cols = (tuple(size // frame.factor for size in sizes) for sizes in chunks)
    token = tokenize(sums.name, frame, finish)
    piece, name = f"landweave-spill-{token}", f"landweave-map-{token}"
    graph: dict[Any, Any] = {}
    edges_y, edges_x = _edges(rows, small.outer.y0), _edges(cols, small.outer.x0)
    sides = (0, 1) if frame.reach_px else (0,)
    for i, j in itertools.product(range(len(rows)), range(len(cols))):
        spills = []
        for up, left in itertools.product(sides, sides):
            if i >= up and j >= left:
                key = (f"{piece}-{up}{left}", i - up, j - left)
                size = rows[i - up], cols[j - left]
                graph[key] = (_cut_piece, (sums.name, 0, i - up, j - left), size, (up, left))
                spills.append(key)
        block = Box(edges_y[i], edges_x[j], edges_y[i + 1], edges_x[j + 1])
        graph[(name, 0, i, j)] = (_finish_block, spills, block, small, finish)
    graphs = HighLevelGraph.from_collections(name, graph, dependencies=[sums])  # type: ignore[list-item]
    return da.Array(graphs, name, chunks=((planes[0],), rows, cols), dtype=planes[1])


def _cut_piece(sums: NDArray[np.int32], size: tuple[int, int], side: tuple[int, int]) -> NDArray[np.int32]:
    """Cut out a block's own sums (side 0, 0), or copy its spill below, right or at the corner.

    Own sums are finished next and need no copy; spills wait for neighbours and must not hold the block.
    """
    ys = slice(size[0], None) if side[0] else slice(0, size[0])
    xs = slice(size[1], None) if side[1] else slice(0, size[1])
    return np.ascontiguousarray(sums[:, ys, xs]) if any(side) else sums[:, ys, xs]


def _finish_block(
    pieces: list[NDArray[np.int32]],
    block: Box,
    frame: Frame,
    finish: Finish,
) -> NDArray[Any]:
    own, *spills = pieces
    weight_sums = frame.weight_sums(block)
    parts = []
    for top in range(0, own.shape[1], _STRIP_PX):
        strip = slice(top, top + _STRIP_PX)
        total = own[:, strip].copy()
        for spill in spills:  # the last plane, which tells data, is zero in every spill
            part = spill[:, strip, : total.shape[2]]
            total[:, : part.shape[1], : part.shape[2]] += part
        parts.append(finish(total, weight_sums[strip]))
    return np.concatenate(parts, axis=1)


def _even(chunks: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Move the borders between chunks down to multiples of a factor; chunks that vanish are left out.

    >>> _even((3, 3, 6), 4), _even((3, 3, 6), 1)
    ((4, 8), (3, 3, 6))
    """
    edges = [0, *(edge // factor * factor for edge in itertools.accumulate(chunks))]
    return tuple(b - a for a, b in itertools.pairwise(edges) if b > a)


def _merge_thin(chunks: tuple[int, ...], least: int) -> tuple[int, ...]:
    """Merge neighbouring chunks until each has at least `least` pixels (or only one is left).

    >>> _merge_thin((3, 3, 10, 2), 5)
    (6, 12)
    """
    merged: list[int] = []
    for size in chunks:
        if merged and merged[-1] < least:
            merged[-1] += size
        else:
            merged.append(size)
    if len(merged) > 1 and merged[-1] < least:
        merged[-2:] = [merged[-2] + merged[-1]]
    return tuple(merged)


def _edges(chunks: tuple[int, ...], first: int) -> tuple[int, ...]:
    return tuple(itertools.accumulate(chunks, initial=first))


def _extend(chunks: tuple[int, ...], reach: int, factor: int) -> tuple[int, ...]:
    """Output sizes of the blocks with their one-sided overlap; the last one has no neighbour."""
    return tuple(size // factor for size in (*(size + reach for size in chunks[:-1]), chunks[-1]))
