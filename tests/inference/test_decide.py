"""Layers from exact sums, against plain numpy in floats and whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.inference.decide import Layers, decide
from engine.inference.heads import fixed_point
from engine.values.errors import InputError
from engine.values.head import ONE_CLASS, VALUE_NO_DATA, MultiLabel, Values

WEIGHTS = np.array([[255, 1020], [700, 0]], np.int32)


def sums_of(p_KHW: np.ndarray) -> np.ndarray:
    """Sums as if every window had answered `p_KHW`; all pixels have data."""
    fixed = np.rint(p_KHW * 65535).astype(np.int64) * WEIGHTS
    return np.concatenate([fixed, np.ones((1, *WEIGHTS.shape))]).astype(np.int32)


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_layers_of_classes_are_what_their_formulas_say(k: int, seed: int) -> None:
    p_KHW = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), (2, 2)).transpose(2, 0, 1)
    layers = Layers(ONE_CLASS, tuple(range(10, 10 + k)), ("margin", "entropy", "probability"))
    packed = decide(sums_of(p_KHW), WEIGHTS, layers)
    found = {n: packed[s][..., :1, :].astype(float) for n, s in layers.slices.items()}
    p = p_KHW[:, :1]
    top = np.sort(p, axis=0)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(0) / np.log(k)
    np.testing.assert_array_equal(found["label"][0], 10 + p.argmax(0))
    np.testing.assert_allclose(found["confidence"][0], 250 * p.max(0), atol=0.51)
    np.testing.assert_allclose(found["probability"], 250 * p, atol=0.51)
    np.testing.assert_allclose(found["entropy"][0], 250 * entropy, atol=0.55)
    np.testing.assert_allclose(found["margin"][0], 250 * (top[-1] - top[-2]), atol=0.51)
    assert packed[:, 1, 1].tolist() == [0, *[255] * (packed.shape[0] - 1)], "no window answered"


def test_certain_and_undecided_pixels_reach_the_ends_of_the_scales() -> None:
    p_KHW = np.zeros((4, 2, 2))
    p_KHW[2, 0, 0] = 1.0
    p_KHW[:, 0, 1] = 0.25
    layers = Layers(ONE_CLASS, (1, 2, 3, 4), ("entropy", "margin"))
    packed = decide(sums_of(p_KHW), WEIGHTS, layers)
    assert packed[:, 0, 0].tolist() == [3, 250, 0, 250]
    assert packed[:, 0, 1].tolist() == [1, 63, 250, 0], "a tie goes to the lowest class"


@given(st.floats(-40, 60), st.floats(0.5, 90), st.integers(0, 2**32 - 1))
def test_values_come_back_within_half_a_step(low: float, width: float, seed: int) -> None:
    head = Values(variable="height", low=low, high=low + width, unit="m")
    wanted = np.random.default_rng(seed).uniform(low, low + width, (3, 2, 2)).astype(np.float32)
    fixed = fixed_point(torch.from_numpy(wanted), head=head).numpy()
    sums = np.concatenate([fixed * WEIGHTS.astype(np.int64), np.ones((1, 2, 2))]).astype(np.int32)
    stored = decide(sums, WEIGHTS, Layers(head, (1, 2, 3)))
    assert stored.dtype == np.int16
    assert (stored[:, 1, 1] == VALUE_NO_DATA).all()
    np.testing.assert_allclose(stored[:, 0] * head.step + head.offset, wanted[:, 0], atol=head.step)


def test_values_beyond_the_range_are_clipped() -> None:
    head = Values(variable="height", low=0.0, high=30.0)
    fixed = fixed_point(torch.tensor([-5.0, 0.0, 15.0, 30.0, 99.0]).reshape(5, 1, 1), head=head)
    assert fixed.flatten().tolist() == [0, 0, 32767, 65534, 65534]


def test_each_label_of_many_has_its_own_probability() -> None:
    logits_KHW = torch.tensor([[-3.0, 0.0, 2.0, 9.0]]).T.reshape(4, 1, 1).repeat(1, 2, 2)
    fixed = fixed_point(logits_KHW, temperature=2.0, head=MultiLabel()).numpy()
    expected = 1 / (1 + np.exp(-logits_KHW.numpy() / 2.0))
    np.testing.assert_allclose(fixed / 65535, expected, atol=1e-5)
    given = fixed_point(torch.from_numpy(expected), temperature=1.0, given="probabilities", head=MultiLabel())
    np.testing.assert_allclose(given.numpy() / 65535, expected, atol=1e-5)
    layers = Layers(MultiLabel(), (1, 2, 3, 4))
    packed = decide(sums_of(expected), WEIGHTS, layers)
    assert layers.slices == {"probability": slice(0, 4)}
    np.testing.assert_allclose(packed[:, 0], 250 * expected[:, 0], atol=0.51)
    assert (packed[:, 1, 1] == 255).all()


@pytest.mark.parametrize(
    ("head", "extra"), [(Values(variable="height", low=0, high=1), "entropy"), (MultiLabel(), "margin")]
)
def test_layers_that_a_model_cannot_give_are_refused(head: object, extra: str) -> None:
    with pytest.raises(InputError, match="no such layer"):
        Layers(head, (1, 2), (extra,))  # type: ignore[arg-type]
