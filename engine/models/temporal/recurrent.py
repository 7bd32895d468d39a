"""Recurrent networks over the valid dates of a pixel.

::

    lstm, gru   values + day of the year ─ recurrent layers ─ state after the last valid date ─ linear ─ logits
    atlstm      values + day of the year ─ recurrent layers ─ attention over the states of all dates ─ linear ─ logits

LSTM: Hochreiter and Schmidhuber 1997 (Neural Computation 9:1735). GRU: Cho et al. 2014 (arXiv:1406.1078). Attention
over the states of a bidirectional LSTM for crops: AtLSTM of Xu et al. 2020 (Remote Sensing of Environment 247:111946),
with additive scores (Bahdanau et al. 2015, arXiv:1409.0473).

A state steps from one valid date to the next: the dates of each pixel are moved together, so that what is missing
costs no step and says nothing; the day of the year tells how far apart they are.

Shape suffixes: N pixel, T date (valid ones first), F feature.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from engine.models.temporal.configs import AttentionLstmConfig, RecurrentConfig
from engine.models.temporal.dates import seasons
from engine.models.temporal.series import AttentiveNetwork, Series, SeriesNetwork, masked_softmax

Cell = Literal["lstm", "gru"]
_CELLS: dict[Cell, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Layer(nn.Module):
    """One recurrent layer, in one direction or both.

    Args:
        cell: Which kind.
        n_in: Features of a date.
        config: Width and directions.
    """

    def __init__(self, cell: Cell, n_in: int, config: RecurrentConfig) -> None:
        super().__init__()
        self.onward = _cell(cell, n_in, config.width)
        self.back = _cell(cell, n_in, config.width) if config.bidirectional else None

    def forward(self, x_NTF: torch.Tensor, turned_NT: torch.Tensor) -> torch.Tensor:
        """Return the state after each date, that of the way back beside that of the way on.

        Args:
            x_NTF: Dates of each pixel, valid ones first.
            turned_NT: Where each date stands when the valid ones are turned round.
        """
        states_NTF: torch.Tensor = self.onward(x_NTF)[0]
        if self.back is None:
            return states_NTF
        back_NTF = take_dates(self.back(take_dates(x_NTF, turned_NT))[0], turned_NT)
        return torch.cat([states_NTF, back_NTF], dim=2)


def _cell(cell: Cell, n_in: int, width: int) -> nn.LSTM | nn.GRU:
    """Build one; the forget gate of an LSTM begins open, so that it learns from early dates too.

    Jozefowicz et al. 2015 (Proceedings of ICML 37:2342).
    """
    found = _CELLS[cell](n_in, width, batch_first=True)
    if isinstance(found, nn.LSTM):
        with torch.no_grad():
            bias: torch.Tensor = found.get_parameter("bias_hh_l0")
            bias[width : 2 * width] += 1.0
    return found


class States(nn.Module):
    """Recurrent layers over the valid dates.

    Args:
        cell: Which kind.
        config: Sizes.
    """

    def __init__(self, cell: Cell, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.n_bands + config.date_features, *[config.hidden] * (config.layers - 1)]
        self.layers = nn.ModuleList(Layer(cell, n_in, config) for n_in in sizes)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, series: Series) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run over the dates.

        Returns:
            States (N, T, F), valid dates first; how many are valid (N, 1); which date stands where (N, T).
        """
        order_NT, count_N1 = valid_first(series.valid)
        days_NTF = seasons(series.days, self.config.harmonics).expand(len(series.x), -1, -1)
        x_NTF = take_dates(torch.cat([series.x, days_NTF], dim=2), order_NT)
        turned_NT = turned(count_N1, order_NT.shape[1])
        for number, layer in enumerate(self.layers):
            x_NTF = layer(self.drop(x_NTF) if number else x_NTF, turned_NT)
        return x_NTF, count_N1, order_NT


class _Recurrent(SeriesNetwork):
    """The state after the last date, beside that of the way back after the first one."""

    cell: Cell
    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config, config.hidden)
        self.states = States(self.cell, config)
        self.drop = nn.Dropout(config.dropout)

    def encode(self, series: Series) -> torch.Tensor:
        """Return the features (N, F) of each pixel."""
        states_NTF, count_N1, _ = self.states(series)
        last_N1 = (count_N1 - 1).clamp_min(0)
        end_NF = take_dates(states_NTF[..., : self.config.width], last_N1)[:, 0]
        found_NF = torch.cat([end_NF, states_NTF[:, 0, self.config.width :]], dim=1)
        dropped: torch.Tensor = self.drop(found_NF)
        return dropped


class Lstm(_Recurrent):
    """Long short-term memory; see the module.

    Args:
        config: Sizes.
    """

    cell = "lstm"


class Gru(_Recurrent):
    """Gated recurrent units; see the module.

    Args:
        config: Sizes.
    """

    cell = "gru"


class AtLstm(AttentiveNetwork):
    """Attention over the states of an LSTM in both directions; see the module.

    Args:
        config: Sizes.
    """

    config: AttentionLstmConfig

    def __init__(self, config: AttentionLstmConfig) -> None:
        super().__init__(config, config.hidden)
        self.states = States("lstm", config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden, config.width), nn.Tanh(), nn.Linear(config.width, 1, bias=False)
        )
        self.drop = nn.Dropout(config.dropout)

    def encode(self, series: Series) -> torch.Tensor:
        """Return the features (N, F) of each pixel."""
        states_NTF, weight_NT, _ = self._weighed(series)
        found: torch.Tensor = self.drop((states_NTF * weight_NT[..., None]).sum(1))
        return found

    def attend(self, series: Series) -> torch.Tensor:
        """Return the weight of each date, (N, 1, T)."""
        _, weight_NT, order_NT = self._weighed(series)
        return torch.zeros_like(weight_NT).scatter(1, order_NT, weight_NT)[:, None]

    def _weighed(self, series: Series) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states_NTF, count_N1, order_NT = self.states(series)
        valid_NT = torch.arange(order_NT.shape[1], device=count_N1.device) < count_N1
        return states_NTF, masked_softmax(self.score(states_NTF)[..., 0], valid_NT), order_NT


def valid_first(valid_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the order in which each pixel's valid dates come first, in order of time, and their number (N, 1).

    >>> order, count = valid_first(torch.tensor([[False, True, False, True]]))
    >>> order.tolist(), count.tolist()
    ([[1, 3, 0, 2]], [[2]])
    """
    dates = valid_NT.shape[1]
    place_NT = torch.arange(dates, device=valid_NT.device) + dates * (~valid_NT).to(torch.int64)
    return torch.argsort(place_NT, dim=1), valid_NT.to(torch.int64).sum(1, keepdim=True)


def turned(count_N1: torch.Tensor, dates: int) -> torch.Tensor:
    """Return where each date stands when the first `count` of each pixel are turned round.

    >>> turned(torch.tensor([[3]]), 4).tolist()
    [[2, 1, 0, 3]]
    """
    at_T = torch.arange(dates, device=count_N1.device)
    return torch.where(at_T < count_N1, count_N1 - 1 - at_T, at_T)


def take_dates(x_NTF: torch.Tensor, order_NT: torch.Tensor) -> torch.Tensor:
    """Take some dates of each pixel in another order."""
    return x_NTF.gather(1, order_NT[..., None].expand(-1, -1, x_NTF.shape[2]))
