"""Hidden features in the plane: as the season goes on, and as training went on.

Features are scaled to unit variance. PCA has one pair of axes for all pictures, so that movements mean something.
t-SNE (van der Maaten and Hinton 2008) starts each picture from the one before it. How far classes lie apart is told by
the silhouette (Rousseeuw 1987: -1..1, mean over the examples) and by the share of examples whose nearest others
are mostly of their class, both in all features and not in the plane.

Shape suffixes: N example, F feature, J picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.explain.attribution import Told
from training.explain.examples import Examples
from training.explain.hiding import hiding
from training.explain.lens import Lens
from training.explain.season import Season

if TYPE_CHECKING:
    import torch

_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Hidden:
    """Pictures of the hidden features.

    Attributes:
        names: Of the pictures: a cut-off of the season, or a step of the training.
        pca: (J, N, 2) float64, on the first two axes of the last picture.
        explained: Share of the last picture's variance on each of the two axes.
        tsne: (J, N, 2) float64; no pictures with fewer than 10 examples.
        silhouette: (J,) float64, NaN with one class only.
        neighbours: (J,) float64, share of examples whose 5 nearest are mostly of their class.
        accuracy: (J,) float64, of the network's answers at the counted pixels.
    """

    names: tuple[str, ...]
    pca: NDArray[np.float64]
    explained: tuple[float, float]
    tsne: NDArray[np.float64]
    silhouette: NDArray[np.float64]
    neighbours: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def over_the_season(lens: Lens, examples: Examples, season: Season, told: Told | None = None) -> Hidden:
    """Look at the features when nothing after a cut-off is known, at the end of each of at most six months."""
    cutoffs = season.cutoffs()
    features, accuracy = [], []
    for number, step in enumerate(cutoffs, start=1):
        change = hiding(season, range(step + 1, len(season)))
        features.append(lens.features(examples, change))
        accuracy.append(lens.answers(examples, change).scores.accuracy)
        if told is not None:
            told(number, len(cutoffs))
    names = tuple(f"up to {season.names[s]}" for s in cutoffs)
    return _pictures(names, np.stack(features), examples.of, accuracy)


def over_the_training(
    lens: Lens,
    states: Sequence[tuple[str, Mapping[str, torch.Tensor]]],
    examples: Examples,
    told: Told | None = None,
) -> Hidden:
    """Look at the features of the same examples with the weights of several moments of a training.

    Args:
        lens: The network.
        states: Name of the moment, and the weights then, in the order of time.
        examples: What it looks at.
        told: Called after each moment.
    """
    features, accuracy = [], []
    for number, (_, state) in enumerate(states, start=1):
        then = lens.with_state(state)
        features.append(then.features(examples))
        accuracy.append(then.answers(examples).scores.accuracy)
        if told is not None:
            told(number, len(states))
    return _pictures(tuple(name for name, _ in states), np.stack(features), examples.of, accuracy)


def _pictures(
    names: tuple[str, ...], features_JNF: NDArray[Any], of_N: NDArray[np.int64], accuracy: list[float]
) -> Hidden:
    scaled_JNF = _scaled(features_JNF.astype(np.float64))
    pca_JN2, explained = _pca(scaled_JNF)
    return Hidden(
        names,
        pca_JN2,
        explained,
        _tsne(scaled_JNF, pca_JN2),
        np.array([silhouette(x_NF, of_N) for x_NF in scaled_JNF]),
        np.array([neighbours_agree(x_NF, of_N) for x_NF in scaled_JNF]),
        np.array(accuracy),
    )


def _scaled(features_JNF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the features of the last picture mean 0 and variance 1; those that never change stay 0."""
    mean_F, spread_F = features_JNF[-1].mean(axis=0), features_JNF[-1].std(axis=0)
    return np.divide(features_JNF - mean_F, spread_F, out=np.zeros_like(features_JNF), where=spread_F > 1e-9)


def _pca(scaled_JNF: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Project on the first two axes of the last picture, each pointing where its largest weight is positive."""
    last_NF = scaled_JNF[-1]
    centre_F = last_NF.mean(axis=0)
    _, spread, axes = np.linalg.svd(last_NF - centre_F, full_matrices=False)
    axes_2F = np.zeros((2, last_NF.shape[1]))
    axes_2F[: min(2, len(axes))] = axes[:2]
    axes_2F *= np.where(axes_2F[[0, 1], np.abs(axes_2F).argmax(axis=1)] < 0, -1, 1)[:, None]
    share = np.zeros(2)
    share[: min(2, len(spread))] = spread[:2] ** 2 / max(float((spread**2).sum()), 1e-12)
    return (scaled_JNF - centre_F) @ axes_2F.T, (float(share[0]), float(share[1]))


def _tsne(scaled_JNF: NDArray[np.float64], pca_JN2: NDArray[np.float64]) -> NDArray[np.float64]:
    pictures, n, _ = scaled_JNF.shape
    if n < 10:
        return np.zeros((0, n, 2))
    tsne = _sklearn("manifold").TSNE
    found = np.zeros((pictures, n, 2))
    start = pca_JN2[0]
    for j, x_NF in enumerate(scaled_JNF):
        begin = (start / max(float(start[:, 0].std()), 1e-9) * 1e-4).astype(np.float32)
        made = tsne(perplexity=min(30.0, (n - 1) / 3), init=begin, learning_rate="auto", random_state=0)
        found[j] = start = made.fit_transform(x_NF.astype(np.float32))
    return found


def silhouette(x_NF: NDArray[np.float64], of_N: NDArray[np.int64]) -> float:
    """Return the mean silhouette; NaN with one class, or one example of each."""
    classes = len(np.unique(of_N))
    if not 2 <= classes < len(of_N):
        return float("nan")
    return float(_sklearn("metrics").silhouette_score(x_NF, of_N))


def neighbours_agree(x_NF: NDArray[np.float64], of_N: NDArray[np.int64]) -> float:
    """Return the share of examples for which most of the 5 nearest others are of their class.

    >>> neighbours_agree(np.repeat([[0.0], [9.0]], 6, axis=0), np.repeat([0, 1], 6))
    1.0
    """
    from scipy.spatial import cKDTree

    k = min(_NEIGHBOURS, len(of_N) - 1)
    if k < 1:
        return float("nan")
    _, near = cKDTree(x_NF).query(x_NF, k=k + 1)
    own = near == np.arange(len(of_N))[:, None]
    own[~own.any(axis=1), -1] = True  # of many equal points the own one may not be among the nearest
    others = near[~own].reshape(len(of_N), k)
    return float(((of_N[others] == of_N[:, None]).mean(axis=1) > 0.5).mean())


def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise InputError(
            "pictures of hidden features need scikit-learn",
            where="explain",
            mend='pip install "landweave[training]"',
        ) from error
