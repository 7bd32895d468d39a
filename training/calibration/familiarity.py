"""Measure what the features of a training look like, for the layer ``unfamiliar`` of its maps.

Shape suffixes: N item, F feature, K class.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.inference.unfamiliar import Familiarity
from engine.values.errors import InputError

HELD_OUT = 0.95
"""Share of held-out items that lie nearer than the distance at which the score is one half."""


def fit_familiarity(
    features_NF: NDArray[np.floating], truth_N: NDArray[np.int64], held_out_NF: NDArray[np.floating]
) -> Familiarity:
    """Measure class centres and the covariance that the classes share (Lee et al. 2018, equation 1).

    The covariance is shrunk towards a multiple of the unit matrix by as much as the items ask for (Ledoit and Wolf
    2004, doi:10.1016/S0047-259X(03)00096-4): features that never varied in the training stay finite, and tell
    when they do vary.

    Args:
        features_NF: Of training items, at least two a class on average.
        truth_N: Class index of each.
        held_out_NF: Of items that were not learnt from, of the same area and season.

    Returns:
        The statistics, with the distance that 5% of the held-out items exceed.

    Raises:
        InputError: If there are too few items, or no feature varies.
    """
    classes = np.unique(truth_N)
    if len(features_NF) < 2 * len(classes) or not len(held_out_NF):
        raise InputError(
            "too few items to tell what is familiar",
            where="familiarity",
            found=f"{len(features_NF)} training items of {len(classes)} classes, {len(held_out_NF)} held out",
        )
    features_NF = features_NF.astype(np.float64)
    mean_F = features_NF.mean(axis=0)
    centres_KF = np.stack([features_NF[truth_N == k].mean(axis=0) for k in classes])
    within_NF = features_NF - centres_KF[np.searchsorted(classes, truth_N)]
    whiten_FF = _whitening(shrunk_covariance(within_NF))
    plain = Familiarity(
        mean_F.astype(np.float32),
        whiten_FF.astype(np.float32),
        ((centres_KF - mean_F) @ whiten_FF).astype(np.float32),
        distance=1.0,
    )
    distance = float(np.quantile(plain.distances(held_out_NF), HELD_OUT))
    if not distance > 0:
        raise InputError("the features do not vary", where="familiarity", found=f"distance {distance}")
    return replace(plain, distance=distance)


def shrunk_covariance(centred_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance of items whose mean is 0, shrunk towards a multiple of the unit matrix.

    ``(1 - s) S + s m I`` with the least expected squared error: ``m`` is the mean variance, ``s`` the variance of
    the entries of S over their spread around ``m I`` (Ledoit and Wolf 2004, section 3.3).
    """
    n_items, n_features = centred_NF.shape
    sample_FF = centred_NF.T @ centred_NF / n_items
    level = np.trace(sample_FF) / n_features
    target_FF = level * np.eye(n_features)
    spread = ((sample_FF - target_FF) ** 2).sum()
    squares_NF = centred_NF**2
    noise = ((squares_NF.T @ squares_NF).sum() / n_items - (sample_FF**2).sum()) / n_items
    share = min(noise, spread) / spread if spread > 0 else 0.0
    found: NDArray[np.float64] = (1 - share) * sample_FF + share * target_FF
    return found


def _whitening(covariance_FF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric inverse root of a covariance."""
    values, vectors = np.linalg.eigh(covariance_FF)
    if not values.max() > 0:
        raise InputError("the features do not vary", where="familiarity", found=f"variance {values.max()}")
    least = values.max() * 1e-7  # rounding of float32 features
    found: NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, least)) @ vectors.T
    return found
