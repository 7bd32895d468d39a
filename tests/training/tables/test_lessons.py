"""Lessons of a table: order, shares of classes, parts, resumption, gaps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.values.errors import InputError
from tests.training.tables.made import made_table
from training.batch import Batch
from training.loader import Rank
from training.splits import TEST, TRAIN, VAL
from training.tables.jitter import SeriesJitter
from training.tables.lessons import SeriesDraw, TableLessons
from training.tables.planes import planes_of_table


def _lessons(gaps: float = 0.0, draw: SeriesDraw | None = None) -> TableLessons:
    table = made_table(gaps=gaps)
    parts = np.array([TRAIN, TRAIN, VAL, TRAIN, TEST, TRAIN, 0, TRAIN] * 15, np.uint8)
    return TableLessons.of(table, parts, planes_of_table(table), draw)


def _take(lessons: TableLessons, n: int, skip: int = 0, rank: Rank | None = None) -> list[Batch]:
    return list(itertools.islice(lessons.batches(skip, rank), n))


def _same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, k), getattr(other, k)) for k in ("x", "dates", "target", "place"))


def test_batches_begin_anywhere_and_ranks_share_them() -> None:
    lessons = _lessons(draw=SeriesDraw(16, jitter=SeriesJitter(noise=0.1, drop=0.2)))
    whole = _take(lessons, 6)
    assert all(_same(a, b) for a, b in zip(_take(lessons, 3, skip=3), whole[3:], strict=True))
    of_two = _take(lessons, 3, rank=Rank(1, 2))
    assert all(_same(a, b) for a, b in zip(of_two, whole[1::2], strict=True))
    assert not _same(whole[0], whole[1])


def test_only_the_training_part_is_drawn_and_each_sample_with_its_own_class() -> None:
    lessons = _lessons()
    for batch in _take(lessons, 20):
        rows = batch.place[:, 0].numpy()
        assert (lessons.parts[rows] == TRAIN).all()
        assert np.array_equal(batch.target[:, 0, 0].numpy(), rows % 3)
        assert np.array_equal(batch.x[..., 0, 0].numpy(), lessons.x[rows])


def test_balance_draws_rare_classes_as_often_or_as_they_occur() -> None:
    table = made_table(240)
    table = table[np.flatnonzero((np.arange(240) % 3 != 2) | (np.arange(240) % 24 == 2))]  # a rare class
    parts = np.full(len(table), TRAIN, np.uint8)
    for balance, share in ((0.0, 1 / 3), (1.0, 10 / 170)):
        lessons = TableLessons.of(table, parts, planes_of_table(table), SeriesDraw(32, balance))
        drawn = torch.cat([b.target.flatten() for b in _take(lessons, 200)])
        assert float((drawn == 2).float().mean()) == pytest.approx(share, abs=0.03)


def test_parts_give_each_sample_once_in_order_as_it_is() -> None:
    lessons = _lessons(draw=SeriesDraw(jitter=SeriesJitter(noise=1.0)))
    batches = [batch for batch, _ in lessons.part(VAL)]
    rows = torch.cat([b.place[:, 0] for b in batches]).numpy()
    assert np.array_equal(rows, np.flatnonzero(lessons.parts == VAL))
    assert np.array_equal(torch.cat([b.x for b in batches])[..., 0, 0].numpy(), lessons.x[rows])
    assert lessons.pixels == {"train": 75, "val": 15, "test": 15}
    assert lessons.counts.sum() == 75


def test_the_normalisation_is_that_of_the_training_part_alone() -> None:
    lessons = _lessons(gaps=0.2)
    mine = lessons.x[lessons.parts == TRAIN].astype(float)
    there = (mine != 0).all(axis=2)
    assert lessons.normalisation.groups == ("optical", "optical", "static")
    assert lessons.normalisation.mean == pytest.approx(mine[there].mean(axis=0), rel=1e-4)
    assert lessons.normalisation.std == pytest.approx(mine[there].std(axis=0), rel=1e-4)


def test_gaps_are_missing_dates_and_days_run_over_new_year() -> None:
    lessons = _lessons(gaps=0.3)
    batch = _take(lessons, 1)[0]
    values, valid = batch.prepared(lessons.normalisation)
    gap = (batch.x == 0).any(dim=2)
    assert torch.equal(valid == 0, gap)
    assert float(values[gap[:, :, None].expand_as(values)].abs().max()) == 0
    assert batch.dates[0, :3].tolist() == [309, 339, 370]  # 5 November, 5 December, 4 January
    assert bool((batch.dates.diff(dim=1) > 0).all())


def test_samples_with_different_numbers_of_dates_ask_for_a_network_that_takes_any() -> None:
    table = made_table()
    parts = np.full(120, TRAIN, np.uint8)
    assert TableLessons.of(table, parts, planes_of_table(table)).n_dates == 8
    dates, values = table.dates.copy(), table.values.copy()
    dates[5, -1], values[5, -1] = np.datetime64("NaT"), np.nan
    some = TableLessons.of(replace(table, dates=dates, values=values), parts, planes_of_table(table))
    assert some.n_dates is None
    none = np.full(dates.shape, np.datetime64("NaT"), "datetime64[D]")
    assert TableLessons.of(replace(table, dates=none), parts, planes_of_table(table)).n_dates == 8


def test_weights_of_zero_are_never_drawn() -> None:
    table = made_table()
    table = replace(table, weight=np.where(np.arange(120) % 2, 1, 0).astype(np.float32))
    lessons = TableLessons.of(table, np.full(120, TRAIN, np.uint8), planes_of_table(table))
    assert all((b.place[:, 0] % 2 == 1).all() for b in _take(lessons, 5))


def test_an_empty_training_part_is_refused() -> None:
    table = made_table()
    with pytest.raises(InputError, match="nothing to train on"):
        TableLessons.of(table, np.full(120, TEST, np.uint8), planes_of_table(table))
