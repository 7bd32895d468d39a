"""What is explained: annotated patches (of tables: single series), drawn alike from every class.

Shape suffixes: N example, T date, C band, H row, W column.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.errors import InputError
from training.batch import IGNORE, Batch

_MOST_BYTES = 512 * 2**20

Part = Iterable[tuple[Batch, tuple[slice, slice]]]
"""Batches of a part of a split, with the rows and columns that count in each."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Annotated patches of one size.

    Attributes:
        batch: N patches; `Batch.target` is `IGNORE` wherever a pixel does not count.
        of: (N,) int64, the class each was drawn for: its index in the network's order. At least one counted
            pixel of each patch is of it.
    """

    batch: Batch
    of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, which: slice | NDArray[Any]) -> Examples:
        index = torch.from_numpy(np.arange(len(self))[which])
        return Examples(picked(self.batch, index), self.of[index.numpy()])

    @property
    def mine(self) -> torch.Tensor:
        """The pixels of the class that each was drawn for, bool."""
        return self.batch.target == torch.from_numpy(self.of)[:, None, None].to(torch.uint8)

    @property
    def counts(self) -> dict[int, int]:
        """Examples of each class that has any."""
        found = np.bincount(self.of)
        return {k: int(n) for k, n in enumerate(found) if n}


@dataclass(frozen=True)
class DrawOptions:
    """How examples are drawn.

    Attributes:
        per_class: Examples of each class at most; fewer where memory (512 MiB in all) or the part has no more.
        patch_px: Side of a patch; 1 for networks that look at single pixels.
        margin_px: Rim of a patch in which no pixel counts, so that the network sees around those that do.
        seed: Of the draw.
    """

    per_class: int = 24
    patch_px: int = 1
    margin_px: int = 0
    seed: int = 0


def draw_examples(part: Part, n_classes: int, options: DrawOptions) -> Examples:
    """Draw annotated pixels of each class, each equally likely, and cut a patch around each.

    Args:
        part: Batches and what counts in them; read once, at most 512 MiB of patches are kept.
        n_classes: K.
        options: How many, how large.

    Returns:
        Examples in the order of their classes. Pixels that are annotated as anything count, if they lie
        inside the margin and in what counts of their batch.

    Raises:
        InputError: If nothing is annotated.
    """
    rng = np.random.default_rng(options.seed)
    kept: list[list[tuple[float, int, Batch]]] = [[] for _ in range(n_classes)]
    number, most = 0, 0
    for batch, counted in part:
        most = most or _most(batch, n_classes, options)
        for item, target_HW in _items(batch, counted):
            for k, y, x, key in _candidates(target_HW, n_classes, rng, most):
                number += 1
                if len(kept[k]) < most:
                    heapq.heappush(kept[k], (-key, number, _cut(item, target_HW, (y, x), options)))
                elif -key > kept[k][0][0]:
                    heapq.heapreplace(kept[k], (-key, number, _cut(item, target_HW, (y, x), options)))
    drawn = [(k, patch) for k, heap in enumerate(kept) for _, _, patch in sorted(heap, key=_by_key)]
    if not drawn:
        raise InputError("nothing is annotated in this part of the split", where="explain")
    return Examples(Batch.joined([patch for _, patch in drawn]), np.array([k for k, _ in drawn]))


def _by_key(entry: tuple[float, int, Batch]) -> tuple[float, int]:
    return -entry[0], entry[1]


def _most(batch: Batch, n_classes: int, options: DrawOptions) -> int:
    side = min(options.patch_px, batch.x.shape[3])
    bytes_each = batch.x.shape[1] * batch.x.shape[2] * side * side * 2
    return max(2, min(options.per_class, _MOST_BYTES // (bytes_each * n_classes)))


def _items(batch: Batch, counted: tuple[slice, slice]) -> Iterator[tuple[Batch, NDArray[np.uint8]]]:
    """Yield each item with the target of the pixels that count."""
    for i in range(len(batch)):
        target_HW = np.full(tuple(batch.target.shape[1:]), IGNORE, np.uint8)
        heard_HW = batch.weight[i][counted].numpy() > 0
        target_HW[counted] = np.where(heard_HW, batch.target[i][counted].numpy(), IGNORE)
        if (target_HW != IGNORE).any():
            yield picked(batch, torch.tensor([i])), target_HW


def _candidates(
    target_HW: NDArray[np.uint8], n_classes: int, rng: np.random.Generator, most: int
) -> Iterator[tuple[int, int, int, float]]:
    """Yield class, row, column and random key of pixels that may be drawn: the smallest keys of each class."""
    for k in np.unique(target_HW[target_HW < n_classes]).tolist():
        ys, xs = np.nonzero(target_HW == k)
        keys = rng.random(len(ys))
        for i in np.argsort(keys)[:most]:
            yield k, int(ys[i]), int(xs[i]), float(keys[i])


def _cut(item: Batch, target_HW: NDArray[np.uint8], at: tuple[int, int], options: DrawOptions) -> Batch:
    """Cut a patch around a pixel, moved inwards where it would reach beyond its window."""
    height, width = target_HW.shape
    side_yx = min(options.patch_px, height), min(options.patch_px, width)
    y0, x0 = (
        min(max(p - side // 2, 0), size - side)
        for p, side, size in zip(at, side_yx, (height, width), strict=True)
    )
    rows, columns = slice(y0, y0 + side_yx[0]), slice(x0, x0 + side_yx[1])
    target = np.full(side_yx, IGNORE, np.uint8)
    inner = _inner(options.margin_px, (at[0] - y0, at[1] - x0), side_yx)
    target[inner] = target_HW[rows, columns][inner]
    return replace(
        item,
        x=item.x[..., rows, columns].clone(),
        target=torch.from_numpy(target)[None],
        weight=torch.from_numpy((target != IGNORE).astype(np.float32))[None],
        place=item.place + torch.tensor([[y0, x0]]),
        radar=None if item.radar is None else item.radar[..., rows, columns].clone(),
        layers=None if item.layers is None else item.layers[..., rows, columns].clone(),
    )


def _inner(margin: int, at: tuple[int, int], side_yx: tuple[int, int]) -> tuple[slice, slice]:
    """Return what lies inside the margin, and the pixel itself, wherever it is."""
    y, x = (slice(min(margin, p), max(side - margin, p + 1)) for p, side in zip(at, side_yx, strict=True))
    return y, x


def picked(batch: Batch, index: torch.Tensor) -> Batch:
    """Return some items of a batch."""
    named: dict[str, Any] = {}
    for field in fields(batch):
        tensor = getattr(batch, field.name)
        named[field.name] = tensor[index] if isinstance(tensor, torch.Tensor) else tensor
    return Batch(**named)
