"""Dates in order of time, and what a network is told of a day.

A network may be given its dates in any order, with absent ones (day 0) anywhere. One that depends on the order
sorts them first; absent dates come last and are never valid.

Shape suffixes: B batch, T date, C band, H row, W column, D feature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from engine.values.days import YEAR_DAYS
from engine.values.errors import InputError

_LONGEST = 1000.0
"""Longest period of `wave`, in units of 2 pi days: that of Garnot and Landrieu 2020."""


class Ordered(NamedTuple):
    """Dates in order of time.

    Attributes:
        x: (B, T, C, H, W) float32, 0 where not valid.
        valid: (B, T, H, W) float32, 1 = valid; 0 on absent dates.
        days: (B, T) float32 running days, 0 = absent; B is 1 where all samples have the same days.
        order: (B, T) which of the given dates stands at each place; None: they came in order.
    """

    x: torch.Tensor
    valid: torch.Tensor
    days: torch.Tensor
    order: torch.Tensor | None = None


def in_order(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> Ordered:
    """Sort dates by their running day; absent ones last, hidden.

    Args:
        x_BTCHW: float32, 0 where not valid.
        valid_BTHW: float32, 1 = valid.
        days: (T,) or (B, T) running days (`engine.values.days`), 0 = no such date.

    Raises:
        InputError: If there is not one day for each date.
    """
    days_BT = days.reshape(-1, days.shape[-1]).to(x_BTCHW.dtype)
    if days_BT.shape[1] != x_BTCHW.shape[1] or len(days_BT) not in (1, x_BTCHW.shape[0]):
        raise InputError(
            "there must be one day for each date",
            where="days",
            found=f"{tuple(days.shape)} days",
            limit=f"({x_BTCHW.shape[1]},) or {tuple(x_BTCHW.shape[:2])}",
        )
    later_BT = torch.where(days_BT > 0, days_BT, math.inf)
    if not tracing() and bool((later_BT[:, 1:] >= later_BT[:, :-1]).all()):
        return _hidden(Ordered(x_BTCHW, valid_BTHW, days_BT))
    order_BT = torch.sort(later_BT, dim=1, stable=True).indices
    x_BTCHW, valid_BTHW = _taken(x_BTCHW, order_BT), _taken(valid_BTHW, order_BT)
    return _hidden(Ordered(x_BTCHW, valid_BTHW, days_BT.gather(1, order_BT), order_BT))


def as_given(of_dates_BAT: torch.Tensor, order_BT: torch.Tensor | None) -> torch.Tensor:
    """Bring what belongs to sorted dates, (batch, any, date, ...), back into the order that they came in."""
    if order_BT is None:
        return of_dates_BAT
    return _taken(of_dates_BAT.transpose(1, 2), torch.argsort(order_BT, dim=1)).transpose(1, 2)


def seasons(days: torch.Tensor, harmonics: int) -> torch.Tensor:
    """Return (..., 2 x harmonics): sine and cosine of the day of the year, once, twice ... a year; 0 without a day.

    >>> [round(v, 1) for v in seasons(torch.tensor([366 / 8.0, 0.0]), 1).flatten().tolist()]
    [0.7, 0.7, 0.0, 0.0]
    """
    turns = torch.arange(1, harmonics + 1, device=days.device, dtype=days.dtype) * (2 * math.pi / YEAR_DAYS)
    angle = days[..., None] * turns
    known = (days > 0).to(days.dtype)[..., None]
    return torch.cat([angle.sin(), angle.cos()], dim=-1) * known


def wave(days: torch.Tensor, features: int) -> torch.Tensor:
    """Return (..., features): sine and cosine in turn, wavelengths 2 pi to 2000 pi days (Vaswani et al. 2017).

    Of running days, so that it tells one year from the next; shorter wavelengths first.
    """
    pair = torch.arange(features, device=days.device) // 2
    angle = days[..., None] / _LONGEST ** (2 * pair.to(days.dtype) / features)
    even = torch.arange(features, device=days.device) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos())


def tracing() -> bool:
    """Tell whether a graph is being written, which cannot ask what stands in a tensor."""
    return torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()


def _hidden(dates: Ordered) -> Ordered:
    present_BT = dates.days > 0
    if not tracing() and bool(present_BT.all()):
        return dates
    there_BTHW = present_BT.to(dates.x.dtype)[:, :, None, None]
    return dates._replace(x=dates.x * there_BTHW[:, :, None], valid=dates.valid * there_BTHW)


def _taken(of_dates_BT: torch.Tensor, order_BT: torch.Tensor) -> torch.Tensor:
    """Take dates (axis 1) in another order, that of each sample or one for all."""
    if len(order_BT) == 1:
        return of_dates_BT[:, order_BT[0]]
    index = order_BT.view(*order_BT.shape, *[1] * (of_dates_BT.ndim - 2)).expand_as(of_dates_BT)
    return of_dates_BT.gather(1, index)
