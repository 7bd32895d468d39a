"""What a network loses when it may not see a date or a band, and what it knows early in the season.

::

    occlusion of a date    the date is missing in every example, as under a cloud
    occlusion of a band    the band is the mean of the training pixels at every date
    in season              every date after the cut-off is missing: what a map made then would get

Shape suffixes: N example, T date, S step, C band, K class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.explain.attribution import Told
from training.explain.examples import Examples
from training.explain.lens import Answers, Change, Inputs, Lens, average
from training.explain.season import Season


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What hiding costs.

    Attributes:
        whole: Answers that see everything.
        probability: (J, K) float64, loss of the mean probability of the true class, over the pixels of each class;
            negative where hiding helps.
        accuracy: (J,) float64, loss of accuracy.
        f1: (J,) float64, loss of the mean F1.
    """

    whole: Answers
    probability: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    f1: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InSeason:
    """What is known early.

    Attributes:
        accuracy: (S,) float64, with the dates up to and including each step.
        f1: (S,) float64, mean over the classes.
        recall: (S, K) float64, of each class; NaN without pixels.
        support: (K,) pixels of each class.
        chance: Share of the most frequent class: what knowing nothing would get.
    """

    accuracy: NDArray[np.float64]
    f1: NDArray[np.float64]
    recall: NDArray[np.float64]
    support: tuple[int, ...]
    chance: float

    def reached(self, share: float = 0.95) -> int:
        """Return the first step from which on this share of the last accuracy is held."""
        enough = self.accuracy >= share * self.accuracy[-1]
        below = np.nonzero(~enough)[0]
        return int(below[-1]) + 1 if len(below) else 0


def occlude_dates(lens: Lens, examples: Examples, season: Season, told: Told | None = None) -> Occlusion:
    """Hide one step of the season after the other."""
    return _occlude(lens, examples, [hiding(season, [s]) for s in range(len(season))], told)


def occlude_bands(lens: Lens, examples: Examples, told: Told | None = None) -> Occlusion:
    """Flatten one band after the other."""
    return _occlude(lens, examples, [flattening(c) for c in range(examples.batch.x.shape[2])], told)


def in_season(lens: Lens, examples: Examples, season: Season, told: Told | None = None) -> InSeason:
    """Score with the dates up to each step of the season."""
    changes = [hiding(season, range(s + 1, len(season))) for s in range(len(season))]
    answers = list(_each(lens, examples, changes, told))
    scores = [found.scores for found in answers]
    return InSeason(
        np.array([s.accuracy for s in scores]),
        np.array([s.mean_f1 for s in scores]),
        np.array([s.recall for s in scores]),
        scores[-1].support,
        float(np.bincount(answers[0].truth).max() / len(answers[0].truth)),
    )


def hiding(season: Season, steps: Iterable[int]) -> Change:
    """Return a change that hides some steps."""
    hidden_NT = np.isin(season.step, list(steps))

    def change(inputs: Inputs) -> Inputs:
        return inputs.without(hidden_NT[inputs.which])

    return change


def flattening(band: int) -> Change:
    """Return a change that sets a band to the mean of the training pixels."""

    def change(inputs: Inputs) -> Inputs:
        x_BTCHW = inputs.x.clone()
        x_BTCHW[:, :, band] = average(inputs.x[:, :, band])
        return replace(inputs, x=x_BTCHW)

    return change


def _occlude(lens: Lens, examples: Examples, changes: list[Change], told: Told | None) -> Occlusion:
    whole = lens.answers(examples)
    scores = whole.scores
    own, accuracy, f1 = [], [], []
    for found in _each(lens, examples, changes, told):
        own.append(whole.own - found.own)
        accuracy.append(scores.accuracy - found.scores.accuracy)
        f1.append(scores.mean_f1 - found.scores.mean_f1)
    return Occlusion(whole, np.array(own), np.array(accuracy), np.array(f1))


def _each(
    lens: Lens, examples: Examples, changes: list[Change], told: Callable[[int, int], None] | None
) -> Iterator[Answers]:
    for number, change in enumerate(changes, start=1):
        yield lens.answers(examples, change)
        if told is not None:
            told(number, len(changes))
