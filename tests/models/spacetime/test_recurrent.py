"""Cells against torch's own ones and against the papers' formulas; absent dates; reading backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.models.registry import build
from engine.models.spacetime.recurrent import Cell, GruCell, LstmCell, StarCell

F, T = 3, 5


def _cell(kind: type[Cell], kernel: int = 1) -> Cell:
    torch.manual_seed(0)
    return kind(2, F, kernel)


def _series(cell: Cell) -> tuple[torch.Tensor, torch.Tensor]:
    """Run over one pixel: inputs (T, 2) and states (T, F)."""
    x_TC = torch.randn(T, 2, generator=torch.Generator().manual_seed(1))
    found = cell(x_TC[None, :, :, None, None], torch.ones(1, T, 1, 1), range(T))
    return x_TC, found[0, :, :, 0, 0]


def test_a_lstm_of_one_pixel_is_that_of_torch() -> None:
    cell, oracle = _cell(LstmCell), nn.LSTM(2, F)
    with torch.no_grad():
        order = torch.tensor(
            [0, 1, 3, 2]
        )  # ours: input, forget, output, new; torch: input, forget, new, output

        def as_torch(rows: torch.Tensor) -> torch.Tensor:
            return rows.detach().reshape(4, F, -1)[order].reshape(4 * F, -1)

        oracle.weight_ih_l0.copy_(as_torch(cell.read.weight))
        oracle.weight_hh_l0.copy_(as_torch(cell.look.weight))
        oracle.bias_ih_l0.copy_(as_torch(cell.read.get_parameter("bias")).squeeze(1))
        oracle.bias_hh_l0.zero_()
        x_TC, found = _series(cell)
        torch.testing.assert_close(found, oracle(x_TC)[0])


def test_a_gru_of_one_pixel_is_that_of_torch() -> None:
    cell, oracle = _cell(GruCell), nn.GRU(2, F)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(cell.read.weight.flatten(1))  # both: reset, update, new
        oracle.weight_hh_l0.copy_(cell.look.weight.flatten(1))
        oracle.bias_ih_l0.copy_(cell.read.get_parameter("bias"))
        oracle.bias_hh_l0.zero_()
        x_TC, found = _series(cell)
        torch.testing.assert_close(found, oracle(x_TC)[0])


def test_a_star_cell_follows_its_formula() -> None:
    cell = _cell(StarCell)
    with torch.no_grad():
        x_TC, found = _series(cell)
        weight, bias, look = cell.read.weight.flatten(1), cell.read.get_parameter("bias"), cell.look.weight
        state_F = torch.zeros(F)
        for t in range(T):
            read = weight @ x_TC[t] + bias
            kept = torch.sigmoid(read[:F] + look.flatten(1) @ state_F)
            state_F = torch.tanh((1 - kept) * state_F + kept * torch.tanh(read[F:]))
            torch.testing.assert_close(found[t], state_F)


@pytest.mark.parametrize("kind", [LstmCell, GruCell, StarCell])
def test_a_clouded_pixel_keeps_its_state_and_memory(kind: type[Cell]) -> None:
    cell = _cell(kind)
    x_BTFHW = torch.randn(1, T, 2, 1, 1)
    valid_BTHW = torch.ones(1, T, 1, 1)
    valid_BTHW[:, 2] = 0
    with torch.no_grad():
        found = cell(x_BTFHW, valid_BTHW, range(T))
        without = cell(x_BTFHW[:, [0, 1, 3, 4]], torch.ones(1, 4, 1, 1), range(4))
    assert torch.equal(found[:, 2], found[:, 1])
    torch.testing.assert_close(found[:, -1], without[:, -1])


@pytest.mark.parametrize("kind", [LstmCell, GruCell, StarCell])
def test_reading_backwards_is_reading_the_turned_season(kind: type[Cell]) -> None:
    cell = _cell(kind, kernel=3)
    x_BTFHW, valid_BTHW = torch.randn(2, T, 2, 4, 4), (torch.rand(2, T, 4, 4) > 0.3).float()
    with torch.no_grad():
        backwards = cell(x_BTFHW, valid_BTHW, reversed(range(T)))
        turned = cell(x_BTFHW.flip(1), valid_BTHW.flip(1), range(T))
    torch.testing.assert_close(backwards, turned.flip(1))


def test_both_ways_know_the_first_date_as_well_as_the_last() -> None:
    def influence(bidirectional: bool) -> torch.Tensor:
        torch.manual_seed(0)
        fields = {"n_bands": 2, "n_classes": 3, "width": 8, "bidirectional": bidirectional}
        net = build("convgru", fields).eval()
        x_BTCHW = torch.randn(1, 20, 2, 4, 4, requires_grad=True)
        days = torch.arange(1.0, 21.0) * 10
        net(x_BTCHW, torch.ones(1, 20, 4, 4), days).square().sum().backward()
        assert x_BTCHW.grad is not None
        return x_BTCHW.grad.abs().sum((0, 2, 3, 4))

    forwards, both = influence(False), influence(True)
    assert forwards[0] < 1e-2 * forwards[-1]
    assert both[0] > 0.1 * both[-1]
