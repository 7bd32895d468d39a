"""The order of a network's weights in memory: features of a pixel side by side."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory order by the dimensions of a tensor."""


def channels_last(module: Module, device: str | torch.device) -> Module:
    """Move a network to a device, weights of convolutions over two and three dimensions with channels last.

    Torch's own ``module.to(device, memory_format=...)`` refuses a network that has both.

    Args:
        module: Changed in place.
        device: Where it runs.

    Returns:
        The module.
    """
    module.to(device)
    for part in module.modules():
        for tensor in part.parameters(recurse=False):
            if tensor.ndim in CHANNELS_LAST:
                # not `contiguous`, which leaves kernels of one pixel as they are: other code paths, other last bits
                tensor.data = tensor.data.to(memory_format=CHANNELS_LAST[tensor.ndim])
    return module


def features_last(x: torch.Tensor) -> torch.Tensor:
    """Put the features of a pixel side by side: (B, F, ..., H, W) of four or five dimensions, same values.

    A graph that is being written knows nothing of memory, and gets none of it.
    """
    if torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting():
        return x
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
