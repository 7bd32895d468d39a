"""What the spatio-temporal networks share about dates: absence, and an even calendar.

::

    dates of a cube      ·  ·    ·   x   ·      ·  ·        any number, uneven, any order, x = cloud at this pixel
                          :  :   :       :      :  :        each date counts for its two nearest steps,
    calendar          o    o    o    o    o    o    o       each pixel takes the mean of what it has there

Shape suffixes: B batch, T date, N date of any sample (at most B x T), S step, C band, P plane (bands and validity),
F feature, H row, W column, R whatever a date holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from engine.models.order import features_last
from engine.values.days import YEAR_DAYS

_LITTLE = 1e-6


def by_sample(days: torch.Tensor) -> torch.Tensor:
    """Return days (B, T) of days (T,) or (B, T); B is 1 where all samples have the same days."""
    return days.reshape(-1, days.shape[-1])


def counted(valid_BTHW: torch.Tensor, days_BT: torch.Tensor) -> torch.Tensor:
    """Return validity in which a date without a day counts as absent."""
    return valid_BTHW * (days_BT > 0)[:, :, None, None].to(valid_BTHW.dtype)


def planes(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
    """Put validity behind the bands of each date, (B, T, P, H, W); what is not valid is 0."""
    valid_BT1HW = valid_BTHW[:, :, None]
    return torch.cat([x_BTCHW * valid_BT1HW, valid_BT1HW], dim=2)


@dataclass(frozen=True, eq=False)
class Present:
    """The dates of a batch that have any data, so that absent ones cost nothing in training and move no statistics.

    In evaluation, where statistics are fixed, all dates are taken: the same answer whatever else is in the batch,
    and a graph that can be exported.

    Attributes:
        shape: (B, T).
        index: (N,) which of the B x T dates; None: all.
    """

    shape: tuple[int, int]
    index: torch.Tensor | None = None

    @classmethod
    def of(cls, valid_BTHW: torch.Tensor, training: bool) -> Present:
        """Find them; all where none has data, as statistics of nothing are not numbers."""
        shape = valid_BTHW.shape[0], valid_BTHW.shape[1]
        if not training:
            return cls(shape)
        there_N = valid_BTHW.flatten(0, 1).flatten(1).amax(dim=1) > 0
        everything = bool(there_N.all()) or not bool(there_N.any())
        return cls(shape, None if everything else there_N.nonzero().squeeze(1))

    def take(self, x_BTFHW: torch.Tensor) -> torch.Tensor:
        """Put the dates of all samples into one axis: (N, F, H, W), features of a pixel side by side."""
        x_NFHW = x_BTFHW.flatten(0, 1)
        if self.index is not None:
            x_NFHW = x_NFHW[self.index]
        return features_last(x_NFHW)

    def put(self, x_NFHW: torch.Tensor) -> torch.Tensor:
        """Sort (N, ...) back into (B, T, ...); absent dates are 0."""
        if self.index is None:
            return x_NFHW.reshape(*self.shape, *x_NFHW.shape[1:])
        whole_NFHW = x_NFHW.new_zeros((math.prod(self.shape), *x_NFHW.shape[1:]))
        return whole_NFHW.index_copy(0, self.index, x_NFHW).unflatten(0, self.shape)


def step_shares(days_BT: torch.Tensor, steps: int, years: int) -> torch.Tensor:
    """Return how much each date counts for each step of the calendar: 1 at its centre, 0 one step away.

    The calendar is a circle, on which the same day of the season comes again after `years`.

    Args:
        days_BT: float32 running days, 0 = no date.
        steps: Even steps S.
        years: Over how many years.

    Returns:
        (B, T, S) float32; the shares of a date add up to 1, those of no date are 0.

    >>> step_shares(torch.tensor([[15.75, 31.0, 0.0]]), steps=12, years=1)[0, :, :3].tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    around = float(YEAR_DAYS * years)
    width = around / steps
    centres_S = (torch.arange(steps, device=days_BT.device, dtype=days_BT.dtype) + 0.5) * width
    away_BTS = torch.remainder(days_BT[:, :, None] - 0.5 - centres_S + around / 2, around) - around / 2
    return (1 - away_BTS.abs() / width).clamp_min(0) * (days_BT > 0)[:, :, None].to(days_BT.dtype)


def on_calendar(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, shares_BTS: torch.Tensor) -> torch.Tensor:
    """Bring dates onto the calendar: at each pixel the weighted mean of its valid dates.

    Args:
        x_BTCHW: float32, normalised.
        valid_BTHW: float32, 1 = counts.
        shares_BTS: Of `step_shares`.

    Returns:
        (B, P, S, H, W) float32: the bands, 0 where a step has no valid date, then how much data a step has, 0..1.
    """
    seen_BTPHW = planes(x_BTCHW, valid_BTHW)
    batch, dates, n_planes, height, width = seen_BTPHW.shape
    flat_BTR = seen_BTPHW.permute(0, 1, 3, 4, 2).reshape(batch, dates, -1)
    sums_BSHWP = torch.matmul(shares_BTS.transpose(1, 2), flat_BTR).view(batch, -1, height, width, n_planes)
    amount_BSHW1 = sums_BSHWP[..., -1:]
    means_BSHWC = sums_BSHWP[..., :-1] / amount_BSHW1.clamp_min(_LITTLE)
    return torch.cat([means_BSHWC, amount_BSHW1.clamp_max(1)], dim=-1).permute(0, 4, 1, 2, 3)
