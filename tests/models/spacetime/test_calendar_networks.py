"""3D-CNN, 3D-2D CNN and the attention 3D U-Net: the circle of the calendar, gates, attention back on dates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from engine.models.registry import build, check_config
from engine.models.spacetime.cnn3d import side_by_side
from engine.models.spacetime.layers import Conv3dNorm
from engine.models.spacetime.unet3d import Gate
from engine.values.errors import InputError

SIZES = {"n_bands": 2, "n_classes": 3}


def _net(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return build(name, {**SIZES, **fields}).eval()


def test_a_convolution_goes_round_the_year() -> None:
    torch.manual_seed(0)
    layer = Conv3dNorm(2, 3).eval()
    x_BFSHW = torch.randn(1, 2, 6, 5, 5)
    with torch.no_grad():
        found = layer(x_BFSHW)
        torch.testing.assert_close(layer(x_BFSHW.roll(2, dims=2)), found.roll(2, dims=2))
        inside = functional.relu(layer.layers[1](layer.layers[0](x_BFSHW)))
    torch.testing.assert_close(found[:, :, 1:-1], inside)


def test_steps_stand_side_by_side_in_their_order() -> None:
    x_BFSHW = torch.arange(6.0).view(1, 2, 3, 1, 1)  # feature 0 holds 0 1 2, feature 1 holds 3 4 5
    assert side_by_side(x_BFSHW).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("name", ["cnn3d", "cnn3d2d", "unet3d"])
def test_another_year_with_the_same_days_is_the_same_season(name: str) -> None:
    net = _net(name)
    x_BTCHW, valid_BTHW = torch.randn(1, 4, 2, 8, 8), torch.ones(1, 4, 8, 8)
    days = torch.tensor([10.0, 100.0, 200.0, 300.0])
    with torch.no_grad():
        here, there = net(x_BTCHW, valid_BTHW, days), net(x_BTCHW, valid_BTHW, days + 366)
        other = net(x_BTCHW, valid_BTHW, days + 30)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-3)
    assert (here - other).abs().max() > 10 * (here - there).abs().max()


@pytest.mark.parametrize("name", ["utae", "unet3d"])
def test_attention_stands_on_the_dates_that_were_given(name: str) -> None:
    net = _net(name)
    x_BTCHW, valid_BTHW = torch.randn(1, 4, 2, 8, 8), torch.ones(1, 4, 8, 8)
    valid_BTHW[:, 1] = 0
    valid_BTHW[:, :, 0, 0] = 0
    days = torch.tensor([200.0, 10.0, 0.0, 100.0])  # the second is clouded, the third is no date
    with torch.no_grad():
        weights_BATHW = net.attention(x_BTCHW, valid_BTHW, days)
    assert (weights_BATHW[:, :, 1:3] == 0).all()
    sums = weights_BATHW.sum(2)
    assert (sums[..., 0, 0] == 0).all()
    torch.testing.assert_close(sums[..., 1:, :], torch.ones_like(sums[..., 1:, :]))


def test_a_gate_lets_all_or_nothing_pass_at_its_ends() -> None:
    gate = Gate(2, 2)
    skip, below = torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 4, 4)
    with torch.no_grad():
        gate.factor.weight.zero_()
        for bias, share in ((30.0, 1.0), (-30.0, 0.0), (0.0, 0.5)):
            gate.factor.bias.fill_(bias)
            torch.testing.assert_close(gate(skip, below), share * skip, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("cnn3d", {"steps": 10, "depth": 3}, "cannot be halved 2 times"),
        ("unet3d", {"width": 6, "heads": 4}, "does not divide"),
        ("convgru", {"kernel": 4}, "odd side"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, fields: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_config(name, {**SIZES, **fields})


@pytest.mark.parametrize("name", ["utae", "unet3d"])
def test_a_window_that_does_not_divide_is_refused_with_the_next_that_does(name: str) -> None:
    with pytest.raises(InputError, match=r"use e\.g\. 24 px"):
        _net(name)(torch.zeros(1, 2, 2, 20, 24), torch.ones(1, 2, 20, 24), torch.tensor([1.0, 2.0]))


def test_time_is_halved_only_while_it_is_even() -> None:
    assert [pool.kernel_size for pool in _net("unet3d", steps=6, depth=3).halve] == [
        (2, 2, 2),
        (1, 2, 2),
        (1, 2, 2),
    ]
