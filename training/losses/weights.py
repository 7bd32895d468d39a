"""Weights of classes by how rare they are."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError

WeightKind = Literal["root", "inverse", "effective"]
"""``root``: inverse root of the count. ``inverse``: inverse of the count. ``effective``: inverse of the effective
number of samples, ``(1 - beta ** n) / (1 - beta)`` (Cui et al. 2019, doi:10.1109/CVPR.2019.00949, equation 2)."""


def class_weights(
    counts_K: NDArray[np.int64], kind: WeightKind = "root", limit: float = 5.0, beta: float = 0.9999
) -> NDArray[np.float32]:
    """Weigh classes by how rare they are, at most `limit` times the mean, mean 1 before over those found.

    Args:
        counts_K: Annotated training pixels of each class.
        kind: How weights follow from counts.
        limit: Cap: a class of a few pixels would else rule the loss.
        beta: Of the effective number, 0..1: the larger, the later do more samples stop to count.

    Returns:
        float32 (K); 0 for classes without pixels.

    Raises:
        InputError: If no class has pixels, or beta is not in [0, 1).

    >>> class_weights(np.array([400, 100, 0])).round(3).tolist()
    [0.6669999957084656, 1.3329999446868896, 0.0]
    >>> class_weights(np.array([400, 100]), "inverse").round(1).tolist()
    [0.4000000059604645, 1.600000023841858]
    """
    found = counts_K > 0
    if not found.any() or not 0 <= beta < 1:
        raise InputError(
            "no class weights from these",
            where="class weights",
            found=f"counts {counts_K.tolist()}, beta {beta}",
        )
    counts = np.maximum(counts_K, 1).astype(np.float64)
    # 1 - beta**n by expm1, which keeps its digits where beta**n is close to 1
    effective = -np.expm1(counts * np.log(beta)) / (1 - beta) if beta > 0 else np.ones_like(counts)
    kinds: dict[str, NDArray[np.float64]] = {
        "root": np.sqrt(counts),
        "inverse": counts,
        "effective": effective,
    }
    weights = np.where(found, 1 / kinds[kind], 0.0)
    weights /= weights[found].mean()
    return np.minimum(weights, limit).astype(np.float32)
