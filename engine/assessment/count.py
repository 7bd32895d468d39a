"""How much of each class a map holds: pixels, and hectares on the ellipsoid, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.assessment.maps import ClassMap
from engine.assessment.surface import Surface
from engine.store.view import in_flight
from engine.values.grid import Box

BLOCK_PX = 2048

_M2_PER_HA = 1e4


@dataclass(frozen=True)
class ClassCounts:
    """Pixels and surface of each class value that occurs.

    Attributes:
        pixels: Of each value, rising; no data left out.
        hectares: On the ellipsoid, of the same values.
    """

    pixels: dict[int, int]
    hectares: dict[int, float]


def count_classes(
    source: ClassMap, block_px: int = BLOCK_PX, listener: Callable[[int, int, str], None] | None = None
) -> ClassCounts:
    """Count the pixels of each class and add up their true areas; whole numbers, so any blocks give the same.

    Args:
        source: The map.
        block_px: Side of the blocks that are read.
        listener: Gets done and total blocks.

    Raises:
        InputError: If the map's CRS has no ellipsoid.
    """
    surface = Surface(source.grid)
    pixels, units = np.zeros(256, np.int64), [0] * 256
    total = sum(1 for _ in source.box.blocks(block_px))

    def work(box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _count(source.labels(box), surface, box)

    for done, (n, area) in enumerate(in_flight(work, source.box.blocks(block_px), 2), start=1):
        pixels += n
        for value in np.flatnonzero(area):
            units[value] += int(area[value])  # Python's own integers: no country is too large
        if listener is not None:
            listener(done, total, "")
    there = [int(v) for v in np.flatnonzero(pixels) if v]
    scale = surface.unit_m2 / _M2_PER_HA
    return ClassCounts({v: int(pixels[v]) for v in there}, {v: units[v] * scale for v in there})


def _count(
    labels: NDArray[np.uint8], surface: Surface, box: Box
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels and units of area of each value, (256,)."""
    if not labels.any():
        pixels = np.zeros(256, np.int64)
        pixels[0] = labels.size
        return pixels, np.zeros(256, np.int64)
    pixels, area = _tally(np.ascontiguousarray(labels), surface.units(box))
    area[0] = 0
    return pixels, area


@njit(nogil=True, cache=True)
def _tally(
    labels: NDArray[np.uint8], units: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count pixels and add up units in one pass; a block of 2**31 pixels still fits."""
    pixels, area = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            value = labels[row, col]
            pixels[value] += 1
            area[value] += units[row, col]
    return pixels, area
