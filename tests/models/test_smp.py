"""Networks of segmentation-models-pytorch: with the library where it is installed, with a stand-in otherwise."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from engine.models.registry import build, check_config
from engine.models.smp import SegmentationModel
from engine.models.spatial.published import load_encoder
from engine.values.errors import InputError

CONFIG = {"n_dates": 2, "n_bands": 4, "n_classes": 5, "encoder": "resnet18"}
INSTALLED = importlib.util.find_spec("segmentation_models_pytorch") is not None or "CI" in os.environ


class Encoder(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)


class Model(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(channels), nn.Conv2d(6, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder.bn1(self.encoder.conv1(x)))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A library that builds a small network and remembers what it was asked for."""
    asked: list[dict[str, Any]] = []

    def create_model(arch: str, **settings: Any) -> nn.Module:
        asked.append({"arch": arch, **settings})
        if settings["encoder_name"] == "nonsense":
            raise KeyError("Wrong encoder name `nonsense`")
        return Model(settings["in_channels"], settings["classes"])

    for name, content in (
        ("segmentation_models_pytorch", {"create_model": create_model}),
        ("torchvision", {}),
    ):
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_dates_and_bands_become_channels_and_nothing_is_downloaded(library: list[dict[str, Any]]) -> None:
    net = build("smp", CONFIG).eval()
    assert library[0]["encoder_weights"] is None
    assert (library[0]["in_channels"], library[0]["classes"]) == (8, 5)
    x_BTCHW = torch.rand(2, 2, 4, 32, 32)
    found = net(x_BTCHW, torch.ones(2, 2, 32, 32))
    assert found.shape == (2, 5, 32, 32)
    torch.testing.assert_close(found, net.network(x_BTCHW.reshape(2, 8, 32, 32)))


def test_an_encoder_takes_published_weights_by_band(library: list[dict[str, Any]]) -> None:
    net = SegmentationModel(check_config("smp", {**CONFIG, "n_dates": 1}))
    given = Encoder(13).state_dict()
    filled = load_encoder(net, {**given, "fc.weight": torch.rand(2, 2)}, ("red", "B03", "blue", "nir"))
    expected = given["conv1.weight"][:, [3, 2, 1, 7]]  # among the thirteen of L1C
    torch.testing.assert_close(net.network.encoder.conv1.weight, expected)
    assert "network.encoder.conv1.weight" in filled.whole


def test_an_unknown_encoder_and_a_missing_library_are_told(
    library: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="nonsense"):
        build("smp", {**CONFIG, "encoder": "nonsense"})
    for name in ("segmentation_models_pytorch", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"landweave\[smp\]"):
        build("smp", CONFIG)


@pytest.mark.skipif(not INSTALLED, reason="segmentation-models-pytorch is not installed (extra smp)")
@pytest.mark.parametrize("arch", ["unet", "fpn", "deeplabv3plus"])
def test_the_library_itself_builds_and_answers(arch: str) -> None:
    net = build("smp", {**CONFIG, "arch": arch}).eval()
    with torch.inference_mode():
        found = net(torch.rand(1, 2, 4, 64, 64), torch.ones(1, 2, 64, 64))
    assert found.shape == (1, 5, 64, 64)
    assert torch.isfinite(found).all()


@pytest.mark.skipif(not INSTALLED, reason="segmentation-models-pytorch is not installed (extra smp)")
def test_an_inception_resnet_takes_weights_of_thirteen_bands_and_shows_its_features() -> None:
    """Filled from an encoder of the same library, it answers as that one does on the bands that both know."""
    config = {**CONFIG, "encoder": "inceptionresnetv2", "n_dates": 1}
    source = build("smp", {**config, "n_bands": 13}).network.encoder.eval()
    net = build("smp", config).eval()
    state = {f"backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    load_encoder(net, {**state, "backbone.last_linear.bias": torch.zeros(3)}, ("blue", "green", "red", "nir"))
    x_BTCHW = torch.rand(1, 1, 4, 64, 64)
    all_BCHW = torch.zeros(1, 13, 64, 64)
    all_BCHW[:, [1, 2, 3, 7]] = x_BTCHW[:, 0]
    with torch.inference_mode():
        expected, found = source(all_BCHW), net.network.encoder(x_BTCHW[:, 0])
        for one, other in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        valid_BTHW = torch.ones(1, 1, 64, 64)
        features_BFHW = net.features(x_BTCHW, valid_BTHW)
        answer = net(x_BTCHW, valid_BTHW)
        torch.testing.assert_close(net.network.segmentation_head(features_BFHW), answer)
    assert answer.shape == (1, 5, 64, 64)
