"""What a network learns from: batches to learn, parts to score, and what must be known to build it.

::

    class Lessons                 CubeLessons: patches of a cube with labels (here)
        batches(skip, rank)  ──►  Batch, Batch, ...        endless, the same for the same seed
        part(VAL)            ──►  (Batch, inner), ...      once; `inner` are the rows and columns that count
                                        │
                       call(module, batch, normalisation, days)  ──►  logits_BKHW

Shape suffixes: T date, C band, Y X the whole box, B batch, H row, W column, K class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.inference.predict import days_of
from engine.models.normalise import LogSigmoid, Standard
from engine.models.registry import takes_days
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.planes import groups_of
from training.batch import Batch
from training.batches import Draw, Start, batches
from training.label_values import FULL_WEIGHT
from training.loader import Rank
from training.losses import IGNORE
from training.pixels import Loaded, Streamed, pixels_of
from training.sources import seen_of
from training.splits import TEST, TRAIN, VAL
from training.statistics import drawn_pixels, fit_standard
from training.targets import Targets, class_indices

if TYPE_CHECKING:
    import xarray as xr

    from training.labels import LabelRaster
    from training.options import TrainOptions

Inner = tuple[slice, slice]
"""Rows and columns of a scored batch that count; around them it is only looked at."""

PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
"""Parts of a split by name."""

_VAL_WINDOW_PX, _VAL_MARGIN_PX = 256, 32


class Lessons(Protocol):
    """What a network learns from, whatever it is made of.

    Attributes:
        n_dates: Dates of each sample; None: they have different numbers of them.
        n_bands: Bands of each date.
        classes: What the network's outputs stand for, in their order.
        normalisation: Measured on the training part.
        counts: (K) int64, annotated items of the training part per class.
    """

    @property
    def n_dates(self) -> int | None: ...  # noqa: D102

    @property
    def n_bands(self) -> int: ...  # noqa: D102

    @property
    def n_classes(self) -> int: ...  # noqa: D102

    @property
    def classes(self) -> ClassScheme: ...  # noqa: D102

    @property
    def normalisation(self) -> Standard: ...  # noqa: D102

    @property
    def counts(self) -> NDArray[np.int64]: ...  # noqa: D102

    def batches(self, skip: int = 0, rank: Rank | None = None) -> Iterator[Batch]:
        """Give batches of the training part without end, the same for the same seed.

        Args:
            skip: Begin after as many batches of this rank: exactly those that would have come then.
            rank: The share of one of several processes that train together; where it costs nothing, batch
                ``number`` of each ``count``, so that together they see what one process would. None: all.
        """
        ...

    def part(self, part: int) -> Iterator[tuple[Batch, Inner]]:
        """Give each item of a part once: TRAIN, VAL or TEST of `training.splits`.

        Yields:
            A batch, and its rows and columns that count; nothing where the part has no annotated item. What is
            annotated in them counts once.
        """
        ...


def call(
    module: torch.nn.Module, batch: Batch, normalisation: Standard | LogSigmoid, days: bool
) -> torch.Tensor:
    """Run a network on a batch of the cube's integers, as training and everything after it does.

    Args:
        module: ``forward(x_BTCHW, valid_BTHW[, days_BT])``.
        batch: On the module's device.
        normalisation: Of the training part.
        days: Whether the network asks for running days (`takes_days` of `engine.models.registry`).

    Returns:
        logits_BKHW.
    """
    x_BTCHW, valid_BTHW = batch.prepared(normalisation)
    more = (batch.dates.to(torch.float32),) if days else ()
    logits_BKHW: torch.Tensor = module(x_BTCHW, valid_BTHW, *more)
    return logits_BKHW


@dataclass(frozen=True, eq=False)
class CubeLessons:
    """Patches of a cube, drawn around what is annotated; scored in windows with a margin.

    Attributes:
        cube: Its pixels, in memory or streamed.
        targets: For each part the class index (y, x), `IGNORE` elsewhere.
        box: Global pixels of both.
        classes: Of the labels.
        normalisation: Of the training part.
        options: How patches are drawn.
        days: Running day of each date; empty where it is not known.
        weights: (y, x) uint8 weight of each label, 0..250 = 0..1; None: all alike.
        unlabelled: (y, x) bool, pixels of the training part that are not annotated, where the loss learns from them.
    """

    cube: Loaded | Streamed
    targets: dict[int, NDArray[np.uint8]]
    box: Box
    classes: ClassScheme
    normalisation: Standard
    options: TrainOptions
    days: tuple[int, ...] = ()
    weights: NDArray[np.uint8] | None = None
    unlabelled: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, cube: xr.Dataset, labels: LabelRaster, options: TrainOptions) -> CubeLessons:
        """Split what is annotated, and measure the normalisation on the training part.

        Args:
            cube: ``reflectance`` (time, band, y, x) uint16 and whatever else its spec names
                (`engine.inference.planes`), lazy or loaded, on the labels' box. It is loaded whole (dates x planes x
                pixels x 2 bytes) where ``options.memory_bytes`` allow it, else streamed; patches and their order
                then differ.
            labels: Annotated pixels.
            options: How.

        Raises:
            InputError: If cube and labels differ, or nothing of the training part is annotated or has data.
        """
        _require_same_pixels(cube, labels)
        days = days_of(cube)
        if not days and takes_days(options.architecture):
            raise InputError(
                "the network asks for the days of the dates, which the cube does not have",
                where="train.architecture",
                found=options.architecture,
                mend="give the cube a coordinate `time` of datetime64",
            )
        pixels = pixels_of(cube, labels.box, options.memory_bytes)
        index_YX = class_indices(labels)
        parts_YX = options.split.parts(labels.box)
        targets = {
            part: np.where(parts_YX == part, index_YX, np.uint8(IGNORE)) for part in (TRAIN, VAL, TEST)
        }
        normalisation = statistics(pixels, targets[TRAIN] != IGNORE, options.seed)
        return cls(
            cube=pixels,
            targets=targets,
            box=labels.box,
            classes=labels.classes,
            normalisation=normalisation,
            options=options,
            days=days,
            weights=labels.weights,
            unlabelled=(parts_YX == TRAIN) & (index_YX == IGNORE) if options.unlabelled else None,
        )

    @property
    def n_dates(self) -> int:
        """Dates of the cube."""
        return self.cube.n_dates

    @property
    def n_bands(self) -> int:
        """Bands of the cube."""
        return self.cube.n_bands

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.classes.classes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Annotated training pixels of each class, (K) int64."""
        return self._targets(TRAIN).counts

    @property
    def pixels(self) -> dict[str, int]:
        """Annotated pixels of each part."""
        return {name: int(self._targets(part).counts.sum()) for name, part in PARTS.items()}

    def batches(self, skip: int = 0, rank: Rank | None = None) -> Iterator[Batch]:
        """Give batches of patches of the training part without end; see `Lessons`."""
        rank, options = rank or Rank(), self.options
        draw = Draw(
            steps=options.steps * options.accumulate * rank.count,
            batch=options.batch,
            crop_px=options.crop_px,
            balance=options.balance,
            seed=options.seed,
            date_dropout=options.date_dropout,
            augment=options.augment,
            band_means=self.normalisation.mean,
            planes=self.cube.planes,
        )
        return batches(self.cube, self._taught(), self.days, draw, Start(skip, rank))

    def part(self, part: int) -> Iterator[tuple[Batch, Inner]]:
        """Give the windows of a part that hold annotated pixels, one a batch; see `Lessons`."""
        targets, m = self._targets(part), _VAL_MARGIN_PX
        inner_px = _VAL_WINDOW_PX - 2 * m
        tiles = _tiles(self.box, inner_px)
        held = (t for t in tiles if (targets.index[t.slices_in(self.box)] != IGNORE).any())
        for tile in self.cube.sweep(held):
            outer = Box(tile.y0 - m, tile.x0 - m, tile.y0 + inner_px + m, tile.x0 + inner_px + m)
            height, width = tile.shape_yx
            yield self._window(outer, targets), (slice(m, m + height), slice(m, m + width))

    def _window(self, outer: Box, targets: Targets) -> Batch:
        """Cut a window that may reach beyond the cube: no data, not annotated there."""
        there = outer & self.box
        x_TCHW = np.zeros((self.n_dates, self.n_bands, *outer.shape_yx), np.uint16)
        x_TCHW[(..., *there.slices_in(outer))] = self.cube.cut(there)
        index, weight = targets.patch(outer)
        return Batch(
            x=torch.from_numpy(x_TCHW)[None],
            dates=torch.tensor([self.days or [0] * self.n_dates], dtype=torch.int16),
            present=torch.ones((1, self.n_dates), dtype=torch.bool),
            target=torch.from_numpy(index)[None],
            weight=torch.from_numpy(weight)[None],
            place=torch.tensor([[outer.y0, outer.x0]]),
        )

    def _taught(self) -> Targets:
        """Return what is learnt: what is annotated and, where the loss asks for them, the pixels that are not."""
        known = self._targets(TRAIN)
        if self.unlabelled is None or self.options.unlabelled is None:
            return known
        if self.options.unlabelled not in self.classes.names:
            raise InputError(
                "no class has the name of the unlabelled one",
                where="options.loss.unlabelled",
                found=self.options.unlabelled,
                limit=list(self.classes.names),
            )
        number = self.classes.names.index(self.options.unlabelled)
        index = np.where(self.unlabelled, np.uint8(number), known.index)
        weight = (
            None if known.weight is None else np.where(self.unlabelled, np.uint8(FULL_WEIGHT), known.weight)
        )
        return replace(known, index=index, weight=weight)

    def _targets(self, part: int) -> Targets:
        return Targets(self.targets[part], self.box, self.n_classes, self.weights)


def statistics(
    pixels: NDArray[np.uint16] | Loaded | Streamed, known_YX: NDArray[np.bool_], seed: int
) -> Standard:
    """Measure mean and standard deviation per plane over valid dates of annotated training pixels.

    Args:
        pixels: (T, C, Y, X) uint16, 0 = no data, as an array or as training reads it.
        known_YX: Pixels that count; at most 200 000 of them, drawn by the seed, are read.
        seed: Of that draw.

    Raises:
        InputError: If no annotated pixel has data.
    """
    ys, xs = drawn_pixels(known_YX, seed)
    if isinstance(pixels, np.ndarray):
        return fit_standard(pixels[:, :, ys, xs])
    return fit_standard(pixels.at(ys, xs), groups_of(pixels.planes))


def _tiles(box: Box, side_px: int) -> Iterator[Box]:
    """Cut a box into squares from its upper left corner."""
    for part in Box(0, 0, *box.shape_yx).blocks(side_px):
        yield Box(part.y0 + box.y0, part.x0 + box.x0, part.y1 + box.y0, part.x1 + box.x0)


def _require_same_pixels(cube: xr.Dataset, labels: LabelRaster) -> None:
    seen, _ = seen_of(cube)
    if seen.dims[2:] != ("y", "x") or seen.shape[2:] != labels.box.shape_yx:
        raise InputError(
            "cube and labels do not cover the same pixels",
            where="train",
            found=dict(seen.sizes),
            limit=f"(time, band, y, x) with {labels.box.shape_yx} px",
            mend="rasterise the labels on the cube's own grid and box",
        )
