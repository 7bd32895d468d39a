"""Networks that look at one pixel at a time: a perceptron over all dates and bands, and convolutions over time.

::

    mlp       T x C values + T validity ─ linear ─ ReLU ─ ... ─ linear ─ logits
    tempcnn   each date: C values + validity ─ convolution over time ─ ... ─ mean of the valid dates ─ linear ─ logits

Both take windows of any size as well as rows of single pixels. Convolutions over time after Pelletier,
Webb and Petitjean 2019 (Remote Sensing 11:523); the mean over the valid dates instead of their flattening
lets one network take any number of dates.

Shape suffixes: B batch, T date, C band, H row, W column, N pixel (H x W), F feature, K output.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from engine.models.configs import MlpConfig, TempCnnConfig
from engine.values.errors import InputError


class Mlp(nn.Module):
    """A perceptron on each pixel.

    Args:
        config: Sizes.
    """

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.n_dates * (config.n_bands + 1), *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
            layers += [nn.Dropout(config.dropout)] if config.dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], config.n_classes))

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates or bands do not fit the configuration.
        """
        _check(x_BTCHW, (self.config.n_dates, self.config.n_bands))
        x_BHWF = torch.cat([x_BTCHW.flatten(1, 2).permute(0, 2, 3, 1), valid_BTHW.permute(0, 2, 3, 1)], dim=3)
        # One plain matrix: a product of strided blocks is ten times slower.
        logits_BHWK = self.layers(x_BHWF.flatten(0, 2).contiguous()).view(*x_BHWF.shape[:3], -1)
        found: torch.Tensor = logits_BHWK.permute(0, 3, 1, 2)
        return found


class TempCnn(nn.Module):
    """Convolutions over the dates of each pixel.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TempCnnConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.n_bands + 1, *[config.width] * config.depth]
        self.layers = nn.Sequential(*(_over_time(a, b, config) for a, b in itertools.pairwise(sizes)))
        self.head = nn.Linear(config.width, config.n_classes)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Compute logits; arguments as of `Mlp.forward`, any number of dates."""
        _check(x_BTCHW, (x_BTCHW.shape[1], self.config.n_bands))
        height, width = x_BTCHW.shape[3:]
        x_BHWTF = torch.cat(
            [x_BTCHW.permute(0, 3, 4, 1, 2), valid_BTHW.permute(0, 2, 3, 1)[..., None]], dim=4
        )
        # Features of a date side by side, dates of a pixel after each other: channels last, no layer copies.
        x_BFNT = self.layers(x_BHWTF.flatten(1, 2).contiguous().permute(0, 3, 1, 2))
        valid_BNT1 = x_BHWTF[..., -1:].flatten(1, 2)
        x_BNTF = x_BFNT.permute(0, 2, 3, 1)
        x_BNF = (x_BNTF * valid_BNT1).sum(dim=2) / valid_BNT1.sum(dim=2).clamp_min(1.0)
        logits_NK = self.head(x_BNF.flatten(0, 1).contiguous())
        logits_BHWK: torch.Tensor = logits_NK.view(len(x_BTCHW), height, width, -1)
        return logits_BHWK.permute(0, 3, 1, 2)


def _over_time(n_in: int, n_out: int, config: TempCnnConfig) -> nn.Sequential:
    kernel = (1, config.kernel)
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=(0, config.kernel // 2), bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
        *([nn.Dropout(config.dropout)] if config.dropout else []),
    )


def _check(x_BTCHW: torch.Tensor, limit: tuple[int, int]) -> None:
    found = x_BTCHW.shape[1], x_BTCHW.shape[2]
    if found != limit:
        raise InputError(
            "the network has another number of dates or bands",
            where="pixel-wise network",
            found=f"{found[0]} dates x {found[1]} bands",
            limit=f"{limit[0]} dates x {limit[1]} bands",
            mend="build the cube from the bundle's own spec",
        )
