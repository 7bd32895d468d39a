"""Lessons of a cube: they begin anywhere, are shared out, and score each annotated pixel once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from engine.models.normalise import Standard
from engine.values.errors import InputError
from tests.training.small import lessons_with, options_with
from training.batch import IGNORE, Batch
from training.lessons import call
from training.loader import Rank
from training.splits import TEST, TRAIN, VAL


def _first(lessons: Any, n: int, skip: int = 0, rank: Rank | None = None) -> list[Batch]:
    return list(itertools.islice(lessons.batches(skip, rank), n))


def _same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(vars(a)[k], vars(b)[k]) for k in ("dates", "target", "weight", "place")
    ) and torch.equal(a.x.view(torch.int16), b.x.view(torch.int16))


DRAWS: list[dict[str, Any]] = [
    {"date_dropout": 0.4},
    {"augment": {"noise": 0.02, "paste": 0.5, "clouds": 0.5}},
]


@pytest.mark.parametrize("draw", DRAWS, ids=["turned", "augmented"])
@pytest.mark.parametrize("chunk_px", [None, 12], ids=["loaded", "streamed"])
def test_skipping_gives_what_would_have_come(draw: dict[str, Any], chunk_px: int | None) -> None:
    lessons = lessons_with(options_with(**draw), chunk_px)
    all_of_them = _first(lessons, 13)  # more than the ten of an epoch that is streamed
    for skip in (1, 4, 10, 11):
        for a, b in zip(all_of_them[skip:], _first(lessons, 13 - skip, skip), strict=True):
            assert _same(a, b)


@pytest.mark.parametrize("draw", DRAWS, ids=["turned", "augmented"])
def test_ranks_take_turns_in_what_one_would_see(draw: dict[str, Any]) -> None:
    lessons = lessons_with(options_with(**draw))
    alone = _first(lessons, 6)
    shares = [_first(lessons, 3, 0, Rank(r, 2)) for r in range(2)]
    for i, batch in enumerate(alone):
        assert _same(batch, shares[i % 2][i // 2])
    assert _same(alone[5], _first(lessons, 1, 2, Rank(1, 2))[0])


def test_ranks_of_a_streamed_cube_share_each_epoch() -> None:
    lessons = lessons_with(options_with(steps=8), 12)
    places = [
        np.concatenate([b.place.numpy() for b in _first(lessons, 8, 0, Rank(r, 2))]).tolist()
        for r in range(2)
    ]
    together = _first(lessons_with(options_with(steps=16), 12), 16)
    assert sorted(places[0] + places[1]) == sorted(
        np.concatenate([b.place.numpy() for b in together]).tolist()
    )


@pytest.mark.parametrize("part", [VAL, TEST])
@pytest.mark.parametrize("chunk_px", [None, 12], ids=["loaded", "streamed"])
def test_each_annotated_pixel_of_a_part_is_scored_once(part: int, chunk_px: int | None) -> None:
    lessons = lessons_with(options_with(), chunk_px)
    seen = np.zeros(lessons.box.shape_yx, int)
    for batch, inner in lessons.part(part):
        y0, x0 = (int(v) for v in batch.place[0])
        target = batch.target[(0, *inner)].numpy()
        ys, xs = np.nonzero(target != IGNORE)
        at = ys + y0 + inner[0].start - lessons.box.y0, xs + x0 + inner[1].start - lessons.box.x0
        np.add.at(seen, at, 1)
        np.testing.assert_array_equal(lessons.targets[part][at], target[ys, xs])
    np.testing.assert_array_equal(seen, lessons.targets[part] != IGNORE)


def test_pixels_without_annotation_are_learnt_as_unlabelled_in_the_training_part_alone() -> None:
    loss = {
        "kind": "positive_unlabelled",
        "unlabelled": "class 0",
        "priors": {"class 1": 0.3, "class 2": 0.1},
    }
    lessons = lessons_with(options_with(loss=loss, augment={"turns": False}))
    split = options_with().split.parts(lessons.box)
    filled = 0
    for batch in _first(lessons, 12):
        for target, (y, x) in zip(batch.target.numpy(), batch.place.tolist(), strict=True):
            here = np.s_[y - lessons.box.y0 :, x - lessons.box.x0 :]
            known, parts = (a[here][:16, :16] for a in (lessons.targets[TRAIN], split))
            new = (known == IGNORE) & (target != IGNORE)
            assert (target[new] == 0).all()
            assert (parts[new] == TRAIN).all()
            np.testing.assert_array_equal(target[known != IGNORE], known[known != IGNORE])
            filled += int(new.sum())
    assert filled > 0
    np.testing.assert_array_equal(lessons.counts, lessons_with(options_with()).counts)


def test_an_unlabelled_class_that_is_none_is_refused() -> None:
    loss = {"kind": "positive_unlabelled", "unlabelled": "elsewhere", "priors": {"class 1": 0.3}}
    with pytest.raises(InputError, match=r"elsewhere.*class 0"):
        lessons_with(options_with(loss=loss)).batches()


def test_a_network_that_asks_for_days_gets_them_and_a_cube_without_dates_is_refused() -> None:
    class Days(torch.nn.Module):
        def forward(self, x: torch.Tensor, valid: torch.Tensor, *days: torch.Tensor) -> torch.Tensor:
            return torch.cat([d[:, :, None, None] for d in days], dim=1) if days else x[:, 0]

    batch = _first(lessons_with(options_with()), 1)[0]
    with_days = Batch(**(vars(batch) | {"dates": torch.tensor([[5, 370]] * 3, dtype=torch.int16)}))
    normal = Standard(mean=(0.0,) * 3, std=(1.0,) * 3)
    assert call(Days(), with_days, normal, True)[:, :, 0, 0].tolist() == [[5.0, 370.0]] * 3
    assert call(Days(), with_days, normal, False).shape[1] == 3
    with pytest.raises(InputError, match="asks for the days"):
        lessons_with(options_with(architecture="presto", config={}))
