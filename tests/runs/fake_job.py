"""A small tile job for tests: arrays from the tile's position, an append-only log of executions."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs.driver import TileOutput
from engine.runs.machine import Unit
from engine.runs.tile import key_of
from engine.store.layout import StoreSpec, Variable, create
from engine.values.errors import DataError, RetryableError
from engine.values.grid import Box, Grid, TileKey, tiles_over

TILE_PX = 32


@dataclass(frozen=True)
class FakeJob:
    """Writes `label` (uint8) and `value` (int16) for a square of tiles.

    Attributes:
        folder: Holds the store, the log and the marks of one-time failures.
        side: Tiles along each side.
        sleep_s: Time a tile takes.
        poison: Tiles that end their process.
        bad: Tiles that raise a DataError.
        flaky: Tiles that raise a RetryableError on their first execution.
        version: Part of the key and of the values.
    """

    folder: str
    side: int = 4
    sleep_s: float = 0.0
    poison: tuple[TileKey, ...] = ()
    bad: tuple[TileKey, ...] = ()
    flaky: tuple[TileKey, ...] = ()
    version: int = 1
    name: str = "fake"

    @property
    def store_url(self) -> str:
        return f"{self.folder}/map.zarr"

    @property
    def run_dir(self) -> str:
        return f"{self.folder}/run"

    def spec(self) -> StoreSpec:
        box = Box(-TILE_PX, 0, (self.side - 1) * TILE_PX, self.side * TILE_PX)
        variables = (Variable("label", "uint8", 0), Variable("value", "int16", -9999))
        return StoreSpec(Grid.make("EPSG:32633", 10), box, TILE_PX, variables, chunk_px=16)

    def create(self) -> FakeJob:
        create(self.store_url, self.spec())
        return self

    def tiles(self) -> list[TileKey]:
        return tiles_over(self.spec().box, TILE_PX)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        return {"tile": str(tile), "version": self.version}

    def key(self, tile: TileKey) -> str:
        return key_of(self.inputs(tile))

    def needs(self, tile: TileKey) -> Iterable[Unit]:
        return ()

    def box(self, tile: TileKey) -> Box:
        return tile.box(TILE_PX)

    def expected(self, tile: TileKey) -> dict[str, np.ndarray]:
        seed = [tile.row + 100, tile.col + 100, self.version]
        rng = np.random.default_rng(seed)
        shape = (TILE_PX, TILE_PX)
        return {
            "label": rng.integers(1, 9, shape, dtype=np.uint8),
            "value": rng.integers(-50, 50, shape, dtype=np.int16),
        }

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        attempt = self.log(tile)
        time.sleep(self.sleep_s)
        if tile in self.poison:
            os._exit(1)
        if tile in self.bad:
            raise DataError("the scene is truncated", where=str(tile))
        if tile in self.flaky and attempt == 1:
            raise RetryableError("the archive throttles", where=str(tile))
        return TileOutput(self.expected(tile), {"pixels": TILE_PX**2})

    def log(self, tile: TileKey) -> int:
        """Append one line (atomic: O_APPEND) and return how often this tile was begun."""
        with Path(self.folder, "log.txt").open("a") as file:
            file.write(f"{tile}\n")
        return self.executions()[str(tile)]

    def executions(self) -> Counter[str]:
        log = Path(self.folder, "log.txt")
        return Counter(log.read_text().split()) if log.exists() else Counter()


def tree_bytes(folder: str) -> dict[str, bytes]:
    """Return all files of a store by name."""
    root = Path(folder)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
