"""Losses over regions: how well the pixels of a class overlap what is found of it.

Shape suffixes: B batch, K class, H row, W column, N annotated pixel.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from training.losses.masking import IGNORE, known_index, nothing


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
    p_BKHW = torch.softmax(logits_BKHW, dim=1)
    truth_BHWK = functional.one_hot(known_index(target_BHW), logits_BKHW.shape[1])
    truth_BKHW = truth_BHWK.permute(0, 3, 1, 2) * known_B1HW
    both_K = (p_BKHW * truth_BKHW).sum(dim=(0, 2, 3))
    either_K = (p_BKHW * known_B1HW + truth_BKHW).sum(dim=(0, 2, 3))
    there_K = truth_BKHW.sum(dim=(0, 2, 3)) > 0
    if not bool(there_K.any()):
        return nothing(logits_BKHW)
    return 1 - (2 * both_K / either_K.clamp_min(1e-6))[there_K].mean()


def lovasz(
    logits_BKHW: torch.Tensor, target_BHW: torch.Tensor, weight_BHW: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the Lovasz-softmax loss: the Jaccard loss made convex and differentiable, mean over the batch's classes.

    Berman et al. 2018, doi:10.1109/CVPR.2018.00464. The errors ``|truth - p|`` of a class are sorted, the largest
    first; each counts by how much the Jaccard loss grows when its pixel joins the wrong ones. Where all p are 0 or 1
    it is ``1 - IoU``.

    Args:
        logits_BKHW: Floating.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weight_BHW: Of each label, 0..1: a pixel of weight 0.5 is half a pixel. None: all alike.
    """
    known_BHW = target_BHW != IGNORE
    if weight_BHW is not None:
        known_BHW = known_BHW & (weight_BHW > 0)
    if not bool(known_BHW.any()):
        return nothing(logits_BKHW)
    p_NK = torch.softmax(logits_BKHW, dim=1).permute(0, 2, 3, 1)[known_BHW]
    truth_N = target_BHW[known_BHW]
    weight_N = torch.ones_like(p_NK[:, 0]) if weight_BHW is None else weight_BHW[known_BHW].to(p_NK.dtype)
    found = [_lovasz_of(p_NK[:, k], truth_N == k, weight_N) for k in truth_N.unique().tolist()]
    return torch.stack(found).mean()


def _lovasz_of(p_N: torch.Tensor, is_class_N: torch.Tensor, weight_N: torch.Tensor) -> torch.Tensor:
    """Return the Lovasz extension of one class's Jaccard loss at its errors."""
    truth_N = is_class_N.to(p_N.dtype)
    errors_N, order_N = torch.sort((truth_N - p_N).abs(), descending=True)
    inside_N, outside_N = (truth_N * weight_N)[order_N], ((1 - truth_N) * weight_N)[order_N]
    whole = inside_N.sum()
    jaccard_N = 1 - (whole - inside_N.cumsum(0)) / (whole + outside_N.cumsum(0))
    growth_N = torch.diff(jaccard_N, prepend=jaccard_N.new_zeros(1))
    return (errors_N * growth_N).sum()
