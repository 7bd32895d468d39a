"""A U-Net for any number of bands and dates (after Ronneberger et al. 2015).

::

    x (T dates x C bands) + T validity planes
      └─ stem 1x1 ─ level 0 ────────────────── skip ──────────────── level 0 ─ head 1x1 ─ logits
                      └─ pool ─ level 1 ────── skip ────── level 1 ─ up ┘
                                  └─ pool ─ ... bottleneck ... ─ up ┘

Each level is two 3x3 convolutions, each followed by a normalisation and ReLU. The stem mixes dates and
bands within each pixel, where the season's curve is; the levels then add what surrounds the pixel.

Shape suffixes: B batch, T date, C band, H row, W column, K class, F feature.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from engine.models.configs import UNetConfig
from engine.values.errors import InputError


class ConvNorm(nn.Sequential):
    """Convolution, normalisation and ReLU; `engine.models.fold` merges the first two."""

    def __init__(self, n_in: int, n_out: int, kernel: int, norm: str) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
            _norm(norm, n_out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """The network; see the module's drawing.

    Args:
        config: Sizes and variants.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, norm = config.channels, config.norm
        self.stem = ConvNorm(config.n_dates * (config.n_bands + 1), config.stem, 1, norm)
        self.down = nn.ModuleList(
            two_convolutions(n_in, n_out, norm)
            for n_in, n_out in zip((config.stem, *channels), channels, strict=False)
        )
        finer_first = list(zip(channels[1:], channels[:-1], strict=True))
        self.raise_ = nn.ModuleList(upsampler(config.decoder, coarse, fine) for coarse, fine in finer_first)
        self.up = nn.ModuleList(two_convolutions(2 * fine, fine, norm) for _, fine in finer_first)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout2d(config.dropout)
        self.head = nn.Conv2d(channels[0], config.n_classes, 1)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates, bands or the window do not fit the configuration.
        """
        logits_BKHW: torch.Tensor = self.head(self.features(x_BTCHW, valid_BTHW))
        return logits_BKHW

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Return the last features before the head, (B, F, H, W) float32; arguments as of `forward`."""
        self._check(x_BTCHW)
        x_BFHW = self.stem(torch.cat([x_BTCHW.flatten(1, 2), valid_BTHW], dim=1))
        skips: list[torch.Tensor] = []
        for index, level in enumerate(self.down):
            x_BFHW = level(self.pool(x_BFHW) if index else x_BFHW)
            skips.append(x_BFHW)
        x_BFHW = self.drop(skips.pop())
        for raise_, level, skip_BFHW in zip(
            reversed(self.raise_), reversed(self.up), reversed(skips), strict=True
        ):
            x_BFHW = level(raise_(x_BFHW, skip_BFHW))
        return x_BFHW

    def _check(self, x_BTCHW: torch.Tensor) -> None:
        _, dates, bands, height, width = x_BTCHW.shape
        if (dates, bands) != (self.config.n_dates, self.config.n_bands):
            raise InputError(
                "the network has another number of dates or bands",
                where="unet",
                found=f"{dates} dates x {bands} bands",
                limit=f"{self.config.n_dates} dates x {self.config.n_bands} bands",
                mend="build the cube from the bundle's own spec",
            )
        multiple = self.config.window_multiple
        if height % multiple or width % multiple:
            raise InputError(
                "the window does not divide by the network's poolings",
                where="unet",
                found=f"{height} x {width} px",
                limit=f"a multiple of {multiple} px (depth {self.config.depth})",
                mend=f"use e.g. {max(1, math.ceil(height / multiple)) * multiple} px",
            )


class Join(nn.Module):
    """Double the resolution and put the skip beside it; `engine.models.packed` does it in one pass."""

    def forward(self, coarse_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:
        """Join: features of the coarse grid first."""
        fine_BFHW = functional.interpolate(coarse_BFHW, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.cat([fine_BFHW, skip_BFHW], dim=1)


class _BilinearRaise(nn.Module):
    """Reduce the channels on the coarse grid, where it is cheap, then double the resolution."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.join = Join()

    def forward(self, x_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:
        """Double height and width and put the skip beside it."""
        joined: torch.Tensor = self.join(self.reduce(x_BFHW), skip_BFHW)
        return joined


class _TransposedRaise(nn.ConvTranspose2d):
    """Learn how to double the resolution."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__(coarse, fine, 2, stride=2)

    def forward(self, x_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Double height and width and put the skip beside it."""
        return torch.cat([super().forward(x_BFHW), skip_BFHW], dim=1)


def upsampler(decoder: str, coarse: int, fine: int) -> nn.Module:
    """Return what brings `coarse` features to `fine` ones of twice the resolution and puts the skip beside them."""
    return _TransposedRaise(coarse, fine) if decoder == "transposed" else _BilinearRaise(coarse, fine)


def two_convolutions(n_in: int, n_out: int, norm: str) -> nn.Sequential:
    """Return a level: two 3x3 convolutions, each with normalisation and ReLU."""
    return nn.Sequential(ConvNorm(n_in, n_out, 3, norm), ConvNorm(n_out, n_out, 3, norm))


def _norm(kind: str, channels: int) -> nn.Module:
    """Batch norm, or group norm with the largest group count up to 8 that divides the channels."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(8, channels), channels)
