"""Published weights: found within checkpoints, taken apart by band, and refused where they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.models.registry import build
from engine.models.spatial.published import SENTINEL2, load_encoder
from engine.models.spatial.resnet import ResNet, published_name
from engine.values.errors import InputError
from tests.models.test_smp import INSTALLED

BANDS = ("blue", "red", "nir")


def _net(name: str = "unet_resnet", **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_bands": 3, "n_classes": 2, "width": 8, "stem": 8, "n_dates": 2, **fields}
    return build(name, sizes).eval()


def _state(seed: int = 1, planes: int = 13, name: str = "resnet18") -> dict[str, torch.Tensor]:
    """Weights as files have them, by the published names."""
    torch.manual_seed(seed)
    encoder = ResNet(name, planes, 8)  # type: ignore[arg-type]
    return {published_name(own): tensor for own, tensor in encoder.state_dict().items()}


def _encoder_of(state: dict[str, torch.Tensor], planes: int = 13) -> nn.Module:
    encoder = ResNet("resnet18", planes, 8)
    encoder.load_state_dict({own: state[published_name(own)] for own in encoder.state_dict()})
    return encoder.eval()


@pytest.mark.skipif(not INSTALLED, reason="segmentation-models-pytorch is not installed (extra smp)")
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_encoder_is_the_one_that_others_mean_by_its_name(name: str) -> None:
    """Weights that timm draws give the features that timm computes: every tensor has its place."""
    from engine.models.smp import _library

    _library()
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(name, in_chans=13, features_only=True).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.3, 1.0)
    net = _net(width=64, encoder=name, n_bands=13, n_dates=1)
    filled = load_encoder(net, theirs.state_dict(), SENTINEL2)
    assert filled.whole == {f"encoder.{own}" for own in net.encoder.state_dict()} - {"encoder.first.0.weight"}
    assert filled.bands == SENTINEL2
    x_BCHW = torch.randn(1, 13, 64, 64)
    with torch.inference_mode():
        planes_BFHW = torch.cat([x_BCHW, torch.ones(1, 1, 64, 64)], dim=1)
        for found, expected in zip(net.encoder(planes_BFHW), theirs(x_BCHW), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "backbone.", "model.encoder."])
def test_bands_and_dates_find_their_weights_wherever_the_encoder_lies(prefix: str) -> None:
    state = _state()
    file = {f"{prefix}{name}": tensor for name, tensor in state.items()} | {
        f"{prefix}fc.0.weight": torch.ones(2)
    }
    if "encoder_q" in prefix:  # MoCo keeps a second one
        file |= {f"module.encoder_k.{name}": tensor + 1 for name, tensor in state.items()}
    net = _net()
    load_encoder(net, file, BANDS)
    x_BCHW = torch.randn(1, 3, 32, 32)
    all_BCHW = torch.zeros(1, 13, 32, 32)
    all_BCHW[:, [1, 3, 7]] = x_BCHW
    twice_BFHW = torch.cat(
        [x_BCHW, x_BCHW, torch.rand(1, 2, 32, 32)], dim=1
    )  # two dates alike, validity at will
    with torch.inference_mode():
        expected = _encoder_of(state)(all_BCHW)
        for one, other in zip(net.encoder(twice_BFHW), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_one_encoder_for_each_date_and_bands_that_the_weights_do_not_know() -> None:
    state = _state(planes=3)
    net = _net("unet_seasons", n_dates=None)
    filled = load_encoder(net, state, ("nir", "green", "NDVI"))  # three bands: red, green, blue
    assert filled.bands == ("green",)
    assert "encoder.first.0.weight" not in filled.whole
    first = net.state_dict()["encoder.first.0.weight"]
    assert torch.equal(first[:, 1], state["conv1.weight"][:, 1])
    assert not first[:, [0, 2, 3]].any()


def test_what_does_not_fit_is_refused_by_name() -> None:
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    missing = {name: tensor for name, tensor in _state().items() if name != "layer3.1.bn2.bias"}
    wide = {**_state(), "layer1.0.conv1.weight": torch.zeros(16, 8, 3, 3)}
    for state, bands, given, message in (
        (missing, BANDS, None, r"layer3\.1\.bn2\.bias"),
        ({**_state(), "layer1.2.conv1.weight": torch.ones(1)}, BANDS, None, r"layer1\.2"),
        (wide, BANDS, None, r"layer1\.0\.conv1"),
        (_state(name="resnet50"), BANDS, None, "not of this encoder"),
        ({"a": torch.ones(1)}, BANDS, None, "not of this encoder"),
        (_state(), ("NDVI", "EVI", "slope"), None, "none of the bands"),
        (_state(planes=4), BANDS, None, "name the bands of the weights"),
        (_state(planes=4), BANDS, ("red", "nir"), "another number of bands"),
        ({f"{p}.{k}": v for p in "ab" for k, v in _state().items()}, BANDS, None, "several encoders"),
    ):
        with pytest.raises(InputError, match=message):
            load_encoder(net, state, bands, given)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(InputError, match="unet_seasons"):
        load_encoder(build("mlp", {"n_dates": 1, "n_bands": 3, "n_classes": 2}), _state(), BANDS)
