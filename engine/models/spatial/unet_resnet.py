"""A U-Net whose encoder is a ResNet, over any bands and dates (Ronneberger et al. 2015; He et al. 2016).

::

    planes ─┬─ 1x1 ──────────────── skip, full resolution ─────────── level ─ head 1x1 ─ logits
            └─ ResNet ─ 1/2 ─────── skip ────────────────── level ─ up ┘
                         └─ 1/4 ─── skip ─────────── level ─ up ┘
                             └─ 1/8 ... 1/16 ... 1/32 ─ up ┘

Five skips: the encoder's at 1/2 to 1/16, and one at full resolution that sees each pixel by itself, as fields
of a few pixels are lost to an encoder that begins by halving. Dates come together in one of two ways:

- `ResNetUNet`: dates side by side, ordered by their days, with one validity plane each: one pass of the encoder,
  for a fixed number of dates;
- `SeasonUNet`: the same encoder for each date, and on each level `engine.models.spatial.seasons` sums the dates:
  any number of them in any order.

Shape suffixes: B batch, T date, C band, H row, W column, K class, F feature, G head.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from engine.models.spatial.configs import ResNetUNetConfig, SeasonUNetConfig
from engine.models.spatial.published import EncoderLayout
from engine.models.spatial.resnet import ResNet, published_name
from engine.models.spatial.seasons import WeighDates, encoded_days
from engine.models.unet import ConvNorm, two_convolutions, upsampler
from engine.values.errors import InputError

_NO_DAY = 40_000.0
"""Later than any running day, which are int16."""


class ResNetUNet(nn.Module):
    """The network with dates side by side; see the module's drawing.

    Args:
        config: Sizes and variants.
    """

    def __init__(self, config: ResNetUNetConfig) -> None:
        super().__init__()
        self.config = config
        planes = (config.n_bands + 1) * self._dates_at_once(config)
        self.stem = ConvNorm(planes, config.stem, 1, "batch")
        self.encoder = ResNet(config.encoder, planes, config.width)
        coarser = (*config.decoded[1:], config.channels[-1])
        levels = zip(coarser, config.decoded, config.channels[:-1], strict=True)
        self.up = nn.ModuleList(_Up(coarse, fine, skip, config.decoder) for coarse, fine, skip in levels)
        self.drop = nn.Dropout2d(config.dropout)
        self.head = nn.Conv2d(config.decoded[0], config.n_classes, 1)

    def forward(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.
            days: Running day of each date, float32 (T,) or (B, T), 0 = no date; None: not known.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates, bands or the window do not fit the configuration.
        """
        logits_BKHW: torch.Tensor = self.head(self.features(x_BTCHW, valid_BTHW, days))
        return logits_BKHW

    def features(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the last features before the head, (B, F, H, W) float32; arguments as of `forward`."""
        _check(self.config, x_BTCHW)
        levels = self._levels(x_BTCHW, valid_BTHW, days)
        x_BFHW: torch.Tensor = self.drop(levels.pop())
        for up, skip_BFHW in zip(reversed(self.up), reversed(levels), strict=True):
            x_BFHW = up(x_BFHW, skip_BFHW)
        return x_BFHW

    @property
    def encoder_layout(self) -> EncoderLayout:
        """How published weights find their places."""
        names = {f"encoder.{own}": published_name(own) for own in self.encoder.state_dict()}
        return EncoderLayout(names, "encoder.first.0.weight", self._dates_at_once(self.config))

    @staticmethod
    def _dates_at_once(config: ResNetUNetConfig) -> int:
        return config.n_dates

    def _levels(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Return the features of each level, full resolution first; dates without days stay as they come."""
        if days is not None:
            x_BTCHW, valid_BTHW = _by_day(x_BTCHW, days), _by_day(valid_BTHW, days)
        x_BFHW = torch.cat([x_BTCHW.flatten(1, 2), valid_BTHW], dim=1)
        return [self.stem(x_BFHW), *self.encoder(x_BFHW)]


class SeasonUNet(ResNetUNet):
    """The network with one encoder for each of any number of dates; see the module's drawing.

    Args:
        config: Sizes and variants.
    """

    def __init__(self, config: SeasonUNetConfig) -> None:
        super().__init__(config)
        self.weigh = nn.ModuleList(WeighDates(n, config.heads) for n in config.channels)

    def attention(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return how much each date counts at full resolution, (B, G, T, H, W) float32; arguments as of `forward`."""
        _check(self.config, x_BTCHW)
        x_BTFHW = self.stem(_planes(x_BTCHW, valid_BTHW)).unflatten(0, (-1, x_BTCHW.shape[1]))
        day_BTE = encoded_days(days, x_BTFHW)
        weight_BTGHW: torch.Tensor = self.weigh[0].weights(x_BTFHW, valid_BTHW, day_BTE)  # type: ignore[operator]
        return weight_BTGHW.transpose(1, 2)

    @staticmethod
    def _dates_at_once(config: ResNetUNetConfig) -> int:
        return 1

    def _levels(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor | None
    ) -> list[torch.Tensor]:
        day_BTE = encoded_days(days, x_BTCHW)
        there_N = valid_BTHW.flatten(0, 1).amax(dim=(1, 2)) > 0
        found = []
        for level, x_NFHW in enumerate(self._of_each_date(_planes(x_BTCHW, valid_BTHW), there_N)):
            share_BTHW = functional.avg_pool2d(valid_BTHW, 2**level) if level else valid_BTHW
            found.append(self.weigh[level](x_NFHW.unflatten(0, (-1, x_BTCHW.shape[1])), share_BTHW, day_BTE))
        return found

    def _of_each_date(self, x_NFHW: torch.Tensor, there_N: torch.Tensor) -> list[torch.Tensor]:
        """Encode each date's image; in training those alone that hold data, for the sake of the batch norms."""
        if not self.training or int(there_N.sum()) in (0, 1, len(there_N)):
            return [self.stem(x_NFHW), *self.encoder(x_NFHW)]
        some_NFHW = x_NFHW[there_N]
        found = []
        for level_NFHW in (self.stem(some_NFHW), *self.encoder(some_NFHW)):
            whole_NFHW = level_NFHW.new_zeros((len(x_NFHW), *level_NFHW.shape[1:]))
            found.append(whole_NFHW.index_put((there_N,), level_NFHW))
        return found


class _Up(nn.Module):
    """One level of the decoder: the coarser one raised, the skip beside it, two convolutions."""

    def __init__(self, coarse: int, fine: int, skip: int, decoder: str) -> None:
        super().__init__()
        self.raise_ = upsampler(decoder, coarse, fine)
        self.level = two_convolutions(fine + skip, fine, "batch")

    def forward(self, x_BFHW: torch.Tensor, skip_BFHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.level(self.raise_(x_BFHW, skip_BFHW))
        return found


def _planes(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
    """Return each date as an image of its own, (B x T, C + 1, H, W): the bands, then the validity."""
    return torch.cat([x_BTCHW, valid_BTHW[:, :, None]], dim=2).flatten(0, 1)


def _by_day(x_BT: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
    """Order the dates of (B, T, ...) by their days, those of one day as they come; dates without a day come last."""
    count = days.shape[-1]
    place = torch.where(days > 0, days, _NO_DAY).to(torch.int64) * count + torch.arange(
        count, device=days.device
    )
    order = torch.argsort(place, dim=-1)
    if order.ndim == 1:
        return x_BT.index_select(1, order)
    return torch.take_along_dim(x_BT, order.view(*order.shape, *[1] * (x_BT.ndim - 2)), dim=1)


def _check(config: ResNetUNetConfig, x_BTCHW: torch.Tensor) -> None:
    _, dates, bands, height, width = x_BTCHW.shape
    wanted = dates if isinstance(config, SeasonUNetConfig) else config.n_dates
    if (dates, bands) != (wanted, config.n_bands):
        raise InputError(
            "the network has another number of dates or bands",
            where="unet_resnet, unet_seasons",
            found=f"{dates} dates x {bands} bands",
            limit=f"{wanted} dates x {config.n_bands} bands",
            mend="build the cube from the bundle's own spec",
        )
    multiple = config.window_multiple
    if height % multiple or width % multiple:
        raise InputError(
            "the window does not divide by the network's halvings",
            where="unet_resnet, unet_seasons",
            found=f"{height} x {width} px",
            limit=f"a multiple of {multiple} px",
            mend=f"use e.g. {max(1, math.ceil(height / multiple)) * multiple} px",
        )
