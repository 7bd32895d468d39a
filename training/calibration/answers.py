"""What a trained network answers on a part: logits, truth and features of annotated items, by group.

Shape suffixes: B batch, H row, W column, K class, N item, F feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.normalise import LogSigmoid, Standard
from engine.values.errors import InputError
from training.batch import Batch
from training.lessons import Inner, call
from training.losses import IGNORE
from training.metrics import confusion

Groups = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From places (N, 2) of items, row and column, to the number of the group that each belongs to, (N,)."""

MOST_ITEMS = 200_000
"""Items whose logits are kept; of more a draw is kept, of which each item is as likely."""

_COLUMNS = 1 << 31


def blocks_of(side_px: int) -> Groups:
    """Group pixels by blocks of the global grid.

    >>> blocks_of(10)(np.array([[3, 4], [9, 0], [3, 14]])).tolist()
    [0, 0, 1]
    """
    return lambda places: places[:, 0] // side_px * _COLUMNS + places[:, 1] // side_px


@dataclass(frozen=True)
class Asker:
    """How a network is asked.

    Attributes:
        module: In evaluation mode.
        normalisation: Of its training.
        takes_days: Whether it asks for running days.
        groups: How items belong together.
    """

    module: torch.nn.Module
    normalisation: Standard | LogSigmoid
    takes_days: bool
    groups: Groups


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered.

    Attributes:
        logits: (N, K) float32, of at most `MOST_ITEMS` items.
        truth: (N,) int64, class index.
        weight: (N,) float32, of each label.
        group: (N,) int64.
        matrices: (G, K, K) int64, confusion of ALL items of each group, groups in rising order.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    weight: NDArray[np.float32]
    group: NDArray[np.int64]
    matrices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth)


@torch.inference_mode()
def ask(asker: Asker, stream: Iterable[tuple[Batch, Inner]], seed: int = 0) -> Answers | None:
    """Let a network answer for a part.

    Args:
        asker: The network.
        stream: `training.lessons.Lessons.part`; read once, batch by batch.
        seed: Of the draw, where there are more than `MOST_ITEMS`.

    Returns:
        None where nothing is annotated.
    """
    asker.module.eval()
    kept, matrices = _Thinned(MOST_ITEMS, seed), dict[int, NDArray[np.int64]]()
    for batch, inner in stream:
        known_BHW, places_N2 = _known(batch, inner)
        if not known_BHW.any():
            continue
        logits_BKHW = call(asker.module, _at_home(batch, asker.module), asker.normalisation, asker.takes_days)
        logits_NK = logits_BKHW.float().cpu().numpy().transpose(0, 2, 3, 1)[known_BHW]
        truth_N = batch.target.numpy()[known_BHW].astype(np.int64)
        group_N = asker.groups(places_N2)
        for group in np.unique(group_N):
            here, k = group_N == group, logits_NK.shape[1]
            found = confusion(truth_N[here], logits_NK[here].argmax(axis=1), k)
            matrices[int(group)] = matrices.get(int(group), 0) + found
        kept.add(logits_NK, truth_N, batch.weight.numpy()[known_BHW], group_N)
    if not matrices:
        return None
    logits_NK, truth_N, weight_N, group_N = kept.columns()
    whole = np.stack([matrices[g] for g in sorted(matrices)])
    return Answers(logits_NK, truth_N, weight_N, group_N, whole)


@torch.inference_mode()
def features_of(
    asker: Asker, stream: Iterable[tuple[Batch, Inner]], most: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features (N, F) and truth (N,) of at most `most` annotated items, each as likely as any other.

    Args:
        asker: The network.
        stream: Batches; read to their end, so that no corner of an area speaks for all of it.
        most: Items that are kept.
        seed: Of the draw.

    Raises:
        InputError: If the network shows no features, or nothing is annotated.
    """
    show = getattr(asker.module, "features", None)
    if show is None:
        raise InputError(
            "the network shows no features", where="familiarity", found=type(asker.module).__name__
        )
    asker.module.eval()
    kept, some = _Thinned(most, seed), False
    for batch, inner in stream:
        known_BHW, _ = _known(batch, inner)
        if not known_BHW.any():
            continue
        here = _at_home(batch, asker.module)
        more = (here.dates.to(torch.float32),) if asker.takes_days else ()
        features_BFHW = show(*here.prepared(asker.normalisation), *more)
        features_NF = features_BFHW.float().cpu().numpy().transpose(0, 2, 3, 1)[known_BHW]
        kept.add(features_NF, batch.target.numpy()[known_BHW].astype(np.int64))
        some = True
    if not some:
        raise InputError("nothing is annotated", where="familiarity", mend="give the split another seed")
    features_NF, truth_N = kept.columns()
    return features_NF, truth_N


def _known(batch: Batch, inner: Inner) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which pixels (B, H, W) count: annotated, inside, with data; and their places (N, 2)."""
    target_BHW = batch.target.numpy()
    known_BHW = np.zeros(target_BHW.shape, np.bool_)
    known_BHW[(slice(None), *inner)] = target_BHW[(slice(None), *inner)] != IGNORE
    at_B, at_H, at_W = np.nonzero(known_BHW)
    return known_BHW, batch.place.numpy()[at_B] + np.stack([at_H, at_W], axis=1)


def _at_home(batch: Batch, module: torch.nn.Module) -> Batch:
    return batch.to(next(module.parameters()).device)


class _Thinned:
    """Columns of items that grow batch by batch; when there are twice too many, half of them go by chance."""

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._rng, self._share, self._count = most, np.random.default_rng(seed), 1.0, 0
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def add(self, *columns: NDArray[Any]) -> None:
        """Add some items."""
        self._keep([*self._parts, (self._rng.uniform(size=len(columns[0])), *columns)])
        while self._count > 2 * self._most:
            self._share /= 2
            self._keep(self._parts)

    def _keep(self, parts: list[tuple[NDArray[Any], ...]]) -> None:
        self._parts = [tuple(column[part[0] < self._share] for column in part) for part in parts]
        self._count = sum(len(part[0]) for part in self._parts)

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Return what was kept, at most as many items as are allowed, in the order of adding."""
        keys, *columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        chosen = np.sort(np.argsort(keys)[: self._most])
        return tuple(column[chosen] for column in columns)
