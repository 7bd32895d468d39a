"""The lightweight temporal attention encoder, L-TAE (Garnot and Landrieu 2020, arXiv:2007.00586).

::

    values ─ two linear maps ─ norm ─ + day ─┬─ key of each head ── scores against the head's one query ─ weights
                                             └─ each head's share of the features ─ weighted sum of the dates
                                                          all heads side by side ─ linear ─ norm ─ linear ─ logits

Each head has one learnt query for all pixels, and weighs its own share of the features: cost grows with the dates,
not with their square. Here a pixel's values take the place of the paper's set of pixels, layer norms that of its
group and batch norms, whose statistics would count absent dates, and dates are encoded by running days.

Shape suffixes: N pixel, T date, F feature, A attention head, D feature of a head.
"""

from __future__ import annotations

import torch
from torch import nn

from engine.models.temporal.configs import LtaeConfig
from engine.models.temporal.dates import wave
from engine.models.temporal.series import AttentiveNetwork, Series, masked_softmax


class Ltae(AttentiveNetwork):
    """The network; see the module.

    Args:
        config: Sizes.
    """

    config: LtaeConfig

    def __init__(self, config: LtaeConfig) -> None:
        super().__init__(config, config.width)
        self.embed = nn.Sequential(
            nn.Linear(config.n_bands, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.LayerNorm(config.width),
        )
        self.key = nn.Linear(config.width, config.heads * config.key)
        self.query_AD = nn.Parameter(torch.randn(config.heads, config.key) * (2 / config.key) ** 0.5)
        self.out = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.LayerNorm(config.width),
        )

    def encode(self, series: Series) -> torch.Tensor:
        """Return the features (N, F) of each pixel."""
        x_NTF = self._dated(series)
        weight_NAT = self._weights(x_NTF, series.valid)
        shares_NATD = x_NTF.unflatten(2, (self.config.heads, -1)).transpose(1, 2)
        mixed_NAD = (weight_NAT[:, :, None] @ shares_NATD)[:, :, 0]
        found: torch.Tensor = self.out(mixed_NAD.flatten(1))
        return found

    def attend(self, series: Series) -> torch.Tensor:
        """Return the weight of each date, (N, A, T)."""
        return self._weights(self._dated(series), series.valid)

    def _dated(self, series: Series) -> torch.Tensor:
        """Return dates with what they are told; every head's share is told the day in full."""
        per_head = self.config.width // self.config.heads
        day_NTF = wave(series.days, per_head).repeat(1, 1, self.config.heads)
        found: torch.Tensor = self.embed(series.x) + day_NTF
        return found

    def _weights(self, x_NTF: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
        key_NTAD = self.key(x_NTF).unflatten(2, (self.config.heads, -1))
        scores_NAT = (key_NTAD * self.query_AD).sum(3).transpose(1, 2) / self.config.key**0.5
        return masked_softmax(scores_NAT, valid_NT[:, None])
