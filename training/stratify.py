"""Give each part its share of each class, unit by unit.

Large units are dealt first, each to the part where it brings the shares of all classes nearest to what is
wanted (sum of squares, every class counts alike, however rare); then single units move as long as that helps.
Units stay whole, so shares are met as well as whole units allow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.label_values import LabelRaster
from training.splits import PARTS, TEST, TRAIN, VAL, Samples, Split

Counts = Mapping[str, NDArray[np.int64]]
"""Unit to (256,) labels of each class value."""


def count_pixels(split: Split, labels: LabelRaster) -> dict[str, NDArray[np.int64]]:
    """Count the annotated pixels of each class in each unit that has any."""
    index, names = split.units(labels.box)
    known = (labels.values != 0) & (index >= 0)
    flat = index[known] * 256 + labels.values[known]
    counts = np.bincount(flat, minlength=len(names) * 256).reshape(len(names), 256)
    return {name: row for name, row in zip(names, counts, strict=True) if row.any()}


def count_samples(split: Split, samples: Samples) -> dict[str, NDArray[np.int64]]:
    """Count the samples of each class in each unit."""
    found: dict[str, NDArray[np.int64]] = {}
    for unit, value in zip(split.units_of(samples), samples.value.tolist(), strict=True):
        if unit:
            found.setdefault(unit, np.zeros(256, np.int64))[value] += 1
    return found


def stratified(split: Split, counts: Counts) -> Split:
    """Assign units to parts by the classes that they hold.

    Args:
        split: Shares and seed; units that it assigns already stay.
        counts: Units with their labels.

    Returns:
        The split with every unit of `counts` assigned.

    Raises:
        InputError: If there are fewer units than parts.
    """
    wanted = {TRAIN: 1 - split.val - split.test, VAL: split.val, TEST: split.test}
    shares = {part: share for part, share in wanted.items() if share > 0}
    if len(counts) < len(shares):
        raise InputError(
            "fewer units with labels than parts",
            where="split",
            found=f"{len(counts)} {split.by}",
            limit=len(shares),
            mend="lower block_px, or take a finer division",
        )
    fixed = dict(split.assigned)
    names = sorted(counts, key=lambda name: _chance(split, name))
    table = np.array([counts[name] for name in names], np.float64)
    table = table[:, table.any(axis=0)]
    deal = _Deal(table / table.sum(axis=0), np.array(list(shares.values())))
    numbers = list(shares)
    for i, name in enumerate(names):
        if name in fixed and fixed[name] in numbers:
            deal.give(i, numbers.index(fixed[name]))
    free = [i for i in np.argsort(-deal.units.sum(axis=1), kind="stable") if names[i] not in fixed]
    deal.out(free)
    dealt = {names[i]: numbers[deal.part[i]] for i in free}
    return split.model_copy(update={"assigned": tuple(sorted((dealt | fixed).items()))})


_SWEEPS = 50


class _Deal:
    """Units (unit, class) as shares of each class, dealt to parts with wanted shares."""

    def __init__(self, units: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
        self.units, self.part = units, np.full(len(units), -1)
        self.lacking = np.repeat(wanted[:, None], units.shape[1], axis=1)

    def give(self, unit: int, part: int) -> None:
        """Give a unit to a part, from the one that it had."""
        if self.part[unit] >= 0:
            self.lacking[self.part[unit]] += self.units[unit]
        self.lacking[part] -= self.units[unit]
        self.part[unit] = part

    def out(self, free: list[int]) -> None:
        """Deal the free units."""
        for unit in free:
            self.give(unit, int((self.lacking @ self.units[unit]).argmax()))
        for part in range(len(self.lacking)):
            if not (self.part == part).any():  # a part without a unit measures nothing
                movable = [u for u in free if (self.part == self.part[u]).sum() > 1]
                self.give(max(movable, key=lambda u: self.gain(u, part)), part)
        for _ in range(_SWEEPS):
            if not sum(self.improve(unit) for unit in free):
                break

    def improve(self, unit: int) -> bool:
        """Move a unit to where it helps most, if it helps; the last unit of a part stays."""
        if (self.part == self.part[unit]).sum() == 1:
            return False
        gains = [self.gain(unit, part) for part in range(len(self.lacking))]
        best = int(np.argmax(gains))
        if gains[best] <= 1e-12:
            return False
        self.give(unit, best)
        return True

    def gain(self, unit: int, part: int) -> float:
        """Return by how much the sum of squares falls when a unit moves to a part."""
        here = self.part[unit]
        if part == here:
            return 0.0
        u = self.units[unit]
        return float(2 * u @ (self.lacking[part] - self.lacking[here]) - 2 * u @ u)


def shares_of(split: Split, counts: Counts) -> dict[str, NDArray[np.float64]]:
    """Return what share of each class value (256,) each part has, NaN for classes without labels."""
    total = np.asarray(sum(counts.values()), np.float64)
    table = dict(split.assigned)
    found = {}
    for part in (TRAIN, VAL, TEST):
        mine = sum((row for name, row in counts.items() if table.get(name, TRAIN) == part), np.zeros(256))
        found[PARTS[part]] = np.divide(mine, total, out=np.full(256, np.nan), where=total > 0)
    return found


def _chance(split: Split, name: str) -> str:
    return hashlib.sha256(f"{split.seed} {name}".encode()).hexdigest()
