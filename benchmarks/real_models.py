"""The models of `real_tables.py`: each takes a task, the split of a fold and its parts, and answers what is tested."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_series import Task

from training.loop import TrainedModel
from training.splits import TEST, TRAIN, Split
from training.tables.baselines import Baseline, SearchOptions, rows_of, shares_of, tuned
from training.tables.deep import presto_bands, presto_features
from training.tables.folds import groups_within
from training.tables.lessons import TableLessons
from training.tables.train import (
    TableOptions,
    features_of_network,
    lessons_of,
    shares_of_network,
    train_table,
)

Mask = NDArray[np.bool_]
Answer = tuple[NDArray[np.float64], dict[str, Any]]
"""Shares (tested sample, class), and what is told about the model."""
Model = Callable[[Task, Split, Mask, Mask], Answer]

SEEDS = {"mlp": 3, "cnn1d": 2, "ltae": 2, "tempcnn": 2}
"""Networks of one kind that are averaged."""

_SEARCH = SearchOptions(candidates=8, trees=200, rows=2000)
_EPOCHS = 50
_MOST_STEPS = 1500
_CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 128, "depth": 2, "dropout": 0.3},
    "cnn1d": {"width": 48, "depth": 3, "dropout": 0.3},
    "ltae": {"width": 64, "heads": 8, "dropout": 0.2},
    "tempcnn": {"width": 64, "depth": 3, "dropout": 0.2},
}


def search(kind: Baseline) -> Model:
    """Return a tuned baseline."""

    def run(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
        return _searched(kind, rows_of(task.table.values), (task, split), (train, test))

    return run


def network(architecture: str) -> Model:
    """Return the mean of networks that differ in their seed."""

    def run(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
        shares, told = [], {}
        for seed in range(SEEDS[architecture]):
            options = options_of(architecture, split, int(train.sum()), seed)
            trained, lessons = _trained(task, options)
            shares.append(shares_of_network(trained.module, lessons, architecture, TEST))
            told = {"steps": options.steps, "weights": sum(p.numel() for p in trained.module.parameters())}
        return np.mean(shares, axis=0, dtype=np.float64), told

    return run


def deep_forest(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
    """Tune a forest on the features of a network, beside the values themselves."""
    options = options_of("cnn1d", split, int(train.sum()), seed=0)
    trained, lessons = _trained(task, options)
    values_NF = rows_of(task.table.values)
    deep_NF = np.full((len(values_NF), 2 * int(_CONFIGS["cnn1d"]["width"])), np.nan, np.float32)
    for part, mask in ((TRAIN, train), (TEST, test)):
        deep_NF[mask] = features_of_network(trained.module, lessons, "cnn1d", part)
    return _searched("forest", np.concatenate([values_NF, deep_NF], axis=1), (task, split), (train, test))


def presto_forest(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
    """Tune a forest on Presto's features, beside the values themselves."""
    x_NF = np.concatenate([rows_of(task.table.values), presto_features(task.table, _weights())], axis=1)
    return _searched("forest", x_NF, (task, split), (train, test))


def presto(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
    """Fit a logistic regression on Presto's features, its strength chosen by units of the training part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x_NF, y_N = presto_features(task.table, _weights()), classes_of(task)
    groups = groups_within(split, task.samples(), train)
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        {"logisticregression__C": [0.003, 0.03, 0.3], "logisticregression__class_weight": [None, "balanced"]},
        scoring="f1_macro",
        cv=StratifiedGroupKFold(_folds(groups), shuffle=True, random_state=0),
    ).fit(x_NF[train], y_N[train], groups=groups)
    found = shares_of(model, x_NF[test], len(task.table.classes.classes))
    return found, {"bands": list(presto_bands(task.table.bands)), **model.best_params_}


def classes_of(task: Task) -> NDArray[np.int64]:
    """Return the index of each sample's class, in the scheme's order."""
    found: NDArray[np.int64] = np.searchsorted(task.table.classes.values, task.table.value)
    return found


def _searched(
    kind: Baseline, x_NF: NDArray[np.float32], where: tuple[Task, Split], parts: tuple[Mask, Mask]
) -> Answer:
    (task, split), (train, test) = where, parts
    groups_N = groups_within(split, task.samples(), train)
    options = _SEARCH.model_copy(update={"folds": _folds(groups_N)})
    model = tuned(kind, x_NF[train], classes_of(task)[train], groups_N, options)
    keys = ("max_features", "min_samples_leaf", "class_weight", "learning_rate", "max_leaf_nodes", "max_iter")
    told = {k: v for k, v in model.get_params().items() if k in keys}
    return shares_of(model, x_NF[test], len(task.table.classes.classes)), told


def _folds(groups_N: NDArray[np.int64]) -> int:
    """Tune by three folds; where a region is left out of three, by the two that remain."""
    return min(_SEARCH.folds, len(np.unique(groups_N)))


def options_of(architecture: str, split: Split, n: int, seed: int) -> TableOptions:
    batch = 64 if n < 2000 else 256
    return TableOptions(
        architecture=architecture,
        config=_CONFIGS[architecture],
        split=split,
        steps=min(_MOST_STEPS, _EPOCHS * n // batch),
        batch=batch,
        checks=1,
        seed=seed,
        balance=1.0 if architecture == "mlp" else 0.5,
    )


def _trained(task: Task, options: TableOptions) -> tuple[TrainedModel, TableLessons]:
    return train_table(task.table, options), lessons_of(task.table, options)


def _weights() -> Path:
    data = os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(data) / "weights" / "presto_default_model.pt"


MODELS: dict[str, Model] = {
    "forest": search("forest"),
    "boosting": search("boosting"),
    "mlp": network("mlp"),
    "cnn1d": network("cnn1d"),
    "ltae": network("ltae"),
    "tempcnn": network("tempcnn"),
    "deep-forest": deep_forest,
    "presto": presto,
    "presto-forest": presto_forest,
}
