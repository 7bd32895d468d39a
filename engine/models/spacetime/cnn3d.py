"""Convolutions over time, row and column: a 3D-CNN, and one that goes on in two dimensions.

::

    3D-CNN     calendar ─ 3x3x3 ─ halve time ─ 3x3x3 ─ halve time ─ 3x3x3 ─ times side by side ─ 1x1 ─ head ─ logits
    3D-2D CNN  calendar ─ 3x3x3 ─ 3x3x3 ─ times side by side ─ 1x1 ─ 3x3 ─ 3x3 ─ head ─ logits

A convolution over time means the same everywhere only where dates stand at even distances, so they are brought onto a
calendar first (`engine.models.spacetime.dates`). That also settles their order, gaps and number. Three-dimensional
convolutions for crops after Ji et al. 2018 (Remote Sensing 10:75), three before two dimensions after Roy et al. 2020
(HybridSN, arXiv:1902.06701, where the third is the spectrum).

Shape suffixes: B batch, T date, C band, P plane, S step, F feature, H row, W column.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from engine.models.spacetime.configs import CalendarConfig, Cnn3d2dConfig, Cnn3dConfig
from engine.models.spacetime.dates import by_sample, on_calendar, step_shares
from engine.models.spacetime.layers import Conv3dNorm, SpaceTimeNetwork, conv_norm


class CalendarNetwork(SpaceTimeNetwork):
    """A network over an even calendar.

    Args:
        config: Steps, bands and classes.
        features: Last hidden features F.
    """

    def __init__(self, config: CalendarConfig, features: int) -> None:
        super().__init__(config, features, config.dropout)
        self.steps, self.years = config.steps, config.years

    def calendar(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the planes of each step, (B, P, S, H, W); arguments as of `forward`."""
        shares_BTS = step_shares(by_sample(days), self.steps, self.years)
        return on_calendar(x_BTCHW, valid_BTHW, shares_BTS)


class Cnn3d(CalendarNetwork):
    """Three dimensions to the end; see the module's drawing.

    Args:
        config: Sizes.
    """

    def __init__(self, config: Cnn3dConfig) -> None:
        super().__init__(config, config.hidden)
        sizes = [config.n_bands + 1, *[config.width] * config.depth]
        self.layers = nn.ModuleList(Conv3dNorm(a, b) for a, b in itertools.pairwise(sizes))
        self.halve = nn.MaxPool3d((2, 1, 1))
        last = config.steps // 2 ** (config.depth - 1)
        self.join = conv_norm(last * config.width, config.hidden, kernel=1)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""
        x_BFSHW = self.calendar(x_BTCHW, valid_BTHW, days)
        for index, layer in enumerate(self.layers):
            x_BFSHW = layer(self.halve(x_BFSHW) if index else x_BFSHW)
        found: torch.Tensor = self.join(side_by_side(x_BFSHW))
        return found


class Cnn3d2d(CalendarNetwork):
    """Three dimensions, then two; see the module's drawing.

    Args:
        config: Sizes.
    """

    def __init__(self, config: Cnn3d2dConfig) -> None:
        super().__init__(config, config.hidden)
        sizes = [config.n_bands + 1, *[config.width] * config.depth]
        self.layers = nn.Sequential(*(Conv3dNorm(a, b) for a, b in itertools.pairwise(sizes)))
        self.join = conv_norm(config.steps * config.width, config.hidden, kernel=1)
        self.layers_2d = nn.Sequential(
            *(conv_norm(config.hidden, config.hidden) for _ in range(config.depth_2d))
        )

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""
        x_BFSHW = self.layers(self.calendar(x_BTCHW, valid_BTHW, days))
        found: torch.Tensor = self.layers_2d(self.join(side_by_side(x_BFSHW)))
        return found


def side_by_side(x_BFSHW: torch.Tensor) -> torch.Tensor:
    """Put the features of all steps into one axis, (B, S x F, H, W), step by step."""
    return x_BFSHW.transpose(1, 2).flatten(1, 2)
