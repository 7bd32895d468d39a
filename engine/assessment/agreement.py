"""Agreement of two maps, wall to wall: pairs of classes counted block by block, and a map of where they differ.

Counts are whole numbers, and each pixel's pair depends on that pixel alone, so no cut into blocks changes them.
Index letters: Z region (0 = in none), K class (0 = no data).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.assessment.legends import LEFT_OUT, NOTHING, Legend
from engine.assessment.maps import CONFIDENCE, OBSERVATIONS, ClassMap
from engine.store.view import in_flight
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box

BLOCK_PX = 2048

AGREE, DIFFER, ONLY_FIRST, ONLY_SECOND = 1, 2, 3, 4
"""Values of the map of agreement; 0 = no data in both, or a class that is left out."""

ErrorKind = Literal["agreement", "first", "second"]
"""What a map of errors shows: where maps agree and differ; or, where they differ, the class of one of them."""

Zones = Callable[[Box], NDArray[np.uint16]]
"""Gives the number of the region of each pixel of a box, (y, x); 0 = in none."""


@dataclass(eq=False)
class Tally:
    """What was counted; grows by `add`.

    Attributes:
        pairs: (Z, K, K) int64 pixels: first map's class by second's, 0 = no data.
        layers: For `confidence` and `observations` of the first map (256, 2) int64: of each value pixels that
            differ and that agree.
        left_out: Pixels whose class in one of the maps takes no part.
    """

    pairs: NDArray[np.int64]
    layers: dict[str, NDArray[np.int64]]
    left_out: int = 0

    @property
    def matrix(self) -> NDArray[np.int64]:
        """Pixels that both maps classify, (K, K) without no data: first map's class by second's."""
        return self.pairs[:, 1:, 1:].sum(axis=0)

    @property
    def only_first(self) -> int:
        """Pixels where the second map has no data."""
        return int(self.pairs[:, 1:, 0].sum())

    @property
    def only_second(self) -> int:
        """Pixels where the first map has no data."""
        return int(self.pairs[:, 0, 1:].sum())

    def add(self, other: Tally) -> None:
        """Take in what was counted elsewhere."""
        np.add(self.pairs, other.pairs, out=self.pairs)
        self.left_out += other.left_out
        for name, counts in other.layers.items():
            self.layers.setdefault(name, np.zeros((256, 2), np.int64))[...] += counts


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _compare(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    zone: NDArray[np.uint16],
    pairs_ZKK: NDArray[np.int64],
) -> NDArray[np.uint8]:
    height, width = first.shape
    state = np.zeros((height, width), np.uint8)
    for i in range(height):
        for j in range(width):
            a, b = first[i, j], second[i, j]
            if a == 255 or b == 255 or (a == 0 and b == 0):
                continue
            pairs_ZKK[zone[i, j], a, b] += 1
            state[i, j] = 3 if b == 0 else 4 if a == 0 else 1 if a == b else 2
    return state


@njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _by_value(layer: NDArray[np.uint8], state: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    for i in range(layer.shape[0]):
        for j in range(layer.shape[1]):
            if state[i, j] == 1:
                counts[layer[i, j], 1] += 1
            elif state[i, j] == 2:
                counts[layer[i, j], 0] += 1


def compare(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    n_classes: int,
    zone: NDArray[np.uint16] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Count pairs of class numbers, and say of each pixel how they stand to each other.

    Args:
        first: (y, x) uint8: 1..n, 0 = no data, 255 = left out.
        second: (y, x) uint8, the same classes.
        n_classes: How many classes there are.
        zone: (y, x) uint16 number of the region; None: all in none.

    Returns:
        Pairs (Z, K, K) int64, and the state (y, x) uint8: `AGREE`, `DIFFER`, `ONLY_FIRST`, `ONLY_SECOND`, 0.

    >>> pairs, state = compare(np.array([[1, 1, 2, 0]], np.uint8), np.array([[1, 2, 0, 0]], np.uint8), 2)
    >>> pairs[0].tolist(), state.tolist()
    ([[0, 0, 0], [0, 1, 1], [1, 0, 0]], [[1, 2, 3, 0]])
    """
    zone = np.zeros(first.shape, np.uint16) if zone is None else zone
    pairs_ZKK = np.zeros((int(zone.max(initial=0)) + 1, n_classes + 1, n_classes + 1), np.int64)
    return pairs_ZKK, _compare(first, second, zone, pairs_ZKK)


@dataclass(frozen=True)
class Comparison:
    """Two maps, what their classes are in common, and where they are compared.

    Attributes:
        first: The map whose pixels are compared, and whose confidence is looked at.
        second: The other map; its pixel that holds each centre.
        legend: Common classes.
        box: Pixels of the first map's grid.
        regions: How many regions there are.
        zones: Which pixel lies in which; None without regions.
    """

    first: ClassMap
    second: ClassMap
    legend: Legend
    box: Box
    regions: int = 0
    zones: Zones | None = None

    @classmethod
    def of(cls, first: ClassMap, second: ClassMap, legend: Legend) -> Comparison:
        """Compare two maps where both lie.

        Raises:
            InputError: If they do not overlap.
        """
        box = first.box & second.box_on(first.grid)
        if not box:
            raise InputError(
                "the maps do not overlap",
                where=first.where,
                found=second.where,
                mend="check their CRS and extent",
            )
        return cls(first, second, legend, box)

    def block(self, box: Box, kind: ErrorKind | None) -> tuple[Box, Tally, NDArray[np.uint8] | None]:
        """Compare one block; with `kind` also draw its errors, (y, x) uint8."""
        first = self.legend.first[self.first.labels(box)]
        second = self.legend.second[self.second.labels_on(self.first.grid, box)]
        zone = self.zones(box) if self.zones else None
        pairs, state = compare(first, second, len(self.legend.names), zone)
        layers = {name: np.zeros((256, 2), np.int64) for name in self.layers}
        for name, counts in layers.items():
            if (state == AGREE).any() or (state == DIFFER).any():
                _by_value(np.minimum(self.first.layer(name, box), 255).astype(np.uint8), state, counts)
        drawn = None if kind is None else draw_errors(kind, first, second, state)
        aside = int(((first == LEFT_OUT) | (second == LEFT_OUT)).sum())
        return box, Tally(_padded(pairs, self.regions + 1), layers, aside), drawn

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the first map by which agreement is told."""
        return tuple(name for name in (CONFIDENCE, OBSERVATIONS) if name in self.first.layers)

    def blocks(
        self, kind: ErrorKind | None = None, block_px: int = BLOCK_PX, workers: int = 2
    ) -> Iterator[tuple[Box, Tally, NDArray[np.uint8] | None]]:
        """Compare block by block, row by row; two at a time, in bounded memory."""
        yield from in_flight(lambda b: self.block(b, kind), self.box.blocks(block_px), workers)

    def count(self, block_px: int = BLOCK_PX) -> Tally:
        """Compare everything."""
        total = self.nothing()
        for _, tally, _ in self.blocks(block_px=block_px):
            total.add(tally)
        return total

    def nothing(self) -> Tally:
        """Return a tally to add to."""
        k = len(self.legend.names) + 1
        return Tally(np.zeros((self.regions + 1, k, k), np.int64), {})


def _padded(pairs_ZKK: NDArray[np.int64], regions: int) -> NDArray[np.int64]:
    missing = regions - len(pairs_ZKK)
    return np.pad(pairs_ZKK, ((0, missing), (0, 0), (0, 0))) if missing > 0 else pairs_ZKK


def draw_errors(
    kind: ErrorKind, first: NDArray[np.uint8], second: NDArray[np.uint8], state: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Draw a map of errors, (y, x) uint8, 0 = nothing to show.

    Args:
        kind: ``agreement`` shows the state; ``first`` and ``second`` the class of that map where both differ.
        first: (y, x) class numbers.
        second: (y, x) class numbers.
        state: (y, x) as `compare` gives it.
    """
    if kind == "agreement":
        return state
    return np.where(state == DIFFER, first if kind == "first" else second, NOTHING).astype(np.uint8)


def error_scheme(kind: ErrorKind, legend: Legend) -> ClassScheme:
    """Return names and colours of a map of errors."""
    if kind != "agreement":
        return legend.classes
    rows = (
        (AGREE, "agree", "#c9d8c5"),
        (DIFFER, "differ", "#c0392b"),
        (ONLY_FIRST, "only in the first map", "#7f9bb3"),
        (ONLY_SECOND, "only in the second map", "#d9b44a"),
    )
    return ClassScheme(classes=tuple(LandClass(value=v, name=n, colour=c) for v, n, c in rows))
