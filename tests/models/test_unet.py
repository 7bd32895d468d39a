"""The U-Net: shapes, no-data planes, folding, independence of the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.fold import fold_batchnorm
from engine.models.registry import build
from engine.values.errors import InputError
from tests.models.conformance import Case, NetworkConformance


class TestUNet(NetworkConformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case("unet", {"n_dates": 5, "width": 8, "stem": 8, "depth": 2}, side_px=16)


def _net(**fields: object) -> torch.nn.Module:
    torch.manual_seed(1)
    config = {"n_dates": 2, "n_bands": 3, "n_classes": 4, "width": 4, "stem": 6, "depth": 2, **fields}
    net = build("unet", config)
    for part in net.modules():  # as after training: statistics that are not 0 and 1
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.5, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.bias, 0.0, 0.5)
    return net.eval()


@settings(max_examples=12, deadline=None)
@given(
    dates=st.integers(1, 4),
    bands=st.integers(1, 5),
    depth=st.integers(1, 4),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    decoder=st.sampled_from(["bilinear", "transposed"]),
    norm=st.sampled_from(["batch", "group"]),
)
def test_any_dates_bands_and_multiple_of_the_depth(
    dates: int, bands: int, depth: int, tiles: tuple[int, int], decoder: str, norm: str
) -> None:
    net = _net(n_dates=dates, n_bands=bands, depth=depth, decoder=decoder, norm=norm)
    height, width = tiles[0] * 2**depth, tiles[1] * 2**depth
    x_BTCHW = torch.randn(2, dates, bands, height, width)
    assert net(x_BTCHW, torch.ones(2, dates, height, width)).shape == (2, 4, height, width)


@pytest.mark.parametrize("shape", [(1, 2, 3, 30, 32), (1, 2, 3, 32, 30)])
def test_another_window_is_refused_with_the_multiple(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="multiple of 4 px"):
        _net()(torch.zeros(shape), torch.ones(1, 2, *shape[3:]))


def test_other_dates_or_bands_are_refused() -> None:
    with pytest.raises(InputError, match="3 dates x 3 bands"):
        _net()(torch.zeros(1, 3, 3, 32, 32), torch.ones(1, 3, 32, 32))


def test_a_folded_network_gives_the_same_logits() -> None:
    net = _net()
    x_BTCHW, valid_BTHW = torch.randn(2, 2, 3, 32, 32), torch.ones(2, 2, 32, 32)
    folded = fold_batchnorm(net)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in net.modules())
    with torch.no_grad():
        torch.testing.assert_close(
            folded(x_BTCHW, valid_BTHW), net(x_BTCHW, valid_BTHW), atol=1e-5, rtol=1e-5
        )


def test_group_norm_stays() -> None:
    folded = fold_batchnorm(_net(norm="group"))
    assert any(isinstance(part, torch.nn.GroupNorm) for part in folded.modules())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_window_does_not_see_its_neighbours_in_the_batch(norm: str) -> None:
    net = _net(norm=norm)
    x_BTCHW, valid_BTHW = torch.randn(3, 2, 3, 32, 32), torch.ones(3, 2, 32, 32)
    other_BTCHW = x_BTCHW.clone()
    other_BTCHW[1:] = 7.0
    with torch.no_grad():
        a, b = net(x_BTCHW, valid_BTHW), net(other_BTCHW, valid_BTHW)
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])


def test_validity_is_an_input_of_its_own() -> None:
    net = _net()
    x_BTCHW = torch.zeros(1, 2, 3, 32, 32)
    with torch.no_grad():
        there, gone = net(x_BTCHW, torch.ones(1, 2, 32, 32)), net(x_BTCHW, torch.zeros(1, 2, 32, 32))
    assert not torch.equal(there, gone)
