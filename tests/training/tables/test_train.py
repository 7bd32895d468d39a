"""Training on a table: what is learnt, what comes back, what is refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from engine.values.errors import InputError
from tests.training.tables.made import made_split, made_table
from training.loop import TrainedModel
from training.splits import TEST, VAL
from training.tables.train import (
    TableOptions,
    features_of_network,
    lessons_of,
    shares_of_network,
    train_table,
)


def _options(**changes: object) -> TableOptions:
    given = {
        "architecture": "mlp", "config": {"width": 16, "depth": 1}, "split": made_split(test=0.25),
        "steps": 60, "batch": 24, "learning_rate": 0.02, "checks": 2, "indices": ["NDVI"],
    }  # fmt: skip
    return TableOptions.model_validate({**given, **changes})


@cache
def trained() -> TrainedModel:
    return train_table(made_table(gaps=0.05), _options())


def test_the_crops_are_learnt_and_scored_on_other_places() -> None:
    found = trained()
    assert found.val is not None
    assert found.test is not None
    assert found.test.accuracy > 0.9
    assert sum(found.pixels.values()) == 120
    assert found.pixels["test"] == sum(found.test.support)
    assert len(found.history) == 2


def test_shares_and_features_are_those_of_the_samples_in_order() -> None:
    found, lessons = trained(), lessons_of(made_table(gaps=0.05), _options())
    shares = shares_of_network(found.module, lessons, "mlp", TEST)
    truth = lessons.index[lessons.parts == TEST]
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert float((shares.argmax(axis=1) == truth).mean()) == pytest.approx(found.test.accuracy)
    features = features_of_network(found.module, lessons, "mlp", TEST)
    assert features.shape == (len(truth), 16)
    head = found.module.head
    logits = torch.from_numpy(features) @ head.weight.T + head.bias
    assert torch.softmax(logits, dim=1).detach().numpy() == pytest.approx(shares, abs=1e-5)
    none = lessons_of(made_table(), _options(split=made_split(val=0.0)))
    assert shares_of_network(found.module, none, "mlp", VAL).shape == (0, 3)


def test_the_same_seed_gives_the_same_network() -> None:
    short = _options(steps=4, checks=1)
    one, again = (train_table(made_table(), short).module.state_dict() for _ in range(2))
    other = train_table(made_table(), _options(steps=4, checks=1, seed=1)).module.state_dict()
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_network_that_takes_days_learns_from_samples_with_days_of_their_own() -> None:
    table = made_table(60)
    shift = (np.arange(60) % 5 * 7).astype("timedelta64[D]")
    object.__setattr__(table, "dates", table.dates + shift[:, None])
    options = _options(architecture="ltae", config={"width": 16, "heads": 2}, steps=3, checks=1)
    found = train_table(table, options)
    assert found.test is not None
    assert np.isfinite(found.history[0]["loss"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        train_table(
            made_table(),
            _options(
                split={"by": "groups", "buffer_px": 0, "assigned": {f"region {i}": "test" for i in range(4)}}
            ),
        )
    with pytest.raises(ValidationError, match="jitter"):
        _options(jitter={"shake": 1})
