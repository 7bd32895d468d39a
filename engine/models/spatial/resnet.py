"""ResNet-18 and ResNet-50 as encoders (He et al. 2016, doi:10.1109/CVPR.2016.90), for any number of bands.

::

    planes ─ 7x7 /2 ─ 1/2 ─ max 3x3 /2 ─ stage 1 ─ 1/4 ─ stage 2 ─ 1/8 ─ stage 3 ─ 1/16 ─ stage 4 ─ 1/32

ResNet-50 halves in the 3x3 convolution of a block, not in the 1x1 before it, as all published weights do.
Convolution and batch norm stand side by side in `nn.Sequential`, so that `engine.models.fold` merges them;
`published_name` says what their tensors are called elsewhere.

Shape suffixes: B batch, F feature, H row, W column.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from engine.models.spatial.configs import ResNetName

_BLOCKS: dict[str, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class ResNet(nn.Module):
    """The encoder.

    Args:
        name: Which.
        n_planes: Channels of its input.
        width: Channels of the first stage.
    """

    def __init__(self, name: ResNetName, n_planes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv_norm(n_planes, width, 7, 2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        block, wide = (_bottleneck, 4) if name == "resnet50" else (_basic, 1)
        self.stages = nn.ModuleList()
        n_in = width
        for stage, count in enumerate(_BLOCKS[name]):
            inner = width * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(_Residual(block(n_in, inner, stride), n_in, inner * wide, stride))
                n_in = inner * wide
            self.stages.append(nn.Sequential(*blocks))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BFHW: torch.Tensor) -> list[torch.Tensor]:
        """Return features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input's height and width, float32."""
        found = [self.first(x_BFHW)]
        x_BFHW = self.pool(found[0])
        for stage in self.stages:
            x_BFHW = stage(x_BFHW)
            found.append(x_BFHW)
        return found


class _Residual(nn.Module):
    """What convolutions add to their input, or to its projection where the shape changes."""

    def __init__(self, body: nn.Sequential, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        changes = stride > 1 or n_in != n_out
        self.shortcut = nn.Sequential(*(_conv_norm(n_in, n_out, 1, stride) if changes else ()))

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.body(x_BFHW) + self.shortcut(x_BFHW)).relu_()
        return found


def _basic(n_in: int, inner: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv_norm(n_in, inner, 3, stride), nn.ReLU(inplace=True), *_conv_norm(inner, inner, 3, 1)
    )


def _bottleneck(n_in: int, inner: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv_norm(n_in, inner, 1, 1),
        nn.ReLU(inplace=True),
        *_conv_norm(inner, inner, 3, stride),
        nn.ReLU(inplace=True),
        *_conv_norm(inner, 4 * inner, 1, 1),
    )


def _conv_norm(n_in: int, n_out: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(n_out)


def published_name(own: str) -> str:
    """Translate the name of one of the encoder's tensors to that of torchvision, timm and all weights made by them.

    >>> published_name("stages.1.0.body.7.running_var"), published_name("first.0.weight")
    ('layer2.0.bn3.running_var', 'conv1.weight')
    """
    if first := re.fullmatch(r"first\.(\d)\.(\w+)", own):
        return f"{'bn' if int(first[1]) else 'conv'}1.{first[2]}"
    parts = re.fullmatch(r"stages\.(\d)\.(\d+)\.(body|shortcut)\.(\d)\.(\w+)", own)
    if parts is None:
        raise ValueError(f"no tensor of the encoder: {own}")
    stage, block, place, number, tensor = parts.groups()
    which, norm = divmod(int(number), 3)
    inner = f"{'bn' if norm else 'conv'}{which + 1}" if place == "body" else f"downsample.{number}"
    return f"layer{int(stage) + 1}.{block}.{inner}.{tensor}"
