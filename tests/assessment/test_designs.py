from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.assessment.designs import (
    allocate,
    clusters_for,
    deviations,
    expected,
    size_for_overall,
    size_for_share,
)
from engine.assessment.stratified import accuracy
from engine.assessment.types import Sample, Stratum
from engine.values.errors import InputError

OLOFSSON = [200_000, 150_000, 3_200_000, 6_450_000]
"""Pixels of the example of Olofsson et al. 2014, section 5."""


def test_the_sample_size_of_olofsson_2014() -> None:
    assert size_for_overall(OLOFSSON, [0.7, 0.6, 0.9, 0.95], 0.01) == 641


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=6),
    st.integers(0, 900),
    st.sampled_from(["equal", "proportional", "neyman", "rare"]),
)
def test_an_allocation_keeps_to_its_bounds(pixels: list[int], more: int, rule: str) -> None:
    least = sum(min(p, 2) for p in pixels)
    n = least + more
    accuracies = [0.5 + 0.4 * (i % 2) for i in range(len(pixels))]
    if not sum(pixels):
        with pytest.raises(InputError, match="too few points"):
            allocate(pixels, n, rule, accuracies=accuracies)
        return
    found = allocate(pixels, n, rule, accuracies=accuracies, rare_points=2)
    assert sum(found) == min(n, sum(pixels))
    assert all(min(p, 2) <= f <= p for p, f in zip(pixels, found, strict=True))


def test_rules_are_what_they_say() -> None:
    assert allocate(OLOFSSON, 640, "equal") == [160] * 4
    assert allocate(OLOFSSON, 641, "proportional") == [13, 10, 205, 413]
    assert allocate([10, 10**6, 10**6], 100, "equal") == [10, 45, 45]
    # Cochran 1977, equation 5.26: n_h = n N_h S_h / sum N_h S_h
    size, s = np.array([1000.0, 3000.0]), deviations([0.5, 0.9])
    share = size * s / (size @ s)
    assert allocate([1000, 3000], 1000, "neyman", accuracies=[0.5, 0.9]) == np.round(1000 * share).tolist()
    assert allocate(OLOFSSON, 641, "rare", rare_points=50)[:2] == [50, 50]
    with pytest.raises(InputError, match="rare strata alone"):
        allocate(OLOFSSON, 100, "rare")
    with pytest.raises(InputError, match="Neyman's allocation needs"):
        allocate(OLOFSSON, 641, "neyman")
    with pytest.raises(InputError, match="too few points"):
        allocate(OLOFSSON, 7, "equal")
    with pytest.raises(InputError, match="unknown rule"):
        allocate(OLOFSSON, 100, "best")  # type: ignore[arg-type]


def test_the_size_for_an_error_gives_that_error() -> None:
    pixels, accuracies = [20_000, 80_000], [0.7, 0.95]
    n = size_for_overall(pixels, accuracies, 0.012)
    points = allocate(pixels, n, "neyman", accuracies=accuracies)
    promised = expected(pixels, [[0.7, 0.3], [0.05, 0.95]], points)
    assert promised.overall == pytest.approx(0.012, rel=0.01)
    p, n = 0.8, size_for_share(0.8, 0.04, 5000)
    assert 1.96 * np.sqrt(p * (1 - p) / n * (5000 - n) / 4999) == pytest.approx(0.04, rel=0.005)
    assert size_for_share(0.5, 0.01, 40) == 40
    assert clusters_for(400, 8, 0.2) == 120


def test_what_a_design_promises_is_what_its_sample_says() -> None:
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    n = counts.sum(axis=1)
    row, column = np.indices(counts.shape)
    mapped, truth = (np.repeat(v.ravel() + 1, counts.ravel()) for v in (row, column))
    strata = [Stratum(str(i), p, p * 0.09, mapped=i + 1) for i, p in enumerate(OLOFSSON)]
    found = accuracy(Sample.of(strata, mapped - 1, mapped, truth))
    promised = expected(OLOFSSON, counts / n[:, None], n.tolist())
    assert promised.overall == pytest.approx(found.overall.standard_error)
    for told, figures in (
        ("users", found.users),
        ("producers", found.producers),
        ("areas", found.area_shares),
    ):
        assert getattr(promised, told) == pytest.approx([e.standard_error for e in figures.values()])


def test_errors() -> None:
    with pytest.raises(InputError, match="is a share"):
        deviations([1.2])
    with pytest.raises(InputError, match="cannot aim"):
        size_for_overall([5, 5], [0.5, 0.5], 0)
    with pytest.raises(InputError, match="cannot aim"):
        size_for_share(0.5, 0, 10)
    with pytest.raises(InputError, match="not a design of clusters"):
        clusters_for(10, 0, 0.1)
    with pytest.raises(InputError, match="too few points"):
        expected([5, 5], np.eye(2), [1, 5])
    with pytest.raises(InputError, match="not shares"):
        expected([5, 5], [[0.5, 0.4], [0, 1]], [3, 3])
