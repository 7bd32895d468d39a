"""Patches: inside the array, around labelled pixels, rare classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.values.errors import InputError
from training.losses import IGNORE
from training.samples import Sampler


def _target() -> np.ndarray:
    target = np.full((120, 150), IGNORE, np.uint8)
    target[20:100, 10:110] = 0
    target[60:64, 60:64] = 1  # rare: 16 pixels of 8000
    return target


@settings(max_examples=40, deadline=None)
@given(crop=st.integers(1, 120), seed=st.integers(0, 99), balance=st.floats(0, 1))
def test_patches_lie_inside_and_hold_a_label(crop: int, seed: int, balance: float) -> None:
    target = _target()
    sampler = Sampler.over(target, 3, crop, balance)
    for y, x in sampler.draw(20, np.random.default_rng(seed)):
        patch = target[y : y + crop, x : x + crop]
        assert patch.shape == (crop, crop)
        assert (patch != IGNORE).any()


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.5), (1.0, 16 / 8000), (0.5, 4 / (4 + 7984**0.5))])
def test_balance_sets_how_often_a_rare_class_is_drawn(balance: float, share: float) -> None:
    sampler = Sampler.over(_target(), 3, 16, balance)
    np.testing.assert_allclose(sampler.class_shares, [1 - share, share, 0], atol=1e-3)


def test_a_rare_class_is_really_in_its_patches() -> None:
    target = _target()
    sampler = Sampler.over(target, 2, 16, 0.0)
    drawn = sampler.draw(400, np.random.default_rng(0))
    hit = np.mean([(target[y : y + 16, x : x + 16] == 1).any() for y, x in drawn])
    assert 0.4 < hit < 0.65


def test_the_same_seed_draws_the_same_patches() -> None:
    sampler = Sampler.over(_target(), 2, 32, 0.5)
    a, b = (sampler.draw(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_nothing_to_draw_from_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no annotated pixel"):
        Sampler.over(np.full((64, 64), IGNORE, np.uint8), 2, 16, 0.5)
    with pytest.raises(InputError, match="smaller than a training patch"):
        Sampler.over(_target(), 2, 128, 0.5)
