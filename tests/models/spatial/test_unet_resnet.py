"""The U-Nets on ResNet encoders: conformance, days, and dates that are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.inference.bundle import Bundle, save_bundle
from engine.inference.export import export_bundle
from engine.inference.lane import Lane
from engine.models.fold import fold_batchnorm
from engine.models.registry import build, check_config
from engine.models.spatial.seasons import encoded_days
from engine.values.errors import InputError
from engine.values.lattice import Lattice
from tests.inference.bundles import FIELDS
from tests.models.conformance import Case, NetworkConformance

SMALL = {"width": 8, "stem": 8}


class TestResNetUNet(NetworkConformance):
    @pytest.fixture(params=[{}, {"encoder": "resnet50", "decoder": "transposed"}], ids=["18", "50"])
    def case(self, request: pytest.FixtureRequest) -> Case:
        config = {"n_dates": 5, **SMALL, **request.param}
        return Case("unet_resnet", config, side_px=32, steps=30, rate=2e-2)


class TestSeasonUNet(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("unet_seasons", SMALL, side_px=32, steps=30, rate=2e-2)


def _net(name: str, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(name, {"n_bands": 3, "n_classes": 2, **SMALL, **fields}).eval()


def _block(dates: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, dates, 3, 32, 32, generator=generator), torch.ones(1, dates, 32, 32)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_five_skips_from_full_resolution_on(encoder: str) -> None:
    config = check_config("unet_resnet", {"n_dates": 1, "n_bands": 13, "n_classes": 2, "encoder": encoder})
    net = build("unet_resnet", config.model_dump())
    with torch.inference_mode():
        levels = net._levels(torch.zeros(1, 1, 13, 64, 64), torch.ones(1, 1, 64, 64), None)
    assert [level.shape[2] for level in levels] == [64, 32, 16, 8, 4, 2]
    assert tuple(level.shape[1] for level in levels) == config.channels
    assert len(net.up) == 5


def test_folding_leaves_no_batch_norm() -> None:
    for net in (_net("unet_resnet", n_dates=4), _net("unet_seasons")):
        folded = fold_batchnorm(net)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
        with torch.no_grad():
            torch.testing.assert_close(folded(*_block()), net(*_block()), atol=1e-4, rtol=1e-4)


def test_a_date_matters_by_its_day_and_only_where_it_is_there() -> None:
    net, (x_BTCHW, valid_BTHW) = _net("unet_seasons"), _block()
    days = torch.tensor([20.0, 110, 200, 290])
    with torch.no_grad():
        before = net(x_BTCHW, valid_BTHW, days)
        assert not torch.allclose(before, net(x_BTCHW, valid_BTHW, days.roll(1)))
        # the same days a year on are the same season
        torch.testing.assert_close(net(x_BTCHW, valid_BTHW, days + 366), before, atol=1e-4, rtol=1e-4)
        valid_BTHW[:, 2, :16] = 0
        weight_BGTHW = net.attention(x_BTCHW * valid_BTHW[:, :, None], valid_BTHW, days)
    assert not weight_BGTHW[:, :, 2, :16].any()
    assert (weight_BGTHW[:, :, 2, 16:] > 0).all()


def test_a_missing_date_does_not_move_the_statistics_of_training() -> None:
    """Images without any data would pull the batch norms' means to what nothing looks like."""
    nets = [_net("unet_seasons").train() for _ in range(2)]
    x_BTCHW, valid_BTHW = _block()
    none = torch.zeros(1, 3, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    found = nets[0](x_BTCHW, valid_BTHW)
    padded = nets[1](torch.cat([x_BTCHW, none[0]], 1), torch.cat([valid_BTHW, none[1]], 1))
    torch.testing.assert_close(padded, found, atol=1e-4, rtol=1e-4)
    for (name, one), other in zip(nets[0].named_buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_days_are_points_on_circles_and_none_is_nothing() -> None:
    found = encoded_days(torch.tensor([[366.0, 91.5, 0.0]]), torch.zeros(1, 3))
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0, 1], torch.tensor([1.0, 0, -1, 0, 0, -1, 0, 1]), atol=1e-5, rtol=0)
    assert not found[0, 2].any()
    assert not encoded_days(None, torch.zeros(2, 3)).any()


def test_a_wrong_window_cube_or_configuration_is_refused() -> None:
    net = _net("unet_resnet", n_dates=4)
    for shape, message in (((1, 4, 3, 48, 32), "multiple of 32"), ((1, 5, 3, 32, 32), "4 dates x 3 bands")):
        with pytest.raises(InputError, match=message):
            net(torch.zeros(shape), torch.ones(1, shape[1], *shape[3:]))
    with pytest.raises(InputError, match="heads"):
        check_config("unet_seasons", {"n_bands": 3, "n_classes": 2, "stem": 10})
    with pytest.raises(InputError, match="n_dates"):
        check_config("unet_resnet", {"n_bands": 3, "n_classes": 2})


@pytest.mark.parametrize("name", ["unet_resnet", "unet_seasons"])
def test_an_exported_graph_gives_the_same_map(name: str, tmp_path: Path) -> None:
    lattice = Lattice(32, 0)
    bundle = save_bundle(
        tmp_path / "own", _net(name, n_dates=2, n_classes=4), name, replace(FIELDS, lattice=lattice)
    )
    days = (135, 46)  # not in order
    graph = export_bundle(bundle, tmp_path / "onnx", "onnx", days)
    assert isinstance(graph, Bundle)
    x_BTCHW = np.random.default_rng(0).integers(1, 5000, (2, 2, 3, 32, 32)).astype(np.uint16)
    x_BTCHW[0, 0, :, :9] = 0
    found, expected = Lane(graph).run(x_BTCHW), Lane(bundle, days=days).run(x_BTCHW)
    assert np.abs(found - expected).max() <= 7  # of 65535
