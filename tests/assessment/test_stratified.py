"""Estimators against all samples that a small population can give, textbooks' formulas, and the bootstrap."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score, precision_score, recall_score

from engine.assessment.bootstrap import resampled
from engine.assessment.draw import Drawing
from engine.assessment.poststrata import poststratified
from engine.assessment.stratified import accuracy
from engine.assessment.types import Sample, Stratum
from engine.assessment.variance import Weighing
from engine.values.errors import InputError
from engine.values.grid import Box


def test_all_samples_of_strata_together_are_the_population() -> None:
    """Mean of the estimates = the truth, mean of the squared errors = their variance: both without bias."""
    truth = np.array([1, 1, 2, 1, 2, 2, 1, 2, 2])
    mapped = np.array([1, 2, 2, 1, 1, 2, 2, 2, 2])
    strata = [Stratum("a", 4, 40.0), Stratum("b", 5, 50.0)]
    overall, area = [], []
    for a, b in product(combinations(range(4), 2), combinations(range(4, 9), 3)):
        at = [*a, *b]
        found = accuracy(Sample.of(strata, [0, 0, 1, 1, 1], mapped[at], truth[at]))
        overall.append(found.overall)
        area.append(found.areas_ha.get(1) or found.areas_ha[2].scaled(0))
    for estimates, value in ((overall, (truth == mapped).mean()), (area, 10 * (truth == 1).sum())):
        values = np.array([e.value for e in estimates])
        assert values.mean() == pytest.approx(value)
        assert np.mean([e.standard_error**2 for e in estimates]) == pytest.approx(values.var())


def test_all_samples_of_clusters_together_are_the_population() -> None:
    truth = np.array([[1, 1, 2], [1, 1, 1], [2, 2, 1], [2, 2, 2]])
    mapped = np.array([[1, 1, 1], [1, 2, 1], [2, 2, 2], [2, 1, 2]])
    strata = [Stratum("all", 12, 1.2, clusters=4)]
    estimates = []
    for pair in combinations(range(4), 2):
        for a, b in product(combinations(range(3), 2), repeat=2):
            at = (np.repeat(pair, 2), np.array([*a, *b]))
            sample = Sample.of(
                strata, [0] * 4, mapped[at], truth[at], cluster=np.repeat(pair, 2), cluster_pixels=[3] * 4
            )
            estimates.append(accuracy(sample).overall)
    values = np.array([e.value for e in estimates])
    assert values.mean() == pytest.approx((truth == mapped).mean())
    assert np.mean([e.standard_error**2 for e in estimates]) == pytest.approx(values.var())


def test_clusters_of_one_point_are_as_points_drawn_with_replacement() -> None:
    rng = np.random.default_rng(2)
    mapped, truth = rng.integers(1, 3, 60), rng.integers(1, 3, 60)
    clustered = Sample.of(
        [Stratum("all", 10**6, 1e4, clusters=10**4)],
        [0] * 60,
        mapped,
        truth,
        cluster=np.arange(60),
        cluster_pixels=[100] * 60,
    )
    single = Sample.of([Stratum("all", 10**12, 1e4)], [0] * 60, mapped, truth)
    a, b = accuracy(clustered), accuracy(single)
    assert a.overall.standard_error == pytest.approx(b.overall.standard_error)
    assert a.areas_ha[1].value == pytest.approx(b.areas_ha[1].value)
    assert a.producers[2].standard_error == pytest.approx(b.producers[2].standard_error)


def of_random(seed: int, n: int = 300, classes: int = 3) -> Sample:
    rng = np.random.default_rng(seed)
    mapped = rng.integers(1, classes + 1, n)
    truth = np.where(rng.random(n) < 0.7, mapped, rng.integers(1, classes + 1, n))
    return Sample.of([Stratum("all", 10**9, 1e7)], [0] * n, mapped, truth)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_a_simple_sample_agrees_with_scikit_learn(seed: int) -> None:
    s = of_random(seed)
    found = accuracy(s, with_kappa=True)
    told = {"users": precision_score, "producers": recall_score, "f1": f1_score, "iou": jaccard_score}
    for name, score in told.items():
        mine = [e.value for e in getattr(found, name).values()]
        np.testing.assert_allclose(mine, score(s.reference, s.mapped, average=None, labels=found.classes))
    assert found.kappa.value == pytest.approx(cohen_kappa_score(s.reference, s.mapped))
    share = found.users[1].value
    # Cochran 1977, section 6.5: the ratio of two counts, linearised
    expected = np.sqrt(share * (1 - share) / found.users[1].n * len(s) / (len(s) - 1))
    assert found.users[1].standard_error == pytest.approx(expected, rel=1e-6)


def test_errors_of_all_figures_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(8)
    strata = [Stratum("a", 10**8, 1e6, mapped=1), Stratum("b", 9 * 10**8, 9e6, mapped=2)]
    stratum = np.repeat([0, 1], [150, 300])
    truth = np.where(rng.random(450) < np.where(stratum == 0, 0.75, 0.92), stratum + 1, 2 - stratum)
    s = Sample.of(strata, stratum, stratum + 1, truth)
    found, drawn = accuracy(s, with_kappa=True), resampled(s, replicates=4000, seed=1)
    for name in ("users", "producers", "f1", "iou", "area_shares"):
        for c, estimate in getattr(found, name).items():
            again = getattr(drawn, name)[c]
            assert again.value == pytest.approx(estimate.value)
            assert again.standard_error == pytest.approx(estimate.standard_error, rel=0.08), name
    assert drawn.overall.standard_error == pytest.approx(found.overall.standard_error, rel=0.08)
    assert drawn.overall.low == pytest.approx(found.overall.low, abs=0.01)
    kappas = _kappas_by_hand(s, 2000)
    assert found.kappa.standard_error == pytest.approx(kappas.std(), rel=0.08)


def _kappas_by_hand(s: Sample, replicates: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    parts = [np.flatnonzero(s.stratum == h) for h in (0, 1)]
    found = []
    for _ in range(replicates):
        at = np.concatenate([rng.choice(p, len(p)) for p in parts])
        weights = np.array([10**8 / 150, 9 * 10**8 / 300])[s.stratum[at]]
        joint = np.bincount(2 * s.mapped[at] + s.reference[at] - 3, weights, 4).reshape(2, 2) / 10**9
        chance = joint.sum(axis=0) @ joint.sum(axis=1)
        found.append((np.trace(joint) - chance) / (1 - chance))
    return np.array(found)


def test_a_part_of_clusters_is_drawn_whole() -> None:
    """All points of a cluster say the same: the bootstrap sees clusters, not points."""
    s = Sample.of(
        [Stratum("all", 10**6, 1e4, clusters=10**4)],
        [0] * 400,
        np.ones(400, int),
        np.repeat(np.random.default_rng(0).integers(1, 3, 40), 10),
        cluster=np.repeat(np.arange(40), 10),
        cluster_pixels=[100] * 400,
    )
    p = accuracy(s).overall
    assert resampled(s, replicates=4000).overall.standard_error == pytest.approx(p.standard_error, rel=0.05)
    assert p.standard_error == pytest.approx(np.sqrt(p.value * (1 - p.value) / 39), rel=0.01)


def test_poststrata_are_the_strata_of_the_map() -> None:
    s = of_random(4)
    totals = {1: (2 * 10**8, 2e6), 2: (3 * 10**8, 3e6), 3: (5 * 10**8, 5e6)}
    found = accuracy(poststratified(s, totals, {1: "one"}))
    strata = [Stratum(str(c), *totals[c], mapped=c) for c in totals]
    direct = accuracy(Sample.of(strata, s.mapped - 1, s.mapped, s.reference))
    assert found.areas_ha == direct.areas_ha
    assert found.shares.sum(axis=1) == pytest.approx([0.2, 0.3, 0.5])
    with pytest.raises(InputError, match="totals lack classes"):
        poststratified(s, {1: (1, 1.0)})
    with pytest.raises(InputError, match="only a simple random sample"):
        poststratified(Sample.of(strata, s.mapped - 1, s.mapped, s.reference), totals)


def test_what_cannot_be_said_is_not_said() -> None:
    strata = [
        Stratum("a", 1000, 10.0, mapped=1),
        Stratum("b", 100, 1.0, mapped=2),
        Stratum("c", 50, 0.5, mapped=3),
    ]
    s = Sample.of(strata, [0, 0, 0, 0, 1], [1, 1, 1, 1, 2], [1, 1, 2, 0, 2])
    found = accuracy(s, (1, 2, 3))
    assert found.unanswered == 1
    assert found.notes == ("no answered point in c (4.3% of the area): the estimates speak of the rest",)
    assert found.users[3].value is None
    assert found.users[3].note == "no point to estimate from"
    # the single point of b says nothing of its variance, but b cannot move the user's accuracy of 1
    assert found.users[1].standard_error == pytest.approx(np.sqrt(2 / 9 / 2 * (1 - 3 / 1000)))
    assert found.users[2].value == 1
    assert found.users[2].standard_error is None
    assert "one point only in b" in found.users[2].note
    assert found.overall.standard_error is None
    assert found.overall.low is None
    assert found.areas_ha[1].value == pytest.approx(2 / 3 * 10)


def test_points_that_all_agree_do_not_prove_perfection() -> None:
    strata = [Stratum("a", 10**6, 10.0, mapped=1), Stratum("b", 10**6, 10.0, mapped=2)]
    s = Sample.of(strata, [0] * 50 + [1] * 25, [1] * 50 + [2] * 25, [1] * 50 + [2] * 25)
    found = accuracy(s)
    z2 = 1.959964**2
    assert (found.users[1].value, found.users[1].high) == (1, 1)
    assert found.users[1].low == pytest.approx(50 / (50 + z2), rel=1e-6)
    # 0 of 25 omitted in b, each of which stands for twice as much as a point of a
    assert found.producers[1].low == pytest.approx(25 / (25 + z2), rel=1e-6)
    assert found.area_shares[1].value == pytest.approx(0.5)
    assert found.area_shares[1].standard_error == 0
    assert found.area_shares[1].low is None
    assert "no two points" in found.area_shares[1].note


def test_a_census_has_no_error() -> None:
    s = Sample.of([Stratum("a", 3, 3.0)], [0, 0, 0], [1, 1, 2], [1, 2, 2])
    assert accuracy(s).overall.standard_error == 0
    assert accuracy(s).overall.low == accuracy(s).overall.high == pytest.approx(2 / 3)


def test_clusters_must_be_told_in_full() -> None:
    s = Sample.of([Stratum("a", 3, 3.0)], [0, 0], [1, 1], [1, 2], cluster=[0, 1])
    with pytest.raises(InputError, match="clusters without sizes"):
        accuracy(s)
    s = Sample.of([Stratum("a", 3, 3.0)], [0, 0], [1, 1], [1, 2], cluster=[0, 1], cluster_pixels=[1, 1])
    with pytest.raises(InputError, match="number of clusters"):
        accuracy(s)
    with pytest.raises(InputError, match="no point has an answer"):
        accuracy(Sample.of([Stratum("a", 3, 3.0)], [0], [1], [0]))


def test_weights_say_what_strata_say_where_chances_are_equal() -> None:
    s = of_random(7)
    weighted = replace(s, weight=np.full(len(s), 10**9 / len(s)))
    a, b = accuracy(s, with_kappa=True), accuracy(weighted, with_kappa=True)
    for name in ("users", "producers", "f1", "iou", "areas_ha"):
        for c, estimate in getattr(a, name).items():
            assert getattr(b, name)[c].value == pytest.approx(estimate.value)
            assert getattr(b, name)[c].standard_error == pytest.approx(estimate.standard_error, rel=1e-6)
    assert b.kappa.standard_error == pytest.approx(a.kappa.standard_error, rel=1e-6)


def test_unequal_chances_are_undone_by_weights() -> None:
    """Points drawn with replacement with chances p: the mean over all draws is the truth (Hansen and Hurwitz 1943)."""
    truth, mapped = np.array([1, 2, 2, 1]), np.array([1, 2, 1, 2])
    chance = np.array([0.1, 0.2, 0.3, 0.4])
    values, errors, share = [], [], []
    for at in map(list, product(range(4), repeat=3)):
        s = Sample.of([Stratum("all", 4, 4.0)], [0] * 3, mapped[at], truth[at], weight=1 / (3 * chance[at]))
        w = Weighing.of(s)
        values.append(w.total(truth[at] == 1))
        errors.append(w.spread((w.sample.reference == 1).astype(float)).variance)
        share.append(chance[at].prod())
    assert np.dot(values, share) == pytest.approx(2.0)
    assert np.dot(errors, share) == pytest.approx(np.dot(np.square(values), share) - 4)
    with pytest.raises(InputError, match="stands for some pixels"):
        accuracy(replace(of_random(1), weight=np.zeros(300)))


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.01, 1000))
def test_neither_order_nor_names_nor_units_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    strata = [Stratum("a", 900, 9.0), Stratum("b", 300, 3.0), Stratum("c", 60, 0.6)]
    stratum, mapped, truth = rng.integers(0, 3, 50), rng.integers(1, 4, 50), rng.integers(1, 4, 50)
    order = rng.permutation(50)
    larger = [replace(s, hectares=s.hectares * scale) for s in strata]
    renamed = np.array([0, 7, 3, 5])
    a = accuracy(Sample.of(strata, stratum, mapped, truth), (1, 2, 3))
    b = accuracy(Sample.of(larger, stratum[order], renamed[mapped[order]], renamed[truth[order]]), (7, 3, 5))
    for c in (1, 2, 3):
        for one, two in (
            (a.users, b.users),
            (a.producers, b.producers),
            (a.iou, b.iou),
            (a.areas_ha, b.areas_ha),
        ):
            x, y = one[c], two[int(renamed[c])]
            x = x.scaled(scale) if one is a.areas_ha else x
            assert (x.n, x.note) == (y.n, y.note)
            told = [(p, q) for p, q in zip(x.as_json().values(), y.as_json().values(), strict=True) if p != q]
            assert all(p == pytest.approx(q, rel=1e-9) for p, q in told)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The quick one of `benchmarks/assessment_coverage.py`: all figures of 300 draws from a map that is known."""
    rng = np.random.default_rng(12)
    mapped = np.repeat([1, 2, 3], [800, 3200, 6000]).astype(np.uint8).reshape(100, 100)
    truth = np.where(rng.random((100, 100)) < 0.8, mapped, rng.integers(1, 4, (100, 100)))
    strata = [Stratum(str(k), n, n * 0.01, mapped=k) for k, n in ((1, 800), (2, 3200), (3, 6000))]
    whole = accuracy(Sample.of(strata, mapped.ravel() - 1, mapped.ravel(), truth.ravel()))
    names, held = ("users", "producers", "f1", "iou", "area_shares"), []
    for seed in range(300):
        drawing = Drawing({1: 0, 2: 1, 3: 2}, [100, 100, 150], seed=seed)
        drawing.offer(mapped, Box(0, 0, 100, 100))
        p = drawing.points()
        found = accuracy(Sample.of(strata, p.stratum, p.mapped, truth[p.row, p.column]), (1, 2, 3))
        pairs = [(getattr(found, n)[k], getattr(whole, n)[k].value) for n in names for k in (1, 2, 3)]
        held.append([e.low <= v <= e.high for e, v in [*pairs, (found.overall, whole.overall.value)]])
    assert 0.94 < np.mean(held) < 0.96
    assert np.mean(held, axis=0).min() > 0.91
