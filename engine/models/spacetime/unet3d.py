"""A U-Net over time, row and column with gates of attention on its skips, and attention over time at its end.

::

    calendar ─ level 0 ────── gate ── level 0 ─ weights over steps ─ sum ─ head ─ logits
                 └ halve ─ level 1 ── gate ── level 1 ┘
                             └ halve ─ level 2 ── gate ── level 2 ┘
                                         └ halve ─ level 3 ──┘

The 3D U-Net after Çiçek et al. 2016 (arXiv:1606.06650), time as the third dimension; the gates after Oktay et
al. 2018 (Attention U-Net, arXiv:1804.03999): what comes from below decides, place by place, how much of a skip
passes. Time is halved with rows and columns while its number of steps is even. Each head of the last
attention weighs the steps for its own share of the features.

Shape suffixes: B batch, T date, C band, P plane, S step, A head, F feature, H row, W column.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from engine.models.spacetime.cnn3d import CalendarNetwork
from engine.models.spacetime.configs import UNet3dConfig
from engine.models.spacetime.dates import by_sample, counted, step_shares
from engine.models.spacetime.layers import Conv3dNorm

_LITTLE = 1e-6


class AttentionUNet3d(CalendarNetwork):
    """The network; see the module's drawing.

    Args:
        config: Sizes.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        channels = config.channels
        super().__init__(config, channels[0])
        self.heads = config.heads
        self.first = Conv3dNorm(config.n_bands + 1, channels[0])
        self.down = nn.ModuleList(Conv3dNorm(fine, coarse) for fine, coarse in itertools.pairwise(channels))
        finest_last = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.gates = nn.ModuleList(Gate(coarse, fine) for coarse, fine in finest_last)
        self.up = nn.ModuleList(Conv3dNorm(coarse + fine, fine) for coarse, fine in finest_last)
        self.halve = nn.ModuleList(nn.MaxPool3d(sides) for sides in _halvings(config))
        self.scores = nn.Conv3d(channels[0], config.heads, 1)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""
        x_BFSHW = self._decoded(x_BTCHW, valid_BTHW, days)
        weights_BASHW = self.scores(x_BFSHW).softmax(dim=2)
        parts_BADSHW = x_BFSHW.unflatten(1, (self.heads, -1))
        return (parts_BADSHW * weights_BASHW[:, :, None]).sum(dim=3).flatten(1, 2)

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return how much each head looks at each date, (B, A, T, H, W): 0 where a date does not count.

        The weight of a step is shared by the dates that it was made of. The weights of a pixel add up to 1; all
        are 0 where it has no valid date.
        """
        weights_BASHW = self.scores(self._decoded(x_BTCHW, valid_BTHW, days)).softmax(dim=2)
        days_BT = by_sample(days)
        shares_BTS = step_shares(days_BT, self.steps, self.years)
        made_BTSHW = shares_BTS[..., None, None] * counted(valid_BTHW, days_BT)[:, :, None]
        made_BTSHW = made_BTSHW / made_BTSHW.sum(dim=1, keepdim=True).clamp_min(_LITTLE)
        weights_BATHW = torch.einsum("bashw,btshw->bathw", weights_BASHW, made_BTSHW)
        return weights_BATHW / weights_BATHW.sum(dim=2, keepdim=True).clamp_min(_LITTLE)

    def _decoded(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute features of each step, (B, F, S, H, W)."""
        x_BFSHW = self.first(self.calendar(x_BTCHW, valid_BTHW, days))
        skips = []
        for halve, down in zip(self.halve, self.down, strict=True):
            skips.append(x_BFSHW)
            x_BFSHW = down(halve(x_BFSHW))
        for gate, up, skip_BFSHW in zip(self.gates, self.up, reversed(skips), strict=True):
            x_BFSHW = functional.interpolate(
                x_BFSHW, size=skip_BFSHW.shape[2:], mode="trilinear", align_corners=False
            )
            x_BFSHW = up(torch.cat([x_BFSHW, gate(skip_BFSHW, x_BFSHW)], dim=1))
        return x_BFSHW


class Gate(nn.Module):
    """Let a skip pass by a factor of 0..1 at each step and pixel.

    Args:
        coarse: Features of what comes from below, at the skip's resolution.
        fine: Features of the skip.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.of_skip = nn.Conv3d(fine, fine, 1, bias=False)
        self.of_below = nn.Conv3d(coarse, fine, 1)
        self.factor = nn.Conv3d(fine, 1, 1)

    def forward(self, skip_BFSHW: torch.Tensor, below_BFSHW: torch.Tensor) -> torch.Tensor:
        """Return the skip, weakened."""
        both_BFSHW = functional.relu(self.of_skip(skip_BFSHW) + self.of_below(below_BFSHW))
        return skip_BFSHW * torch.sigmoid(self.factor(both_BFSHW))


def _halvings(config: UNet3dConfig) -> list[tuple[int, int, int]]:
    """Return the sides of each pooling: time is halved while its steps are even and more than two."""
    found, steps = [], config.steps
    for _ in range(config.depth):
        over = 2 if steps % 2 == 0 and steps > 2 else 1
        found.append((over, 2, 2))
        steps //= over
    return found
