"""Few shots: draws that nest and repeat, intervals, and that nothing but the drawn fields is learnt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from engine.values.errors import InputError
from tests.training.synthetic import Season, season
from training.few_shot import (
    FewShots,
    Shots,
    draw_items,
    few_shot,
    few_shot_cube,
    fields_of,
    paired_gain,
    table,
)
from training.labels import LabelRaster
from training.loop import TrainOptions
from training.splits import TEST, TRAIN, Split

SEASON = Season(side_px=96, n_dates=2, n_bands=3, n_classes=3, fields=40, noise=150.0, seed=4)
OPTIONS = TrainOptions(
    architecture="mlp",
    config={"width": 16},
    split=Split(block_px=16, buffer_px=0, val=0.2, test=0.3),
    steps=20,
    batch=4,
    crop_px=8,
    checks=1,
)


@given(
    classes=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    few=st.integers(1, 5),
    more=st.integers(0, 5),
    seed=st.integers(0, 5),
)
def test_k_of_each_class_and_a_larger_draw_keeps_the_smaller(
    classes: list[int], few: int, more: int, seed: int
) -> None:
    class_N = np.array(classes)
    small, large = (draw_items(class_N, k, seed) for k in (few, few + more))
    for value, count in zip(*np.unique(class_N, return_counts=True), strict=True):
        assert np.count_nonzero(class_N[small] == value) == min(few, count)
    assert set(small.tolist()) <= set(large.tolist())
    assert np.array_equal(small, draw_items(class_N, few, seed))


def test_each_experiment_gets_its_items_and_seed() -> None:
    class_N = np.repeat([1, 2], 10)
    asked: list[tuple[int, int]] = []

    def score(chosen: NDArray[np.int64], seed: int) -> float:
        asked.append((len(chosen), seed))
        return len(chosen) / 100 + seed / 1000

    rows = few_shot(class_N, score, FewShots(items=(1, 4), draws=3, seed=7))
    assert asked == [(2, 7), (2, 8), (2, 9), (8, 7), (8, 8), (8, 9)]
    assert rows[1].mean == pytest.approx(0.088)
    ends = stats.t.interval(0.95, 2, loc=0.088, scale=stats.sem(rows[1].scores))
    assert rows[1].interval == pytest.approx(ends)
    with pytest.raises(InputError, match="annotated"):
        few_shot(np.array([]), score, FewShots())


def test_the_gain_is_taken_draw_by_draw() -> None:
    one, other = Shots(1, (0.2, 0.5, 0.8)), Shots(1, (0.3, 0.65, 0.9))
    mean, low, high = paired_gain(one, other)
    found = stats.ttest_rel(other.scores, one.scores).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((0.35 / 3, found.low, found.high))
    with pytest.raises(InputError, match="paired"):
        paired_gain(one, Shots(2, (0.1, 0.2, 0.3)))


def test_fields_are_patches_of_one_class_in_the_training_part() -> None:
    _, labels = season(SEASON)
    number_YX, class_N = fields_of(labels, OPTIONS.split)
    parts_YX = OPTIONS.split.parts(labels.box)
    assert np.array_equal(number_YX > 0, (parts_YX == TRAIN) & (labels.values > 0))
    assert number_YX.max() == len(class_N)
    for at, value in enumerate(class_N, start=1):
        assert set(labels.values[number_YX == at].tolist()) == {value}
    across = (
        (number_YX[:, 1:] > 0) & (number_YX[:, :-1] > 0) & (labels.values[:, 1:] == labels.values[:, :-1])
    )
    assert np.array_equal(number_YX[:, 1:][across], number_YX[:, :-1][across])


def test_ways_of_training_are_compared_on_the_whole_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    import training.loop

    cube, labels = season(SEASON)
    cube = cube.assign_coords(time=np.array(["2023-04-01", "2023-07-01"], "datetime64[ns]"))
    learnt: list[LabelRaster] = []
    plain = training.loop.train

    def spied(cube, labels, options):  # type: ignore[no-untyped-def]
        learnt.append(labels)
        return plain(cube, labels, options)

    monkeypatch.setattr(training.loop, "train", spied)
    told: list[str] = []
    ways = {"short": OPTIONS, "long": OPTIONS.model_copy(update={"steps": 60})}
    rows = few_shot_cube(cube, labels, ways, FewShots(items=(2,), draws=2), told.append)
    assert len(told) == len(learnt) == 4
    parts_YX = OPTIONS.split.parts(labels.box)
    number_YX, _ = fields_of(labels, OPTIONS.split)
    for few in learnt:
        test = parts_YX == TEST
        assert np.array_equal(few.values[test], labels.values[test])
        assert len(set(number_YX[few.values > 0].tolist()) - {0}) <= 6
        assert not few.values[~test & (parts_YX != TRAIN)].any()  # validation included
    assert np.array_equal(learnt[0].values, learnt[2].values)  # the same draw for both ways
    assert rows["long"][0].mean > rows["short"][0].mean
    assert "| long |" in table(rows)
    bare = OPTIONS.model_copy(update={"split": Split(block_px=16, test=0.0)})
    with pytest.raises(InputError, match="test part"):
        few_shot_cube(cube, labels, {"a": bare}, FewShots())
