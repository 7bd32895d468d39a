"""The same network for one thread of a CPU: fewer calls, fewer copies, weights in the order the library wants.

::

    plain    conv ─ ReLU ─ conv ─ ReLU ─ pool ...  raise ─ copy beside the skip ─ conv ...
    packed   conv+ReLU ─── conv+ReLU ─── pool ...  raise beside the skip ──────── conv ...

A convolution or linear layer with its ReLU becomes one call of oneDNN, whose weights are brought into its own order
once and not at each call (also convolutions of 1 x 1 pixels and linear layers, which torch on one thread
hands to slower code). Poolings and the raising of a U-Net are loops over pixels with their features side by side.

No derivatives go through a packed network. Its outputs differ from the plain one's in the last bits.

Shape suffixes: B batch, F feature, H row, W column.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.models.order import CHANNELS_LAST
from engine.models.unet import Join

_AS_GOOD = 1e-4
"""A packed convolution is used if it is as near to the plain one, as a share of the greatest output."""


def pack(module: nn.Module) -> nn.Module:
    """Return a copy of a network for prediction in float32 on one thread of a CPU.

    Args:
        module: In evaluation mode, batch norms folded (`engine.models.fold`).

    Returns:
        A copy; the given module is left as it is. What this torch cannot pack stays as it was.
    """
    packed = copy.deepcopy(module).requires_grad_(False)
    for part in list(packed.modules()):
        if isinstance(part, nn.Sequential):
            _pack_pairs(part)
    for part in list(packed.modules()):
        if _asks_its_parts(part):
            for name, child in list(part.named_children()):
                setattr(part, name, _packed(child))
    return packed


def _asks_its_parts(part: nn.Module) -> bool:
    """Torch's own composed layers, such as those of a transformer, take their parts' weights instead."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return isinstance(part, containers) or not type(part).__module__.startswith("torch.")


def _pack_pairs(sequence: nn.Sequential) -> None:
    """Merge each convolution or linear layer with the ReLU that follows it."""
    last = None
    for index, part in enumerate(sequence):
        if type(part) is nn.ReLU and last is not None:
            merged = _packed_layer(sequence[last], "relu")
            if merged is not None:
                sequence[last], sequence[index] = merged, nn.Identity()
        if type(part) in _LAYERS:
            last = index
        elif type(part) is not nn.Identity:
            last = None


def _packed(part: nn.Module) -> nn.Module:
    """Return what does the same faster, or the part itself."""
    if type(part) in _LAYERS:
        return _packed_layer(part, "none") or part
    if type(part) is nn.MaxPool2d and _halves(part):
        return _Halve()
    return _RaiseBeside() if type(part) is Join else part


def _packed_layer(layer: nn.Module, then: str) -> nn.Module | None:
    """Pack a layer; None where this torch cannot, or means something else by the call."""
    example = _example_for(layer)
    if example is None:
        return None
    try:
        packed = _LAYERS[type(layer)](layer, then)
        with torch.inference_mode():
            found, expected = packed(example), layer(example)
    except (RuntimeError, AttributeError, TypeError):  # NotImplementedError is a RuntimeError
        return None
    expected = expected.relu() if then == "relu" else expected
    near = found.shape == expected.shape and (found - expected).abs().max() <= _AS_GOOD * expected.abs().max()
    return packed if near else None


def _example_for(layer: Any) -> torch.Tensor | None:
    """Return a small input; None for layers in other numbers, and convolutions whose borders are not plain zeros."""
    if layer.weight.dtype != torch.float32:
        return None
    if isinstance(layer, nn.Linear):
        return torch.linspace(-1, 1, 3 * layer.in_features).view(3, -1)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    kernels = zip(layer.dilation, layer.kernel_size, strict=True)
    side = 2 + max(dilation * (kernel - 1) + 1 for dilation, kernel in kernels)
    sides = [side] * len(layer.kernel_size)
    return torch.linspace(-1, 1, layer.in_channels * math.prod(sides)).view(1, -1, *sides)


class _PackedConv(nn.Module):
    """A convolution over two or three dimensions, and a ReLU if wanted, as one call.

    Torch itself may hand a three-dimensional one of few steps to code ten times as slow [measured].

    Raises:
        RuntimeError: Or any other, if this torch has no such call.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, then: str) -> None:
        super().__init__()
        self.padding, self.stride, self.dilation = (
            [int(n) for n in sides] for sides in (conv.padding, conv.stride, conv.dilation)
        )
        self.groups, self.then, self.bias = conv.groups, then, conv.bias
        order = torch.ops.mkldnn._reorder_convolution_weight
        self.format = CHANNELS_LAST[conv.weight.ndim]
        weight = conv.weight.detach().contiguous(memory_format=self.format)
        self.weight = order(weight, self.padding, self.stride, self.dilation, self.groups)

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BFHW.contiguous(memory_format=self.format), self.weight, self.bias,
            self.padding, self.stride, self.dilation, self.groups, self.then, [], "",
        )  # fmt: skip
        return found


class _PackedLinear(nn.Module):
    """A linear layer, and a ReLU if wanted, as one call; raises as `_PackedConv`."""

    def __init__(self, linear: nn.Linear, then: str) -> None:
        super().__init__()
        self.then, self.bias = then, linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous())

    def forward(self, x_F: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x_F.contiguous(), self.weight, self.bias, self.then, [], ""
        )
        return found


_LAYERS: dict[type[nn.Module], Any] = {
    nn.Conv2d: _PackedConv,
    nn.Conv3d: _PackedConv,
    nn.Linear: _PackedLinear,
}


def _halves(pool: nn.MaxPool2d) -> bool:
    plain = (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices) == (0, 1, False, False)
    return plain and pool.kernel_size == pool.stride == 2


class _Halve(nn.Module):
    """The greatest of each 2 x 2 pixels."""

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        batch, features, height, width = x_BFHW.shape
        out_BHWF = torch.empty((batch, height // 2, width // 2, features))
        for x_HWF, out_HWF in zip(_by_pixel(x_BFHW), out_BHWF.numpy(), strict=True):
            _halve(x_HWF, out_HWF)
        return out_BHWF.permute(0, 3, 1, 2)


class _RaiseBeside(nn.Module):
    """As `engine.models.unet.Join`: the coarse grid, raised, and the skip beside it, written once."""

    def forward(self, coarse_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:
        batch, features, height, width = skip_BFHW.shape
        out_BHWF = torch.empty((batch, height, width, coarse_BFHW.shape[1] + features))
        parts = zip(_by_pixel(coarse_BFHW), _by_pixel(skip_BFHW), out_BHWF.numpy(), strict=True)
        for coarse_HWF, skip_HWF, out_HWF in parts:
            _raise_beside(coarse_HWF, skip_HWF, out_HWF)
        return out_BHWF.permute(0, 3, 1, 2)


def _by_pixel(x_BFHW: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = x_BFHW.permute(0, 2, 3, 1).contiguous().numpy()
    return found


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _halve(x_HWF: NDArray[np.float32], out_HWF: NDArray[np.float32]) -> None:
    height, width, features = out_HWF.shape
    for y in range(height):
        for x in range(width):
            a_F, b_F, out_F = x_HWF[2 * y, 2 * x], x_HWF[2 * y, 2 * x + 1], out_HWF[y, x]
            c_F, d_F = x_HWF[2 * y + 1, 2 * x], x_HWF[2 * y + 1, 2 * x + 1]
            for f in range(features):
                out_F[f] = _greater(_greater(a_F[f], b_F[f]), _greater(c_F[f], d_F[f]))


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _greater(a: np.float32, b: np.float32) -> np.float32:
    """Return the greater number; what is not a number stays seen."""
    return b if (b > a) | (b != b) else a


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _raise_beside(
    coarse_HWF: NDArray[np.float32], skip_HWF: NDArray[np.float32], out_HWF: NDArray[np.float32]
) -> None:
    """Double rows, then columns, bilinear: a fine pixel's centre lies a quarter of a coarse pixel off."""
    near, far = np.float32(0.75), np.float32(0.25)
    rows, cols, features = coarse_HWF.shape
    line_WF = np.empty((cols, features), np.float32)
    for y in range(2 * rows):
        here_N = coarse_HWF[y // 2].reshape(-1)
        there_N = coarse_HWF[min(max(y // 2 + 2 * (y % 2) - 1, 0), rows - 1)].reshape(-1)
        line_N = line_WF.reshape(-1)
        for i in range(cols * features):
            line_N[i] = near * here_N[i] + far * there_N[i]
        for x in range(cols):
            before_F, here_F, after_F = line_WF[max(x - 1, 0)], line_WF[x], line_WF[min(x + 1, cols - 1)]
            left_F, right_F = out_HWF[y, 2 * x], out_HWF[y, 2 * x + 1]
            for f in range(features):
                middle = near * here_F[f]
                left_F[f] = middle + far * before_F[f]
                right_F[f] = middle + far * after_F[f]
            left_F[features:] = skip_HWF[y, 2 * x]
            right_F[features:] = skip_HWF[y, 2 * x + 1]
