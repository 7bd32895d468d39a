"""Split an area into training, validation and test by units that belong together, not by pixels.

Neighbouring pixels are alike: a split by pixel would test on what was learnt by heart. Here whole units go
to one part: blocks of the global grid, regions of a vector file, years, or groups of samples. A unit's part
is drawn by a hash of its name, so that the same unit has the same part in every area and run; or it is
assigned, by hand or so that each part gets its share of each class (`training.stratify`). A strip on the
border of two parts is left out::

      train     ·· val
      ▓▓▓▓▓▓▓▓▓▓··▒▒▒▒▒▒▒▒     ·· = left out, on the side of the part with the larger share
      ▓▓▓▓▓▓▓▓▓▓··▒▒▒▒▒▒▒▒
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from engine.values.errors import InputError
from engine.values.grid import Box, Grid

LEFT_OUT, TRAIN, VAL, TEST = 0, 1, 2, 3
PARTS = ("left out", "train", "val", "test")
"""Names of the parts, by number."""

By = Literal["blocks", "regions", "years", "groups"]


@dataclass(frozen=True, eq=False)
class Samples:
    """What a split needs to know of samples that are no raster: points, fields, series.

    Attributes:
        x: (n,) float64, in the units of `crs`.
        y: (n,) float64.
        crs: CRS of the places.
        value: (n,) uint8: class values.
        year: (n,) int64, 0 = unknown.
        group: (n,) str: administrative unit, farm, campaign; ``""`` = none.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: str
    value: NDArray[np.uint8]
    year: NDArray[np.int64]
    group: NDArray[Any]

    def __len__(self) -> int:
        return len(self.x)

    def on(self, crs: str) -> NDArray[np.float64]:
        """Return the places in another CRS, (n, 2) as (x, y)."""
        from pyproj import Transformer

        found = Transformer.from_crs(self.crs, crs, always_xy=True).transform(self.x, self.y)
        return np.stack(found, axis=1)


class Split(BaseModel):
    """How an area, or a set of samples, is split.

    Attributes:
        by: What goes to one part as a whole: blocks of the grid, regions of a file, years, or groups.
        block_px: Side of a block in pixels of the grid.
        buffer_px: Pixels of two parts are more than this many pixels apart (rows and columns alike);
            samples by regions or groups this many pixels of the grid in a straight line; years overlap in
            space.
        val: Share of units for validation.
        test: Share of units for testing; 0 leaves none.
        seed: Another seed, another draw.
        stratify: Assign the units so that each part gets its share of each class, before training.
        regions: Vector file of the regions; a pixel belongs to the first that holds its centre, and to no
            part outside all.
        column: Its column with the region's name.
        assigned: Unit (a region's name, a year, a group, a block as ``r3_c-7``) to ``train``, ``val`` or
            ``test``. With any, units that are not listed train.
        grid: Grid on which blocks and pixels are counted; filled in when it is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    by: By = "blocks"
    block_px: int = Field(default=256, ge=1)
    buffer_px: int = Field(default=16, ge=0)
    val: float = Field(default=0.2, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0
    stratify: bool = False
    regions: str | None = None
    column: str = "name"
    assigned: tuple[tuple[str, int], ...] = ()
    grid: Grid | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_a_file(cls, value: Any) -> Any:
        """A path stands for the split that was written there."""
        if isinstance(value, str | Path):
            from training.split_file import read_split

            return read_split(value).model_dump()
        return value

    @field_validator("assigned", mode="before")
    @classmethod
    def _named_parts(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple((str(unit), PARTS.index(p) if p in PARTS else p) for unit, p in pairs)

    @field_serializer("assigned", when_used="json")
    def _part_names(self, value: tuple[tuple[str, int], ...]) -> dict[str, str]:
        return {unit: PARTS[part] for unit, part in value}

    @model_validator(mode="after")
    def _shares(self) -> Split:
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on: {self.val} + {self.test}")
        if (self.by == "regions") != (self.regions is not None):
            raise ValueError("by: regions needs regions: FILE, and only it takes one")
        if any(not LEFT_OUT <= part <= TEST for _, part in self.assigned):
            raise ValueError(f"units are assigned to {', '.join(PARTS)}")
        return self

    def on(self, grid: Grid) -> Split:
        """Return the split on a grid.

        Raises:
            InputError: If it was made on another one, where its blocks are other places.
        """
        if self.grid not in (None, grid):
            raise InputError(
                "the split was made on another grid",
                where="split",
                found=f"{grid.crs[:40]}, {grid.resolution_yx}",
                limit=f"{self.grid.crs[:40]}, {self.grid.resolution_yx}" if self.grid else None,
                mend="use the grid of the split (crs, resolution_m), or make another split",
            )
        return self.model_copy(update={"grid": grid})

    def part_of(self, unit: str) -> int:
        """Return TRAIN, VAL or TEST of a region, a year or a group.

        >>> Split(by="years", assigned={"2019": "test"}).part_of("2019") == TEST
        True
        """
        if self.assigned:
            return dict(self.assigned).get(unit, TRAIN)
        return self._drawn(unit)

    def part_of_block(self, row: int, col: int) -> int:
        """Return TRAIN, VAL or TEST of a block, whatever area it is in.

        >>> Split().part_of_block(3, -7) == Split().part_of_block(3, -7)
        True
        """
        if self.assigned:
            return dict(self.assigned).get(block_name(row, col), TRAIN)
        return self._drawn(f"{row} {col}")

    def _drawn(self, unit: str) -> int:
        digest = hashlib.sha256(f"landweave split {self.seed} {unit}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
        if drawn < self.test:
            return TEST
        return VAL if drawn < self.test + self.val else TRAIN

    def parts(self, box: Box) -> NDArray[np.uint8]:
        """Return the part of each pixel of a box, (y, x) uint8: LEFT_OUT, TRAIN, VAL or TEST.

        A pixel is left out when a pixel of a part further down (train, val, test) lies within
        `buffer_px` of it; so the smaller parts stay whole.

        Raises:
            InputError: If the split is by years or groups, which pixels of one season do not have.
        """
        from scipy.ndimage import maximum_filter

        outer = box.pad(self.buffer_px)
        whole = self._pixels(outer)
        reach = maximum_filter(whole, size=2 * self.buffer_px + 1, mode="nearest")
        kept = np.where(reach == whole, whole, LEFT_OUT).astype(np.uint8)
        return kept[box.slices_in(outer)]

    def units(self, box: Box) -> tuple[NDArray[np.int64], list[str]]:
        """Return the unit of each pixel of a box.

        Returns:
            (y, x) int64, an index into the names; -1 for pixels of no unit; and the names.

        Raises:
            InputError: As `parts`.
        """
        if self.by == "blocks":
            rows, cols = self._block_range(box)
            names = [block_name(r, c) for r in _whole(rows) for c in _whole(cols)]
            index = (rows - rows[0])[:, None] * len(_whole(cols)) + (cols - cols[0])[None, :]
            return index, names
        if self.by == "regions":
            from training.regions import region_index, region_names

            path, column = str(self.regions), self.column
            return region_index(path, column, self._grid(), box), region_names(path, column)
        raise InputError(
            f"pixels of one season have no {self.by}",
            where="split.by",
            found=self.by,
            limit="blocks or regions",
            mend="by: blocks; splits by years and groups are for tables of samples",
        )

    def _pixels(self, box: Box) -> NDArray[np.uint8]:
        if self.by == "blocks":
            return self._blocks(box)
        index, names = self.units(box)
        table = np.array([*(self.part_of(name) for name in names), LEFT_OUT], np.uint8)
        found: NDArray[np.uint8] = table[index]
        return found

    def _block_range(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows, cols = (np.arange(lo, hi) // self.block_px for lo, hi in ((box.y0, box.y1), (box.x0, box.x1)))
        return rows, cols

    def _blocks(self, box: Box) -> NDArray[np.uint8]:
        rows, cols = self._block_range(box)
        assigned = {block_of(name): part for name, part in self.assigned}
        table = np.array(
            [
                [assigned.get((r, c), TRAIN) if assigned else self.part_of_block(r, c) for c in _whole(cols)]
                for r in _whole(rows)
            ],
            np.uint8,
        )
        found: NDArray[np.uint8] = table[np.ix_(rows - rows[0], cols - cols[0])]
        return found

    def units_of(self, samples: Samples) -> NDArray[Any]:
        """Return the name of each sample's unit, ``""`` for samples of none, (n,) str."""
        if self.by == "blocks":
            return np.array([block_name(r, c) for r, c in self._pixel_of(samples) // self.block_px], object)
        if self.by == "years":
            return np.array([str(y) if y else "" for y in samples.year], object)
        if self.by == "groups":
            return np.asarray(samples.group, object)
        from training.regions import regions_at

        return regions_at(str(self.regions), self.column, samples.x, samples.y, samples.crs)

    def parts_of(self, samples: Samples) -> NDArray[np.uint8]:
        """Return the part of each sample, (n,) uint8: LEFT_OUT, TRAIN, VAL or TEST.

        By blocks a sample has the part of its pixel, as `parts` gives it. By regions and groups a sample is
        left out when one of a part further down lies within the buffer. Samples of no unit are left out.

        Raises:
            InputError: If a buffer or blocks are asked for and the split has no grid.
        """
        if self.by == "blocks":
            return self._block_parts(samples)
        names = self.units_of(samples)
        table = {name: self.part_of(name) if name else LEFT_OUT for name in set(names)}
        parts = np.array([table[name] for name in names], np.uint8)
        if self.by == "years" or not self.buffer_px:
            return parts
        return self._without_neighbours(parts, samples)

    def _pixel_of(self, samples: Samples) -> NDArray[np.int64]:
        """Return the pixels (n, 2) as (row, column) in which samples lie."""
        grid = self._grid()
        x, y = samples.on(grid.crs).T
        if not (np.isfinite(x) & np.isfinite(y)).all():
            raise InputError(
                "samples without a place cannot be split by blocks",
                where="split",
                found=f"{int((~np.isfinite(x)).sum())} of {len(x)}",
                mend="leave them out, or split by groups or years",
            )
        (res_y, res_x), (ax, ay) = grid.resolution_yx, grid.anchor_xy
        return np.stack([np.floor((ay - y) / res_y), np.floor((x - ax) / res_x)], axis=1).astype(np.int64)

    def _grid(self) -> Grid:
        if self.grid is None:
            raise InputError(
                "a split by regions, of samples by blocks, or with a buffer, needs a grid",
                where="split",
                mend="use split.on(Grid.make(crs, resolution_m)), or buffer_px: 0",
            )
        return self.grid

    def _block_parts(self, samples: Samples) -> NDArray[np.uint8]:
        pixel = self._pixel_of(samples)
        block, inside = np.divmod(pixel, self.block_px)
        part = self._part_table(block)
        kept = part.copy()
        reach = -(-self.buffer_px // self.block_px)
        for step in itertools.product(range(-reach, reach + 1), repeat=2):
            # Pixels to the nearest one of the block `step` away, rows and columns.
            gap = [
                np.where(s > 0, s * self.block_px - i, np.where(s < 0, i - (s + 1) * self.block_px + 1, 0))
                for s, i in zip(step, inside.T, strict=True)
            ]
            near = np.maximum(*gap) <= self.buffer_px
            kept[near & (self._part_table(block + np.array(step)) > part)] = LEFT_OUT
        return kept

    def _part_table(self, blocks: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the part of each of many blocks (n, 2); each block is looked up once."""
        if not len(blocks):
            return np.zeros(0, np.uint8)
        unique, back = np.unique(blocks, axis=0, return_inverse=True)
        assigned = {block_of(name): part for name, part in self.assigned}
        found = [
            assigned.get((r, c), TRAIN) if assigned else self.part_of_block(r, c) for r, c in unique.tolist()
        ]
        return np.array(found, np.uint8)[back.reshape(-1)]

    def _without_neighbours(self, parts: NDArray[np.uint8], samples: Samples) -> NDArray[np.uint8]:
        from scipy.spatial import cKDTree

        grid = self._grid()
        places, near = samples.on(grid.crs), self.buffer_px * max(grid.resolution_yx)
        kept, placed = parts.copy(), np.isfinite(places).all(axis=1)
        for part in (VAL, TEST):
            lower = np.flatnonzero((parts < part) & (parts != LEFT_OUT) & placed)
            mine = (parts == part) & placed
            if len(lower) and mine.any():
                distance, _ = cKDTree(places[mine]).query(places[lower], distance_upper_bound=near * 1.001)
                kept[lower[distance <= near]] = LEFT_OUT
        return kept

    def digest(self) -> str:
        """Return the sha256 of what decides the parts."""
        return hashlib.sha256(self.model_dump_json(exclude={"stratify"}).encode()).hexdigest()


def block_name(row: int, col: int) -> str:
    """Name a block.

    >>> block_name(3, -7)
    'r3_c-7'
    """
    return f"r{row}_c{col}"


def block_of(name: str) -> tuple[int, int]:
    """Return the row and column of a block from its name."""
    row, _, col = name.removeprefix("r").partition("_c")
    try:
        return int(row), int(col)
    except ValueError as error:
        raise InputError(
            "no block has this name", where="split.assigned", found=name, limit="r3_c-7"
        ) from error


def _whole(index: NDArray[np.int64]) -> range:
    return range(int(index[0]), int(index[-1]) + 1)
