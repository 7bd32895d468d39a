"""What is to be learnt where: class indices and weights over a box of the grid, for one part of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.values.grid import Box
from training.label_values import FULL_WEIGHT
from training.losses import IGNORE

if TYPE_CHECKING:
    from training.labels import LabelRaster
    from training.splits import Split


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of one part.

    Attributes:
        index: (y, x) uint8, class index in the network's order; `IGNORE` = not annotated, or of another part.
        box: Its global pixels.
        n_classes: K.
        weight: (y, x) uint8, 0..250 = 0..1, or None: all 1.
        fields: (y, x) int32, number of the field, 0 = none; or None where they are not known.
    """

    index: NDArray[np.uint8]
    box: Box
    n_classes: int
    weight: NDArray[np.uint8] | None = None
    fields: NDArray[np.int32] | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """Annotated pixels of each class, (K) int64."""
        found: NDArray[np.int64] = np.bincount(self.index.ravel(), minlength=256)[: self.n_classes]
        return found

    def patch(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Cut a patch: indices (y, x) uint8 and weights (y, x) float32, 0 where not annotated."""
        index = np.full(box.shape_yx, IGNORE, np.uint8)
        weight = np.zeros(box.shape_yx, np.float32)
        inside = box & self.box
        if inside:
            here, there = inside.slices_in(box), inside.slices_in(self.box)
            index[here] = self.index[there]
            weight[here] = self._weights(there)
        return index, weight

    def pixels(
        self, ys: NDArray[np.int64], xs: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return indices and weights of single pixels, by row and column of the box."""
        return self.index[ys, xs], self._weights((ys, xs))

    def _weights(self, where: Any) -> NDArray[np.float32]:
        known = (self.index[where] != IGNORE).astype(np.float32)
        if self.weight is None:
            return known
        found: NDArray[np.float32] = known * (self.weight[where] / np.float32(FULL_WEIGHT))
        return found


def targets_of(
    labels: LabelRaster,
    split: Split | None = None,
    part: int | None = None,
    fields: NDArray[np.int32] | None = None,
) -> Targets:
    """Turn labels into the targets of one part of a split, or of all.

    Args:
        labels: Class values on the grid, 0 = not annotated.
        split: How the area is split; None takes all.
        part: TRAIN, VAL or TEST of it.
        fields: (y, x) int32 on the labels' pixels, number of the field, 0 = none; for `Pixels.per_field`.
    """
    index = class_indices(labels)
    if split is not None:
        index = np.where(split.parts(labels.box) == part, index, np.uint8(IGNORE))
    return Targets(index, labels.box, len(labels.classes.classes), labels.weights, fields)


def class_indices(labels: LabelRaster) -> NDArray[np.uint8]:
    """Turn class values into indices in network order, `IGNORE` where not annotated."""
    table = np.full(256, IGNORE, np.uint8)
    table[list(labels.classes.values)] = np.arange(len(labels.classes.values))
    table[0] = IGNORE
    found: NDArray[np.uint8] = table[labels.values]
    return found
