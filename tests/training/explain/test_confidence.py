"""Histograms of the confidence add up to the pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.explain.confidence import confidence
from training.explain.lens import Answers


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_every_pixel_is_counted_once_under_the_class_that_is_said(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    truth = rng.integers(0, 4, 50)
    found = confidence(Answers(truth, share), bins)
    said = share.argmax(axis=1)
    for k in range(4):
        assert found.right[k].sum() == ((said == k) & (truth == k)).sum()
        assert found.wrong[k].sum() == ((said == k) & (truth != k)).sum()
    low = share.max(axis=1) <= found.edges[1]
    assert found.right[:, 0].sum() + found.wrong[:, 0].sum() == low.sum()


def test_full_confidence_lies_in_the_last_bin() -> None:
    found = confidence(Answers(np.array([0, 1]), np.array([[1, 0], [1, 0]], np.float32)))
    assert (found.right[0, -1], found.wrong[0, -1]) == (1, 1)
