"""Networks that attend to dates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from engine.models.registry import build
from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture(params=[("transformer", {"hidden": 16}), ("ltae", {})], ids=lambda p: p[0])
    def case(self, request: pytest.FixtureRequest) -> Case:
        name, more = request.param
        return Case(name, {"width": 16, "heads": 2, "dropout": 0.0, **more})


def _one_pixel(dates: int, bands: int, gaps: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    valid_BTHW = torch.ones(1, dates, 1, 1)
    valid_BTHW[:, gaps] = 0
    x_BTCHW = torch.randn(1, dates, bands, 1, 1, generator=generator) * valid_BTHW[:, :, None]
    return x_BTCHW, valid_BTHW, torch.arange(dates) * 31.0 + 300


def test_the_transformer_is_torchs_own_with_days_in_place_of_positions() -> None:
    torch.manual_seed(0)
    net = build(
        "transformer", {"n_bands": 3, "n_classes": 2, "width": 8, "heads": 2, "hidden": 12, "depth": 2}
    ).eval()
    x_BTCHW, valid_BTHW, days = _one_pixel(6, 3, [1, 4])
    x_NTF = net.embed(x_BTCHW[..., 0, 0])
    pair = torch.arange(8) // 2
    angle = days[:, None] / 1000 ** (2 * pair / 8)
    x_NTF = x_NTF + torch.where(torch.arange(8) % 2 == 0, angle.sin(), angle.cos())
    missing = valid_BTHW[..., 0, 0] == 0
    for layer in net.layers:
        own = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).eval()
        norm, first, second = layer.maps[0], layer.maps[1], layer.maps[4]
        for theirs, ours in (
            (own.self_attn.out_proj, layer.mix),
            (own.linear1, first),
            (own.linear2, second),
            (own.norm1, layer.norm),
            (own.norm2, norm),
        ):
            theirs.load_state_dict(ours.state_dict())
        own.self_attn.in_proj_weight.data.copy_(layer.qkv.weight)
        own.self_attn.in_proj_bias.data.copy_(layer.qkv.bias)
        normed = own.norm1(x_NTF)
        _, looks = own.self_attn(normed, normed, normed, missing, average_attn_weights=False)
        x_NTF = own(x_NTF, src_key_padding_mask=missing)
    kept = ~missing[0]
    with torch.no_grad():
        found = net.features(x_BTCHW, valid_BTHW, days)[0, :, 0, 0]
        torch.testing.assert_close(found, net.norm(x_NTF[0, kept].mean(0)), rtol=1e-4, atol=1e-5)
        weights_AT = net.attention(x_BTCHW, valid_BTHW, days)[0, :, :, 0, 0]
        torch.testing.assert_close(weights_AT, looks[0][:, kept].mean(1), rtol=1e-4, atol=1e-6)


def test_each_head_of_the_lightweight_encoder_weighs_its_own_share() -> None:
    torch.manual_seed(0)
    net = build("ltae", {"n_bands": 3, "n_classes": 2, "width": 8, "heads": 2, "key": 3}).eval()
    x_BTCHW, valid_BTHW, days = _one_pixel(5, 3, [2])
    with torch.no_grad():
        found = net.features(x_BTCHW, valid_BTHW, days)[0, :, 0, 0]
        weights_AT = net.attention(x_BTCHW, valid_BTHW, days)[0, :, :, 0, 0].numpy()
        embedded = net.embed(x_BTCHW[0, :, :, 0, 0]).numpy()
        angle = days.numpy()[:, None] / 1000 ** (2 * np.array([0, 0, 1, 1]) / 4)
        day = np.where([True, False, True, False], np.sin(angle), np.cos(angle))
        series = (embedded + np.concatenate([day, day], axis=1))[[0, 1, 3, 4]]
        keys = series @ net.key.weight.numpy().T + net.key.bias.numpy()
        shares = []
        for head, query in enumerate(net.query_AD.numpy()):
            scores = np.exp(keys[:, 3 * head : 3 * head + 3] @ query / np.sqrt(3))
            np.testing.assert_allclose(weights_AT[head][[0, 1, 3, 4]], scores / scores.sum(), atol=1e-5)
            shares.append((scores / scores.sum()) @ series[:, 4 * head : 4 * head + 4])
        torch.testing.assert_close(
            found, net.out(torch.tensor(np.concatenate(shares)).float()), rtol=1e-4, atol=1e-5
        )
    assert not weights_AT[:, 2].any()
