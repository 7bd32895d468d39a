"""Losses that are a mean over annotated pixels: cross entropy, focal, one answer per class.

Each takes logits, targets with `IGNORE` where nothing is annotated, a weight per class and a weight per label, and is
0 (and can be differentiated) where nothing is annotated.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from training.losses.masking import IGNORE, known_index, nothing, weighted_mean


def cross_entropy(
    logits_BKHW: torch.Tensor,
    target_BHW: torch.Tensor,
    weights_K: torch.Tensor | None = None,
    weight_BHW: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the weighted mean cross entropy over annotated pixels; 0 when there are none.

    Args:
        logits_BKHW: Floating.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weights_K: Floating, one per class.
        weight_BHW: Floating, of each label, 0..1; None: all alike.
        smoothing: Share of the truth that is spread over all classes (Szegedy et al. 2016).
    """
    if not bool((target_BHW != IGNORE).any()):
        return nothing(logits_BKHW)
    if weight_BHW is None:
        return functional.cross_entropy(
            logits_BKHW, target_BHW, weight=weights_K, ignore_index=IGNORE, label_smoothing=smoothing
        )
    each_BHW = functional.cross_entropy(
        logits_BKHW,
        target_BHW,
        weight=weights_K,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing,
    )
    return weighted_mean(each_BHW, target_BHW, weights_K, weight_BHW)


def focal(
    logits_BKHW: torch.Tensor,
    target_BHW: torch.Tensor,
    weights_K: torch.Tensor | None = None,
    weight_BHW: torch.Tensor | None = None,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Return the focal loss: cross entropy times ``(1 - p) ** gamma``, so that what is known well counts little.

    Lin et al. 2017, doi:10.1109/ICCV.2017.324, equation 5, with a softmax instead of the sigmoid; `weights_K` are its
    alpha. With gamma 0 it is `cross_entropy`.

    Args:
        logits_BKHW: Floating.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weights_K: Floating, one per class.
        weight_BHW: Floating, of each label, 0..1; None: all alike.
        gamma: At least 0.
    """
    if not bool((target_BHW != IGNORE).any()):
        return nothing(logits_BKHW)
    index_BHW = known_index(target_BHW)
    log_BHW = torch.log_softmax(logits_BKHW, dim=1).gather(1, index_BHW[:, None])[:, 0]
    # 1 - p by expm1, which keeps its digits (and its gradient) where p is close to 1
    missing_BHW = (-torch.expm1(log_BHW)).clamp_min(torch.finfo(log_BHW.dtype).tiny)
    each_BHW = -(missing_BHW**gamma) * log_BHW
    if weights_K is not None:
        each_BHW = each_BHW * weights_K[index_BHW]
    return weighted_mean(each_BHW, target_BHW, weights_K, weight_BHW)


def multi_label(
    logits_BKHW: torch.Tensor,
    target_BKHW: torch.Tensor,
    weights_K: torch.Tensor | None = None,
    weight_BHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the binary cross entropy of each class by itself, for pixels that may have several or none.

    Args:
        logits_BKHW: Floating; the sigmoid of each is a probability of its own.
        target_BKHW: int64, 1 = has the class, 0 = has it not, `IGNORE` = not known.
        weights_K: Floating, one per class.
        weight_BHW: Floating, of each pixel's labels, 0..1; None: all alike.
    """
    known_BKHW = target_BKHW != IGNORE
    if not bool(known_BKHW.any()):
        return nothing(logits_BKHW)
    truth_BKHW = torch.where(known_BKHW, target_BKHW, 0).to(logits_BKHW.dtype)
    each_BKHW = functional.binary_cross_entropy_with_logits(logits_BKHW, truth_BKHW, reduction="none")
    share_BKHW = known_BKHW.to(logits_BKHW.dtype)
    if weight_BHW is not None:
        share_BKHW = share_BKHW * weight_BHW[:, None]
    if weights_K is not None:
        share_BKHW = share_BKHW * weights_K[:, None, None]
    return (each_BKHW * share_BKHW).sum() / share_BKHW.sum().clamp_min(1e-6)
