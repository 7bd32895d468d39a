"""Augmentation that does not invent values: flips, quarter turns, missing dates.

Shape suffixes: T date, C band, H row, W column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dihedral(values_HW: NDArray[Any], which: int) -> NDArray[Any]:
    """Return one of the eight symmetries of the square on the last two axes, as a view.

    Args:
        values_HW: (..., y, x), square.
        which: 0..7; 0 is the identity, 4..7 are mirrored.

    >>> dihedral(np.array([[1, 2], [3, 4]]), 1).tolist()
    [[2, 4], [1, 3]]
    """
    turned = np.rot90(values_HW, which % 4, axes=(-2, -1))
    return turned[..., ::-1] if which >= 4 else turned


def drop_dates(x_TCHW: NDArray[np.uint16], share: float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Blank whole dates, as a cloudy month would; at least one stays.

    Args:
        x_TCHW: uint16, 0 = no data.
        share: Probability of each date to go.
        rng: Source of chance.

    Returns:
        A copy when a date goes, else the array itself.
    """
    gone = rng.random(len(x_TCHW)) < share
    gone[rng.integers(len(gone))] = False
    if not gone.any():
        return x_TCHW
    return np.where(gone[:, None, None, None], np.uint16(0), x_TCHW)
