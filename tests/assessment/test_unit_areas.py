"""Areas of units put right by a sample: plain arithmetic, published estimators, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from engine.assessment.stratified import accuracy
from engine.assessment.types import Estimate, Sample, Stratum
from engine.assessment.unit_areas import ClassArea, UnitEstimator, points_in
from engine.values.errors import InputError

WHEAT, MAIZE = 1, 2
STRATA = (Stratum("wheat", 6000, 600.0, mapped=1), Stratum("maize", 4000, 400.0, mapped=2))


def _sample(inside_wheat: int = 0) -> Sample:
    """60 points where wheat is mapped, 48 of them right; 40 where maize is, 38 right."""
    stratum = np.repeat([0, 1], [60, 40])
    reference = np.concatenate([np.repeat([1, 2], [48, 12]), np.repeat([2, 1], [38, 2])])
    return Sample.of(STRATA, stratum, stratum + 1, reference)


def test_the_whole_map_as_a_unit_is_what_the_stratified_estimator_says() -> None:
    """Olofsson et al. 2014, equations 9 to 11, are the special case in which the unit is all there is."""
    sample = _sample()
    wanted = accuracy(sample, (WHEAT, MAIZE), kind="t")
    found = UnitEstimator(sample, (WHEAT, MAIZE)).estimate({1: 600.0, 2: 400.0}, np.ones(100, bool))
    for row in found:
        told, plain = row.adjusted, wanted.areas_ha[row.value]
        assert row.method == "assisted"
        assert told is not None
        assert told.value == pytest.approx(plain.value)
        assert told.standard_error == pytest.approx(plain.standard_error)
        assert told.low == pytest.approx(plain.low, rel=1e-6)
        assert told.high == pytest.approx(plain.high, rel=1e-6)


def test_a_unit_without_points_is_synthetic_and_counted_by_hand() -> None:
    found = UnitEstimator(_sample(), (WHEAT, MAIZE)).estimate({1: 30.0, 2: 70.0}, np.zeros(100, bool))
    wheat, maize = found
    assert wheat.method == "synthetic"
    assert wheat.adjusted is not None
    assert maize.adjusted is not None
    assert wheat.adjusted.value == pytest.approx(30 * 48 / 60 + 70 * 2 / 40)  # 27.5
    assert maize.adjusted.value == pytest.approx(30 * 12 / 60 + 70 * 38 / 40)
    rest = 1 - 60 / 6000, 1 - 40 / 4000
    variance = 30**2 * rest[0] * 0.8 * 0.2 / 59 + 70**2 * rest[1] * 0.05 * 0.95 / 39
    assert wheat.adjusted.standard_error == pytest.approx(np.sqrt(variance))
    assert wheat.bias == pytest.approx(30 - 27.5)
    assert wheat.bias_share == pytest.approx(2.5 / 27.5)


def test_points_of_the_unit_put_it_right() -> None:
    """All 30 points of the unit are right: its map is better than the rest, and the estimate says so."""
    sample = _sample()
    inside = np.zeros(100, bool)
    inside[:30] = True  # wheat that is wheat
    found = UnitEstimator(sample, (WHEAT, MAIZE)).estimate({1: 300.0}, inside)[0]
    assert found.method == "assisted"
    assert found.adjusted is not None
    assert found.adjusted.value == pytest.approx(300 * 0.8 + 30 * 10 * 0.2)  # each point stands for 10 ha
    assert found.adjusted.n == 30


def test_points_that_all_agree_leave_the_error_of_what_one_more_might_tell() -> None:
    stratum = np.repeat([0, 1], [60, 40])
    sample = Sample.of(STRATA, stratum, stratum + 1, stratum + 1)  # no error was seen
    wheat = (
        UnitEstimator(sample, (WHEAT, MAIZE)).estimate({1: 30.0, 2: 70.0}, np.zeros(100, bool))[0].adjusted
    )
    assert wheat is not None
    assert wheat.value == pytest.approx(30.0)
    half = 0.5 / 61, 0.5 / 41
    variance = sum(a**2 * p * (1 - p) / n for a, p, n in zip((30, 70), half, (60, 40), strict=True))
    assert wheat.standard_error == pytest.approx(np.sqrt(variance))
    assert "agree" in wheat.note
    assert (wheat.low or 0) < 30 < (wheat.high or 0)


def test_estimates_of_units_that_fill_the_map_add_up_to_the_maps() -> None:
    sample, rng = _sample(), np.random.default_rng(4)
    part = rng.integers(0, 2, 100)
    estimator = UnitEstimator(sample, (WHEAT, MAIZE), fewest=2)
    one = estimator.estimate({1: 410.0, 2: 90.0}, part == 0)
    other = estimator.estimate({1: 190.0, 2: 310.0}, part == 1)
    whole = accuracy(sample, (WHEAT, MAIZE)).areas_ha
    for a, b in zip(one, other, strict=True):
        assert a.adjusted is not None
        assert b.adjusted is not None
        assert (a.adjusted.value or 0) + (b.adjusted.value or 0) == pytest.approx(whole[a.value].value)


def test_a_class_that_no_point_speaks_of_is_taken_as_mapped_and_said() -> None:
    strata = (*STRATA, Stratum("water", 100, 10.0, mapped=3))
    plain = _sample()
    sample = Sample.of(strata, plain.stratum, plain.mapped, plain.reference)
    found = UnitEstimator(sample, (1, 2, 3)).estimate({1: 30.0, 3: 5.0}, np.zeros(100, bool))
    assert found[2].adjusted is not None
    assert found[2].adjusted.value == pytest.approx(5.0)
    assert "says 3" in found[2].adjusted.note


def test_what_cannot_be_is_kept_within_the_unit() -> None:
    """Few points of large weight in a small unit may ask for more than there is."""
    inside = np.zeros(100, bool)
    inside[48:60] = True  # wheat by the map, all of it maize
    found = UnitEstimator(_sample(), (WHEAT, MAIZE), fewest=5).estimate({1: 20.0}, inside)
    assert found[0].adjusted is not None
    assert found[1].adjusted is not None
    assert (found[0].adjusted.value, found[1].adjusted.value) == (0.0, 20.0)
    assert "within the unit" in found[0].adjusted.note
    assert 0 <= (found[1].adjusted.low or 0) <= (found[1].adjusted.high or 0) <= 20


def test_nothing_mapped_nothing_estimated() -> None:
    found = UnitEstimator(_sample(), (WHEAT,)).estimate({}, np.zeros(100, bool))
    assert [f.adjusted.value for f in found if f.adjusted] == [0.0, 0.0]


def test_values_beyond_the_sample_are_shown_without_an_estimate() -> None:
    found = UnitEstimator(_sample()).estimate({1: 5.0, 9: 3.0}, np.zeros(100, bool))
    assert found[-1] == ClassArea(9, 3.0)
    assert found[-1].bias is None


def test_points_without_an_answer_do_not_count() -> None:
    plain = _sample()
    more = Sample.of(
        STRATA, np.r_[plain.stratum, 0, 1], np.r_[plain.mapped, 1, 2], np.r_[plain.reference, 0, 0]
    )
    inside = np.zeros(102, bool)
    inside[[0, 1, 2, 50, 100, 101]] = True
    found = UnitEstimator(more, (1, 2), fewest=2).estimate({1: 40.0}, inside)[0]
    wanted = UnitEstimator(plain, (1, 2), fewest=2).estimate({1: 40.0}, inside[:100])[0]
    assert found == wanted


def test_another_number_of_points_is_refused() -> None:
    with pytest.raises(InputError, match="differ in number"):
        UnitEstimator(_sample()).estimate({1: 5.0}, np.zeros(7, bool))
    with pytest.raises(InputError, match="points of its own"):
        UnitEstimator(_sample(), fewest=1)


def test_bias_is_unknown_where_the_estimate_is() -> None:
    row = ClassArea(1, 10.0, Estimate(None, None, None, None, 0, "no point"), "synthetic")
    assert (row.bias, row.bias_share) == (None, None)
    assert ClassArea(1, 10.0, Estimate(0.0, 0.0, 0.0, 0.0, 9), "synthetic").bias_share is None


def test_points_are_found_across_crss() -> None:
    unit = shapely.box(14.99, 45.0, 15.01, 45.2)
    xy = np.array(
        [[500_000.0, 5_000_000.0], [520_000.0, 5_000_000.0]]
    )  # 15 degrees east is the zone's middle
    assert points_in(unit, "EPSG:4326", xy, "EPSG:32633").tolist() == [True, False]


@pytest.mark.parametrize(("fewest", "least"), [(30, 905), (10_000, 900)], ids=["assisted", "synthetic"])
def test_intervals_hold_the_truth_as_often_as_they_say(fewest: int, least: int) -> None:
    """1,000 samples of a made-up country of four units; the map errs alike everywhere, as synthetic supposes.

    Even then a unit has by chance another share of errors than the whole: of that synthetic intervals know nothing.
    """
    rng = np.random.default_rng(12)
    n_pixels = 40_000
    mapped = rng.choice([1, 2, 3], n_pixels, p=[0.5, 0.35, 0.15])
    unit = np.repeat(np.arange(4), n_pixels // 4)
    wrong = rng.random(n_pixels) < np.array([0, 0.12, 0.2, 0.3])[mapped]
    truth = np.where(wrong, rng.choice([1, 2, 3], n_pixels), mapped)
    strata = tuple(
        Stratum(str(c), int((mapped == c).sum()), (mapped == c).sum() / 100, mapped=c) for c in (1, 2, 3)
    )
    where = [np.flatnonzero(mapped == c) for c in (1, 2, 3)]
    areas = {c: float(((mapped == c) & (unit == 0)).sum() / 100) for c in (1, 2, 3)}
    wanted = [((truth == c) & (unit == 0)).sum() / 100 for c in (1, 2, 3)]
    held = np.zeros(3)
    for _ in range(1000):
        chosen = np.concatenate([rng.choice(w, 100, replace=False) for w in where])
        sample = Sample.of(strata, np.repeat([0, 1, 2], 100), mapped[chosen], truth[chosen])
        rows = UnitEstimator(sample, (1, 2, 3), fewest=fewest).estimate(areas, unit[chosen] == 0)
        ends = [(r.adjusted.low or 0, r.adjusted.high or 0) for r in rows if r.adjusted]
        held += [low <= w <= high for (low, high), w in zip(ends, wanted, strict=True)]
    assert (held > least).all(), held
    assert (held < 985).all(), held


def test_points_in_clusters_say_less_than_points_drawn_singly() -> None:
    """20 clusters of 5 points that are right or wrong together: the error is that of 20 points, not of 100."""
    rng = np.random.default_rng(3)
    wrong = np.repeat(rng.random(20) < 0.3, 5)
    mapped = np.tile([1, 1, 1, 2, 2], 20)
    truth = np.where(wrong, 2, mapped)  # where a cluster is wrong, all its wheat is maize
    whole = Stratum("all", 100_000, 10_000.0, clusters=1000)
    plain = Sample.of([Stratum("all", 100_000, 10_000.0)], np.zeros(100, int), mapped, truth)
    drawn = Sample.of(
        [whole],
        np.zeros(100, int),
        mapped,
        truth,
        cluster=np.repeat(np.arange(20), 5),
        cluster_pixels=np.full(100, 100),
    )
    areas, inside = {1: 60.0, 2: 40.0}, np.zeros(100, bool)
    singly, together = (UnitEstimator(s, (1, 2)).estimate(areas, inside)[0].adjusted for s in (plain, drawn))
    assert singly is not None
    assert together is not None
    assert together.value == pytest.approx(singly.value)
    assert (together.standard_error or 0) > 1.2 * (singly.standard_error or 1)
