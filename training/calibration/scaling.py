"""Temperature and vector scaling: what turns a network's logits into probabilities that hold (Guo et al. 2017).

::

    temperature    p = softmax(z / T)          one number; no label changes
    vector         p = softmax(w * z + b)      2 K numbers; labels may change

Both minimise the cross entropy on the validation part, which is convex in ``1 / T`` and in (w, b):
a bounded search and L-BFGS find the one minimum, whatever the start.

Shape suffixes: N item, K class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.calibration import VectorScale
from engine.values.errors import InputError

_SLOWEST, _FASTEST = 0.05, 20.0
_LEAST_SCALE = 1e-3


def vector_scaled(logits_NK: NDArray[np.floating], vector: VectorScale) -> NDArray[np.float64]:
    """Return the logits scaled and shifted, class by class."""
    return np.asarray(logits_NK * np.array(vector.scale) + np.array(vector.shift))


def softmax(logits_NK: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities, float64.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    scaled_NK = logits_NK.astype(np.float64) / temperature
    power_NK = np.exp(scaled_NK - scaled_NK.max(axis=1, keepdims=True))
    return np.asarray(power_NK / power_NK.sum(axis=1, keepdims=True))


def cross_entropy(
    p_NK: NDArray[np.float64], truth_N: NDArray[Any], weight_N: NDArray[np.floating] | None = None
) -> float:
    """Return the mean of ``-ln p`` of the true class (negative log likelihood)."""
    chosen_N = -np.log(np.maximum(p_NK[np.arange(len(p_NK)), truth_N], 1e-300))
    return float(np.average(chosen_N, weights=weight_N))


def fit_temperature(
    logits_NK: NDArray[np.floating], truth_N: NDArray[Any], weight_N: NDArray[np.floating] | None = None
) -> float:
    """Find the temperature with the least cross entropy.

    Args:
        logits_NK: Of annotated items that the network did not learn from.
        truth_N: Class index of each.
        weight_N: Of each item; None: 1.

    Returns:
        T within 0.05..20: items that are all right, or all wrong, would ask for 0 or infinity.

    Raises:
        InputError: If there are no items.
    """
    from scipy.optimize import minimize_scalar

    _require_items(logits_NK, truth_N)

    def loss(log_temperature: float) -> float:
        return cross_entropy(softmax(logits_NK, float(np.exp(log_temperature))), truth_N, weight_N)

    # Convex in 1 / T, hence with one minimum in any monotone function of T.
    found = minimize_scalar(loss, bounds=(np.log(_SLOWEST), np.log(_FASTEST)), method="bounded",
                            options={"xatol": 1e-6})  # fmt: skip
    return float(np.exp(found.x))


def fit_vector(
    logits_NK: NDArray[np.floating],
    truth_N: NDArray[Any],
    weight_N: NDArray[np.floating] | None = None,
    *,
    ridge: float = 1e-3,
) -> VectorScale:
    """Find scale and shift of each class with the least cross entropy.

    Args:
        logits_NK: Of annotated items that the network did not learn from.
        truth_N: Class index of each.
        weight_N: Of each item; None: 1.
        ridge: Pull towards the best single temperature, on the squared distance: a class of few items keeps to it.

    Returns:
        Scale and shift.

    Raises:
        InputError: If there are no items, or the minimum is not found.
    """
    from scipy.optimize import minimize

    _require_items(logits_NK, truth_N)
    z_NK, n_classes = logits_NK.astype(np.float64), logits_NK.shape[1]
    share_N = np.full(len(z_NK), 1.0) if weight_N is None else weight_N.astype(np.float64)
    share_N = share_N / share_N.sum()
    truth_NK = np.eye(n_classes)[truth_N]
    start = np.concatenate(
        [np.full(n_classes, 1 / fit_temperature(z_NK, truth_N, weight_N)), np.zeros(n_classes)]
    )

    limits = [(_LEAST_SCALE, None)] * n_classes + [(None, None)] * n_classes

    def loss(wb: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p_NK = softmax(z_NK * wb[:n_classes] + wb[n_classes:])
        error_NK = (p_NK - truth_NK) * share_N[:, None]
        likelihood = -np.log(np.maximum((p_NK * truth_NK).sum(axis=1), 1e-300)) @ share_N
        slope = np.concatenate([(error_NK * z_NK).sum(axis=0), error_NK.sum(axis=0)])
        away = wb - start
        return float(likelihood + ridge * away @ away), slope + 2 * ridge * away

    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": 500, "gtol": 1e-8, "ftol": 1e-14},
    )
    scale_K, shift_K = found.x[:n_classes], found.x[n_classes:]
    if not np.isfinite(found.x).all():
        raise InputError("no vector scaling was found", where="calibration", found=str(found.message))
    return VectorScale(scale=tuple(scale_K.tolist()), shift=tuple((shift_K - shift_K.mean()).tolist()))


def _require_items(logits_NK: NDArray[np.floating], truth_N: NDArray[Any]) -> None:
    if not len(logits_NK) or len(logits_NK) != len(truth_N):
        raise InputError(
            "calibration needs annotated items that the network did not learn from",
            where="calibration",
            found=f"{len(logits_NK)} items, {len(truth_N)} labels",
            mend="give the split a validation part (options.split.val)",
        )
