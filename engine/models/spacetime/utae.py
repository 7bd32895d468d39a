"""U-TAE: a U-Net over each date, and attention among the dates (Garnot and Landrieu 2021, arXiv:2107.07933).

::

    each date   level 0 ─────── × weights, raised to level 0, sum over dates ─────── level 0 ─ head ─ logits
                  └ level 1 ─── × weights, raised to level 1, sum over dates ─── level 1 ┘
                      └ level 2  × weights, raised to level 2, sum over dates  level 2 ┘
                          └ level 3 ─ attention over dates ─ weights       ─── sum ┘

The attention (Garnot and Landrieu 2020, arXiv:2007.00586) has one learnt query a head, keys from the date's features
and its day, and each head weighs the dates for its own share of the channels, at every level.

Where the paper pads missing dates of a whole image, here every pixel has its own: at the coarsest level a date counts
by the share of its pixels that have data, at the finer ones only where the pixel has, and weights are brought
back to a sum of one. Normalisation is over the batch, not over groups of an image: with fixed statistics
a window's answer does not depend on how large the window is.

Shape suffixes: B batch, T date, N date of any sample, C band, P plane (bands and validity), F feature, A head,
D feature of a head, H row, W column, M features of a date in the attention.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from engine.models.spacetime.configs import UtaeConfig
from engine.models.spacetime.dates import Present, by_sample, counted, planes
from engine.models.spacetime.layers import Raise, Residual, SpaceTimeNetwork, conv_norm
from engine.models.temporal.dates import wave

_LEAST = 1e-6  # weight of a date that counts but that nobody looks at, where there is no other
_NONE = 1e-9  # less than any sum of weights, but not 0


class Utae(SpaceTimeNetwork):
    """The network; see the module's drawing.

    Args:
        config: Sizes.
    """

    def __init__(self, config: UtaeConfig) -> None:
        channels = config.channels
        super().__init__(config, channels[0], 0.0)
        self.encoder = _Encoder(config.n_bands + 1, channels)
        self.dates = DateAttention(channels[-1], config)
        self.up = nn.ModuleList(
            Raise(coarse, fine) for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""
        days_BT = by_sample(days)
        valid_BTHW = counted(valid_BTHW, days_BT)
        levels = self._levels(x_BTCHW, valid_BTHW)
        shares = _shares(valid_BTHW, len(levels))
        weights_BATHW, x_BFHW = self.dates(levels[-1], shares[-1], days_BT)
        for up, level_BTFHW, share_BTHW in zip(
            self.up, reversed(levels[:-1]), reversed(shares[:-1]), strict=True
        ):
            x_BFHW = up(x_BFHW, chosen(level_BTFHW, raised(weights_BATHW, share_BTHW)))
        return x_BFHW

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return how much each head looks at each date, (B, A, T, H, W): 0 where a date does not count.

        The weights of a pixel add up to 1; all are 0 where it has no valid date.
        """
        days_BT = by_sample(days)
        valid_BTHW = counted(valid_BTHW, days_BT)
        levels = self._levels(x_BTCHW, valid_BTHW)
        weights_BATHW, _ = self.dates(levels[-1], _shares(valid_BTHW, len(levels))[-1], days_BT)
        return raised(weights_BATHW, valid_BTHW)

    def _levels(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> list[torch.Tensor]:
        """Encode each date: (B, T, F, H, W) of each level, full resolution first."""
        present = Present.of(valid_BTHW, self.training)
        return [present.put(level) for level in self.encoder(present.take(planes(x_BTCHW, valid_BTHW)))]


class _Encoder(nn.Module):
    """The way down, the same for each date."""

    def __init__(self, n_planes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.first = Residual(n_planes, channels[0])
        self.halve = nn.ModuleList(conv_norm(fine, fine, kernel=4, stride=2) for fine in channels[:-1])
        self.down = nn.ModuleList(Residual(fine, coarse) for fine, coarse in itertools.pairwise(channels))

    def forward(self, x_NPHW: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.first(x_NPHW)]
        for halve, down in zip(self.halve, self.down, strict=True):
            levels.append(down(halve(levels[-1])))
        return levels


class DateAttention(nn.Module):
    """Lightweight temporal attention: one learnt query a head, shared features, a share of them for each head.

    Args:
        n_in: Features of a date at one pixel.
        config: Heads and sizes.
    """

    def __init__(self, n_in: int, config: UtaeConfig) -> None:
        super().__init__()
        self.heads, self.key = config.heads, config.key
        self.enter = nn.Sequential(nn.LayerNorm(n_in), nn.Linear(n_in, config.model))
        self.keys = nn.Linear(config.model, config.heads * config.key)
        self.queries = nn.Parameter(torch.empty(config.heads, config.key))
        self.leave = nn.Sequential(
            nn.Conv2d(config.model, n_in, 1, bias=False), nn.BatchNorm2d(n_in), nn.ReLU(inplace=True)
        )
        self.drop = nn.Dropout(config.dropout)
        nn.init.normal_(self.queries, std=math.sqrt(2.0 / config.key))
        nn.init.normal_(self.keys.weight, std=math.sqrt(2.0 / config.key))

    def forward(
        self, x_BTFHW: torch.Tensor, share_BTHW: torch.Tensor, days_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weigh the dates of each pixel.

        Args:
            x_BTFHW: Features of each date.
            share_BTHW: How much a date counts at each pixel, 0..1; those with 0 are not looked at.
            days_BT: Running days.

        Returns:
            Weights (B, A, T, H, W), which add up to 1 over the dates, or are all 0; features (B, F, H, W).
        """
        x_BHWTM = self.enter(x_BTFHW.permute(0, 3, 4, 1, 2))
        x_BHWTM = x_BHWTM + wave(days_BT, x_BHWTM.shape[-1])[:, None, None]
        keys_BHWTAD = self.keys(x_BHWTM).unflatten(-1, (self.heads, self.key))
        scores_BHWTA = (keys_BHWTAD * self.queries).sum(dim=-1) / math.sqrt(self.key)
        weights_BHWTA = _softmax(scores_BHWTA, share_BTHW.permute(0, 2, 3, 1)[..., None])
        weights_BHWTA = self.drop(weights_BHWTA)
        values_BHWTAD = x_BHWTM.unflatten(-1, (self.heads, -1))
        mixed_BHWAD = (weights_BHWTA[..., None] * values_BHWTAD).sum(dim=3)
        features_BFHW: torch.Tensor = self.leave(mixed_BHWAD.flatten(-2).permute(0, 3, 1, 2))
        return weights_BHWTA.permute(0, 4, 3, 1, 2), self.drop(features_BFHW)


def chosen(level_BTFHW: torch.Tensor, weights_BATHW: torch.Tensor) -> torch.Tensor:
    """Sum over dates, each share of the channels with its own head's weights: (B, F, H, W)."""
    # Features of a pixel side by side, as they come from the encoder: twice as fast as by planes.
    parts_BTHWAD = level_BTFHW.permute(0, 1, 3, 4, 2).unflatten(-1, (weights_BATHW.shape[1], -1))
    return torch.einsum("bthwad,bathw->bhwad", parts_BTHWAD, weights_BATHW).flatten(3).permute(0, 3, 1, 2)


def raised(weights_BATHW: torch.Tensor, share_BTHW: torch.Tensor) -> torch.Tensor:
    """Bring weights to a finer resolution, where a date counts by its share; they add up to 1, or are all 0."""
    finer_BATHW = functional.interpolate(
        weights_BATHW.flatten(0, 1), size=share_BTHW.shape[-2:], mode="bilinear", align_corners=False
    ).reshape(*weights_BATHW.shape[:2], *share_BTHW.shape[1:])
    return _shared_out((finer_BATHW + _LEAST) * share_BTHW[:, None], dim=2)


def _shares(valid_BTHW: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Return the share of valid pixels of each date in each pixel of each level."""
    shares = [valid_BTHW]
    for _ in range(levels - 1):
        shares.append(functional.avg_pool2d(shares[-1], 2))
    return shares


def _softmax(scores_BHWTA: torch.Tensor, share_BHWT1: torch.Tensor) -> torch.Tensor:
    """Softmax over the dates, each weighted by its share: what does not count gets exactly 0."""
    scores_BHWTA = scores_BHWTA.masked_fill(share_BHWT1 <= 0, torch.finfo(scores_BHWTA.dtype).min)
    return _shared_out(scores_BHWTA.softmax(dim=3) * share_BHWT1, dim=3)


def _shared_out(weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Divide by the sum; nothing stays nothing."""
    return weights / weights.sum(dim=dim, keepdim=True).clamp_min(_NONE)
