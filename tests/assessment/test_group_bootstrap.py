"""The bootstrap by groups: its figures without drawing, its spread against the textbook, its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from engine.assessment.group_bootstrap import group_bootstrap
from engine.assessment.stratified import accuracy
from engine.assessment.types import Sample, Stratum
from engine.values.errors import InputError


def a_sample(seed: int, n: int = 240) -> Sample:
    rng = np.random.default_rng(seed)
    stratum = np.arange(n) % 2
    reference = np.where(rng.random(n) < 0.8, stratum + 1, 2 - stratum)
    strata = [Stratum("a", 90_000, 900.0, mapped=1), Stratum("b", 10_000, 100.0, mapped=2)]
    return Sample.of(strata, stratum, stratum + 1, reference)


def test_values_are_those_of_the_estimator_and_points_spread_as_formulas_say() -> None:
    sample = a_sample(1)
    found = group_bootstrap(sample, np.arange(len(sample)), (1, 2), replicates=1500, seed=2)
    expected = accuracy(sample)
    for own, theirs in (
        (found["overall"], expected.overall),
        (found["users"][1], expected.users[1]),
        (found["producers"][2], expected.producers[2]),
        (found["iou"][2], expected.iou[2]),
        (found["area_shares"][2], expected.area_shares[2]),
    ):
        assert own.value == pytest.approx(theirs.value)
        assert own.standard_error == pytest.approx(theirs.standard_error, rel=0.1)


def test_points_that_say_the_same_in_a_group_spread_more() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 10)
    right = np.repeat(rng.random(40) < 0.8, 10)
    sample = Sample.of(
        [Stratum("all", 10_000, 100.0)], np.zeros(400, int), np.ones(400), np.where(right, 1, 2)
    )
    told = group_bootstrap(sample, group, (1, 2), replicates=1000)
    share = right.mean()
    assert told["overall"].standard_error == pytest.approx(np.sqrt(share * (1 - share) / 40), rel=0.1)
    assert told["groups"] == 40
    few = group_bootstrap(sample, group // 4, (1, 2), replicates=20)
    assert few["overall"].note == "only 10 groups: likely too narrow"


def test_one_group_cannot_be_drawn_from() -> None:
    with pytest.raises(InputError, match="too little to draw from"):
        group_bootstrap(a_sample(1), np.zeros(240), (1, 2))
