"""Losses over annotated pixels only.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine.values.errors import InputError

IGNORE = 255
"""Target of a pixel that is not annotated."""

WeightKind = Literal["root", "inverse", "effective"]
"""``root``: inverse root of the count. ``inverse``: inverse of the count. ``effective``: inverse of the effective
number of samples, ``(1 - beta ** n) / (1 - beta)`` (Cui et al. 2019, doi:10.1109/CVPR.2019.00949, equation 2)."""


def class_weights(
    counts_K: NDArray[np.int64], kind: WeightKind = "root", limit: float = 5.0, beta: float = 0.9999
) -> NDArray[np.float32]:
    """Weigh classes by how rare they are, at most `limit` times the mean, mean 1 before over those found.

    Args:
        counts_K: Annotated training pixels of each class.
        kind: How weights follow from counts.
        limit: Cap: a class of a few pixels would else rule the loss.
        beta: Of the effective number, 0..1: the larger, the later do more samples stop to count.

    Returns:
        float32 (K); 0 for classes without pixels.

    Raises:
        InputError: If no class has pixels, or beta is not in [0, 1).

    >>> class_weights(np.array([400, 100, 0])).round(3).tolist()
    [0.6669999957084656, 1.3329999446868896, 0.0]
    >>> class_weights(np.array([400, 100]), "inverse").round(1).tolist()
    [0.4000000059604645, 1.600000023841858]
    """
    found = counts_K > 0
    if not found.any() or not 0 <= beta < 1:
        raise InputError(
            "no class weights from these",
            where="class weights",
            found=f"counts {counts_K.tolist()}, beta {beta}",
        )
    counts = np.maximum(counts_K, 1).astype(np.float64)
    # 1 - beta**n by expm1, which keeps its digits where beta**n is close to 1
    effective = -np.expm1(counts * np.log(beta)) / (1 - beta) if beta > 0 else np.ones_like(counts)
    kinds: dict[str, NDArray[np.float64]] = {
        "root": np.sqrt(counts),
        "inverse": counts,
        "effective": effective,
    }
    weights = np.where(found, 1 / kinds[kind], 0.0)
    weights /= weights[found].mean()
    return np.minimum(weights, limit).astype(np.float32)


def cross_entropy(
    logits_BKHW: torch.Tensor,
    target_BHW: torch.Tensor,
    weights_K: torch.Tensor | None = None,
    weight_BHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted mean cross entropy over annotated pixels; 0 when there are none.

    Args:
        logits_BKHW: float32.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weights_K: float32, one per class.
        weight_BHW: float32, of each label, 0..1; None: all alike.
    """
    if not bool((target_BHW != IGNORE).any()):
        return logits_BKHW.sum() * 0.0
    if weight_BHW is None:
        return functional.cross_entropy(logits_BKHW, target_BHW, weight=weights_K, ignore_index=IGNORE)
    each_BHW = functional.cross_entropy(
        logits_BKHW, target_BHW, weight=weights_K, ignore_index=IGNORE, reduction="none"
    )
    known_BHW = target_BHW != IGNORE
    share_BHW = weight_BHW * known_BHW
    index_BHW = torch.where(known_BHW, target_BHW, 0)
    counted_BHW = share_BHW if weights_K is None else share_BHW * weights_K[index_BHW]
    return (each_BHW * share_BHW).sum() / counted_BHW.sum().clamp_min(1e-6)


def dice(
    logits_BKHW: torch.Tensor, target_BHW: torch.Tensor, weight_BHW: torch.Tensor | None = None
) -> torch.Tensor:
    """Return one minus the mean soft Dice (Milletari et al. 2016) over the classes that the batch holds.

    Args:
        logits_BKHW: float32.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weight_BHW: float32, of each label, 0..1; None: all alike.
    """
    known_B1HW = (target_BHW != IGNORE)[:, None]
    if weight_BHW is not None:
        known_B1HW = known_B1HW * weight_BHW[:, None]
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
