"""Permutation importance: what a network loses when a band or a date comes from another example.

Breiman 2001 (doi:10.1023/A:1010933404324); Fisher, Rudin and Dominici 2019 (arXiv:1801.01489). Unlike occlusion it
keeps what values are usual; what two bands both tell is counted for neither.

Shape suffixes: B batch, N example, T date, S step, C band, R repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.explain.attribution import Told
from training.explain.examples import Examples
from training.explain.lens import Answers, Change, Inputs, Lens, average
from training.explain.season import Season


@dataclass(frozen=True, eq=False)
class Permutation:
    """Losses over repeats; negative where a shuffled input happens to help.

    Attributes:
        whole: Answers to the examples as they are.
        bands: (C, R) float64, loss of accuracy with the band shuffled.
        bands_f1: (C, R) float64, loss of the mean F1.
        dates: (S, R) float64, loss of accuracy with all bands of the step shuffled; no rows where the examples
            have dates of their own.
        dates_f1: (S, R) float64, loss of the mean F1.
    """

    whole: Answers
    bands: NDArray[np.float64]
    bands_f1: NDArray[np.float64]
    dates: NDArray[np.float64]
    dates_f1: NDArray[np.float64]


def permute(
    lens: Lens,
    examples: Examples,
    season: Season,
    repeats: int = 5,
    seed: int = 0,
    told: Told | None = None,
) -> Permutation:
    """Shuffle each band, then each date, among the examples.

    Args:
        lens: The network.
        examples: Of all classes; patches are shuffled whole.
        season: Steps of their dates.
        repeats: Shuffles of each.
        seed: Of the shuffles.
        told: Called after each shuffle.
    """
    rng = np.random.default_rng(seed)
    steps = len(season) if season.aligned else 0
    n_bands, whole = int(examples.batch.x.shape[2]), lens.answers(examples)
    base = np.array([whole.scores.accuracy, whole.scores.mean_f1])
    lost = np.zeros((n_bands + steps, repeats, 2))
    changes = _changes(lens, examples, season, (n_bands, steps, repeats), rng)
    for done, (place, repeat, change) in enumerate(changes, start=1):
        scores = lens.answers(examples, change).scores
        lost[place, repeat] = base - [scores.accuracy, scores.mean_f1]
        if told is not None:
            told(done, (n_bands + steps) * repeats)
    return Permutation(
        whole, lost[:n_bands, :, 0], lost[:n_bands, :, 1], lost[n_bands:, :, 0], lost[n_bands:, :, 1]
    )


def _changes(
    lens: Lens,
    examples: Examples,
    season: Season,
    sizes: tuple[int, int, int],
    rng: np.random.Generator,
) -> Iterator[tuple[int, int, Change]]:
    n_bands, steps, repeats = sizes
    for repeat in range(repeats):
        for band in range(n_bands):
            yield band, repeat, _shuffled_band(lens, examples, band, rng.permutation(len(examples)))
    columns_T = season.step.max(axis=0, initial=-1)
    for repeat in range(repeats):
        for step in range(steps):
            which = np.nonzero(columns_T == step)[0]
            yield (
                n_bands + step,
                repeat,
                _shuffled_dates(lens, examples, which, rng.permutation(len(examples))),
            )


def _shuffled_band(lens: Lens, examples: Examples, band: int, order_N: NDArray[np.int64]) -> Change:
    """Take a band from another example; where that has no data, it is the mean of the training pixels."""

    def change(inputs: Inputs) -> Inputs:
        other = _others(lens, examples, order_N, inputs)
        x_BTCHW = inputs.x.clone()
        mine, given = inputs.x[:, :, band], other.x[:, :, band]
        x_BTCHW[:, :, band] = torch.where((mine != 0) & (given != 0), given, average(mine))
        return replace(inputs, x=x_BTCHW)

    return change


def _shuffled_dates(
    lens: Lens, examples: Examples, which_T: NDArray[np.int64], order_N: NDArray[np.int64]
) -> Change:
    """Take dates from another example, with what is missing there."""
    index = torch.from_numpy(which_T)

    def change(inputs: Inputs) -> Inputs:
        other = _others(lens, examples, order_N, inputs)
        x_BTCHW, valid_BTHW = inputs.x.clone(), inputs.valid.clone()
        x_BTCHW[:, index], valid_BTHW[:, index] = other.x[:, index], other.valid[:, index]
        return replace(inputs, x=x_BTCHW, valid=valid_BTHW)

    return change


def _others(lens: Lens, examples: Examples, order_N: NDArray[np.int64], inputs: Inputs) -> Inputs:
    return lens.inputs(examples[order_N[inputs.which]], inputs.which)
