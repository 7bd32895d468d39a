"""Dilated convolutions over a pixel's valid dates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.models.registry import build
from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("cnn1d", {"width": 16, "depth": 2})


def test_it_is_a_chain_of_convolutions_over_the_valid_dates_alone() -> None:
    torch.manual_seed(0)
    net = build("cnn1d", {"n_bands": 2, "n_classes": 3, "width": 5, "depth": 2, "harmonics": 1}).eval()
    rng, days, kept = np.random.default_rng(0), np.array([20.0, 45, 90, 200, 333, 400]), [0, 2, 3, 5]
    x_TC, valid_T = rng.normal(size=(6, 2)), np.isin(np.arange(6), kept)
    x_BTCHW = torch.tensor(x_TC * valid_T[:, None])[None, ..., None, None].float()
    with torch.no_grad():
        found = net.features(x_BTCHW, torch.tensor(valid_T)[None, :, None, None].float(), torch.tensor(days))
    angle = 2 * np.pi * days[kept, None] / 366
    series = np.concatenate([x_TC[kept], np.sin(angle), np.cos(angle)], axis=1)
    for number, block in enumerate((net.stem, *net.blocks)):
        kernel = block[0].weight.detach().numpy()[:, :, 0]
        apart, half = max(1, 2 ** (number - 1)), kernel.shape[2] // 2
        padded = np.pad(series, ((half * apart, half * apart), (0, 0)))
        taps = [padded[k * apart : k * apart + len(kept)] @ kernel[:, :, k].T for k in range(kernel.shape[2])]
        out = np.maximum(sum(taps) / np.sqrt(1 + block[1].eps), 0)
        series = out + series if number else out
    expected = np.concatenate([series.mean(axis=0), series.max(axis=0)])
    np.testing.assert_allclose(found[0, :, 0, 0].numpy(), expected, rtol=1e-4, atol=1e-5)
