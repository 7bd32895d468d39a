"""How good a training is with few labels: k items of each class, several draws, scores with intervals.

::

    training part ─► k items a class, draw 1 ─► train ─► score on the test part ┐
                  ─► k items a class, draw 2 ─► train ─► score                  ├─► mean and its 95% interval
                  ─► ...                                                        ┘

Within a draw the items of a smaller k are among those of a larger one, and the same draws serve each way of training,
so that two ways may be compared draw by draw. An item of a cube is a patch of connected pixels of one class (a
field), of a table a sample. No validation label is used either: the last state counts, as a user with k labels has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.values.errors import InputError
from training.splits import TEST, TRAIN

if TYPE_CHECKING:
    import xarray as xr

    from training.labels import LabelRaster
    from training.loop import TrainOptions
    from training.splits import Split

Score = Callable[[NDArray[np.int64], int], float]
"""``(chosen items, seed) -> score``: trains on them alone and scores the test part."""


class FewShots(BaseModel):
    """Which experiments are run.

    Attributes:
        items: Numbers of items of each class.
        draws: How often items are drawn, and a network is trained, for each number.
        seed: Of the draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    items: tuple[int, ...] = Field(default=(1, 5, 20), min_length=1)
    draws: int = Field(default=5, ge=2)
    seed: int = 0


@dataclass(frozen=True)
class Shots:
    """Scores with one number of items.

    Attributes:
        items: Of each class.
        scores: One for each draw.
    """

    items: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the draws."""
        return float(np.mean(self.scores))

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean over draws (Student's t).

        >>> [round(end, 3) for end in Shots(5, (0.6, 0.7, 0.8)).interval]
        [0.452, 0.948]
        """
        from scipy.stats import t

        n = len(self.scores)
        half = float(t.ppf(0.975, n - 1) * np.std(self.scores, ddof=1) / np.sqrt(n))
        return self.mean - half, self.mean + half

    def line(self) -> str:
        """Say it to a person.

        >>> Shots(5, (0.6, 0.7, 0.8)).line()
        '5 a class: 0.700 (0.452 to 0.948, 3 draws)'
        """
        low, high = self.interval
        return f"{self.items} a class: {self.mean:.3f} ({low:.3f} to {high:.3f}, {len(self.scores)} draws)"

    def as_json(self) -> dict[str, Any]:
        """Return figures for programs."""
        low, high = self.interval
        return {"items": self.items, "mean": self.mean, "low": low, "high": high, "scores": list(self.scores)}


def draw_items(class_N: NDArray[Any], k: int, seed: int) -> NDArray[np.int64]:
    """Draw k items of each class, all of a class that has fewer; rising.

    Args:
        class_N: Class of each item.
        k: Items of each class.
        seed: Another seed, another draw; for one seed a larger k keeps what a smaller one drew.

    >>> len(draw_items(np.array([1, 1, 2, 2, 2]), 2, seed=3))
    4
    """
    found = []
    for number, value in enumerate(np.unique(class_N)):
        mine = np.flatnonzero(class_N == value)
        found.append(np.random.default_rng([seed, number]).permutation(mine)[:k])
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def few_shot(class_N: NDArray[Any], score: Score, shots: FewShots) -> tuple[Shots, ...]:
    """Run the experiments.

    Args:
        class_N: Class of each item of the training part.
        score: Trains and scores.
        shots: Which.

    Returns:
        One row a number of items.

    Raises:
        InputError: If there are no items.
    """
    if not len(class_N):
        raise InputError("no item of the training part is annotated", where="few shot")
    rows = []
    for k in shots.items:
        seeds = range(shots.seed, shots.seed + shots.draws)
        rows.append(Shots(k, tuple(score(draw_items(class_N, k, seed), seed) for seed in seeds)))
    return tuple(rows)


def paired_gain(one: Shots, other: Shots) -> tuple[float, float, float]:
    """Return by how much the other is better, draw by draw: mean, and its 95% interval.

    >>> [round(v, 3) for v in paired_gain(Shots(5, (0.5, 0.6, 0.7)), Shots(5, (0.6, 0.7, 0.8)))]
    [0.1, 0.1, 0.1]

    Raises:
        InputError: If they are of other draws.
    """
    if (one.items, len(one.scores)) != (other.items, len(other.scores)):
        raise InputError(
            "other draws cannot be paired", where="few shot", found=other.line(), limit=one.line()
        )
    gains = tuple(b - a for a, b in zip(one.scores, other.scores, strict=True))
    return float(np.mean(gains)), *Shots(one.items, gains).interval


def fields_of(labels: LabelRaster, split: Split) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Number the patches of connected pixels of one class in the training part.

    Args:
        labels: What is annotated.
        split: Tells the training part.

    Returns:
        (y, x) int32, number of each pixel's patch from 1 on, 0 elsewhere; and the class value of each patch, (N).
    """
    from scipy.ndimage import label

    known_YX = np.where(split.parts(labels.box) == TRAIN, labels.values, 0)
    number_YX, values, count = np.zeros(known_YX.shape, np.int32), [], 0
    for value in labels.classes.values:
        mine_YX, more = label(known_YX == value)
        number_YX[mine_YX > 0] = mine_YX[mine_YX > 0] + count
        values.append(np.full(more, value, np.uint8))
        count += more
    return number_YX, np.concatenate(values)


def few_shot_cube(
    cube: xr.Dataset,
    labels: LabelRaster,
    ways: Mapping[str, TrainOptions],
    shots: FewShots,
    progress: Callable[[str], None] | None = None,
) -> dict[str, tuple[Shots, ...]]:
    """Compare ways of training on few fields of a cube by the macro F1 on its test part.

    Args:
        cube: As of `training.loop.train`.
        labels: As there; their test part stays whole, of the training part a few fields are kept.
        ways: How, by name: such as from fresh weights, and from a pretrained bundle. Their split is the first one's.
        shots: Which experiments.
        progress: Told of each training that is done.

    Raises:
        InputError: If the split has no test part, or no field for training.
    """
    from training.loop import train

    split = next(iter(ways.values())).split
    parts_YX = split.parts(labels.box)
    if not labels.values[parts_YX == TEST].any():
        raise InputError("few shots need an annotated test part", where="split.test", found=split.test)
    number_YX, class_N = fields_of(labels, split)

    def trainer(name: str, options: TrainOptions) -> Score:
        def score(chosen: NDArray[np.int64], seed: int) -> float:
            keep_YX = np.isin(number_YX, chosen + 1) | (parts_YX == TEST)
            few = replace(labels, values=np.where(keep_YX, labels.values, 0).astype(np.uint8))
            trained = train(cube, few, options.model_copy(update={"seed": seed, "split": split}))
            found = trained.test.mean_f1 if trained.test else float("nan")
            if progress is not None:
                progress(f"{name}: {len(chosen)} fields, draw {seed}: macro F1 {found:.3f}")
            return found

        return score

    return {name: few_shot(class_N, trainer(name, options), shots) for name, options in ways.items()}


def table(rows: Mapping[str, Sequence[Shots]]) -> str:
    """Return a Markdown table of ways by numbers of items."""
    numbers = [row.items for row in next(iter(rows.values()))]
    head = "| way | " + " | ".join(f"{n} a class" for n in numbers) + " |"
    lines = [head, "|" + " --- |" * (len(numbers) + 1)]
    for name, found in rows.items():
        cells = [f"{s.mean:.3f} ({s.interval[0]:.3f} to {s.interval[1]:.3f})" for s in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
