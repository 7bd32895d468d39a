"""A Transformer with three branches on each pixel: the optical series, the radar series, and what never changes.

::

    optical dates ─ tokens + day ─ self-attention ─ pooled by attention ─┐
    radar dates ─── tokens + day ─ self-attention ─ pooled by attention ─┼─ attention among the three ─ mean ─ head
    layers ─────────────────────── perceptron ───────────────────────────┘

Blocks of attention after Vaswani et al. 2017 (arXiv:1706.03762), normalised before each part (Xiong et al. 2020,
arXiv:2002.04745); a series is pooled by learnt queries, one a head, as in the lightweight temporal attention of Garnot
and Landrieu 2020 (arXiv:2007.00586). The sensors keep their own days: no radar pass needs an optical date, and
a branch without data takes no part.

Shape suffixes: B batch, T date, C band, H row, W column, N pixel, D feature, A attention head, S branch, K output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from engine.models.fusion.configs import FusionTransformerConfig
from engine.models.fusion.sensors import layers, sensor, sensors_of
from engine.models.temporal.dates import wave

_PIECE = (
    4096  # pixels at a time in prediction: what the attention of a piece takes stays in tens of megabytes
)
_NEVER = -1e9


class Pooled(NamedTuple):
    """A series as one token.

    Attributes:
        token: (N, D), 0 where there is no date.
        weights: (N, A, T) share of each date in it, per head; 0 where there is no date.
        some: (N,) float32, 1 where there is a date.
    """

    token: torch.Tensor
    weights: torch.Tensor
    some: torch.Tensor


class FusionTransformer(nn.Module):
    """The network; see the module's drawing.

    Args:
        config: Sizes.
    """

    def __init__(self, config: FusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.sensors = sensors_of(config)
        self.branches = nn.ModuleDict({s: _Branch(len(config.bands(s)), config) for s in self.sensors})
        n_layers, width = len(config.bands("static")), config.width
        self.layers = _perceptron(2 * n_layers, width) if n_layers else None
        n_branches = len(self.sensors) + bool(n_layers)
        self.which = nn.Parameter(0.02 * torch.randn(n_branches, width))
        self.among = _Block(config) if n_branches > 1 else None
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.n_classes)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data and nowhere else.
            valid_BTHW: float32, 1 = a sensor has data on that date.
            days: float32 (T,) or (B, T), running days in any order, 0 = no such date.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates or bands do not fit the configuration.
        """
        features_BDHW = self.features(x_BTCHW, valid_BTHW, days)
        logits_BHWK: torch.Tensor = self.head(features_BDHW.permute(0, 2, 3, 1))
        return logits_BHWK.permute(0, 3, 1, 2)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return what the last layer sees, (B, D, H, W); arguments as of `forward`."""
        rows = [self._joined(*piece)[0] for piece in _pieces(x_BTCHW, valid_BTHW, days)]
        return _on_grid(torch.cat(rows), x_BTCHW)

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the share of each date in the pooled series, (B, A, T, H, W), the mean of the sensors that have one.

        Arguments as of `forward`; 1 in sum over the dates of a pixel, 0 without any.
        """
        rows = [self._joined(*piece)[1].flatten(1) for piece in _pieces(x_BTCHW, valid_BTHW, days)]
        return _on_grid(torch.cat(rows), x_BTCHW).unflatten(1, (self.config.heads, -1))

    def _joined(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (N, D) and the mean share of each date (N, A, T) of a piece's pixels."""
        days_BT = days.reshape(-1, days.shape[-1]).to(x_BTCHW.dtype)
        wave_BTD = wave(days_BT, self.config.width)
        pooled = []
        for name in self.sensors:
            own = sensor(self.config, name, x_BTCHW, valid_BTHW * (days_BT > 0)[..., None, None])
            pooled.append(self.branches[name](own.x, own.valid, wave_BTD))
        tokens, some = [p.token for p in pooled], [p.some for p in pooled]
        if self.layers is not None:
            static_NL = _pixels(layers(self.config, x_BTCHW))
            tokens.append(self.layers(static_NL))
            some.append((static_NL != 0).any(dim=1).to(static_NL.dtype))
        some_NS, tokens_NSD = torch.stack(some, dim=1), torch.stack(tokens, dim=1) + self.which
        if self.among is not None:
            tokens_NSD = self.among(tokens_NSD, some_NS)
        mean_ND = (tokens_NSD * some_NS[..., None]).sum(1) / some_NS.sum(1, keepdim=True).clamp_min(1.0)
        sensors_N = torch.stack([p.some for p in pooled]).sum(0).clamp_min(1.0)
        weights_NAT = torch.stack([p.weights for p in pooled]).sum(0) / sensors_N[:, None, None]
        return self.norm(mean_ND), weights_NAT


class _Branch(nn.Module):
    """One sensor's series as one token."""

    def __init__(self, n_bands: int, config: FusionTransformerConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(n_bands, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.keys = nn.Linear(config.width, config.width, bias=False)
        self.values = nn.Linear(config.width, config.width)
        self.queries = nn.Parameter(torch.randn(config.heads, config.width // config.heads))

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, wave_BTD: torch.Tensor) -> Pooled:
        batch, dates, bands, height, width = x_BTCHW.shape
        x_NTC = x_BTCHW.permute(0, 3, 4, 1, 2).reshape(-1, dates, bands)
        valid_NT = valid_BTHW.permute(0, 2, 3, 1).reshape(-1, dates)
        wave_NTD = wave_BTD.expand(batch, -1, -1)[:, None].expand(-1, height * width, -1, -1).flatten(0, 1)
        tokens_NTD = self.embed(x_NTC) + wave_NTD
        for block in self.blocks:
            tokens_NTD = block(tokens_NTD, valid_NT)
        tokens_NTD = self.norm(tokens_NTD)
        heads = len(self.queries)
        keys_NTAE = self.keys(tokens_NTD).unflatten(-1, (heads, -1))
        values_NTAE = self.values(tokens_NTD).unflatten(-1, (heads, -1))
        scores_NAT = torch.einsum("ntae,ae->nat", keys_NTAE, self.queries) / math.sqrt(keys_NTAE.shape[-1])
        some_N = valid_NT.amax(dim=1)
        weights_NAT = _masked_softmax(scores_NAT, valid_NT[:, None]) * some_N[:, None, None]
        return Pooled(torch.einsum("nat,ntae->nae", weights_NAT, values_NTAE).flatten(1), weights_NAT, some_N)


class _Block(nn.Module):
    """Self-attention among tokens, then a perceptron on each, both added to what came in."""

    def __init__(self, config: FusionTransformerConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width, bias=False)  # one number for all keys would change no softmax
        self.values, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.each = _perceptron(width, width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_NTD: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
        normal_NTD = self.before(x_NTD)
        q, k, v = (
            layer(normal_NTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        never_N11T = (valid_NT == 0)[:, None, None] * _NEVER
        mixed_NAQE = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=never_N11T.expand(-1, 1, x_NTD.shape[1], -1)
        )
        mixed_NTD = mixed_NAQE.transpose(1, 2).flatten(2)
        x_NTD = x_NTD + self.drop(self.out(mixed_NTD))
        found: torch.Tensor = x_NTD + self.drop(self.each(self.between(x_NTD)))
        return found


def _perceptron(n_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width))


def _masked_softmax(scores: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Share out over what is valid; evenly, and of no use, where nothing is."""
    return torch.softmax(scores.masked_fill(valid == 0, _NEVER), dim=-1)


def _pieces(
    x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut a block into pieces of a few thousand pixels where no derivatives are kept."""
    batch, _, _, height, width = x_BTCHW.shape
    if torch.is_grad_enabled() or batch * height * width <= _PIECE:
        yield x_BTCHW, valid_BTHW, days
        return
    days_BT = days.reshape(-1, days.shape[-1])
    together = max(1, _PIECE // (height * width))
    rows = max(1, _PIECE // width)
    for b in range(0, batch, together):
        some = slice(b, b + together)
        own_days = days_BT if len(days_BT) == 1 else days_BT[some]
        for y in range(0, height, rows):
            yield x_BTCHW[some, ..., y : y + rows, :], valid_BTHW[some, ..., y : y + rows, :], own_days


def _pixels(x_BFHW: torch.Tensor) -> torch.Tensor:
    return x_BFHW.permute(0, 2, 3, 1).flatten(0, 2)


def _on_grid(rows_NF: torch.Tensor, x_BTCHW: torch.Tensor) -> torch.Tensor:
    batch, _, _, height, width = x_BTCHW.shape
    return rows_NF.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)
