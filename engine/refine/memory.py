"""What refining a tile costs in bytes, by arithmetic, before anything runs.

A tile is made block by block, and a block's steps pull one on another, so that only one of them is at work at a
time: it holds what it was given over the block grown by its own reach and those of the steps after it, its own
work, and what it gives::

    block_px + 2 (r1 + r2)   step 1 is given this much ─► gives block_px + 2 r2 ─► step 2 ─► block_px
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.refine.steps import Step
from engine.values.budget import MIB, TILES_PX, Smaller

PROCESS_BYTES = 420 * MIB
"""A worker beside its arrays: interpreter, Dask, zarr, numba's code; of a process that makes maps too, the map's own
projection counts."""

WORK_BYTES = 24
"""Bytes of work for one pixel of what a step is given, where it does not say (`Step.work_bytes_px`)."""


@dataclass(frozen=True)
class RefineShape:
    """What decides the memory of refining a tile.

    Attributes:
        steps: What is done.
        tile_px: Side of a tile.
        block_px: Side of a block of it that is made at once.
        read_bytes: Bytes of one pixel in all layers that steps look at.
        tile_bytes: Bytes of one pixel in all layers that are written.
        threads: Blocks made at the same time, by all tiles of a worker.
        at_once: Tiles that a worker makes at the same time.
    """

    steps: tuple[Step, ...]
    tile_px: int
    block_px: int
    read_bytes: int
    tile_bytes: int
    threads: int = 1
    at_once: int = 1


def refine_bytes(shape: RefineShape) -> dict[str, int]:
    """Project the peak memory of one worker that refines tiles.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``tile`` (all layers that are written, once
        more the largest while it is compressed and read back); ``steps`` (the step that needs most, with what it is
        given and gives).
    """
    block = min(shape.block_px, shape.tile_px)
    needs = (
        (shape.read_bytes + 1) * (given**2 + gives**2) + work * given**2
        for given, gives, work in _sides(shape.steps, block)
    )
    parts = {
        "process": PROCESS_BYTES,
        "tile": shape.at_once * shape.tile_px**2 * (shape.tile_bytes + 2),
        "steps": shape.at_once * shape.threads * max(needs, default=0),
    }
    return {**parts, "total": sum(parts.values())}


def smaller_refine_settings(shape: RefineShape) -> list[Smaller]:
    """Project what smaller tiles would need."""
    found = [(px, replace(shape, tile_px=px)) for px in TILES_PX if px < shape.tile_px]
    return [Smaller("tile_px", px, refine_bytes(other)["total"]) for px, other in found]


def _sides(steps: Sequence[Step], block_px: int) -> Iterator[tuple[int, int, int]]:
    """Yield of each step, from the last to the first: side of what it is given and gives, bytes of work a pixel."""
    side = block_px
    for step in reversed(steps):
        given = side + 2 * usual_px(step)
        yield given, side, getattr(step, "work_bytes_px", WORK_BYTES)
        side = given


def usual_px(step: Step) -> int:
    """Return the pixels around a box that a step asks for where nothing is out of the ordinary."""
    return int(getattr(step, "usual_px", step.reach_px))
