"""Layers that several spatio-temporal networks are made of.

Shape suffixes: B batch, T date, C band, K class, S step of the calendar, F feature, H row, W column.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from engine.models.configs import NetworkConfig
from engine.models.order import features_last
from engine.models.unet import Join
from engine.values.errors import InputError


class SpaceTimeNetwork(nn.Module, ABC):
    """What all of them are: features of each pixel, then one linear map to the classes.

    Args:
        config: Sizes.
        features: Number F of the last hidden features.
        dropout: Share of them dropped in training.
    """

    def __init__(self, config: NetworkConfig, features: int, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.drop = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(features, config.n_classes, 1)

    @abstractmethod
    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised; any number of dates, in any order.
            valid_BTHW: float32, 1 = this date of this pixel counts; elsewhere `x_BTCHW` is not looked at.
            days: float32 (T,) or (B, T), running day of each date (`engine.values.days`), 0 = no such date.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If bands, days or the window do not fit the network.
        """
        self._check(x_BTCHW, days)
        logits_BKHW: torch.Tensor = self.head(self.drop(self.features(x_BTCHW, valid_BTHW, days)))
        return logits_BKHW

    def _check(self, x_BTCHW: torch.Tensor, days: torch.Tensor) -> None:
        _, dates, bands, height, width = x_BTCHW.shape
        if (bands, dates) != (self.config.n_bands, days.shape[-1]):
            raise InputError(
                "the network has another number of bands, or days are not those of the dates",
                where=type(self).__name__,
                found=f"{bands} bands, {dates} dates, {days.shape[-1]} days",
                limit=f"{self.config.n_bands} bands, as many days as dates",
                mend="build the cube from the bundle's own spec",
            )
        multiple = self.config.window_multiple
        if height % multiple or width % multiple:
            raise InputError(
                "the window does not divide by the network's halvings",
                where=type(self).__name__,
                found=f"{height} x {width} px",
                limit=f"a multiple of {multiple} px",
                mend=f"use e.g. {max(1, math.ceil(height / multiple)) * multiple} px",
            )


def conv_norm(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU; with stride 2 a kernel of 4 halves an even side exactly."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """A convolution, then another one beside which its input passes by (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(n_in, n_out), conv_norm(n_out, n_out)

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        """Return features of the same resolution."""
        x_BFHW = self.first(x_BFHW)
        found: torch.Tensor = x_BFHW + self.second(x_BFHW)
        return found


class Raise(nn.Module):
    """One level of a decoder: to the next finer resolution, beside its skip, and two convolutions."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.join = Join()
        self.mix = Residual(2 * fine, fine)

    def forward(self, coarse_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:
        """Return features of the skip's resolution."""
        found: torch.Tensor = self.mix(self.join(self.reduce(coarse_BFHW), skip_BFHW))
        return found


class Conv3dNorm(nn.Module):
    """Convolution over step, row and column, batch norm and ReLU; the steps form a circle.

    Features of a pixel lie side by side: three to four times as fast on a CPU [measured] as planes.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(n_in, n_out, 3, padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(n_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x_BFSHW: torch.Tensor) -> torch.Tensor:
        """Return features of the same steps and pixels."""
        around_BFSHW = torch.cat([x_BFSHW[:, :, -1:], x_BFSHW, x_BFSHW[:, :, :1]], dim=2)
        found: torch.Tensor = self.layers(features_last(around_BFSHW))
        return found
