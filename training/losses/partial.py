"""Learning from positives and unlabelled pixels: some of a class is annotated, of the rest nothing is known.

Shape suffixes: B batch, K class, H row, W column, N annotated pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.losses.masking import IGNORE, nothing


@dataclass(frozen=True)
class Positives:
    """What is known of positives.

    Attributes:
        unlabelled: Index of the class that stands for "not known"; in the map it means "none of the others".
        priors: Share of each class among all pixels, in network order; that of `unlabelled` does not count.
        beta: How far below zero the risk of negatives may fall before it is pushed back.
        gamma: With what share of a step it is pushed back.
    """

    unlabelled: int
    priors: tuple[float, ...]
    beta: float = 0.0
    gamma: float = 1.0


def positive_unlabelled(
    logits_BKHW: torch.Tensor,
    target_BHW: torch.Tensor,
    positives: Positives,
    weight_BHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the non-negative risk of positive-unlabelled learning, with cross entropy as the loss of a pixel.

    Kiryo et al. 2017, arXiv:1703.00593, equation 6 and algorithm 1::

        R = sum_k prior_k E_k[l(k)]  +  max(0, E_U[l(u)] - sum_k prior_k E_k[l(u)])

    with E_k the mean over pixels annotated as k, E_U over unlabelled ones, and l(c) the cross entropy if the truth
    were c. With one positive class this is the paper's; several are summed as Xu et al. 2017 do
    (doi:10.24963/ijcai.2017/444). Where the second part falls below ``-beta`` the gradient is ``-gamma`` times that
    part's, as in the paper.

    Args:
        logits_BKHW: Floating.
        target_BHW: int64, class index, `IGNORE` = does not count at all.
        positives: Which class stands for unlabelled, and the priors.
        weight_BHW: Of each label, 0..1; None: all alike.
    """
    known_BHW = target_BHW != IGNORE
    if not bool(known_BHW.any()):
        return nothing(logits_BKHW)
    cost_NK = -torch.log_softmax(logits_BKHW, dim=1).permute(0, 2, 3, 1)[known_BHW]
    truth_N = target_BHW[known_BHW]
    weight_N = (
        torch.ones_like(cost_NK[:, 0]) if weight_BHW is None else weight_BHW[known_BHW].to(cost_NK.dtype)
    )
    u = positives.unlabelled
    right, negative = nothing(logits_BKHW), _mean(cost_NK[:, u], weight_N * (truth_N == u))
    for k, prior in enumerate(positives.priors):
        if k != u:
            of_class_N = weight_N * (truth_N == k)
            right = right + prior * _mean(cost_NK[:, k], of_class_N)
            negative = negative - prior * _mean(cost_NK[:, u], of_class_N)
    if bool(negative.detach() >= -positives.beta):
        return right + negative
    pushed_back = -positives.gamma * negative
    value = right - positives.beta
    return pushed_back + (value - pushed_back).detach()


def _mean(cost_N: torch.Tensor, weight_N: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean; 0 where nothing counts."""
    return (cost_N * weight_N).sum() / weight_N.sum().clamp_min(1e-6)
