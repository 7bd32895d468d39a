"""Batches for the training loop: patches drawn, cut and augmented, from memory or streamed.

Shape suffixes: T date, C band, H row, W column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.grid import Box
from training.augment import AugmentOptions, augment, dihedral, drop_dates
from training.batch import Batch
from training.loader import CubeDataset, Loader, LoaderOptions
from training.pixels import Loaded, Streamed
from training.samples import Patches, Sampler
from training.targets import Targets

_EPOCH_PATCHES = 100_000


@dataclass(frozen=True)
class Draw:
    """What is drawn.

    Attributes:
        steps: Batches that will be asked for.
        batch: Patches a batch.
        crop_px: Side of a patch.
        balance: 0 draws patches of all classes alike, 1 as often as they occur.
        seed: Of patches and augmentation.
        date_dropout: Probability of each date of a patch to be blanked, where `augment` is None.
        augment: Augmentation in full; None: flips, quarter turns and blanked dates.
        band_means: Mean of each band over the training pixels, for augmentation.
    """

    steps: int
    batch: int
    crop_px: int
    balance: float
    seed: int
    date_dropout: float
    augment: AugmentOptions | None = None
    band_means: tuple[float, ...] | None = None


def batches(cube: Loaded | Streamed, targets: Targets, days: tuple[int, ...], draw: Draw) -> Iterator[Batch]:
    """Draw batches without end; the same draw gives the same batches.

    Args:
        cube: Reflectance over the targets' box.
        targets: Of the training part.
        days: Running day of each date; empty where it is not known.
        draw: How.
    """
    rng = np.random.default_rng(draw.seed)
    whole = (
        _streamed(cube, targets, draw) if isinstance(cube, Streamed) else _cut(cube, targets, days, draw, rng)
    )
    for step, batch in enumerate(whole):
        if draw.augment is None:
            yield _turned(batch, draw.date_dropout, rng)
        else:
            keys = np.array([[draw.seed, step, i] for i in range(len(batch))])
            yield augment(batch, draw.augment, keys, draw.band_means)


def _cut(
    cube: Loaded, targets: Targets, days: tuple[int, ...], draw: Draw, rng: np.random.Generator
) -> Iterator[Batch]:
    """Cut drawn patches out of a cube in memory."""
    sampler = Sampler.over(targets.index, targets.n_classes, draw.crop_px, draw.balance)
    side, box = sampler.crop_px, targets.box
    dates = torch.tensor(days or [0] * cube.n_dates, dtype=torch.int16)
    while True:
        # One draw of corners, then one of each patch's augmentation, as ever: the same seed gives the same network.
        corners = [(int(y) + box.y0, int(x) + box.x0) for y, x in sampler.draw(draw.batch, rng)]
        boxes = [Box(y, x, y + side, x + side) for y, x in corners]
        labels = [targets.patch(part) for part in boxes]
        yield Batch(
            x=torch.from_numpy(np.stack([cube.cut(part) for part in boxes])),
            dates=dates.repeat(len(boxes), 1),
            present=torch.ones((len(boxes), cube.n_dates), dtype=torch.bool),
            target=torch.from_numpy(np.stack([index for index, _ in labels])),
            weight=torch.from_numpy(np.stack([weight for _, weight in labels])),
            place=torch.tensor(corners),
        )


def _streamed(cube: Streamed, targets: Targets, draw: Draw) -> Iterator[Batch]:
    """As `_cut`, from a loader; its epochs are as long as the training, or a hundred thousand patches."""
    per_epoch = min(draw.steps * draw.batch, _EPOCH_PATCHES)
    patches = Patches(patch_px=draw.crop_px, balance=draw.balance, per_epoch=per_epoch)
    options = LoaderOptions(draw=patches, batch=draw.batch, seed=draw.seed, buffer_bytes=cube.most_bytes)
    loader = Loader(CubeDataset(cube.source, targets, options))
    while True:
        yield from loader


def _turned(batch: Batch, dropout: float, rng: np.random.Generator) -> Batch:
    """Flip or turn each patch and blank some of its dates."""
    xs, targets, weights = [], [], []
    parts = zip(batch.x.numpy(), batch.target.numpy(), batch.weight.numpy(), strict=True)
    for x_TCHW, target_HW, weight_HW in parts:
        which = int(rng.integers(8))
        xs.append(dihedral(drop_dates(x_TCHW, dropout, rng), which))
        targets.append(dihedral(target_HW, which))
        weights.append(dihedral(weight_HW, which))
    return replace(batch, x=_stacked(xs), target=_stacked(targets), weight=_stacked(weights))


def _stacked(parts: list[NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(parts))
