"""Dates of a pixel weighed and summed: what each shows, and its day of the year, decide how much it counts.

::

    features (T dates) ──► score per head ┐
    days ──► sines and cosines ──► score  ┴─► softmax over the dates that are there ─► weighted sum

Each head weighs the dates for its own group of channels, so that one may look at spring and another at the driest
month: a light form of the attention of Sainte Fare Garnot and Landrieu 2020 (L-TAE, doi:10.1007/978-3-030-65742-0_12)
whose queries are learnt, with the days of the year as sines and cosines of a year's first harmonics.

Shape suffixes: B batch, T date, F feature, G head, E encoding of a day, C channel of a head, H row, W column.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from engine.values.days import YEAR_DAYS

HARMONICS = 4


class WeighDates(nn.Module):
    """Sum the dates of each pixel with weights that are its own.

    Args:
        features: Channels F.
        heads: Groups of channels; divides `features`.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.by_look = nn.Conv2d(
            features, heads, 1, bias=False
        )  # what all dates share has no say in a softmax
        self.by_day = nn.Linear(2 * HARMONICS, heads, bias=False)

    def forward(self, x_BTFHW: torch.Tensor, share_BTHW: torch.Tensor, day_BTE: torch.Tensor) -> torch.Tensor:
        """Return the sums (B, F, H, W), 0 where no date is there; arguments as of `weights`."""
        weight_BTGHW = self.weights(x_BTFHW, share_BTHW, day_BTE)
        total_BGCHW = self._weighed(x_BTFHW, weight_BTGHW, 0)
        for date in range(1, x_BTFHW.shape[1]):  # one by one: the products of all would fill the memory
            total_BGCHW = total_BGCHW + self._weighed(x_BTFHW, weight_BTGHW, date)
        return total_BGCHW.flatten(1, 2)

    def _weighed(self, x_BTFHW: torch.Tensor, weight_BTGHW: torch.Tensor, date: int) -> torch.Tensor:
        return x_BTFHW[:, date].unflatten(1, (self.heads, -1)) * weight_BTGHW[:, date, :, None]

    def weights(self, x_BTFHW: torch.Tensor, share_BTHW: torch.Tensor, day_BTE: torch.Tensor) -> torch.Tensor:
        """Return how much each date counts.

        Args:
            x_BTFHW: float32 features of each date.
            share_BTHW: float32, 0..1: how much of the pixel there is on that date.
            day_BTE: float32, of `encoded_days`.

        Returns:
            (B, T, G, H, W) float32; sums to 1 over the dates, all 0 where none is there.
        """
        score_BTGHW = self.by_look(x_BTFHW.flatten(0, 1)).unflatten(0, (-1, x_BTFHW.shape[1]))
        score_BTGHW = score_BTGHW + self.by_day(day_BTE)[..., None, None]
        share_BT1HW = share_BTHW[:, :, None]
        gone = torch.finfo(score_BTGHW.dtype).min
        highest_B1GHW = score_BTGHW.masked_fill(share_BT1HW <= 0, gone).amax(dim=1, keepdim=True)
        # A date that is not there may score higher than all that are: held at 0, it cannot overflow.
        raised_BTGHW = torch.exp((score_BTGHW - highest_B1GHW).clamp_max(0.0)) * share_BT1HW
        return raised_BTGHW / raised_BTGHW.sum(dim=1, keepdim=True).clamp_min(1e-12)


def encoded_days(days: torch.Tensor | None, x_BT: torch.Tensor) -> torch.Tensor:
    """Encode days of the year by sines and cosines of a year's first harmonics.

    Args:
        days: Running days (`engine.values.days`), float32 (T,) or (B, T); 0 = no date; None: not known.
        x_BT: What they are the days of: (B, T, ...), for the number of dates, dtype and device.

    Returns:
        (B, T, E), or (1, T, E) for days that all have in common, on the unit circle of each harmonic; 0 where the
        day is not known.
    """
    if days is None:
        return x_BT.new_zeros((1, x_BT.shape[1], 2 * HARMONICS))
    days_BT1 = (days if days.ndim == 2 else days[None]).to(x_BT)[..., None]
    order_E = torch.arange(1, HARMONICS + 1, device=x_BT.device)
    angle_BTE = days_BT1 * order_E * (2 * math.pi / YEAR_DAYS)
    return torch.cat([angle_BTE.sin(), angle_BTE.cos()], dim=2) * (days_BT1 > 0)
