"""How much each band of each date speaks for a class: gradients and integrated gradients.

Both are taken by captum (Kokhlikyan et al. 2020, arXiv:2009.07896) of the log-odds of each example's own class.

- **Gradients** (Simonyan et al. 2014, arXiv:1312.6034): log-odds per standard deviation by which a band rises
  at a date in the whole patch.
- **Integrated gradients** (Sundararajan et al. 2017, arXiv:1703.01365): what of the log-odds a band of a date
  brings, against a patch in which every band of every valid date is the mean of the training pixels. They add
  up to the difference of the two answers (completeness); what is missing in the sum is told.

Shape suffixes: N example, B batch, T date, S step, C band, K class, H row, W column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.explain.examples import Examples
from training.explain.lens import Inputs, Lens, average, log_odds
from training.explain.season import Season

Told = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Attributions of examples, summed over the pixels of their patches.

    Attributes:
        values: (N, S, C) float64, log-odds (integrated) or log-odds per standard deviation (gradients).
        of: (N,) int64, class of each example.
        gain: (N,) float64, log-odds of the example minus those of the baseline; zeros for gradients.
        missing: (N,) float64, `gain` minus the sum of `values`; zeros for gradients.
    """

    values: NDArray[np.float64]
    of: NDArray[np.int64]
    gain: NDArray[np.float64]
    missing: NDArray[np.float64]

    def by_class(self, n_classes: int) -> NDArray[np.float64]:
        """Mean over the examples of each class, signed, (K, S, C); NaN without any."""
        return class_means(self.values, self.of, n_classes)

    def strength(self, n_classes: int) -> NDArray[np.float64]:
        """Mean absolute value over the examples of each class, (K, S, C); NaN without any."""
        return class_means(np.abs(self.values), self.of, n_classes)

    @property
    def worst_missing(self) -> float:
        """Share of the gain that the sum misses, the median over the examples."""
        return float(np.median(np.abs(self.missing) / np.maximum(np.abs(self.gain), 1e-6)))


def class_means(values_N: NDArray[Any], of_N: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Return the mean of the examples of each class, (K, ...); NaN for classes without any."""
    found = np.full((n_classes, *values_N.shape[1:]), np.nan)
    for k in np.unique(of_N):
        found[k] = values_N[of_N == k].mean(axis=0)
    return found


def gradients(lens: Lens, examples: Examples, season: Season, told: Told | None = None) -> Attribution:
    """Take the gradient of each example's log-odds by what the network sees.

    Args:
        lens: The network.
        examples: What is explained.
        season: Steps of their dates.
        told: Called after each piece.
    """
    from_captum = _captum()
    values = np.zeros((len(examples), *examples.batch.x.shape[1:3]))
    for inputs in lens.pieces(examples):
        score = _score(lens, examples, inputs)
        method = from_captum.Saliency(score)
        slope = method.attribute(
            inputs.x.requires_grad_(), abs=False, additional_forward_args=_given(examples, inputs)
        )
        values[inputs.which] = _summed(slope, lens.there(inputs))
        _tell(told, inputs, examples)
    zeros = np.zeros(len(examples))
    return Attribution(season.summed(values), examples.of, zeros, zeros)


def integrated_gradients(
    lens: Lens, examples: Examples, season: Season, steps: int = 32, told: Told | None = None
) -> Attribution:
    """Integrate gradients from the mean training pixel to each example.

    Args:
        lens: The network.
        examples: What is explained.
        season: Steps of their dates.
        steps: Points of the Gauss-Legendre rule on the way.
        told: Called after each piece.
    """
    from_captum = _captum()
    values = np.zeros((len(examples), *examples.batch.x.shape[1:3]))
    gain = np.zeros(len(examples))
    for inputs in lens.pieces(examples, times=steps):
        score, given = _score(lens, examples, inputs), _given(examples, inputs)
        nothing = average(inputs.x)
        method = from_captum.IntegratedGradients(score, multiply_by_inputs=True)
        part = method.attribute(inputs.x, nothing, additional_forward_args=given, n_steps=steps)
        values[inputs.which] = _summed(part, lens.there(inputs))
        with torch.no_grad():
            gain[inputs.which] = (score(inputs.x, *given) - score(nothing, *given)).numpy()
        _tell(told, inputs, examples)
    missing = gain - values.sum(axis=(1, 2))
    return Attribution(season.summed(values), examples.of, gain, missing)


def _score(lens: Lens, examples: Examples, inputs: Inputs) -> Callable[..., torch.Tensor]:
    """Return a function of everything that has a row for each example, as captum wants to repeat the rows."""

    def score(
        x_BTCHW: torch.Tensor,
        valid_BTHW: torch.Tensor,
        days_BT: torch.Tensor,
        mine_BHW: torch.Tensor,
        of_B: torch.Tensor,
    ) -> torch.Tensor:
        seen = Inputs(x_BTCHW, valid_BTHW, days_BT, inputs.which)
        return log_odds(lens.logits(seen), mine_BHW, of_B)

    return score


def _given(examples: Examples, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    of_B = torch.from_numpy(examples.of[inputs.which])
    return inputs.valid, inputs.days, examples.mine[inputs.which], of_B


def _summed(values_BTCHW: torch.Tensor, there_BTCHW: torch.Tensor) -> NDArray[np.float64]:
    """Sum over the pixels that hold something; what does not is no input."""
    found: NDArray[np.float64] = (values_BTCHW * there_BTCHW).sum(dim=(3, 4)).detach().double().numpy()
    return found


def _tell(told: Told | None, inputs: Inputs, examples: Examples) -> None:
    if told is not None:
        told(inputs.which.stop, len(examples))


def _captum() -> Any:
    try:
        return import_module("captum.attr")
    except ImportError as error:
        raise InputError(
            "attributions need captum", where="explain", mend='pip install "landweave[training]"'
        ) from error
