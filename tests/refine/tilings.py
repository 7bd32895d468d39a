"""A map in an array as a source, and steps answered tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.refine.around import Around
from engine.refine.steps import Layers, Source, Step
from engine.values.classes import ClassScheme
from engine.values.grid import Box, Grid

GRID = Grid("EPSG:32633", (10.0, 10.0))
SCHEME = ClassScheme.from_names(["water", "wetland", "grassland", "crop", "forest"])
AROUND = Around(SCHEME, (10.0, 10.0), GRID)
ORIGIN_YX = (-1000, 70)  # maps do not begin at the grid's anchor

TILINGS = ((64, 64), (7, 7), (13, 5), (1, 64), (32, 9), (17, 33), (3, 50))
"""Tile heights and widths; the first holds a whole map of up to 64 x 64."""


def source_of(layers: Layers) -> tuple[Source, Box]:
    """Return a source that reads from arrays, no data outside them, and the box that they cover."""
    height, width = layers["label"].shape
    whole = Box(ORIGIN_YX[0], ORIGIN_YX[1], ORIGIN_YX[0] + height, ORIGIN_YX[1] + width)

    def read(box: Box) -> Layers:
        out: dict[str, Any] = {}
        common = box & whole
        for name, array in layers.items():
            shape = (*array.shape[:-2], *box.shape_yx)
            out[name] = np.full(shape, 0 if name in ("label", "observations") else 255, array.dtype)
            if common:
                out[name][(..., *common.slices_in(box))] = array[(..., *common.slices_in(whole))]
            out[name].flags.writeable = False  # a step that writes into what it was given is found out
        return out

    return read, whole


def by_tiles(step: Step, layers: Layers, tile_yx: tuple[int, int]) -> dict[str, Any]:
    """Return a step's layers over a whole map, asked tile by tile."""
    read, whole = source_of(layers)
    out = {name: np.empty_like(array) for name, array in layers.items()}
    for y in range(whole.y0, whole.y1, tile_yx[0]):
        for x in range(whole.x0, whole.x1, tile_yx[1]):
            tile = Box(y, x, y + tile_yx[0], x + tile_yx[1]) & whole
            for name, array in step.apply(within_reach(read, tile, step.reach_px), tile).items():
                out[name][(..., *tile.slices_in(whole))] = array
    return out


def within_reach(read: Source, box: Box, reach_px: int) -> Source:
    """Return a source that refuses what lies beyond a step's reach."""

    def guarded(asked: Box) -> Layers:
        assert box.pad(reach_px).holds(asked), f"{asked} lies beyond {reach_px} px around {box}"
        return read(asked)

    return guarded


def assert_untiled(
    step: Step, layers: Layers, tilings: tuple[tuple[int, int], ...] = TILINGS
) -> dict[str, Any]:
    """Assert that all tilings give the same layers, and return them."""
    whole, *others = (by_tiles(step, layers, tiling) for tiling in tilings)
    for tiled in others:
        for name, array in whole.items():
            np.testing.assert_array_equal(tiled[name], array, err_msg=name)
    return whole


def patchy(seed: int, shape_yx: tuple[int, int] = (40, 50), classes: int = 5, gaps: float = 0.1) -> Any:
    """Return labels in patches with speckle and gaps, (y, x) uint8, 0 = no data."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, classes + 1, (shape_yx[0] // 6 + 1, shape_yx[1] // 6 + 1))
    labels = np.kron(coarse, np.ones((6, 6), np.int64))[: shape_yx[0], : shape_yx[1]]
    noise = rng.random(shape_yx)
    labels = np.where(noise < 0.2, rng.integers(1, classes + 1, shape_yx), labels)
    return np.where(noise > 1 - gaps, 0, labels).astype(np.uint8)


def layers_of(label: Any, seed: int = 0) -> dict[str, Any]:
    """Return a map's layers around labels: confidence and observations too."""
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 251, label.shape).astype(np.uint8)
    return {
        "label": label,
        "confidence": np.where(label == 0, np.uint8(255), confidence),
        "observations": rng.integers(0, 20, label.shape).astype(np.uint8),
    }
