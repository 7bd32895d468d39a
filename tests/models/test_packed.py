"""A packed network: the plain one's answers, no plain convolution left, and whole where it cannot be packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.models import packed
from engine.models.fold import fold_batchnorm
from engine.models.packed import pack
from engine.models.registry import build
from engine.models.unet import Join


def _net(**fields: object) -> nn.Module:
    torch.manual_seed(1)
    config = {"n_dates": 2, "n_bands": 3, "n_classes": 4, "width": 4, "stem": 6, "depth": 2, **fields}
    return fold_batchnorm(build("unet", config))


def _inputs(batch: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, 3, side, side), (torch.rand(batch, 2, side, side) > 0.1).float()


def _plain_convolutions(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if type(part) in (nn.Conv2d, nn.ReLU, nn.MaxPool2d, Join)]


@pytest.fixture(autouse=True)
def _no_derivatives() -> Any:
    with torch.inference_mode():
        yield


@settings(max_examples=12, deadline=None)
@given(
    depth=st.integers(1, 4),
    width=st.sampled_from([3, 4, 16, 24]),
    decoder=st.sampled_from(["bilinear", "transposed"]),
    norm=st.sampled_from(["batch", "group"]),
    batch=st.integers(1, 3),
)
def test_a_packed_unet_answers_as_the_plain_one(
    depth: int, width: int, decoder: str, norm: str, batch: int
) -> None:
    net = _net(depth=depth, width=width, decoder=decoder, norm=norm)
    x_BTCHW, valid_BTHW = _inputs(batch, 48)
    expected = net(x_BTCHW, valid_BTHW)
    found = pack(net)(x_BTCHW, valid_BTHW)
    near = 1e-5 if norm == "batch" else 1e-4  # a group norm of few values raises differences of last bits
    torch.testing.assert_close(found, expected, atol=near, rtol=near)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_nothing_plain_is_left_of_a_unet_and_the_given_one_stays() -> None:
    net = _net()
    before = len(_plain_convolutions(net))
    assert not _plain_convolutions(pack(net))
    assert len(_plain_convolutions(net)) == before > 15


def test_a_window_gives_the_same_bits_whatever_its_batch_and_order_in_memory() -> None:
    network = pack(_net())
    x_BTCHW, valid_BTHW = _inputs(3, 32)
    alone = network(x_BTCHW[1:2], valid_BTHW[1:2])
    assert torch.equal(network(x_BTCHW, valid_BTHW)[1:2], alone)
    turned = x_BTCHW[1:2].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    assert torch.equal(network(turned, valid_BTHW[1:2]), alone)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Conv2d(6, 8, (1, 5), padding=(0, 2)),
        nn.Conv2d(6, 8, 3, padding=2, dilation=2),
        nn.Conv2d(6, 8, 3, padding="same"),
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 8, 3, padding=1).double(),
    ],
    ids=lambda conv: repr(conv),
)
def test_any_convolution_with_and_without_relu(conv: nn.Conv2d) -> None:
    x_BFHW = torch.randn(2, 6, 12, 14).to(conv.weight.dtype)
    for network in (nn.Sequential(conv), nn.Sequential(conv, nn.Identity(), nn.ReLU(inplace=True))):
        torch.testing.assert_close(pack(network)(x_BFHW), network(x_BFHW), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_with_and_without_relu(bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 9, bias), nn.ReLU(), nn.Linear(9, 5, bias), nn.GELU()).eval()
    found = pack(network)
    assert not any(type(part) in (nn.Linear, nn.ReLU) for part in found)
    for shape in ((40, 7), (2, 6, 7), (7, 40)):
        x = torch.randn(shape) if shape[-1] == 7 else torch.randn(shape).T
        torch.testing.assert_close(found(x), network(x), atol=1e-6, rtol=1e-5)


def test_torchs_own_composed_layers_keep_their_parts() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    network = nn.Sequential(layer, nn.Linear(8, 3))
    found = pack(network)
    assert type(found[0].linear1) is nn.Linear  # type: ignore[index]
    assert type(found[1]) is not nn.Linear  # type: ignore[index]
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(found(x), network(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "tempcnn"])
def test_networks_of_single_pixels(name: str) -> None:
    torch.manual_seed(0)
    network = fold_batchnorm(build(name, {"n_dates": 3, "n_bands": 4, "n_classes": 5}))
    x_BTCHW, valid_BTHW = torch.randn(1, 3, 4, 512, 1), (torch.rand(1, 3, 512, 1) > 0.1).float()
    found, expected = pack(network)(x_BTCHW, valid_BTHW), network(x_BTCHW, valid_BTHW)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_relu_that_follows_something_else_stays() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.ReLU()).eval()
    x_BFHW = torch.randn(1, 2, 8, 8)
    found = pack(network)
    assert any(type(part) is nn.ReLU for part in found)
    torch.testing.assert_close(found(x_BFHW), network(x_BFHW))


class _Missing(nn.Module):
    def __init__(self, conv: nn.Conv2d, then: str) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")


class _OtherMeaning(nn.Module):
    def __init__(self, conv: nn.Conv2d, then: str) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x_BFHW) * 1.01
        return found


@pytest.mark.parametrize("kind", [_Missing, _OtherMeaning])
def test_where_the_call_is_missing_or_means_something_else_the_network_stays_plain(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]
) -> None:
    monkeypatch.setitem(packed._LAYERS, nn.Conv2d, kind)
    net = _net()
    x_BTCHW, valid_BTHW = _inputs(1, 32)
    network = pack(net)
    assert sum(type(part) is nn.Conv2d for part in network.modules()) == sum(
        type(part) is nn.Conv2d for part in net.modules()
    )
    torch.testing.assert_close(network(x_BTCHW, valid_BTHW), net(x_BTCHW, valid_BTHW), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 5, 7, 9), (1, 1, 8, 6)])
def test_halving_and_raising_are_torchs(shape: tuple[int, ...]) -> None:
    batch, features, height, width = shape
    x_BFHW = torch.randn(shape)
    torch.testing.assert_close(pack(nn.Sequential(nn.MaxPool2d(2)))(x_BFHW), nn.MaxPool2d(2)(x_BFHW))
    skip_BFHW = torch.randn(batch, 4, 2 * height, 2 * width)
    joined = pack(nn.ModuleList([Join()]))
    found = joined[0](x_BFHW, skip_BFHW)  # type: ignore[index]
    torch.testing.assert_close(found, Join()(x_BFHW, skip_BFHW), atol=1e-6, rtol=1e-6)
    assert torch.equal(found[:, features:], skip_BFHW)


def test_other_poolings_stay() -> None:
    x_BFHW = torch.randn(1, 3, 9, 9)
    for pool in (nn.MaxPool2d(3), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, ceil_mode=True)):
        assert torch.equal(pack(nn.Sequential(pool))(x_BFHW), pool(x_BFHW))


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_what_is_not_a_number_is_seen_through_a_pooling(corner: tuple[int, int]) -> None:
    x_BFHW = torch.ones(1, 1, 2, 2)
    x_BFHW[(0, 0, *corner)] = float("nan")
    assert pack(nn.Sequential(nn.MaxPool2d(2)))(x_BFHW).isnan().all()
