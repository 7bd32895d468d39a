"""Layers: blocks under their own names, maps that know where the class is, units that answer to one class."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from engine.models.registry import build
from tests.training.explain.planted import BANDS, DATES, NORMAL, examples, two_classes
from training.batch import IGNORE
from training.explain.activations import layer_maps, layer_strengths
from training.explain.lens import Lens


class _Two(nn.Module):
    """The first channel sees the first band where it is high; the class is read from it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.deep = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.body[0].weight[:] = torch.tensor([[1.0], [-1.0]])[:, :, None, None]  # type: ignore[index]
            self.head.weight[:] = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[:, :, None, None]

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        body = self.body(x_BTCHW[:, 0, :1])
        if body.shape[-1] > 1:
            self.deep(self.pool(body))
        logits: torch.Tensor = self.head(body)
        return logits


def _half() -> object:
    """Class 1 in the left half, where the band is high."""
    made = examples(np.full((2, 1, BANDS), -1.5), np.array([1, 1]), side=8)
    made.batch.x[..., :4] = 6500
    made.batch.target[:, :, 4:] = IGNORE
    return made


def test_maps_are_of_blocks_and_speak_where_the_class_is() -> None:
    made = _half()
    lens = Lens(_Two(), NORMAL)
    found = layer_maps(lens, made)  # type: ignore[arg-type]
    assert found.layers[:2] == ("body", "deep")
    assert found.sizes[:2] == ((2, 8, 8), (2, 4, 4))
    np.testing.assert_allclose(found.strength[0], 0.75, atol=1e-5)  # |1.5| on one of two channels everywhere
    assert (found.speaks[0][:, :, :4] > 0).all()
    assert not found.speaks[0][:, :, 4:].any()
    assert not found.speaks[1].any(), "the answer does not hang on this layer"


def test_a_u_net_gives_at_most_eight_layers_of_all_sizes_and_keeps_no_hook() -> None:
    torch.manual_seed(0)
    net = build(
        "unet", {"n_dates": DATES, "n_bands": BANDS, "n_classes": 2, "stem": 4, "width": 4, "depth": 3}
    )
    made = examples(
        np.random.default_rng(0).normal(0, 1, (3, DATES, BANDS)).clip(-3, 3), np.array([0, 1, 1]), side=16
    )
    found = layer_maps(Lens(net, NORMAL), made)
    assert len(found.layers) <= 8
    assert {size[1] for size in found.sizes} >= {16, 8, 2}
    assert all(m.shape == (3, *size[1:]) for m, size in zip(found.strength, found.sizes, strict=True))
    assert not any(part._forward_hooks for part in net.modules())


def test_units_answer_to_their_class() -> None:
    made = two_classes(0, 0, n=30)
    found = layer_strengths(Lens(_Two(), NORMAL), made, 3)
    units = dict(zip(found.layers, found.units, strict=True))
    assert units["body"].shape == (3, 2)
    np.testing.assert_allclose(units["body"][0], [0, 1.5], atol=0.15)
    np.testing.assert_allclose(units["body"][1], [1.5, 0], atol=0.15)
    assert np.isnan(units["body"][2]).all(), "no example of the third class"
