"""Tuned baselines: the search stays inside, tells crops apart, bears gaps and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from engine.values.errors import InputError
from tests.training.tables.made import made_table
from training.tables.baselines import SearchOptions, baseline, rows_of, shares_of, tuned

OPTIONS = SearchOptions(candidates=2, folds=2, trees=12, rows=60)


def _data(gaps: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = made_table(gaps=gaps)
    return rows_of(table.values), np.arange(120) % 3, np.arange(120) // 12


@pytest.mark.parametrize("kind", ["forest", "boosting"])
def test_a_tuned_model_tells_the_crops_apart_in_other_units(kind: str) -> None:
    x, y, groups = _data()
    train = groups < 7
    model = tuned(kind, x[train], y[train], groups[train], OPTIONS)
    shares = shares_of(model, x[~train], 3)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert f1_score(y[~train], shares.argmax(axis=1), average="macro") > 0.8


def test_rows_lie_date_after_date() -> None:
    table = made_table()
    assert np.array_equal(rows_of(table.values)[:, 3:6], table.values[:, 1])


def test_classes_that_were_not_there_have_no_share() -> None:
    x, y, _ = _data()
    model = baseline("forest", trees=5).fit(np.nan_to_num(x[y != 1]), y[y != 1])
    shares = shares_of(model, np.nan_to_num(x), 4)
    assert shares.shape == (120, 4)
    assert not shares[:, [1, 3]].any()


def test_the_search_never_sees_a_unit_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import RandomForestClassifier

    x, y, groups = _data()
    mark = np.concatenate([x, groups[:, None]], axis=1).astype(np.float32)  # the unit as a last column
    seen: list[tuple[set[float], set[float]]] = []
    fitted: dict[int, set[float]] = {}
    plain_fit, plain_predict = RandomForestClassifier.fit, RandomForestClassifier.predict

    def fit(
        self: RandomForestClassifier, data: np.ndarray, *args: object, **more: object
    ) -> RandomForestClassifier:
        fitted[id(self)] = set(data[:, -1].tolist())
        return plain_fit(self, data, *args, **more)

    def predict(self: RandomForestClassifier, data: np.ndarray) -> np.ndarray:
        seen.append((fitted[id(self)], set(data[:, -1].tolist())))
        return plain_predict(self, data)

    monkeypatch.setattr(RandomForestClassifier, "fit", fit)
    monkeypatch.setattr(RandomForestClassifier, "predict", predict)
    tuned("forest", mark, y, groups, OPTIONS)
    assert len(seen) == OPTIONS.candidates * OPTIONS.folds
    assert all(not trained & tested for trained, tested in seen)


def test_too_few_units_are_refused() -> None:
    x, y, _ = _data()
    with pytest.raises(InputError, match="fewer units than folds"):
        tuned("forest", x, y, np.zeros(120, np.int64), OPTIONS)
