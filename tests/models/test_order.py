"""Weights with channels last, and what is folded and packed of three-dimensional convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.models.fold import fold_batchnorm
from engine.models.order import channels_last
from engine.models.packed import pack


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(2, 3, 3, padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Flatten(1, 2),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.BatchNorm2d(4),
    )
    for part in net:
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(part.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(part.get_buffer("running_var"), 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return net.eval()


def test_convolutions_of_both_kinds_get_channels_last_and_keep_their_values() -> None:
    net, before = _net(), copy.deepcopy(_net().state_dict())
    weights = [p for p in net.parameters() if p.ndim > 1]
    assert channels_last(net, "cpu") is net
    assert [p.stride(1) for p in weights] == [1, 1]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert {id(p) for p in weights} <= {id(p) for p in net.parameters()}  # an optimiser still has them


@torch.no_grad()
def test_folded_and_packed_the_answers_stay() -> None:
    net, x = _net(), torch.randn(2, 2, 4, 8, 8)
    folded = fold_batchnorm(net)
    assert not [p for p in folded if isinstance(p, nn.BatchNorm2d | nn.BatchNorm3d)]
    torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pack(folded)(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_three_dimensional_convolutions_are_packed() -> None:
    packed = pack(fold_batchnorm(_net()))
    assert not [p for p in packed.modules() if isinstance(p, nn.Conv3d | nn.Conv2d | nn.ReLU)]
