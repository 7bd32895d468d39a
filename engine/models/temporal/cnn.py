"""Dilated convolutions over the valid dates of a pixel.

::

    values + day of the year ─ linear ─ block, dates 1 apart ─ block, 2 apart ─ block, 4 apart ─ mean and maximum
    of the dates ─ linear ─ logits;   each block: convolution, batch norm, ReLU, added to what came in

1D-CNN on series for crops: Zhong et al. 2019 (Remote Sensing of Environment 221:430). Dilated residual blocks:
Bai et al. 2018 (arXiv:1803.01271), here looking both ways. The dates of each pixel are moved together, so that a
convolution meets observations alone; the day of the year tells how far apart they are.
(`engine.models.pixel.TempCnn` convolves over the dates as they stand, gaps included.)

Shape suffixes: N pixel, T date (valid ones first), F feature.
"""

from __future__ import annotations

import torch
from torch import nn

from engine.models.temporal.configs import Cnn1dConfig
from engine.models.temporal.dates import seasons
from engine.models.temporal.recurrent import take_dates, valid_first
from engine.models.temporal.series import Series, SeriesNetwork


class Cnn1d(SeriesNetwork):
    """The network; see the module.

    Args:
        config: Sizes.
    """

    config: Cnn1dConfig

    def __init__(self, config: Cnn1dConfig) -> None:
        super().__init__(config, 2 * config.width)
        self.stem = _convolution(config.n_bands + config.date_features, config.width, 1, 1)
        self.blocks = nn.ModuleList(
            _convolution(config.width, config.width, config.kernel, 2**level) for level in range(config.depth)
        )
        self.drop = nn.Dropout(config.dropout)

    def encode(self, series: Series) -> torch.Tensor:
        """Return mean and maximum over the valid dates, (N, F)."""
        order_NT, count_N1 = valid_first(series.valid)
        days_NTF = seasons(series.days, self.config.harmonics).expand(len(series.x), -1, -1)
        x_NTF = take_dates(torch.cat([series.x, days_NTF], dim=2), order_NT)
        there_NT = (torch.arange(x_NTF.shape[1], device=x_NTF.device) < count_N1).to(x_NTF.dtype)
        x_1FNT = x_NTF.permute(2, 0, 1)[None]
        x_1FNT = self.stem(x_1FNT) * there_NT
        for block in self.blocks:  # beyond the last date lies nothing, in each layer
            x_1FNT = (x_1FNT + block(x_1FNT)) * there_NT
        mean_FN = x_1FNT[0].sum(2) / count_N1[:, 0].clamp_min(1)
        largest_FN = x_1FNT[0].amax(2)  # none is below 0, so absent dates do not count
        found: torch.Tensor = self.drop(torch.cat([mean_FN, largest_FN]).T)
        return found


def _convolution(n_in: int, n_out: int, kernel: int, apart: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            n_in, n_out, (1, kernel), padding=(0, kernel // 2 * apart), dilation=(1, apart), bias=False
        ),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )
