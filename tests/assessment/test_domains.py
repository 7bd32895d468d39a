from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from engine.assessment.domains import NOT_KNOWN, by_part, by_region, graded
from engine.assessment.stratified import accuracy
from engine.assessment.types import Sample, Stratum
from engine.values.errors import InputError


def test_a_part_is_estimated_with_all_points() -> None:
    """Over all samples of a small population the estimated hectares of a part have no bias, nor has their variance."""
    truth, mapped = np.array([1, 1, 2, 1, 2, 2, 1]), np.array([1, 2, 2, 1, 1, 2, 2])
    part = np.array(["n", "n", "s", "s", "s", "n", ""])
    found = []
    for at in map(list, combinations(range(7), 4)):
        s = Sample.of([Stratum("all", 7, 7.0)], [0] * 4, mapped[at], truth[at])
        found.append(by_part(s, part[at], (1, 2)))
    hectares = [f["n"].areas_ha[1] if "n" in f else None for f in found]
    values = np.array([0 if e is None else e.value for e in hectares])
    assert values.mean() == pytest.approx(2.0)
    errors = [0 if e is None else e.standard_error**2 for e in hectares]
    assert np.mean(errors) == pytest.approx(values.var())


def test_the_parts_together_are_the_whole() -> None:
    rng = np.random.default_rng(3)
    s = Sample.of(
        [Stratum("a", 1000, 10.0), Stratum("b", 4000, 40.0)],
        np.repeat([0, 1], 60),
        rng.integers(1, 4, 120),
        rng.integers(1, 4, 120),
        region=rng.choice(["n", "s"], 120),
    )
    parts, whole = by_region(s), accuracy(s)
    for c in whole.classes:
        together = sum(p.areas_ha[c].value for p in parts.values())
        assert together == pytest.approx(whole.areas_ha[c].value)
    assert sum(p.counts for p in parts.values()).tolist() == whole.counts.tolist()
    assert all(p.shares.sum() == pytest.approx(1) for p in parts.values())
    north = s.where(s.region == "n")
    right = (north.mapped == north.reference).astype(float)
    weight = np.array([1000 / 60, 4000 / 60])[north.stratum]
    assert parts["n"].overall.value == pytest.approx(np.average(right, weights=weight))


def test_grades() -> None:
    assert graded([0, 1, 2, 3, 4, -1, np.nan], [0, 2, 4]).tolist() == [
        *["0 to 2"] * 2,
        *["2 to 4"] * 3,
        NOT_KNOWN,
        NOT_KNOWN,
    ]
    with pytest.raises(InputError, match="must rise"):
        graded([1], [2, 2])


def test_errors() -> None:
    s = Sample.of([Stratum("a", 9, 9.0)], [0, 0], [1, 1], [1, 2])
    with pytest.raises(InputError, match="no regions"):
        by_region(s)
    with pytest.raises(InputError, match="differ in number"):
        by_part(s, ["n"])
    nothing = accuracy(replace(s, reference=np.array([1, 0])), inside_N=np.array([False, True]))
    assert nothing.overall.value is None
    assert nothing.unanswered == 1
