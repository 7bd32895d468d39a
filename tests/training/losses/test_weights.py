"""Weights of classes: rare ones more, within a limit."""

from __future__ import annotations

import numpy as np
import pytest

from engine.values.errors import InputError
from training.losses import WeightKind, class_weights


def test_class_weights_favour_the_rare_within_a_limit() -> None:
    weights = class_weights(np.array([1_000_000, 10_000, 1, 0]))
    assert weights[0] < weights[1] < weights[2]
    assert weights[3] == 0
    assert class_weights(np.r_[np.full(20, 10**8), 1]).max() == 5.0


def test_effective_number_matches_its_definition() -> None:
    counts, beta = np.array([3, 2000, 10**6]), 0.999
    effective = np.array([sum(beta**i for i in range(n)) for n in (3, 2000)])
    found = class_weights(counts, "effective", limit=100, beta=beta)
    np.testing.assert_allclose(found[0] / found[1], effective[1] / effective[0], rtol=1e-5)
    np.testing.assert_allclose(found[1] / found[2], (1 / effective[1]) / (1 - beta), rtol=1e-5)


@pytest.mark.parametrize("kind", ["root", "inverse", "effective"])
def test_weights_rise_with_rarity_are_capped_and_skip_absent_classes(kind: WeightKind) -> None:
    counts = np.array([10**6, 5000, 0, 40, 2])
    free = class_weights(counts, kind, limit=1e9)
    assert free[2] == 0
    assert free[0] < free[1] < free[3] <= free[4]
    np.testing.assert_allclose(free[counts > 0].mean(), 1, rtol=1e-5)
    np.testing.assert_array_equal(class_weights(counts, kind, limit=1.5), np.minimum(free, np.float32(1.5)))


def test_beta_spans_from_no_weights_to_the_inverse() -> None:
    counts = np.array([10, 300, 7000])
    np.testing.assert_allclose(class_weights(counts, "effective", beta=0.0), 1)
    inverse = class_weights(counts, "inverse", limit=100)
    np.testing.assert_allclose(class_weights(counts, "effective", 100, beta=1 - 1e-9), inverse, rtol=1e-4)


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no class weights"):
        class_weights(np.array([0, 0]))
    with pytest.raises(InputError, match="beta 1"):
        class_weights(np.array([1]), "effective", beta=1)
