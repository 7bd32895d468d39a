"""How sure a network is, and how often it is right then, for each class that it says.

Shape suffixes: P counted pixel, K class, J bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.explain.lens import Answers


@dataclass(frozen=True, eq=False)
class Confidence:
    """Histograms of the confidence.

    Attributes:
        edges: (J + 1,) float64, from 0 to 1; a bin holds its upper edge.
        right: (K, J) int64, pixels that were given this class and are of it.
        wrong: (K, J) int64, pixels that were given this class and are of another.
    """

    edges: NDArray[np.float64]
    right: NDArray[np.int64]
    wrong: NDArray[np.int64]


def confidence(answers: Answers, bins: int = 20) -> Confidence:
    """Count pixels by the class that the network says and its probability.

    >>> sure = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    >>> found = confidence(Answers(np.array([0, 0]), sure), bins=2)
    >>> found.right.tolist(), found.wrong.tolist()
    ([[0, 1], [0, 0]], [[0, 0], [0, 1]])
    """
    said_P = answers.probability.argmax(axis=1)
    sure_P = answers.probability.max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    place_P = np.clip(np.ceil(sure_P * bins).astype(np.int64) - 1, 0, bins - 1)
    found = np.zeros((2, answers.probability.shape[1], bins), np.int64)
    np.add.at(found, ((said_P != answers.truth).astype(np.int64), said_P, place_P), 1)
    return Confidence(edges, found[0], found[1])
