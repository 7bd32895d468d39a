"""Recurrent networks, against the written-out recurrences in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.models.registry import build
from tests.models.conformance import Case, NetworkConformance


class TestConformance(NetworkConformance):
    @pytest.fixture(
        params=[("lstm", {}), ("gru", {"bidirectional": True, "layers": 2}), ("atlstm", {})],
        ids=lambda p: p[0],
    )
    def case(self, request: pytest.FixtureRequest) -> Case:
        name, more = request.param
        return Case(name, {"width": 16, **more}, rate=2e-2)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _weights(layer: torch.nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in layer.parameters()]


def _lstm(layer: torch.nn.Module, series: np.ndarray) -> np.ndarray:
    """States after each date: input, forget, cell and output gate stand in this order."""
    w_in, w_state, b_in, b_state = _weights(layer)
    state = cell = np.zeros(w_state.shape[1])
    states = []
    for x in series:
        i, f, g, o = np.split(w_in @ x + b_in + w_state @ state + b_state, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        state = _sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.array(states)


def _gru(layer: torch.nn.Module, series: np.ndarray) -> np.ndarray:
    """States after each date: reset, update and new gate stand in this order."""
    w_in, w_state, b_in, b_state = _weights(layer)
    state, states = np.zeros(w_state.shape[1]), []
    for x in series:
        (r_in, z_in, n_in), (r, z, n) = np.split(w_in @ x + b_in, 3), np.split(w_state @ state + b_state, 3)
        update = _sigmoid(z_in + z)
        state = (1 - update) * np.tanh(n_in + _sigmoid(r_in + r) * n) + update * state
        states.append(state)
    return np.array(states)


DAYS = np.array([390.0, 40, 0, 130, 75])


def _made_up() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """One pixel of five dates, out of order, one absent and one without data; its valid series in order of time."""
    x_TC = np.random.default_rng(0).normal(size=(5, 3))
    valid_T = np.array([1.0, 1, 0, 1, 0])
    x_TC *= valid_T[:, None]
    kept = [1, 3, 0]
    angle = 2 * np.pi * DAYS[kept, None] / 366 * [1, 2]
    series = np.concatenate([x_TC[kept], np.sin(angle), np.cos(angle)], axis=1)
    return (
        torch.tensor(x_TC)[None, ..., None, None].float(),
        torch.tensor(valid_T)[None, :, None, None].float(),
        series,
    )


@pytest.mark.parametrize(("name", "states_of"), [("lstm", _lstm), ("gru", _gru)])
@pytest.mark.parametrize("both", [False, True], ids=["onward", "both ways"])
def test_the_features_are_the_last_states_of_the_written_out_recurrence(
    name: str, states_of: Callable[..., np.ndarray], both: bool
) -> None:
    torch.manual_seed(0)
    config = {"n_bands": 3, "n_classes": 2, "width": 4, "layers": 2, "bidirectional": both}
    net = build(name, config).eval()
    x_BTCHW, valid_BTHW, series = _made_up()
    with torch.no_grad():
        found = net.features(x_BTCHW, valid_BTHW, torch.tensor(DAYS))[0, :, 0, 0].numpy()
    for layer in net.states.layers:
        onward = states_of(layer.onward, series)
        back = [states_of(layer.back, series[::-1])[::-1]] if both else []
        series = np.concatenate([onward, *back], axis=1)
    expected = np.concatenate([onward[-1], *(b[0] for b in back)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_weighs_the_states_of_all_valid_dates() -> None:
    torch.manual_seed(0)
    net = build("atlstm", {"n_bands": 3, "n_classes": 2, "width": 4}).eval()
    x_BTCHW, valid_BTHW, series = _made_up()
    days = torch.tensor(DAYS)
    with torch.no_grad():
        features = net.features(x_BTCHW, valid_BTHW, days)[0, :, 0, 0].numpy()
        weights = net.attention(x_BTCHW, valid_BTHW, days)[0, 0, :, 0, 0].numpy()
    (layer,) = net.states.layers
    states = np.concatenate([_lstm(layer.onward, series), _lstm(layer.back, series[::-1])[::-1]], axis=1)
    matrix, bias, query = _weights(net.score)
    scores = np.exp(np.tanh(states @ matrix.T + bias) @ query[0])
    np.testing.assert_allclose(weights[[1, 3, 0]], scores / scores.sum(), atol=1e-5)
    assert not weights[[2, 4]].any()
    np.testing.assert_allclose(features, (scores / scores.sum()) @ states, atol=1e-5)
