"""A transformer over the dates of a pixel.

::

    values ─ linear ─ + day (sine, cosine) ─ layers of self-attention ─ mean of the valid dates ─ norm ─ linear ─ logits

Self-attention on series of raw reflectance: Russwurm and Koerner 2020 (ISPRS Journal 169:421). The encoding is that of
Vaswani et al. 2017 (arXiv:1706.03762) on running days in place of positions, so that any calendar fits; layers are
normalised before each half (Xiong et al. 2020, arXiv:2002.04745). Dates without data are not looked at.

Shape suffixes: N pixel, T date, F feature, A attention head, D feature of a head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.models.temporal.configs import TransformerConfig
from engine.models.temporal.dates import wave
from engine.models.temporal.series import AttentiveNetwork, Series, masked_mean, masked_softmax


class Layer(nn.Module):
    """Self-attention, then two linear maps on each date, each added to what came in.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.mix = nn.Linear(config.width, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.maps = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_NTF: torch.Tensor, looked_at_NT: torch.Tensor) -> torch.Tensor:
        """Return dates of the same shape."""
        query, key, value = self._split(x_NTF)
        mixed_NATD = functional.scaled_dot_product_attention(
            query, key, value, looked_at_NT[:, None, None], dropout_p=self.dropout if self.training else 0.0
        )
        x_NTF = x_NTF + self.drop(self.mix(mixed_NATD.transpose(1, 2).flatten(2)))
        found: torch.Tensor = x_NTF + self.maps(x_NTF)
        return found

    def weights(self, x_NTF: torch.Tensor, looked_at_NT: torch.Tensor) -> torch.Tensor:
        """Return how much each date (third axis) looks at each other one (last axis), (N, A, T, T)."""
        query, key, _ = self._split(x_NTF)
        scores_NATT = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return masked_softmax(scores_NATT, looked_at_NT[:, None, None])

    def _split(self, x_NTF: torch.Tensor) -> tuple[torch.Tensor, ...]:
        qkv = self.qkv(self.norm(x_NTF)).unflatten(2, (3, self.heads, -1))
        return tuple(qkv.permute(2, 0, 3, 1, 4).unbind(0))


class Transformer(AttentiveNetwork):
    """The network; see the module.

    Args:
        config: Sizes.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, config.width)
        self.embed = nn.Linear(config.n_bands, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)

    def encode(self, series: Series) -> torch.Tensor:
        """Return the mean over the valid dates, normalised, (N, F)."""
        x_NTF, looked_at_NT = self._tokens(series)
        for layer in self.layers:
            x_NTF = layer(x_NTF, looked_at_NT)
        found: torch.Tensor = self.norm(masked_mean(x_NTF, series.valid))
        return found

    def attend(self, series: Series) -> torch.Tensor:
        """Return how much the valid dates look at each date in the last layer, on average, (N, A, T)."""
        x_NTF, looked_at_NT = self._tokens(series)
        for layer in list(self.layers)[:-1]:
            x_NTF = layer(x_NTF, looked_at_NT)
        weights_NATT = self.layers[-1].weights(x_NTF, looked_at_NT)  # type: ignore[operator]
        return masked_mean(weights_NATT.permute(0, 2, 1, 3).flatten(2), looked_at_NT).unflatten(
            1, weights_NATT.shape[1::2]
        )

    def _tokens(self, series: Series) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dates with what they are told, and which are looked at: all, where none is valid."""
        x_NTF = self.drop(self.embed(series.x) + wave(series.days, self.config.width))
        return x_NTF, series.valid | ~series.valid.any(dim=1, keepdim=True)
