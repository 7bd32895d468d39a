"""Networks beside each other."""

from __future__ import annotations

import json

import pytest
import torch

from engine.models.registry import build, check_config, pixelwise, size_free
from engine.values.errors import InputError
from tests.models.conformance import Case, NetworkConformance

SIZES = {"n_dates": 3, "n_bands": 2, "n_classes": 4}
ALONG_TIME = {"architecture": "gru", "config": {"width": 8}}
BESIDE = {"architecture": "cnn1d", "config": {"width": 8, "depth": 1}}
AROUND = {"architecture": "unet", "config": {"width": 8, "stem": 8, "depth": 2}}


class TestConformance(NetworkConformance):
    """An RNN beside a CNN over time, and beside a CNN over space."""

    @pytest.fixture(params=["time", "space"])
    def case(self, request: pytest.FixtureRequest) -> Case:
        if request.param == "time":
            return Case("hybrid", {"branches": [ALONG_TIME, BESIDE]}, rate=2e-2)
        return Case("hybrid", {"n_dates": 5, "branches": [ALONG_TIME, AROUND]}, rate=2e-2, side_px=16)


def test_each_branch_gives_its_own_features() -> None:
    torch.manual_seed(0)
    net = build("hybrid", {**SIZES, "branches": [ALONG_TIME, BESIDE]}).eval()
    x_BTCHW, valid_BTHW, days = (
        torch.randn(1, 3, 2, 4, 4),
        torch.ones(1, 3, 4, 4),
        torch.tensor([9.0, 50, 70]),
    )
    with torch.no_grad():
        parts = []
        for branch, own in zip((ALONG_TIME, BESIDE), net.branches, strict=True):
            alone = build(branch["architecture"], {**SIZES, **branch["config"]}).eval()
            fresh_head = {f"head.{name}": value for name, value in alone.head.state_dict().items()}
            alone.load_state_dict({**own.state_dict(), **fresh_head})
            parts.append(alone.features(x_BTCHW, valid_BTHW, days))
        joined_BFHW = torch.cat(parts, dim=1)
        torch.testing.assert_close(net.features(x_BTCHW, valid_BTHW, days), joined_BFHW)
        expected = torch.einsum("kf,bfhw->bkhw", net.head.weight[..., 0, 0], joined_BFHW)
        expected = expected + net.head.bias[:, None, None]
        torch.testing.assert_close(net(x_BTCHW, valid_BTHW, days), expected, rtol=1e-4, atol=1e-5)


def test_it_is_what_its_branches_are() -> None:
    together = {**SIZES, "branches": [ALONG_TIME, AROUND]}
    alone = {**SIZES, "branches": [ALONG_TIME, BESIDE]}
    assert [pixelwise("hybrid", c) for c in (alone, together)] == [True, False]
    assert size_free("hybrid", together)
    assert [b.architecture for b in check_config("hybrid", SIZES).branches] == ["gru", "unet"]
    assert not size_free("hybrid", {"branches": [ALONG_TIME, {"architecture": "smp"}]})
    config = check_config("hybrid", together)
    assert config.window_multiple == 4
    assert check_config("hybrid", json.loads(config.model_dump_json())) == config
    assert hash(config) == hash(check_config("hybrid", together))


@pytest.mark.parametrize(
    ("branches", "named"),
    [
        ([ALONG_TIME], "branches"),
        ([ALONG_TIME, {"architecture": "resnet"}], "unknown architecture"),
        ([ALONG_TIME, {"architecture": "gru", "config": {"wings": 2}}], "wings"),
        ([ALONG_TIME, 3], "branches"),
    ],
)
def test_a_wrong_branch_is_named(branches: list[object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_config("hybrid", {**SIZES, "branches": branches})


def test_a_network_without_features_cannot_be_a_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("engine.models.pixel.TempCnn.features")
    with pytest.raises(InputError, match="tempcnn"):
        build("hybrid", {**SIZES, "branches": [ALONG_TIME, {"architecture": "tempcnn"}]})
