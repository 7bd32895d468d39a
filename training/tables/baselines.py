"""What a network has to beat: a random forest and gradient boosting of scikit-learn, tuned inside the training part.

Each sample is one row of all its dates and bands. The random search cross-validates by units of the split, as
the test does, and scores macro F1. What is missing stays missing: both know NaN.

Shape suffixes: N sample, F feature.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.values.errors import InputError

Baseline = Literal["forest", "boosting"]
"""``forest``: random forest (Breiman 2001). ``boosting``: gradient boosting on histograms (Ke et al. 2017)."""

_SPACES: dict[str, dict[str, list[Any]]] = {
    "forest": {
        "max_features": ["sqrt", "log2", 0.2, 0.4, 0.7],
        "min_samples_leaf": [1, 2, 4, 8],
        "max_depth": [None, 10, 20],
        "class_weight": [None, "balanced", "balanced_subsample"],
        "criterion": ["gini", "entropy"],
    },
    "boosting": {
        "learning_rate": [0.05, 0.1, 0.2],
        "max_leaf_nodes": [7, 15, 31],
        "min_samples_leaf": [5, 10, 20, 40],
        "l2_regularization": [0.0, 0.1, 1.0, 10.0],
        "max_features": [0.3, 0.6, 1.0],
        "class_weight": [None, "balanced"],
        "max_iter": [50, 100, 200],
    },
}


class SearchOptions(BaseModel):
    """How a baseline is tuned.

    Attributes:
        candidates: Settings drawn from the space.
        folds: Of the cross-validation within the training part.
        trees: Of the forest that is kept; the search grows a third of them.
        rows: The search sees at most so many samples, drawn by the seed; the last fit sees all.
        seed: Of the draws and of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    candidates: int = Field(default=12, ge=1)
    folds: int = Field(default=3, ge=2)
    trees: int = Field(default=300, ge=1)
    rows: int = Field(default=4000, ge=10)
    seed: int = 0


def tuned(
    kind: Baseline,
    x_NF: NDArray[np.float32],
    y_N: NDArray[Any],
    groups_N: NDArray[np.int64],
    options: SearchOptions | None = None,
) -> Any:
    """Search settings on the training part, then fit the best on all of it.

    Args:
        kind: Which model.
        x_NF: float32, NaN = missing.
        y_N: Class of each row.
        groups_N: Unit of each row (`training.tables.folds.groups_within`): never on both sides of a fold.
        options: How long.

    Returns:
        A fitted classifier of scikit-learn, its settings in ``get_params``.

    Raises:
        InputError: If there are fewer units than folds.
    """
    from sklearn.model_selection import RandomizedSearchCV, StratifiedGroupKFold

    options = options or SearchOptions()
    if len(np.unique(groups_N)) < options.folds:
        raise InputError(
            "fewer units than folds",
            where=f"tuning of the {kind}",
            found=f"{len(np.unique(groups_N))} units",
            limit=f"{options.folds} folds",
            mend="smaller blocks, or fewer folds",
        )
    rows = _drawn(len(y_N), options)
    search = RandomizedSearchCV(
        baseline(kind, options.seed, max(1, options.trees // 3)),
        _SPACES[kind],
        n_iter=options.candidates,
        scoring="f1_macro",
        cv=StratifiedGroupKFold(options.folds, shuffle=True, random_state=options.seed),
        random_state=options.seed,
        refit=False,
        error_score="raise",
    )
    with warnings.catch_warnings():  # a class that one fold lacks scores 0 there, as it should
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        search.fit(x_NF[rows], y_N[rows], groups=groups_N[rows])
    return baseline(kind, options.seed, options.trees).set_params(**search.best_params_).fit(x_NF, y_N)


def baseline(kind: Baseline, seed: int = 0, trees: int = 300) -> Any:
    """Return an untuned, unfitted model: one thread, so that it does not fight a training for the machine."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    if kind == "forest":
        return RandomForestClassifier(n_estimators=trees, n_jobs=1, random_state=seed)
    # A quarter of the bins: on thousands of samples as good, and several times as fast.
    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, max_bins=64)


def rows_of(values_NTC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay the dates and bands of each sample side by side, (N, T x C)."""
    found: NDArray[np.float32] = np.ascontiguousarray(values_NTC.reshape(len(values_NTC), -1))
    return found


def shares_of(model: Any, x_NF: NDArray[np.float32], n_classes: int) -> NDArray[np.float64]:
    """Return the probability of each class index, (N, K); 0 for classes that the training part lacked.

    Args:
        model: Fitted on class indices 0..K - 1.
        x_NF: float32, NaN = missing.
        n_classes: K.
    """
    found = np.zeros((len(x_NF), n_classes))
    found[:, np.asarray(model.classes_, np.int64)] = model.predict_proba(x_NF)
    return found


def _drawn(n: int, options: SearchOptions) -> NDArray[np.int64]:
    if n <= options.rows:
        return np.arange(n)
    return np.sort(np.random.default_rng(options.seed).choice(n, options.rows, replace=False))
