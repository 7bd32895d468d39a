"""A layer of amounts in ten steps."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.products.amounts import into_steps


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-6, 1.0, 1e5]))
def test_steps_follow_the_amounts_and_leave_no_pixel_out(seed: int, share: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    amounts = 7 + spread * rng.normal(size=(20, 30))
    valid = rng.random((20, 30)) < share
    steps = into_steps(amounts, valid, " m")
    assert ((steps.label > 0) == valid).all()
    assert sum(steps.counts.values()) == 600
    order = np.argsort(amounts[valid])
    assert (np.diff(steps.label[valid][order].astype(int)) >= 0).all()
    assert len(steps.scheme.classes) == 10


def test_equal_steps_hold_equal_shares_of_an_even_range() -> None:
    steps = into_steps(np.linspace(0, 100, 1001)[None], np.ones((1, 1001), bool))
    assert [steps.counts[i] for i in range(2, 10)] == [96] * 8
    assert steps.counts[1] == steps.counts[10] + 1 or steps.counts[1] in range(115, 118)
