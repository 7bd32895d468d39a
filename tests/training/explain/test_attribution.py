"""Gradients against finite differences and known networks; integrated gradients add up (completeness)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.models.registry import build
from tests.training.explain.planted import (
    BANDS,
    DATES,
    NORMAL,
    Linear,
    examples,
    one_place,
    season,
    two_classes,
)
from training.explain.attribution import gradients, integrated_gradients
from training.explain.examples import Examples
from training.explain.lens import Inputs, Lens, log_odds


def _network(name: str = "tempcnn") -> Lens:
    """Random weights in float64; batch norms as after training."""
    torch.manual_seed(1)
    sizes = {"n_dates": DATES, "n_bands": BANDS, "n_classes": 3}
    small = {"unet": {"stem": 4, "width": 4, "depth": 1}, "tempcnn": {"width": 8, "depth": 2}}[name]
    net = build(name, sizes | small)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return Lens(net.double(), NORMAL, takes_days=name == "tempcnn")


def _made(side: int = 1) -> Examples:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (6, DATES, BANDS)).clip(-3, 3)
    values[2, 1] = values[4, 0] = values[4, 3] = np.nan
    return examples(values, np.arange(6) % 3, side=side)


def _evidence(lens: Lens, made: Examples, inputs: Inputs) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = log_odds(lens.logits(inputs), made.mine, torch.from_numpy(made.of)).numpy()
        return found


@pytest.mark.parametrize(("name", "side"), [("tempcnn", 1), ("unet", 4)])
def test_gradients_are_finite_differences(name: str, side: int) -> None:
    lens, made = _network(name), _made(side)
    found = gradients(lens, made, season(made)).values
    inputs, step = lens.inputs(made, slice(0, len(made))), 1e-5
    for t in range(DATES):
        for c in range(BANDS):
            two = []
            for sign in (1, -1):
                moved = inputs.x.clone()
                moved[:, t, c] += sign * step * inputs.valid[:, t]
                two.append(_evidence(lens, made, Inputs(moved, inputs.valid, inputs.days, inputs.which)))
            np.testing.assert_allclose(found[:, t, c], (two[0] - two[1]) / (2 * step), atol=2e-5)


@pytest.mark.parametrize(("name", "side"), [("tempcnn", 1), ("unet", 4)])
def test_integrated_gradients_add_up_to_what_the_answer_gains(name: str, side: int) -> None:
    lens, made = _network(name), _made(side)
    found = integrated_gradients(lens, made, season(made), steps=300)
    inputs = lens.inputs(made, slice(0, len(made)))
    nothing = Inputs(torch.zeros_like(inputs.x), inputs.valid, inputs.days, inputs.which)
    gain = _evidence(lens, made, inputs) - _evidence(lens, made, nothing)
    np.testing.assert_allclose(found.gain, gain, atol=1e-4)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), gain, atol=0.01 * np.abs(gain).max())
    np.testing.assert_allclose(found.missing, gain - found.values.sum(axis=(1, 2)), atol=1e-4)


def test_of_a_linear_network_they_are_weight_and_weight_times_value() -> None:
    rng = np.random.default_rng(5)
    weight = np.zeros((2, DATES, BANDS))
    weight[1] = rng.normal(size=(DATES, BANDS))
    values = rng.normal(0, 1, (4, DATES, BANDS)).clip(-3, 3).round(3)
    made = examples(values, np.array([1, 0, 1, 1]))
    lens = Lens(Linear(weight), NORMAL)
    sign = np.where(made.of == 1, 1, -1)[:, None, None]
    np.testing.assert_allclose(gradients(lens, made, season(made)).values, sign * weight[1], atol=1e-5)
    whole = integrated_gradients(lens, made, season(made), steps=8)
    np.testing.assert_allclose(whole.values, sign * weight[1] * values, atol=1e-4)
    assert whole.worst_missing < 1e-4


def test_the_planted_band_and_date_are_found() -> None:
    made = two_classes(3, 1)
    found = integrated_gradients(one_place(3, 1), made, season(made), steps=8)
    strength = found.strength(2)
    for k in range(2):
        assert np.unravel_index(strength[k].argmax(), strength[k].shape) == (3, 1)
        assert strength[k].sum() == pytest.approx(strength[k][3, 1], rel=1e-3), "and nothing else counts"


def test_dates_that_are_not_there_bring_nothing() -> None:
    lens, made = _network(), _made()
    for method in (gradients, integrated_gradients):
        found = method(lens, made, season(made)).values
        assert not found[2, 1].any()
        assert not found[4, [0, 3]].any()
        assert found[0].any()


def test_a_plane_that_is_missing_on_a_valid_date_brings_nothing() -> None:
    """Radar is missing in the first example, the optical bands are there: the date is valid."""
    weight = np.zeros((2, DATES, BANDS))
    weight[1] = 1.0
    grouped = NORMAL.model_copy(update={"groups": ("optical", "optical", "radar")})
    values = np.full((2, DATES, BANDS), 1.0)
    made = examples(values, np.array([1, 1]))
    made.batch.x[0, 2, 2] = 0
    lens = Lens(Linear(weight), grouped)
    for method in (gradients, integrated_gradients):
        found = method(lens, made, season(made)).values
        expected = np.ones((DATES, BANDS))
        np.testing.assert_allclose(found[1], expected, atol=1e-4)
        expected[2, 2] = 0
        np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_log_odds_are_those_of_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mine = torch.zeros(4, 2, 2, dtype=torch.bool)
    mine[:, 0] = True
    of = torch.tensor([0, 2, 1, 1])
    share = logits.softmax(dim=1)[torch.arange(4), of]
    expected = (share / (1 - share)).log()[:, 0].mean(dim=1)
    torch.testing.assert_close(log_odds(logits, mine, of), expected)
