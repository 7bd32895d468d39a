"""Give each part its share of each class, unit by unit.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label
data"): the class with the fewest labels left is dealt first, its largest unit to the part that lacks most
of it. Units stay whole, so shares are met as well as whole units allow.
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
    total: NDArray[np.int64] = np.sum(list(counts.values()), axis=0)
    given = {name: fixed[name] for name in counts if name in fixed}
    lacking = {
        part: share * total - sum((counts[n] for n, p in given.items() if p == part), np.zeros(256))
        for part, share in shares.items()
    }
    left = {name: row for name, row in counts.items() if name not in fixed}
    while left:
        rest: NDArray[np.int64] = np.sum(list(left.values()), axis=0)
        rare = int(np.where(rest > 0, rest, np.iinfo(np.int64).max).argmin())
        name = max((n for n in left if left[n][rare]), key=lambda n: (left[n][rare], _chance(split, n)))
        empty = [p for p in shares if p not in given.values()]
        # The last units go to parts that have none yet: a part without a unit measures nothing.
        among = empty if len(left) <= len(empty) else list(lacking)
        part = max(among, key=lambda p: (lacking[p][rare], lacking[p].sum(), -p))
        given[name] = part
        lacking[part] = lacking[part] - left.pop(name)
    return split.model_copy(update={"assigned": tuple(sorted((given | fixed).items()))})


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
