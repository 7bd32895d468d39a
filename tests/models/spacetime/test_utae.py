"""U-TAE: attention against its formula, dates that count in part, weights that follow the right date."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from engine.models.registry import build
from engine.models.spacetime.configs import UtaeConfig
from engine.models.spacetime.utae import DateAttention, chosen, raised

CONFIG = UtaeConfig(n_bands=2, n_classes=3, width=8, width_max=8, depth=1, heads=2, model=8, dropout=0.0)


def _attention() -> DateAttention:
    torch.manual_seed(0)
    return DateAttention(8, CONFIG).eval()


def test_weights_follow_the_formula_at_each_pixel() -> None:
    attention = _attention()
    x_BTFHW, days_BT = torch.randn(1, 4, 8, 2, 2), torch.tensor([[5.0, 50.0, 90.0, 400.0]])
    share_BTHW = torch.rand(1, 4, 2, 2)
    share_BTHW[0, 1, 0, 0] = 0
    with torch.no_grad():
        weights_BATHW, _ = attention(x_BTFHW, share_BTHW, days_BT)
        index = torch.arange(8)
        wave_TM = torch.stack(
            [
                torch.sin(day / 1000 ** (2 * (index // 2) / 8) + torch.pi / 2 * (index % 2))
                for day in days_BT[0]
            ]
        )
        for y, x in ((0, 0), (1, 0)):
            seen_TM = attention.enter(x_BTFHW[0, :, :, y, x]) + wave_TM
            keys_TAD = attention.keys(seen_TM).view(4, 2, 4)
            scores_TA = torch.einsum("tad,ad->ta", keys_TAD, attention.queries) / 2
            share_T1 = share_BTHW[0, :, y, x, None]
            expected_TA = scores_TA.exp() * share_T1
            expected_TA = expected_TA / expected_TA.sum(0)
            torch.testing.assert_close(weights_BATHW[0, :, :, y, x].T, expected_TA, atol=1e-5, rtol=1e-4)


def test_each_head_chooses_for_its_own_channels() -> None:
    level_BTFHW = torch.randn(1, 3, 4, 2, 2)
    weights_BATHW = torch.zeros(1, 2, 3, 2, 2)
    weights_BATHW[:, 0, 2], weights_BATHW[:, 1, 0] = 1, 1
    found = chosen(level_BTFHW, weights_BATHW)
    torch.testing.assert_close(found[:, :2], level_BTFHW[:, 2, :2])
    torch.testing.assert_close(found[:, 2:], level_BTFHW[:, 0, 2:])


def test_raised_weights_are_bilinear_where_all_dates_count() -> None:
    weights_BATHW = torch.rand(1, 2, 3, 4, 4)
    weights_BATHW = weights_BATHW / weights_BATHW.sum(2, keepdim=True)
    found = raised(weights_BATHW, torch.ones(1, 3, 8, 8))
    expected = functional.interpolate(weights_BATHW[0], scale_factor=2, mode="bilinear")[None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_date_that_nobody_looked_at_takes_all_where_it_is_the_only_one() -> None:
    weights_BATHW = torch.zeros(1, 1, 2, 1, 1)
    weights_BATHW[:, :, 0] = 1
    valid_BTHW = torch.ones(1, 2, 2, 2)
    valid_BTHW[0, 0, 0, 0] = 0
    valid_BTHW[0, :, 1, 1] = 0
    found = raised(weights_BATHW, valid_BTHW)[0, 0]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([0.0, 1.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(found[:, 0, 1], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)
    assert found[:, 1, 1].tolist() == [0.0, 0.0]


def test_attention_learns_to_look_at_the_date_that_tells_the_class() -> None:
    torch.manual_seed(0)
    net = build("utae", CONFIG.model_dump())
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    days, telling = torch.tensor([40.0, 100.0, 160.0, 220.0]), 2
    for _ in range(60):
        target_BHW = torch.randint(0, 2, (8, 1, 1)).expand(-1, 4, 4)
        x_BTCHW = torch.randn(8, 4, 2, 4, 4)
        x_BTCHW[:, telling, 0] = 2.0 * target_BHW - 1
        loss = functional.cross_entropy(net(x_BTCHW, torch.ones(8, 4, 4, 4), days), target_BHW)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        weights_T = net.eval().attention(x_BTCHW, torch.ones(8, 4, 4, 4), days).amax(1).mean((0, 2, 3))
    assert float(loss.detach()) < 0.3
    assert int(weights_T.argmax()) == telling


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"model": 9, "heads": 2}, {"width": 9, "heads": 2}])
def test_heads_must_share_what_there_is(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="does not divide"):
        UtaeConfig(n_bands=2, n_classes=3, **wrong)
