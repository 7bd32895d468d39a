"""Losses over annotated pixels only.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

IGNORE = 255
"""Target of a pixel that is not annotated."""

_WEIGHT_LIMIT = 5.0


def class_weights(counts_K: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weigh classes by the inverse root of their count, at most 5 times the mean, mean 1 over those found.

    Args:
        counts_K: Annotated training pixels of each class.

    Returns:
        float32 (K); 0 for classes without pixels.

    >>> class_weights(np.array([400, 100, 0])).round(3).tolist()
    [0.6669999957084656, 1.3329999446868896, 0.0]
    """
    found = counts_K > 0
    weights = np.where(found, 1 / np.sqrt(np.maximum(counts_K, 1)), 0.0)
    weights /= weights[found].mean()
    return np.minimum(weights, _WEIGHT_LIMIT).astype(np.float32)


def cross_entropy(
    logits_BKHW: torch.Tensor, target_BHW: torch.Tensor, weights_K: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the weighted mean cross entropy over annotated pixels; 0 when there are none.

    Args:
        logits_BKHW: float32.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weights_K: float32, one per class.
    """
    if not bool((target_BHW != IGNORE).any()):
        return logits_BKHW.sum() * 0.0
    return functional.cross_entropy(logits_BKHW, target_BHW, weight=weights_K, ignore_index=IGNORE)


def dice(logits_BKHW: torch.Tensor, target_BHW: torch.Tensor) -> torch.Tensor:
    """Return one minus the mean soft Dice (Milletari et al. 2016) over the classes that the batch holds.

    Args:
        logits_BKHW: float32.
        target_BHW: int64, class index, `IGNORE` = not annotated.
    """
    known_B1HW = (target_BHW != IGNORE)[:, None]
    p_BKHW = torch.softmax(logits_BKHW, dim=1) * known_B1HW
    index_BHW = torch.where(target_BHW == IGNORE, 0, target_BHW)
    truth_BHWK = functional.one_hot(index_BHW, logits_BKHW.shape[1])
    truth_BKHW = truth_BHWK.permute(0, 3, 1, 2) * known_B1HW
    both_K = (p_BKHW * truth_BKHW).sum(dim=(0, 2, 3))
    either_K = (p_BKHW + truth_BKHW).sum(dim=(0, 2, 3))
    there_K = truth_BKHW.sum(dim=(0, 2, 3)) > 0
    if not bool(there_K.any()):
        return logits_BKHW.sum() * 0.0
    return 1 - (2 * both_K / either_K.clamp_min(1e-6))[there_K].mean()
