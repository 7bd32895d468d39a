"""What a tile costs in bytes, by arithmetic, before anything runs.

The figures follow the code paths of `engine.cube` and `engine.inference`; a run measures its peak and a
test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.values.errors import BudgetError
from engine.values.grid import Box
from engine.values.lattice import Lattice

GIB = 2**30
PROCESS_BYTES = int(0.9 * GIB)
"""A worker before its first tile: interpreter, torch, GDAL, numba code and the network."""


@dataclass(frozen=True)
class TileShape:
    """What decides the memory of a tile.

    Attributes:
        core: Pixels wanted.
        lattice: Windows; the halo follows.
        chunk_px: Side of a piece inside the tile.
        n_dates: Time steps of the cube.
        n_bands: Bands.
        n_classes: Classes of the network.
        overpasses: Largest number of overpasses in one time step.
        threads: Pieces made at the same time.
        batch: Windows in one batch.
        activations_bytes: Peak memory of one forward pass of one window.
    """

    core: Box
    lattice: Lattice
    chunk_px: int
    n_dates: int
    n_bands: int
    n_classes: int
    overpasses: int
    threads: int = 1
    batch: int = 1
    activations_bytes: int = 0


def tile_bytes(shape: TileShape) -> dict[str, int]:
    """Project the peak memory of one worker that makes one tile.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``cube`` (the tile's input as
        uint16, halo included; twice where chunks are merged and extended for `map_overlap`); ``reading``
        (one time step of one piece: all overpasses, one being read, and the composite); ``sums`` (int32 per
        class and pixel, once more for the pieces cut out of them); ``batch`` (windows and activations).
    """
    outer = shape.lattice.pad(shape.core)
    piece = min(shape.chunk_px, max(outer.shape_yx)) ** 2
    reach = min(shape.chunk_px, max(outer.shape_yx)) + shape.lattice.reach_px
    window = shape.lattice.window_px**2
    parts = {
        "process": PROCESS_BYTES,
        "cube": 4 * outer.area_px * shape.n_dates * shape.n_bands,
        "reading": shape.threads * piece * 2 * (shape.n_bands * (shape.overpasses + 3) + 2),
        "sums": 4 * (shape.n_classes + 1) * (outer.area_px + shape.threads * reach**2),
        "batch": shape.threads
        * shape.batch
        * (window * (6 * shape.n_dates * shape.n_bands + 8 * shape.n_classes) + shape.activations_bytes),
    }
    return {**parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class CubeTileShape:
    """What decides the memory of a tile of a staged cube.

    Attributes:
        tile: Pixels of a tile.
        piece_px: Side of a piece inside the tile.
        pixel_bytes: Bytes of one pixel in all variables and time steps.
        step_bytes: Bytes of one pixel in the largest chunk along the extra dimensions.
        n_bands: Bands.
        overpasses: Largest number of overpasses in one time step.
        shard_px: Side of a shard.
        threads: Pieces made at the same time.
        radar_bytes: Bytes of one pixel in all radar passes of one time step.
    """

    tile: Box
    piece_px: int
    pixel_bytes: int
    step_bytes: int
    n_bands: int
    overpasses: int
    shard_px: int
    threads: int = 1
    radar_bytes: int = 0


def cube_tile_bytes(shape: CubeTileShape) -> dict[str, int]:
    """Project the peak memory of one worker that stages one tile of a cube.

    Returns:
        Bytes by purpose, and their sum under ``total``: ``process``; ``arrays`` (the tile, all variables);
        ``reading`` (one time step of one piece, as in `tile_bytes`, and all variables of the piece, once
        made and once between steps); ``writing`` (a shard of one step: cut out, and compressed; or one
        step of the tile read back).
    """
    piece = min(shape.piece_px, max(shape.tile.shape_yx)) ** 2
    parts = {
        "process": PROCESS_BYTES,
        "arrays": shape.tile.area_px * shape.pixel_bytes,
        "reading": shape.threads
        * piece
        * (2 * (shape.n_bands * (shape.overpasses + 3) + 2 + shape.pixel_bytes) + 2 * shape.radar_bytes),
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
