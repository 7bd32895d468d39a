"""Networks that look at one pixel at a time: a perceptron over all dates and bands, and convolutions over time.

::

    mlp       T x C values + T validity ─ linear ─ ReLU ─ ... ─ linear ─ logits
    tempcnn   each date: C values + validity ─ convolution over time ─ ... ─ mean of the valid dates ─ linear ─ logits

Both take windows of any size as well as rows of single pixels, and sort their dates where the days are given.
Convolutions over time after Pelletier, Webb and Petitjean 2019 (Remote Sensing 11:523); the mean over the
valid dates instead of their flattening lets one network take any number of dates.

Shape suffixes: B batch, T date, C band, H row, W column, N pixel (H x W), F feature, K output.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from engine.models.configs import MlpConfig, TempCnnConfig
from engine.models.temporal.dates import in_order
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
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], config.n_classes)

    def forward(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.
            days: float32 (T,) or (B, T), running days, 0 = no such date; None: the dates are in order. Each
                date has its own weights, so all but absent ones must be there.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates or bands do not fit the configuration.
        """
        features_BFHW = self.features(x_BTCHW, valid_BTHW, days)
        return _on_pixels(self.head, features_BFHW)

    def features(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what the last layer sees, (B, F, H, W); arguments as of `forward`."""
        n_dates = self.config.n_dates
        if days is not None:
            x_BTCHW, valid_BTHW, days_BT, _ = in_order(x_BTCHW, valid_BTHW, days)
            if x_BTCHW.shape[1] > n_dates and not bool((days_BT[:, n_dates:] > 0).any()):
                x_BTCHW, valid_BTHW = x_BTCHW[:, :n_dates], valid_BTHW[:, :n_dates]
        _check(x_BTCHW, (n_dates, self.config.n_bands))
        return _on_pixels(self.layers, torch.cat([x_BTCHW.flatten(1, 2), valid_BTHW], dim=1))


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

    def forward(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute logits; arguments as of `Mlp.forward`, any number of dates."""
        return _on_pixels(self.head, self.features(x_BTCHW, valid_BTHW, days))

    def features(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the valid dates of the last convolution, (B, F, H, W); arguments as of `forward`."""
        _check(x_BTCHW, (x_BTCHW.shape[1], self.config.n_bands))
        present_BT = None
        if days is not None:
            x_BTCHW, valid_BTHW, days_BT, _ = in_order(x_BTCHW, valid_BTHW, days)
            present_BT = (days_BT > 0).to(x_BTCHW.dtype)
        x_BHWTF = torch.cat(
            [x_BTCHW.permute(0, 3, 4, 1, 2), valid_BTHW.permute(0, 2, 3, 1)[..., None]], dim=4
        )
        # Features of a date side by side, dates of a pixel after each other: channels last, no layer copies.
        x_BFNT = x_BHWTF.flatten(1, 2).contiguous().permute(0, 3, 1, 2)
        for layer in self.layers:
            x_BFNT = layer(x_BFNT)
            if present_BT is not None:  # beyond the last date lies nothing, in each layer
                x_BFNT = x_BFNT * present_BT[:, None, None]
        valid_BNT1 = x_BHWTF[..., -1:].flatten(1, 2)
        x_BNTF = x_BFNT.permute(0, 2, 3, 1)
        x_BNF = (x_BNTF * valid_BNT1).sum(dim=2) / valid_BNT1.sum(dim=2).clamp_min(1.0)
        return x_BNF.unflatten(1, x_BTCHW.shape[3:]).permute(0, 3, 1, 2)


def _on_pixels(layers: nn.Module, x_BFHW: torch.Tensor) -> torch.Tensor:
    """Apply layers to the features of each pixel."""
    x_BHWF = x_BFHW.permute(0, 2, 3, 1)
    # One plain matrix: a product of strided blocks is ten times slower.
    found: torch.Tensor = layers(x_BHWF.flatten(0, 2).contiguous())
    return found.view(*x_BHWF.shape[:3], -1).permute(0, 3, 1, 2)


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
