"""Recurrent networks whose state is an image: ConvLSTM, ConvGRU and ConvSTAR, read forwards or both ways.

::

    dates in order of days    1      2      3      4        (absent or clouded: the state stays as it was)
    stem, the same for all    │      │      │      │
    forwards            0 ──► ○ ───► ○ ───► ○ ───► ○ ──┐
                              │      │      │      │   ├─ 3x3 ─ head ─ logits
    backwards (if asked)   ┌─ ○ ◄─── ○ ◄─── ○ ◄─── ○ ◄──── 0
                           └───────────────────────────┘

Cells after Shi et al. 2015 (ConvLSTM, arXiv:1506.04214, without peepholes), Ballas et al. 2016 (ConvGRU,
arXiv:1511.06432, the reset applied after the convolution, so that one serves all gates) and Turkoglu et al. 2021
(ConvSTAR, arXiv:2102.08820); read both ways, for crops, after Rußwurm and Körner 2018 (arXiv:1802.02080). What a cell
reads from a date is a map of each pixel alone, as the stem has looked at its neighbours already; the state looks
at its neighbours with each date.

Shape suffixes: B batch, T date, N date of any sample, C band, P plane, F feature, G gate x feature, H row, W column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from engine.models.order import features_last
from engine.models.spacetime.configs import ConvRecurrentConfig
from engine.models.spacetime.dates import Present, planes
from engine.models.spacetime.layers import SpaceTimeNetwork, conv_norm
from engine.models.temporal.dates import in_order, seasons

_HARMONICS = 2

State = tuple[torch.Tensor, ...]
"""Images (B, F, H, W) that a cell carries on; the first is what others see."""


class Cell(nn.Module, ABC):
    """One step of a recurrence.

    Args:
        n_in: Features of a date.
        width: Features F of the state.
        kernel: Side of the convolution over the state.
    """

    gates_in: int
    """How many times F the cell reads from a date."""
    gates_state: int
    """How many times F it reads from its state."""
    images: int = 1
    """Images of the state."""

    def __init__(self, n_in: int, width: int, kernel: int) -> None:
        super().__init__()
        self.width = width
        self.read = nn.Conv2d(n_in, self.gates_in * width, 1)
        self.look = nn.Conv2d(width, self.gates_state * width, kernel, padding=kernel // 2, bias=False)

    @abstractmethod
    def step(self, read_BGHW: torch.Tensor, state: State) -> State:
        """Return the next state from what `read` made of a date."""

    def forward(self, x_BTFHW: torch.Tensor, valid_BTHW: torch.Tensor, order: Iterable[int]) -> torch.Tensor:
        """Run over the dates.

        Args:
            x_BTFHW: Features of each date.
            valid_BTHW: Where a date does not count, the state stays as it was.
            order: Dates as they are read.

        Returns:
            (B, T, F, H, W), the state that others see after each date.
        """
        batch, _, _, height, width = x_BTFHW.shape
        read_BTGHW = self.read(x_BTFHW.flatten(0, 1)).reshape(*x_BTFHW.shape[:2], -1, height, width)
        state: State = (x_BTFHW.new_zeros(batch, self.width, height, width),) * self.images
        seen: dict[int, torch.Tensor] = {}
        reads, valids = read_BTGHW.unbind(1), valid_BTHW[:, :, None].unbind(1)
        for t in order:
            after = self.step(reads[t], state)
            state = tuple(old + valids[t] * (new - old) for old, new in zip(state, after, strict=True))
            seen[t] = state[0]
        return torch.stack([seen[t] for t in sorted(seen)], dim=1)


class LstmCell(Cell):
    """Long short-term memory: input, forget and output gate, and a memory beside the state."""

    gates_in, gates_state, images = 4, 4, 2

    def __init__(self, n_in: int, width: int, kernel: int) -> None:
        super().__init__(n_in, width, kernel)
        # A memory that is kept at first (Jozefowicz et al. 2015).
        nn.init.ones_(self.read.get_parameter("bias")[width : 2 * width])

    def step(self, read_BGHW: torch.Tensor, state: State) -> State:
        """Return state and memory."""
        shown_BFHW, memory_BFHW = state
        # Gate by gate: what a sigmoid makes of a slice takes ten times as long as of a tensor of its own.
        parts = zip(read_BGHW.chunk(4, dim=1), self.look(shown_BFHW).chunk(4, dim=1), strict=True)
        enter, forget, leave, new = (read + look for read, look in parts)
        memory_BFHW = torch.sigmoid(forget) * memory_BFHW + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(memory_BFHW), memory_BFHW


class GruCell(Cell):
    """Gated recurrent unit: a gate that resets and one that updates."""

    gates_in, gates_state = 3, 3

    def step(self, read_BGHW: torch.Tensor, state: State) -> State:
        """Return the state."""
        (old_BFHW,) = state
        looked = self.look(old_BFHW).chunk(3, dim=1)
        reset, update, new = read_BGHW.chunk(3, dim=1)
        new_BFHW = torch.tanh(new + torch.sigmoid(reset + looked[0]) * looked[2])
        kept_BFHW = torch.sigmoid(update + looked[1])
        return (new_BFHW + kept_BFHW * (old_BFHW - new_BFHW),)


class StarCell(Cell):
    """Stackable recurrent unit: one gate, and a third of the convolutions of the others."""

    gates_in, gates_state = 2, 1

    def step(self, read_BGHW: torch.Tensor, state: State) -> State:
        """Return the state."""
        (old_BFHW,) = state
        gate, new = read_BGHW.chunk(2, dim=1)
        taken_BFHW = torch.sigmoid(gate + self.look(old_BFHW))
        new_BFHW = torch.tanh(features_last(new))
        return (torch.tanh(old_BFHW + taken_BFHW * (new_BFHW - old_BFHW)),)


class _Layer(nn.Module):
    """One recurrence, or two that read the season from its two ends."""

    def __init__(self, cell: type[Cell], n_in: int, config: ConvRecurrentConfig) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.cells = nn.ModuleList(cell(n_in, config.width, config.kernel) for _ in range(directions))

    def forward(self, x_BTFHW: torch.Tensor, valid_BTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states of all dates, (B, T, F, H, W), and those at the end of each reading, (B, F, H, W)."""
        dates = x_BTFHW.shape[1]
        states, ends = [], []
        for cell, order in zip(self.cells, (range(dates), range(dates)[::-1]), strict=False):
            states.append(cell(x_BTFHW, valid_BTHW, order))
            ends.append(states[-1][:, order[-1]])
        return torch.cat(states, dim=2), torch.cat(ends, dim=1)


class _Recurrent(SpaceTimeNetwork):
    """Stem, recurrent layers, head; see the module's drawing."""

    def __init__(self, cell: type[Cell], config: ConvRecurrentConfig) -> None:
        super().__init__(config, config.width, config.dropout)
        both = config.width * (2 if config.bidirectional else 1)
        self.stem = conv_norm(config.n_bands + 1, config.width)
        self.season = nn.Linear(2 * _HARMONICS, config.width)
        self.layers = nn.ModuleList(
            _Layer(cell, both if index else config.width, config) for index in range(config.layers)
        )
        self.mix = conv_norm(both, config.width)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute the last hidden features, (B, F, H, W); arguments as of `forward`."""
        x_BTCHW, valid_BTHW, days_BT, _ = in_order(x_BTCHW, valid_BTHW, days)
        present = Present.of(valid_BTHW, self.training)
        x_BTFHW = present.put(self.stem(present.take(planes(x_BTCHW, valid_BTHW))))
        x_BTFHW = x_BTFHW + self.season(seasons(days_BT, _HARMONICS))[..., None, None]
        end_BFHW = x_BTFHW[:, -1]
        for layer in self.layers:
            x_BTFHW, end_BFHW = layer(x_BTFHW, valid_BTHW)
        found: torch.Tensor = self.mix(end_BFHW)
        return found


class ConvLstm(_Recurrent):
    """ConvLSTM; `config` gives sizes and directions."""

    def __init__(self, config: ConvRecurrentConfig) -> None:
        super().__init__(LstmCell, config)


class ConvGru(_Recurrent):
    """ConvGRU; `config` gives sizes and directions."""

    def __init__(self, config: ConvRecurrentConfig) -> None:
        super().__init__(GruCell, config)


class ConvStar(_Recurrent):
    """ConvSTAR; `config` gives sizes and directions."""

    def __init__(self, config: ConvRecurrentConfig) -> None:
        super().__init__(StarCell, config)
