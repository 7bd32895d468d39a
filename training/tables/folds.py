"""Cross-validation of tables by units that belong together: each unit tests once, in a split of its own.

::

    unit     a  b  c  d  e  f           a unit: a block of the grid, a region, a group
    fold 1   T  T  ·  ·  ·  ·           T tests, the others train; samples of the others within the
    fold 2   ·  ·  T  ·  T  ·           buffer of a tested one are left out
    fold 3   ·  ·  ·  T  ·  T
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.splits import TEST, TRAIN, Samples, Split


def cross_validation(split: Split, samples: Samples, n: int, seed: int = 0) -> tuple[Split, ...]:
    """Share units out to `n` folds, each of which has about its share of each class.

    Args:
        split: What a unit is (`by`, `block_px`, `regions`), the grid, and the buffer.
        samples: The samples; those of no unit are left out by every fold.
        n: Folds, at least 2; 0 leaves one unit out at a time.
        seed: Another seed, another deal.

    Returns:
        One split for each fold: the units of the fold test, all others train.

    Raises:
        InputError: If there are fewer units than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    units = split.units_of(samples)
    there = units != ""
    names = sorted(set(units[there]))
    if len(names) < max(2, n):
        raise InputError(
            "fewer units than folds",
            where="cross-validation",
            found=f"{len(names)} units",
            limit=f"{max(2, n)} folds",
            mend="smaller blocks, or fewer folds",
        )
    if n == 0:
        return tuple(_testing(split, {name}, names) for name in names)
    dealt = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    found = dealt.split(units[there], samples.value[there], units[there])
    return tuple(_testing(split, set(units[there][test]), names) for _, test in found)


def groups_within(split: Split, samples: Samples, which: NDArray[Any]) -> NDArray[np.int64]:
    """Number the units of some samples, for cross-validation inside a training part.

    Args:
        split: What a unit is.
        samples: All samples.
        which: Mask or index of those that train.
    """
    found: NDArray[np.int64] = np.unique(split.units_of(samples)[which].astype(str), return_inverse=True)[1]
    return found


def _testing(split: Split, tested: set[Any], names: list[str]) -> Split:
    parts = {name: TEST if name in tested else TRAIN for name in names}
    return split.model_copy(update={"assigned": tuple(parts.items()), "val": 0.0, "test": 0.5})
