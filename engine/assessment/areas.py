"""Areas: hectares of each class in each zone, exactly, block by block.

::

    block of labels (y, x) ──┬── true area of each pixel ── whole map, per label
                             └── x part inside zone 1, 2, ... ── zones, per label

Sums are whole numbers of 2**-29 of a unit of area (`engine.assessment.surface`), so blocks, tiles and threads add up to
the same hectares in any order. In memory are the zones' edges, their sums, and a few blocks: however large the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.coverage import FULL, SUB, add_edges, add_tally, add_whole
from engine.assessment.surface import Surface
from engine.assessment.zones import Zone
from engine.store.view import in_flight
from engine.values.classes import NO_DATA_LABEL
from engine.values.errors import InputError
from engine.values.grid import Box, Grid

BLOCK_PX = 1024

ReadLabels = Callable[[Box], NDArray[np.uint8]]
"""Gives the labels (y, x) of a box inside the map."""


@dataclass(frozen=True)
class ZoneArea:
    """Mapped hectares of one unit.

    Attributes:
        name: Of the unit.
        hectares: The unit's whole surface on the ellipsoid, on the map or not.
        classes: Hectares of each label with any, no data left out.
        no_data: Hectares that the map's pixels hold no class for.
        outside: Hectares beyond the map.
        off: Pixels' sum less the geodesic area, as a part of it; None where the unit reaches beyond the map.
    """

    name: str
    hectares: float
    classes: Mapping[int, float]
    no_data: float
    outside: float
    off: float | None

    @property
    def mapped(self) -> float:
        """Hectares with a class."""
        return sum(self.classes.values())

    @property
    def covered(self) -> float:
        """Part of the unit with a class, 0..1."""
        return min(1.0, self.mapped / self.hectares) if self.hectares else 0.0


@dataclass(frozen=True, eq=False)
class AreaSums:
    """Exact sums over a map.

    Attributes:
        zones: Of which sums are.
        sums: (Z, 256, 2) int64, high and low part of each label's sum in each zone.
        total: (256, 2) int64, of the whole map.
        pixels: (256,) int64, pixels of each label in the whole map.
        unit_ha: Hectares of 1.
        box: The map's pixels.
    """

    zones: tuple[Zone, ...]
    sums: NDArray[np.int64]
    total: NDArray[np.int64]
    pixels: NDArray[np.int64]
    unit_ha: float
    box: Box

    def whole_map(self) -> dict[int, float]:
        """Return hectares of each label in the map, 0 = no data."""
        return self._hectares(self.total)

    def classes(self) -> dict[int, int]:
        """Return pixels of each class value in the map, no data left out."""
        return {int(v): int(self.pixels[v]) for v in np.flatnonzero(self.pixels) if v != NO_DATA_LABEL}

    def each(self) -> Iterator[ZoneArea]:
        """Yield the areas of each zone, in the order of the zones."""
        for zone, sums in zip(self.zones, self.sums, strict=True):
            found = self._hectares(sums)
            yield _zone_area(zone, found, self.box)

    def merged(self, table: Mapping[int, int]) -> AreaSums:
        """Return the sums of broader classes: each label counted as the value that the table gives it, if any."""
        to = np.array([table.get(v, v) for v in range(256)])
        pixels = np.bincount(to, self.pixels, minlength=256).astype(np.int64)  # exact below 2**53
        sums = np.stack([_merge(own, to) for own in self.sums]) if len(self.sums) else self.sums
        return replace(self, sums=sums, total=_merge(self.total, to), pixels=pixels)

    def _hectares(self, sums: NDArray[np.int64]) -> dict[int, float]:
        there = np.flatnonzero(sums.any(axis=1))
        return {int(v): (int(sums[v, 0]) * 2**32 + int(sums[v, 1])) * self.unit_ha for v in there}


def _zone_area(zone: Zone, found: dict[int, float], box: Box) -> ZoneArea:
    unit, no_data = zone.unit, found.pop(NO_DATA_LABEL, 0.0)
    inside = sum(found.values()) + no_data
    if not zone.cut and box.holds(zone.box):
        off = inside / unit.hectares - 1 if unit.hectares else 0.0
        return ZoneArea(unit.name, unit.hectares, found, no_data, 0.0, off)
    return ZoneArea(unit.name, unit.hectares, found, no_data, max(0.0, unit.hectares - inside), None)


def measure(
    read: ReadLabels,
    grid: Grid,
    box: Box,
    zones: Sequence[Zone],
    *,
    block_px: int = BLOCK_PX,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> AreaSums:
    """Add up the true area of each label in each zone and in the whole map.

    Args:
        read: The map's labels, any number of threads at a time.
        grid: The map's grid.
        box: The map's pixels.
        zones: From `engine.assessment.zones.zones_on` for the same grid and box.
        block_px: Side of the blocks that are read; the answer is the same for any.
        workers: Threads.
        progress: Told blocks done and blocks in all.

    Returns:
        Sums, the same to the last digit for any block size, tiling and number of threads.

    Raises:
        InputError: If the map is empty, or its CRS gives no true area somewhere.
    """
    if not box:
        raise InputError("the map has no pixel", where="areas", found=box)
    surface, sums = Surface(grid), np.zeros((len(zones), 256, 2), np.int64)
    total, pixels = np.zeros((256, 2), np.int64), np.zeros(256, np.int64)
    work = _Work(read, surface)
    n_blocks = _count(box, block_px)
    for done, found in enumerate(in_flight(work, _blocks(box, zones, block_px), workers)):
        _add(total, found.total)
        pixels += found.pixels
        for index, part in found.zones:
            _add(sums[index], part)
        if progress is not None:
            progress(done + 1, n_blocks)
    return AreaSums(tuple(zones), sums, total, pixels, surface.unit_m2 / FULL / 1e4, box)


@dataclass(frozen=True, eq=False)
class _Block:
    """A block, and of each zone that meets it: its number, the pixels of the block that it may touch, its edges."""

    box: Box
    zones: tuple[tuple[int, Box, NDArray[Any]], ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """Sums of a block."""

    total: NDArray[np.int64]
    pixels: NDArray[np.int64]
    zones: list[tuple[int, NDArray[np.int64]]]


@dataclass(frozen=True)
class _Work:
    """What a thread does with a block."""

    read: ReadLabels
    surface: Surface

    def __call__(self, block: _Block) -> _Found:
        box, labels = block.box, self.read(block.box)
        if labels.dtype != np.uint8 or labels.shape != box.shape_yx:
            raise InputError("labels are not (y, x) uint8", found=f"{labels.dtype} {labels.shape}", limit=box)
        area, total, pixels = self.surface.units(box), np.zeros((256, 2), np.int64), np.zeros(256, np.int64)
        add_whole(labels, area, total, pixels)
        zones = []
        for index, part, edges in block.zones:
            rows, cols = part.slices_in(box)
            inside, out = np.zeros(part.shape_yx, np.int32), np.zeros((256, 2), np.int64)
            add_edges(edges, part.y0, part.x0, inside)
            add_tally(
                np.ascontiguousarray(labels[rows, cols]), np.ascontiguousarray(area[rows, cols]), inside, out
            )
            zones.append((index, out))
        return _Found(total, pixels, zones)


def _merge(sums: NDArray[np.int64], to: NDArray[np.int64]) -> NDArray[np.int64]:
    out = np.zeros_like(sums)
    np.add.at(out, to, sums)  # 256 low parts below 2**32 are far below 2**63
    _add(out, np.zeros_like(out))
    return out


def _add(to: NDArray[np.int64], part: NDArray[np.int64]) -> None:
    """Add sums of high and low parts, carrying over."""
    to += part
    to[:, 0] += to[:, 1] >> 32
    to[:, 1] &= 0xFFFFFFFF


def _count(box: Box, size: int) -> int:
    around = box.snap_out(size).shape_yx
    return (around[0] // size) * (around[1] // size)


def _blocks(box: Box, zones: Sequence[Zone], size: int) -> Iterator[_Block]:
    """Yield the map's blocks row by row, each with the zones that meet it."""
    reach = np.array([[z.box.y0, z.box.x0, z.box.y1, z.box.x1] for z in zones]).reshape(-1, 4)
    for top in range(box.y0 // size * size, box.y1, size):
        strip = box & Box(top, box.x0, top + size, box.x1)
        meets = np.flatnonzero((reach[:, 0] < strip.y1) & (reach[:, 2] > strip.y0))
        edges = {z: _in_rows(zones[z].edges, strip) for z in meets.tolist()}
        for part in strip.blocks(size):
            there = meets[(reach[meets, 1] < part.x1) & (reach[meets, 3] > part.x0)]
            yield _Block(part, tuple((z, part & zones[z].box, edges[z]) for z in there.tolist()))


def _in_rows(edges: NDArray[Any], box: Box) -> NDArray[Any]:
    return edges[(edges["y0"] < box.y1 * SUB) & (edges["y1"] > box.y0 * SUB)]
