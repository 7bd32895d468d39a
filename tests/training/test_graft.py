"""Weights from one network into another: bands and classes by name, for every architecture that allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.models.registry import build
from engine.values.errors import InputError
from training.graft import Names, Network, graft

OLD = Names(("blue", "green", "nir"), ("wheat", "maize", "water"))
NEW = Names(("nir", "NDVI", "blue", "swir16"), ("maize", "grass", "wheat", "rye"))
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"n_dates": 3, "width": 4, "stem": 6, "depth": 2},
    "unet_resnet": {"n_dates": 3, "width": 8, "stem": 8},
    "unet_seasons": {"width": 8, "stem": 8},
    "mlp": {"n_dates": 3, "width": 8},
    "tempcnn": {"width": 8},
}


def _network(name: str, names: Names, seed: int = 0, **fields: Any) -> Network:
    torch.manual_seed(seed)
    sizes = {"n_bands": len(names.bands), "n_classes": len(names.classes)}
    return Network(name, build(name, {**CONFIGS[name], **sizes, **fields}).eval(), names)


@pytest.mark.parametrize("name", CONFIGS)
def test_bands_and_classes_go_by_name_whatever_the_architecture(name: str) -> None:
    """On bands that both know the new network gives the old one's logits of the classes that both know."""
    old, new = _network(name, OLD, 1), _network(name, NEW, 2)
    fresh = {key: tensor.clone() for key, tensor in new.module.state_dict().items()}
    body = graft(old, new)
    x_BTCHW = torch.randn(new.shape)
    x_BTCHW[:, :, [1, 3]] = 0
    old_BTCHW = torch.zeros(old.shape)
    old_BTCHW[:, :, 0], old_BTCHW[:, :, 2] = x_BTCHW[:, :, 2], x_BTCHW[:, :, 0]
    found, expected = new.run(x_BTCHW), old.run(old_BTCHW)
    torch.testing.assert_close(found[:, [2, 0]], expected[:, [0, 1]], atol=1e-5, rtol=1e-4)
    learnt = dict(new.module.named_parameters())
    heads = [key for key, tensor in learnt.items() if tensor.shape[0] == 4 and key.endswith("bias")]
    assert len(heads) >= 1
    assert any(torch.equal(learnt[key][[1, 3]], fresh[key][[1, 3]]) for key in heads)  # new classes: as drawn
    given = dict(old.module.named_parameters())
    assert all(torch.equal(learnt[key], given[key]) for key in body)
    assert all(
        learnt[key].shape != given[key].shape or "head" in key or "layers" in key
        for key in set(learnt) - body
    )
    assert 0 < len(body) < len(learnt)


def test_bands_in_another_order_are_the_same_network() -> None:
    old, new = _network("unet", OLD, 1), _network("unet", Names(OLD.bands[::-1], OLD.classes), 2)
    assert "stem.0.weight" in graft(old, new)
    x_BTCHW = torch.randn(old.shape)
    torch.testing.assert_close(new.run(x_BTCHW.flip(2)), old.run(x_BTCHW), atol=1e-5, rtol=1e-5)


def test_other_dates_are_free_where_the_network_takes_any() -> None:
    graft(_network("unet_seasons", OLD, n_dates=3), _network("unet_seasons", NEW, n_dates=7))
    with pytest.raises(InputError, match="n_dates: 3 in the start, here 5"):
        graft(_network("unet", OLD), _network("unet", OLD, n_dates=5))


class _BandMajor(nn.Module):
    """A first layer with the dates of each band side by side, which nothing says of its shape."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = network, network.config

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        mixed = x_BTCHW.transpose(1, 2).flatten(1, 2).unflatten(1, x_BTCHW.shape[1:3])
        return self.inner(mixed, valid_BTHW)

    def state_dict(self, *args: Any, **more: Any) -> Any:
        return self.inner.state_dict()

    def load_state_dict(self, *args: Any, **more: Any) -> Any:
        return self.inner.load_state_dict(*args)


def test_a_first_layer_in_another_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.graft.build", lambda *given: _BandMajor(build(*given)))
    old, new = _network("unet", OLD), _network("unet", NEW)
    with pytest.raises(InputError, match="side by side"):
        graft(
            Network("unet", _BandMajor(old.module), old.names),
            Network("unet", _BandMajor(new.module), new.names),
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (("mlp", OLD, {}), ("unet", OLD, {}), "another architecture"),
        (("unet", OLD, {}), ("unet", OLD, {"width": 8}), "width: 4 in the start, here 8"),
        (("unet", OLD, {}), ("unet", Names(("red",), OLD.classes), {}), "none of the bands"),
    ],
)
def test_what_does_not_fit_is_refused(old: Any, new: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graft(_network(*old[:2], **old[2]), _network(*new[:2], **new[2]))


def test_an_architecture_that_names_its_bands_keeps_them() -> None:
    torch.manual_seed(0)
    networks = [
        Network(
            "presto",
            build("presto", {"n_bands": len(b), "n_classes": 3, "bands": b, "head": "linear"}),
            Names(b, c),
        )
        for b, c in ((("nir", "nir08"), OLD.classes), (("nir",), OLD.classes))
    ]
    with pytest.raises(InputError, match="cannot change its bands"):
        graft(*networks)
