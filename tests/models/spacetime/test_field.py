"""How far the networks look, measured against arithmetic; and the same answers in any window."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from engine.inference.receptive import ReceptiveField, measure_field
from engine.models.registry import build

DATES, BANDS = 4, 2
DAYS = torch.tensor([30.0, 120.0, 210.0, 300.0])


def _field(name: str, **fields: Any) -> ReceptiveField:
    torch.manual_seed(1)
    net = build(name, {"n_bands": BANDS, "n_classes": 3, **fields}).eval().requires_grad_(False)

    def draw(side_px: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x_BTCHW = torch.randn(1, DATES, BANDS, side_px, side_px, generator=generator)
        return x_BTCHW, torch.ones(1, DATES, side_px, side_px)

    return measure_field(lambda _: partial(net, days=DAYS), draw, 32)


@pytest.mark.parametrize(
    ("name", "fields", "support"),
    [
        # stem and last convolution 1 px each; the state is looked around at once between two dates
        ("convstar", {"width": 4}, 2 + (DATES - 1)),
        ("convgru", {"width": 4, "kernel": 5}, 2 + 2 * (DATES - 1)),
        ("convlstm", {"width": 4, "bidirectional": True}, 2 + (DATES - 1)),
        ("convstar", {"width": 4, "bidirectional": True, "layers": 2}, 2 + 2 * (DATES - 1)),
        ("cnn3d", {"width": 4, "depth": 3}, 3),
        ("cnn3d2d", {"width": 4, "depth": 2, "depth_2d": 2}, 4),
    ],
)
def test_the_measured_support_is_the_sum_of_the_convolutions(
    name: str, fields: dict[str, Any], support: int
) -> None:
    field = _field(name, **fields)
    assert (field.support_px, field.shift_px, field.size_free) == (support, 1, True)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("utae", {"depth": 2, "width": 8, "width_max": 8, "model": 8}), ("unet3d", {"depth": 2})],
)
def test_networks_with_levels_step_by_their_halvings_and_are_free_of_the_window(
    name: str, fields: dict[str, Any]
) -> None:
    field = _field(name, **fields)
    assert field.shift_px == 4
    assert field.size_free
    assert 8 < field.support_px < 32
