"""Networks that join sensors: what all networks keep, and that a sensor counts where, and only where, it has data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.inference.check import drawn_days, drawn_windows
from engine.inference.export import export_bundle
from engine.inference.lane import Lane
from engine.models.configs import NetworkConfig
from engine.models.normalise import Standard, prepare
from engine.models.registry import build, check_config
from engine.values.errors import InputError
from engine.values.planes import Plane, PlaneKind, groups_of
from tests.models.conformance import Case, NetworkConformance

KINDS: tuple[PlaneKind, ...] = ("reflectance", "backscatter", "layer", "reflectance", "backscatter")
PLANES = tuple(
    Plane(name=f"plane{i}", kind=kind, **({"scale": 1.0, "low": 0.0} if kind == "layer" else {}))
    for i, kind in enumerate(KINDS)
)
GROUPS = groups_of(PLANES)
SMALL = {"fusion_unet": {"series": 6, "heads": 2, "width": 8, "depth": 1, "groups": GROUPS}}
SMALL["fusion_transformer"] = {"width": 16, "heads": 2, "groups": GROUPS}


class FusionConformance(NetworkConformance):
    """Planes of all three groups."""

    def bundle_fields(self, case: Case) -> BundleFields:
        fields = super().bundle_fields(case)
        five = (2000.0,) * 5, (900.0,) * 5
        return replace(
            fields, planes=PLANES, normalisation=Standard(mean=five[0], std=five[1], groups=GROUPS)
        )


class TestFusionUNet(FusionConformance):
    @pytest.fixture(
        params=[
            {},
            {"fusion": "late"},
            {"weights": "shared", "norm": "group"},
            {"fusion": "late", "weights": "shared", "decoder": "transposed"},
        ],
        ids=str,
    )
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case(
            "fusion_unet", {**SMALL["fusion_unet"], **request.param}, bands=5, dates=4, rate=2e-2, steps=70
        )


class TestFusionTransformer(FusionConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("fusion_transformer", SMALL["fusion_transformer"], bands=5)


class TestOneSensor(NetworkConformance):
    """Without groups all bands are optical, as of a cube of reflectance."""

    @pytest.fixture(params=["fusion_unet", "fusion_transformer"])
    def case(self, request: pytest.FixtureRequest) -> Case:
        return Case(request.param, {**SMALL[request.param], "groups": None}, dates=3, rate=2e-2, steps=80)


BOTH = pytest.mark.parametrize("name", ["fusion_unet", "fusion_transformer"])


def _net(name: str, **config: object) -> torch.nn.Module:
    return Case(name, {**SMALL[name], **config}, bands=5).network()


def _block() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two optical dates and two radar dates that are never the same ones; layers on all of them."""
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(500, 4000, (1, 4, 5, 4, 4), generator=generator)
    optical, radar = [0, 3], [1, 4]
    stored[:, 2:, optical] = 0
    stored[:, :2, radar] = 0
    stored[:, :, 2] = stored[:, :1, 2]
    standard = Standard(mean=(2000.0,) * 5, std=(900.0,) * 5, groups=GROUPS)
    x, valid = prepare(stored.to(torch.uint16), standard)
    return x, valid, torch.tensor([100.0, 130.0, 115.0, 145.0])


@BOTH
@torch.no_grad()
def test_sensors_on_other_days_are_both_seen(name: str) -> None:
    net, (x, valid, days) = _net(name), _block()
    assert bool((valid == 1).all())
    whole = net(x, valid, days)
    for band in range(5):
        other = x.clone()
        other[:, :, band] *= 1.7
        assert not torch.allclose(net(other, valid, days), whole, atol=1e-4), f"band {band}"


@torch.no_grad()
def test_a_sensor_without_data_takes_no_part() -> None:
    """Whatever the radar branch holds, a pixel that it never saw is answered by the others alone."""
    net, (x, valid, days) = _net("fusion_transformer"), _block()
    x[:, :, [1, 4]] = 0
    valid = (x[:, :, 0] != 0).float()
    before = net(x, valid, days)
    for parameter in net.branches["radar"].parameters():
        parameter.add_(1.0)
    torch.testing.assert_close(net(x, valid, days), before)


@torch.no_grad()
def test_attention_is_shared_out_over_each_sensors_own_dates() -> None:
    net, (x, valid, days) = _net("fusion_transformer"), _block()
    weights = net.attention(x, valid, days)
    halves = weights[:, :, :2].sum(2), weights[:, :, 2:].sum(2)
    for half in halves:
        torch.testing.assert_close(half, torch.full_like(half, 0.5))


@torch.no_grad()
def test_pieces_of_a_large_row_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, valid, days) = _net("fusion_transformer"), _block()
    whole = net(x, valid, days)
    monkeypatch.setattr("engine.models.fusion.transformer._PIECE", 8)
    torch.testing.assert_close(net(x, valid, days), whole)


def test_shared_weights_are_shared_and_late_fusion_has_a_network_for_each() -> None:
    def parts(**config: object) -> tuple[int, int]:
        net = _net("fusion_unet", **config)
        return len(net.series), len(net.unets)

    assert parts() == (2, 1)
    assert parts(weights="shared") == (1, 1)
    assert parts(fusion="late") == (2, 2)
    assert parts(fusion="late", weights="shared") == (1, 1)


@torch.no_grad()
def test_three_dates_side_by_side_are_a_convolution_in_three_dimensions() -> None:
    from engine.models.fusion.unet import _moved

    generator = torch.Generator().manual_seed(1)
    x_BTFHW = torch.randn((2, 5, 3, 6, 7), generator=generator)
    weight = torch.randn((4, 3, 3, 3, 3), generator=generator)  # output, feature, date, row, column
    expected = torch.nn.functional.conv3d(x_BTFHW.transpose(1, 2), weight, padding=1).transpose(1, 2)
    beside = torch.cat([_moved(x_BTFHW, 1), x_BTFHW, _moved(x_BTFHW, -1)], dim=2).flatten(0, 1)
    flat = weight.permute(0, 2, 1, 3, 4).flatten(1, 2)
    found = torch.nn.functional.conv2d(beside, flat, padding=1).unflatten(0, (2, 5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_what_does_not_fit_is_refused(name: str) -> None:
    sizes: dict[str, object] = {"n_bands": 2, "n_classes": 3}
    with pytest.raises(InputError, match="one group per band"):
        check_config(name, {**sizes, "groups": ("optical",)})
    with pytest.raises(InputError, match="optical or radar"):
        check_config(name, {**sizes, "groups": ("static", "static")})
    net = build(name, sizes)
    assert isinstance(net.config, NetworkConfig)
    with pytest.raises(InputError, match="3 bands"):
        net(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 2, 8, 8), torch.tensor([1.0, 2.0]))


@BOTH
def test_it_leaves_as_a_graph_that_answers_alike(name: str, tmp_path: Path) -> None:
    case = Case(name, {**SMALL[name], "n_dates": 4}, bands=5, dates=4, side_px=8)
    bundle = save_bundle(tmp_path / "own", case.network(), name, FusionConformance().bundle_fields(case))
    days = drawn_days(bundle)
    graph = export_bundle(bundle, tmp_path / "onnx", to="onnx", days=days)
    assert isinstance(graph, Bundle)
    windows = drawn_windows(bundle)
    found, expected = Lane(graph).run(windows), Lane(bundle, days=days).run(windows)
    assert np.abs(found - expected).max() <= 7  # of 65535
