"""Paste a field of one patch into another, with its label and its whole season.

After copy-paste augmentation (Ghiasi et al. 2021, doi:10.1109/CVPR46437.2021.00294); here an object is a field:
connected pixels of one class, and it keeps its place in the patch.

Shape suffixes: H row, W column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.losses import IGNORE

_LEAST_PX = 16
_MOST = 0.5


def field_of(target_HW: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """Draw one field of a patch.

    Args:
        target_HW: uint8 class index, `IGNORE` = not annotated.
        rng: Source of chance; each annotated pixel has the same.

    Returns:
        Its pixels; None where nothing is annotated, or where it is smaller than 16 pixels or larger than half the
        patch: the one is a sliver, the other a landscape.
    """
    from scipy.ndimage import label

    known = np.flatnonzero(target_HW != IGNORE)
    if not len(known):
        return None
    y, x = np.unravel_index(known[rng.integers(len(known))], target_HW.shape)
    parts, _ = label(target_HW == target_HW[y, x])
    mine: NDArray[np.bool_] = parts == parts[y, x]
    return mine if _LEAST_PX <= mine.sum() <= _MOST * mine.size else None
