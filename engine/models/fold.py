"""Fold batch normalisation into the convolution before it: same function, one pass over memory less.

``norm(conv(x)) = gamma * (W x - mean) / sqrt(var + eps) + beta`` is itself a convolution with weights
``W * gamma / sqrt(var + eps)`` and bias ``beta - mean * gamma / sqrt(var + eps)``.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode in which no convolution is followed by a batch norm.

    Args:
        module: Any network whose convolution and batch norm pairs stand side by side in `nn.Sequential`.

    Returns:
        A copy; the given module is left as it is. Other normalisations, and batch norms
        without running statistics, stay.
    """
    folded = copy.deepcopy(module).eval()
    for part in folded.modules():
        if isinstance(part, nn.Sequential):
            _fold_pairs(part)
    return folded


def _fold_pairs(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if isinstance(norm, _NORMS) and isinstance(conv, _CONVOLUTIONS) and norm.track_running_stats:
            sequence[index] = _merge(conv, norm)
            sequence[index + 1] = nn.Identity()


@torch.no_grad()
def _merge(conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> nn.Conv2d | nn.Conv3d:
    """Merge in float64, so that rounding happens once."""
    mean, var = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    scale = norm.weight.double() / torch.sqrt(var + norm.eps)
    shift = norm.bias.double() - mean * scale
    bias = 0.0 if conv.bias is None else conv.bias.double()
    merged = copy.deepcopy(conv)
    by_output = scale.view(-1, *[1] * (conv.weight.ndim - 1))
    merged.weight = nn.Parameter((conv.weight.double() * by_output).float())
    merged.bias = nn.Parameter((bias * scale + shift).float())
    return merged
