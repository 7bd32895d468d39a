"""The models of `real_tables.py`: each takes a task, the split of a fold and its parts, and answers the tested samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_series import Task

from training.splits import Split
from training.tables.baselines import Baseline, SearchOptions, rows_of, shares_of, tuned
from training.tables.folds import groups_within

Mask = NDArray[np.bool_]
Answer = tuple[NDArray[np.float64], dict[str, Any]]
"""Shares (tested sample, class), and what is told about the model."""


def search(kind: Baseline) -> Callable[[Task, Split, Mask, Mask], Answer]:
    """Return a tuned baseline."""

    def run(task: Task, split: Split, train: Mask, test: Mask) -> Answer:
        x_NF, y_N = rows_of(task.table.values), classes_of(task)
        groups_N = groups_within(split, task.samples(), train)
        model = tuned(kind, x_NF[train], y_N[train], groups_N, SearchOptions(candidates=8, trees=200, rows=2000))
        keys = ("max_features", "min_samples_leaf", "class_weight", "learning_rate", "max_leaf_nodes", "max_iter")
        told = {k: v for k, v in model.get_params().items() if k in keys}
        return shares_of(model, x_NF[test], len(task.table.classes.classes)), told

    return run


def classes_of(task: Task) -> NDArray[np.int64]:
    """Return the index of each sample's class, in the scheme's order."""
    found: NDArray[np.int64] = np.searchsorted(task.table.classes.values, task.table.value)
    return found


MODELS: dict[str, Callable[[Task, Split, Mask, Mask], Answer]] = {
    "forest": search("forest"),
    "boosting": search("boosting"),
}
