"""Networks of single pixels, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from engine.models.configs import TempCnnConfig
from engine.models.fold import fold_batchnorm
from engine.models.registry import build
from engine.values.errors import InputError


def _block(dates: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    valid_BTHW = (torch.rand(2, dates, 5, 6, generator=generator) < 0.7).float()
    x_BTCHW = torch.randn(2, dates, 3, 5, 6, generator=generator) * valid_BTHW[:, :, None]
    return x_BTCHW, valid_BTHW


def test_mlp_is_a_chain_of_matrix_products_on_each_pixel() -> None:
    torch.manual_seed(0)
    net = build("mlp", {"n_dates": 4, "n_bands": 3, "n_classes": 5, "width": 8, "depth": 2}).eval()
    x_BTCHW, valid_BTHW = _block(4)
    with torch.no_grad():
        found = net(x_BTCHW, valid_BTHW).numpy()
    pixel = np.concatenate([x_BTCHW[1, :, :, 2, 3].numpy().ravel(), valid_BTHW[1, :, 2, 3].numpy()])
    weights = [p.detach().numpy() for p in net.parameters()]
    for matrix, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        pixel = np.maximum(matrix @ pixel + bias, 0)
    np.testing.assert_allclose(found[1, :, 2, 3], weights[4] @ pixel + weights[5], rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 5, 5, 6)


@pytest.mark.parametrize("dates", [1, 4, 9])
def test_tempcnn_convolves_over_time_and_averages_the_valid_dates(dates: int) -> None:
    torch.manual_seed(0)
    net = build("tempcnn", {"n_bands": 3, "n_classes": 5, "width": 8, "depth": 2, "kernel": 3}).eval()
    x_BTCHW, valid_BTHW = _block(dates)
    with torch.no_grad():
        found = net(x_BTCHW, valid_BTHW).numpy()
        folded = fold_batchnorm(net)(x_BTCHW, valid_BTHW).numpy()
    np.testing.assert_allclose(found, folded, rtol=1e-4, atol=1e-5)
    valid = valid_BTHW[1, :, 2, 3].numpy()
    series = np.concatenate([x_BTCHW[1, :, :, 2, 3].numpy(), valid[:, None]], axis=1)  # (date, feature)
    for layer in net.layers:
        kernel = layer[0].weight.detach().numpy()[:, :, 0]  # (out, in, 3)
        padded = np.pad(series, ((1, 1), (0, 0)))
        series = np.stack([np.einsum("oik,ki->o", kernel, padded[t : t + 3]) for t in range(dates)])
        series = np.maximum(series / np.sqrt(1 + layer[1].eps), 0)
    mean = (series * valid[:, None]).sum(axis=0) / max(valid.sum(), 1)
    expected = net.head.weight.detach().numpy() @ mean + net.head.bias.detach().numpy()
    np.testing.assert_allclose(found[1, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


def test_other_dates_or_bands_are_refused() -> None:
    x_BTCHW, valid_BTHW = _block(4)
    with pytest.raises(InputError, match="4 dates x 3 bands"):
        build("mlp", {"n_dates": 3, "n_bands": 3, "n_classes": 2})(x_BTCHW, valid_BTHW)
    with pytest.raises(InputError, match="4 dates x 3 bands"):
        build("tempcnn", {"n_bands": 2, "n_classes": 2})(x_BTCHW, valid_BTHW)
    with pytest.raises(InputError, match="kernel"):
        build("tempcnn", {"n_bands": 2, "n_classes": 2, "kernel": 4})
    with pytest.raises(ValidationError, match="odd"):
        TempCnnConfig(n_bands=2, n_classes=2, kernel=2)
