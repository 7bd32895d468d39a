"""Cross-validation by units: each sample tests once, no unit on both sides, buffers kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine.values.errors import InputError
from tests.training.tables.made import GRID, made_split, made_table
from training.splits import LEFT_OUT, TEST, TRAIN, Split
from training.tables.folds import cross_validation, groups_within


def test_every_sample_tests_exactly_once_and_units_stay_whole() -> None:
    samples, split = made_table().samples(), made_split()
    folds = cross_validation(split, samples, 4)
    tested = np.stack([fold.parts_of(samples) == TEST for fold in folds])
    assert (tested.sum(axis=0) == 1).all()
    units = split.units_of(samples)
    for mine in tested:
        assert not set(units[mine]) & set(units[~mine])
        assert np.ptp(np.bincount(samples.value[mine])[[1, 4, 9]]) <= 3  # shares of classes


def test_what_trains_is_further_away_than_the_buffer() -> None:
    samples = made_table().samples()
    for fold in cross_validation(made_split(buffer_px=9), samples, 4):
        parts = fold.parts_of(samples)
        train, test = (np.stack([samples.x, samples.y], 1)[parts == p] for p in (TRAIN, TEST))
        assert (parts == LEFT_OUT).any()
        assert len(train)
        assert cKDTree(train).query(test, p=np.inf)[0].min() > 90


def test_one_unit_at_a_time_and_another_seed_another_deal() -> None:
    samples = made_table().samples()
    by_region = Split(by="groups", buffer_px=0)
    folds = cross_validation(by_region, samples, 0)
    assert len(folds) == 4
    assert all(len(set(samples.group[fold.parts_of(samples) == TEST])) == 1 for fold in folds)
    split = made_split()
    deals = [cross_validation(split, samples, 4, seed)[0].parts_of(samples).tolist() for seed in (0, 0, 1)]
    assert deals[0] == deals[1] != deals[2]


def test_too_few_units_are_refused() -> None:
    samples = made_table().samples()
    with pytest.raises(InputError, match="fewer units than folds"):
        cross_validation(Split(by="groups", buffer_px=0), samples, 5)


def test_groups_number_the_units_of_what_trains() -> None:
    samples = made_table().samples()
    train = np.arange(120) < 60
    found = groups_within(Split(block_px=10, buffer_px=0).on(GRID), samples, train)
    assert len(found) == 60
    assert len(set(found.tolist())) == 20
