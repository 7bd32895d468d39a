"""What all losses share: which pixels count, and means over them.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

import torch

IGNORE = 255
"""Target of a pixel that is not annotated."""


def nothing(logits_BKHW: torch.Tensor) -> torch.Tensor:
    """Return a 0 that can be differentiated, for a batch without annotation."""
    return logits_BKHW.sum() * 0.0


def known_index(target_BHW: torch.Tensor) -> torch.Tensor:
    """Return indices that can be looked up everywhere: 0 where nothing is annotated."""
    return torch.where(target_BHW == IGNORE, 0, target_BHW)


def weighted_mean(
    each_BHW: torch.Tensor,
    target_BHW: torch.Tensor,
    weights_K: torch.Tensor | None,
    weight_BHW: torch.Tensor | None,
) -> torch.Tensor:
    """Return the mean of losses over annotated pixels, each label with its weight.

    Args:
        each_BHW: Loss of each pixel, that of its class's weight in it.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        weights_K: Weights of classes by which the sum is divided; None: 1.
        weight_BHW: Of each label; None: 1.
    """
    known_BHW = target_BHW != IGNORE
    share_BHW = known_BHW.to(each_BHW.dtype) if weight_BHW is None else weight_BHW * known_BHW
    counted_BHW = share_BHW if weights_K is None else share_BHW * weights_K[known_index(target_BHW)]
    return (each_BHW * share_BHW).sum() / counted_BHW.sum().clamp_min(1e-6)
