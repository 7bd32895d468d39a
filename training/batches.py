"""Batches for the training loop: patches drawn, cut and augmented, from memory or streamed.

Shape suffixes: T date, C band, H row, W column.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.grid import Box
from engine.values.planes import Plane
from training.augment import AugmentOptions, augment, dihedral, drop_dates
from training.batch import Batch
from training.loader import CubeDataset, Loader, LoaderOptions, Rank
from training.pixels import Loaded, Streamed
from training.samples import Patches, Sampler
from training.sensors import changed, of_group
from training.targets import Targets

_EPOCH_PATCHES = 100_000


@dataclass(frozen=True)
class Draw:
    """What is drawn.

    Attributes:
        steps: Batches that all processes will ask for.
        batch: Patches a batch.
        crop_px: Side of a patch.
        balance: 0 draws patches of all classes alike, 1 as often as they occur.
        seed: Of patches and augmentation.
        date_dropout: Probability of each date of a patch to be blanked, where `augment` is None.
        augment: Augmentation in full; None: flips, quarter turns and blanked dates.
        band_means: Mean of each plane over the training pixels, for augmentation.
        planes: What the planes are; none: bands of reflectance.
    """

    steps: int
    batch: int
    crop_px: int
    balance: float
    seed: int
    date_dropout: float
    augment: AugmentOptions | None = None
    band_means: tuple[float, ...] | None = None
    planes: tuple[Plane, ...] = ()


@dataclass(frozen=True)
class Start:
    """Which of the drawn batches are given.

    Attributes:
        skip: So many of this process's batches were given before.
        rank: Its share: of a cube in memory batch ``number`` of each ``count``; of a streamed one its part of
            each epoch.
    """

    skip: int = 0
    rank: Rank = field(default_factory=Rank)

    def number(self, i: int) -> int:
        """Return the number, over all processes, of this one's batch `i` after the skipped ones."""
        return (self.skip + i) * self.rank.count + self.rank.number


def batches(
    cube: Loaded | Streamed, targets: Targets, days: tuple[int, ...], draw: Draw, start: Start | None = None
) -> Iterator[Batch]:
    """Draw batches without end; the same draw gives the same batches, wherever it starts.

    Args:
        cube: Reflectance over the targets' box.
        targets: Of the training part.
        days: Running day of each date; empty where it is not known.
        draw: How.
        start: From where, and for which of the processes that train together.
    """
    start = start or Start()
    if isinstance(cube, Streamed):
        return _streamed(cube, targets, draw, start)
    return _cut(cube, targets, days, draw, start)


def _cut(cube: Loaded, targets: Targets, days: tuple[int, ...], draw: Draw, start: Start) -> Iterator[Batch]:
    """Cut drawn patches out of a cube in memory; batches that are not wanted are drawn, but not cut."""
    rng = np.random.default_rng(draw.seed)
    sampler = Sampler.over(targets.index, targets.n_classes, draw.crop_px, draw.balance)
    side, box = sampler.crop_px, targets.box
    dates = torch.tensor(days or [0] * cube.n_dates, dtype=torch.int16)
    wanted = start.number(0)
    for number in itertools.count():
        # One draw of corners, then one of each patch's augmentation, as ever: the same seed gives the same network.
        corners = [(int(y) + box.y0, int(x) + box.x0) for y, x in sampler.draw(draw.batch, rng)]
        if number < wanted:
            _pass_over(draw, cube.n_dates, rng)
            continue
        wanted += start.rank.count
        boxes = [Box(y, x, y + side, x + side) for y, x in corners]
        labels = [targets.patch(part) for part in boxes]
        batch = Batch(
            x=torch.from_numpy(np.stack([cube.cut(part) for part in boxes])),
            dates=dates.repeat(len(boxes), 1),
            present=torch.ones((len(boxes), cube.n_dates), dtype=torch.bool),
            target=torch.from_numpy(np.stack([index for index, _ in labels])),
            weight=torch.from_numpy(np.stack([weight for _, weight in labels])),
            place=torch.tensor(corners),
        )
        yield _augmented(batch, draw, number, rng)


def _streamed(cube: Streamed, targets: Targets, draw: Draw, start: Start) -> Iterator[Batch]:
    """As `_cut`, from a loader; its epochs are as long as the training, or a hundred thousand patches."""
    per_epoch = min(draw.steps * draw.batch, _EPOCH_PATCHES)
    patches = Patches(patch_px=draw.crop_px, balance=draw.balance, per_epoch=per_epoch)
    options = LoaderOptions(draw=patches, batch=draw.batch, seed=draw.seed, buffer_bytes=cube.most_bytes)
    loader = Loader(CubeDataset(cube.source, targets, options, start.rank))
    loader.skip(start.skip)
    whole = itertools.chain.from_iterable(itertools.repeat(loader))
    for i, batch in enumerate(whole):
        number = start.number(i)
        yield _augmented(batch, draw, number, np.random.default_rng((draw.seed, number)))


def _augmented(batch: Batch, draw: Draw, number: int, rng: np.random.Generator) -> Batch:
    if draw.augment is None:
        return _turned(batch, draw, rng)
    keys = np.array([[draw.seed, number, i] for i in range(len(batch))])
    return augment(batch, draw.augment, keys, draw.band_means, draw.planes)


def _pass_over(draw: Draw, n_dates: int, rng: np.random.Generator) -> None:
    """Draw what `_turned` would for a batch, so that the next one is the same as if this had been given."""
    if draw.augment is None:
        nothing_TCHW = np.zeros((n_dates, max(1, len(draw.planes)), 1, 1), np.uint16)
        for _ in range(draw.batch):
            rng.integers(8)
            _blanked(nothing_TCHW, draw, rng)


def _blanked(x_TCHW: NDArray[np.uint16], draw: Draw, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Blank some dates of each sensor, drawn for each; what never changes stays."""
    for group in ("optical", "radar"):
        places = of_group(draw.planes, group)
        x_TCHW = changed(x_TCHW, places, lambda v: drop_dates(v, draw.date_dropout, rng))
    return x_TCHW


def _turned(batch: Batch, draw: Draw, rng: np.random.Generator) -> Batch:
    """Flip or turn each patch and blank some of its dates."""
    xs, targets, weights = [], [], []
    parts = zip(batch.x.numpy(), batch.target.numpy(), batch.weight.numpy(), strict=True)
    for x_TCHW, target_HW, weight_HW in parts:
        which = int(rng.integers(8))
        xs.append(dihedral(_blanked(x_TCHW, draw, rng), which))
        targets.append(dihedral(target_HW, which))
        weights.append(dihedral(weight_HW, which))
    return replace(batch, x=_stacked(xs), target=_stacked(targets), weight=_stacked(weights))


def _stacked(parts: list[NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(parts))
