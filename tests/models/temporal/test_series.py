"""What all networks of series share: gaps say nothing, memory is bounded, graphs can be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.inference.bundle import save_bundle
from engine.inference.check import drawn_windows
from engine.inference.export import export_bundle
from engine.inference.lane import Lane
from engine.models.registry import build
from engine.models.temporal import series as rows
from engine.values.errors import InputError
from engine.values.lattice import PROBABILITY_ONE, Lattice
from tests.inference.bundles import FIELDS

NETWORKS: dict[str, dict[str, Any]] = {
    "atlstm": {"width": 6},
    "cnn1d": {"width": 8, "depth": 2},
    "gru": {"width": 8, "layers": 2, "bidirectional": True},
    "lstm": {"width": 8},
    "ltae": {"width": 8, "heads": 2},
    "transformer": {"width": 8, "heads": 2, "hidden": 12},
}
DAYS = torch.tensor([280.0, 300.0, 345.0, 380.0, 391.0, 450.0])


def _network(name: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(2)
    config = {"n_bands": 3, "n_classes": 4, "dropout": 0.0, **NETWORKS[name], **more}
    return build(name, config).eval()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_date_without_data_is_as_if_it_had_not_been(name: str) -> None:
    net, kept = _network(name), [0, 2, 5]
    x_BTCHW = torch.randn(1, 6, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    valid_BTHW = torch.ones(1, 6, 4, 5)
    valid_BTHW[:, [1, 3, 4]] = 0
    with torch.no_grad():
        found = net(x_BTCHW * valid_BTHW[:, :, None], valid_BTHW, DAYS)
        expected = net(x_BTCHW[:, kept], valid_BTHW[:, kept], DAYS[kept])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        later = net(x_BTCHW[:, kept], valid_BTHW[:, kept], DAYS[kept] + 50)
        assert not torch.allclose(later, expected, atol=1e-3)  # but the day does say something


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_pixel_without_any_date_has_features_zero(name: str) -> None:
    net, x_BTCHW = _network(name), torch.randn(2, 6, 3, 2, 2)
    valid_BTHW = torch.ones(2, 6, 2, 2)
    valid_BTHW[1, :, 0, 1] = 0
    with torch.no_grad():
        features_BFHW = net.features(x_BTCHW * valid_BTHW[:, :, None], valid_BTHW, DAYS)
        logits_BKHW = net(x_BTCHW * valid_BTHW[:, :, None], valid_BTHW, DAYS)
    assert not features_BFHW[1, :, 0, 1].any()
    assert features_BFHW.abs().sum(1).bool().sum() == 7
    torch.testing.assert_close(logits_BKHW[1, :, 0, 1], net.head.bias.detach())


def test_a_map_is_computed_in_pieces_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = _network("lstm"), []
    encode = net.encode
    monkeypatch.setattr(net, "encode", lambda series: seen.append(len(series.x)) or encode(series))
    with torch.no_grad():
        found = net(torch.randn(1, 6, 3, 40, 40), torch.ones(1, 6, 40, 40), DAYS)
    assert found.shape == (1, 4, 40, 40)
    assert seen == [512] * 4


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_training_in_pieces_gives_the_same_derivatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = _network(name).train()
    x_BTCHW, target_BHW = torch.randn(2, 6, 3, 5, 5), torch.randint(0, 4, (2, 5, 5))
    valid_BTHW = (torch.rand(2, 6, 5, 5) < 0.7).float()
    days_BT = torch.stack([DAYS, DAYS + 9])
    grads = []
    for most in (8192, 7):
        monkeypatch.setattr(rows, "_TRAINED_ROWS", most)
        net.zero_grad()
        logits_BKHW = net(x_BTCHW * valid_BTHW[:, :, None], valid_BTHW, days_BT)
        functional.cross_entropy(logits_BKHW, target_BHW).backward()
        grads.append({n: p.grad.clone() for n, p in net.named_parameters()})
    for n, grad in grads[0].items():
        torch.testing.assert_close(grads[1][n], grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_half_precision_gives_nearly_the_same(name: str) -> None:
    net, x_BTCHW = _network(name), torch.randn(1, 6, 3, 4, 4)
    valid_BTHW = torch.ones(1, 6, 4, 4)
    with torch.no_grad():
        expected = net(x_BTCHW, valid_BTHW, DAYS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net(x_BTCHW, valid_BTHW, DAYS)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


def test_other_bands_or_dates_are_refused() -> None:
    net = _network("ltae", n_dates=6)
    with pytest.raises(InputError, match="5 dates x 3 bands"):
        net(torch.zeros(1, 5, 3, 1, 1), torch.zeros(1, 5, 1, 1), DAYS[:5])
    with pytest.raises(InputError, match="6 dates x 2 bands"):
        net(torch.zeros(1, 6, 2, 1, 1), torch.zeros(1, 6, 1, 1), DAYS)
    for name, wrong in (("ltae", {"heads": 3}), ("transformer", {"heads": 3}), ("cnn1d", {"kernel": 2})):
        with pytest.raises(InputError, match=r"multiple|odd"):
            _network(name, **wrong)


@pytest.mark.parametrize("name", ["atlstm", "cnn1d", "transformer"])
def test_a_graph_answers_as_the_network(name: str, tmp_path: Path) -> None:
    fields = replace(FIELDS, lattice=Lattice(1, 0))
    bundle, days = save_bundle(tmp_path / "net", _network(name, n_dates=2), name, fields), (300, 380)
    graph = export_bundle(bundle, tmp_path / "graph", "onnx", days)
    x_BTCHW = drawn_windows(bundle)
    found, expected = (Lane(b, days=days).run(x_BTCHW) / PROBABILITY_ONE for b in (graph, bundle))
    np.testing.assert_allclose(found, expected, atol=1e-4)
