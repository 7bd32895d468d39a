"""What a network learns from a table: `training.lessons.Lessons` over series, each a patch of one pixel.

::

    SeriesTable ─ planes ─► (sample, time, plane) uint16 ─ draw, jitter ─► Batch (B, T, C, 1, 1)

Shape suffixes: N sample, B batch, T date, C plane, K class.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.normalise import Standard
from engine.values.classes import ClassScheme
from engine.values.days import running_days
from engine.values.errors import InputError
from engine.values.planes import Plane, groups_of
from training.batch import Batch
from training.lessons import PARTS, Inner
from training.loader import Rank
from training.series import SeriesTable
from training.splits import TRAIN
from training.statistics import fit_standard
from training.tables.jitter import SeriesJitter, jittered
from training.tables.planes import stored_series

_SCORED = 1024
_ONE: Inner = (slice(0, 1), slice(0, 1))


@dataclass(frozen=True)
class SeriesDraw:
    """How series are drawn.

    Attributes:
        batch: Samples a batch.
        balance: 0 draws all classes alike, 1 as often as they occur.
        jitter: What is changed in each.
        seed: Of the order and of the changes.
    """

    batch: int = 64
    balance: float = 1.0
    jitter: SeriesJitter = SeriesJitter()  # noqa: RUF009  # frozen
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TableLessons:
    """Series of a table, in memory.

    Attributes:
        x: (N, T, C) uint16, 0 = no data.
        dates: (N, T) int16 running days, 0 = no such date.
        index: (N,) uint8 class index, in the order of `classes`.
        weight: (N,) float32, 0..1.
        parts: (N,) uint8: of `training.splits`.
        classes: Of the labels.
        planes: What each plane is.
        normalisation: Of the training part.
        draw: How series are drawn.
    """

    x: NDArray[np.uint16]
    dates: NDArray[np.int16]
    index: NDArray[np.uint8]
    weight: NDArray[np.float32]
    parts: NDArray[np.uint8]
    classes: ClassScheme
    planes: tuple[Plane, ...]
    normalisation: Standard
    draw: SeriesDraw = SeriesDraw()  # frozen

    @classmethod
    def of(
        cls,
        table: SeriesTable,
        parts: NDArray[np.uint8],
        planes: Sequence[Plane],
        draw: SeriesDraw | None = None,
    ) -> TableLessons:
        """Write a table in planes and measure the normalisation on its training part.

        Args:
            table: Samples; those without any value teach nothing and are scored as the network answers them.
            parts: (N,) uint8, as `Split.parts_of` gives.
            planes: One for each band.
            draw: How series are drawn.

        Raises:
            InputError: If parts and table differ, or the training part is empty or has no data.
        """
        if len(parts) != len(table) or not (parts == TRAIN).any():
            raise InputError(
                "the split leaves nothing to train on",
                where=table.source,
                found=f"{int((parts == TRAIN).sum())} samples train, of {len(table)}",
                mend="fewer units for validation and test, a smaller buffer, or split by something else",
            )
        x_NTC = stored_series(table, planes)
        return cls(
            x=x_NTC,
            dates=running_days(table.dates),
            index=np.searchsorted(table.classes.values, table.value).astype(np.uint8),
            weight=table.weight,
            parts=np.asarray(parts, np.uint8),
            classes=table.classes,
            planes=tuple(planes),
            normalisation=fit_standard(x_NTC[parts == TRAIN].transpose(1, 2, 0), groups_of(planes)),
            draw=draw or SeriesDraw(),
        )

    @property
    def n_dates(self) -> int | None:
        """Dates of each sample; None where samples have different numbers of them."""
        there = (self.dates > 0).sum(axis=1)
        alike = not there.any() or (there == self.x.shape[1]).all()
        return int(self.x.shape[1]) if alike else None

    @property
    def n_bands(self) -> int:
        """Planes of a date."""
        return int(self.x.shape[2])

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.classes.classes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Training samples of each class, (K) int64."""
        return np.bincount(self.index[self.parts == TRAIN], minlength=self.n_classes)

    @property
    def pixels(self) -> dict[str, int]:
        """Samples of each part."""
        return {name: int((self.parts == part).sum()) for name, part in PARTS.items()}

    def batches(self, skip: int = 0, rank: Rank | None = None) -> Iterator[Batch]:
        """Give batches of the training part without end; see `training.lessons.Lessons`.

        Each batch has a random stream of its own, so that one can begin anywhere: what is drawn hangs on the seed and
        the number of the batch alone.
        """
        rank = rank or Rank()
        mine = np.flatnonzero((self.parts == TRAIN) & (self.weight > 0))
        share_N = self._shares(mine)
        for number in itertools.count(rank.number + skip * rank.count, rank.count):
            rng = np.random.default_rng([self.draw.seed, number])
            rows = rng.choice(mine, min(self.draw.batch, len(mine)), replace=self.draw.balance < 1, p=share_N)
            x_BTC = jittered(self.x[rows], self.index[rows], self.draw.jitter, self.normalisation, rng)
            yield self._batch(rows, x_BTC)

    def part(self, part: int) -> Iterator[tuple[Batch, Inner]]:
        """Give the samples of a part once, as they are."""
        rows = np.flatnonzero(self.parts == part)
        for start in range(0, len(rows), _SCORED):
            chosen = rows[start : start + _SCORED]
            yield self._batch(chosen, self.x[chosen]), _ONE

    def _shares(self, mine: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how often each sample is drawn."""
        counts = np.bincount(self.index[mine], minlength=self.n_classes).astype(np.float64)
        each_K = np.divide(counts**self.draw.balance, counts, out=np.zeros_like(counts), where=counts > 0)
        found: NDArray[np.float64] = each_K[self.index[mine]]
        return found / found.sum()

    def _batch(self, rows: NDArray[np.int64], x_BTC: NDArray[np.uint16]) -> Batch:
        return Batch(
            x=torch.from_numpy(np.ascontiguousarray(x_BTC)[..., None, None]),
            dates=torch.from_numpy(self.dates[rows]),
            present=torch.from_numpy(self.dates[rows] > 0) | torch.from_numpy((x_BTC != 0).any(axis=2)),
            target=torch.from_numpy(self.index[rows])[:, None, None],
            weight=torch.from_numpy(self.weight[rows])[:, None, None],
            place=torch.from_numpy(np.stack([rows, np.zeros_like(rows)], axis=1)),
        )
