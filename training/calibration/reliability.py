"""Reliability: of the pixels that a network calls right with 80%, are 80% right?

Shape suffixes: N item, K class, B bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError

BINS = 15
"""Bins of confidence, as in Guo et al. 2017 (arXiv:1706.04599)."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence of the most probable class against how often it is right, bin by bin.

    Sums, not means, so that those of parts add up to those of the whole.

    Attributes:
        edges: (B + 1,) float64, rising from 0 to 1; a confidence on an edge lies in the bin below it.
        count: (B,) float64, weight of the items of each bin.
        confidence: (B,) float64, sum of their confidences.
        right: (B,) float64, weight of those that are right.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.float64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Mean confidence less share of right answers of each bin, (B,); 0 where a bin is empty."""
        return (self.confidence - self.right) / np.maximum(self.count, 1e-12)

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): the mean of the gaps' sizes over items, 0..1; NaN without any.

        Naeini et al. 2015 (doi:10.1609/aaai.v29i1.9602), Guo et al. 2017. With edges of `equal_masses` this is
        the adaptive calibration error (Nguyen and O'Connor 2015, arXiv:1508.05154).
        """
        total = self.count.sum()
        return float(np.abs(self.confidence - self.right).sum() / total) if total else float("nan")

    @property
    def greatest(self) -> float:
        """Greatest gap of a bin that holds anything (MCE); NaN without any."""
        there = self.count > 0
        return float(np.abs(self.gaps[there]).max()) if there.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        total = self.count.sum()
        return float(self.right.sum() / total) if total else float("nan")

    def __add__(self, other: Reliability) -> Reliability:
        """Join two parts.

        Raises:
            InputError: If their bins differ.
        """
        if not np.array_equal(self.edges, other.edges):
            raise InputError("two reliabilities have other bins", where="reliability", found=len(other.edges))
        sums = (getattr(self, name) + getattr(other, name) for name in ("count", "confidence", "right"))
        return Reliability(self.edges, *sums)

    def as_json(self) -> dict[str, Any]:
        """Return error, greatest gap and the bins as plain numbers."""
        count = np.maximum(self.count, 1e-12)
        columns = {
            "from": self.edges[:-1],
            "to": self.edges[1:],
            "items": self.count,
            "confidence": self.confidence / count,
            "right": self.right / count,
        }
        bins = [
            dict(zip(columns, map(_short, row), strict=True))
            for row in zip(*columns.values(), strict=True)
            if row[2] > 0
        ]
        return {"ece": _short(self.error), "greatest_gap": _short(self.greatest), "bins": bins}


def reliability(
    p_NK: NDArray[np.floating],
    truth_N: NDArray[Any],
    weight_N: NDArray[np.floating] | None = None,
    edges: NDArray[np.float64] | None = None,
) -> Reliability:
    """Count items by the confidence of their most probable class.

    Args:
        p_NK: Probabilities, rows add up to 1.
        truth_N: Class index of each item, 0..K-1.
        weight_N: Of each item; None: 1.
        edges: Of the bins; None: `BINS` of equal width.

    Returns:
        The bins.

    >>> p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> round(reliability(p, np.array([0, 1, 1, 1])).error, 3)  # 2 x |0.9 - 0.5| + |0.6 - 1| + |0.7 - 1|, by 4
    0.375
    """
    found_edges = equal_widths() if edges is None else edges
    confidence_N = p_NK.max(axis=1).astype(np.float64)
    right_N = (p_NK.argmax(axis=1) == truth_N).astype(np.float64)
    weights_N = np.ones(len(p_NK)) if weight_N is None else weight_N.astype(np.float64)
    n_bins = len(found_edges) - 1
    index_N = np.clip(np.searchsorted(found_edges, confidence_N, side="left") - 1, 0, n_bins - 1)

    def summed(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(index_N, values_N, n_bins).astype(np.float64)

    sums = summed(weights_N), summed(weights_N * confidence_N), summed(weights_N * right_N)
    return Reliability(found_edges, *sums)


def equal_widths(bins: int = BINS) -> NDArray[np.float64]:
    """Return edges of bins of equal width, (bins + 1,)."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_masses(p_NK: NDArray[np.floating], bins: int = BINS) -> NDArray[np.float64]:
    """Return edges of bins that hold as many items each, as far as equal confidences allow."""
    if not len(p_NK):
        return equal_widths(bins)
    inner = np.quantile(p_NK.max(axis=1).astype(np.float64), np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _short(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)
