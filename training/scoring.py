"""How good a network is on a part of its lessons.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.lessons import Lessons, call
from training.losses import IGNORE, ClassTree
from training.losses.options import several
from training.metrics import Scores, confusion
from training.options import Metric
from training.together import Group


@dataclass(frozen=True)
class Evaluation:
    """What was found on a part.

    Attributes:
        scores: Of the most likely class of each annotated item; where several are possible of each class by itself.
        loss: Mean cross entropy, neither weighted nor smoothed: calibration shows in it.
    """

    scores: Scores
    loss: float

    def by(self, metric: Metric) -> float:
        """Return a number of which more is better."""
        if metric == "loss":
            return -self.loss
        found: float = getattr(self.scores, metric)
        return found


@torch.inference_mode()
def evaluate(
    module: torch.nn.Module,
    lessons: Lessons,
    part: int,
    days: bool = False,
    several_labels: bool = False,
    group: Group | None = None,
) -> Evaluation | None:
    """Score a part; None where it holds nothing annotated. Leaves the module in evaluation mode.

    Args:
        module: On its device.
        lessons: Whose part.
        part: VAL or TEST of `training.splits`.
        days: Whether the network asks for running days.
        several_labels: Whether each output is a probability of its own.
        group: Share the batches out over it; all get the same answer.
    """
    module.eval()
    device = next(module.parameters()).device
    group = group or Group.here(str(device))
    group.same_buffers(module)
    tally = _Several(lessons) if several_labels else _One(lessons.n_classes)
    for i, (batch, inner) in enumerate(lessons.part(part)):
        if i % group.rank.count == group.rank.number:
            logits_BKHW = call(module, batch.to(device), lessons.normalisation, days)[(..., *inner)]
            tally.add(logits_BKHW.float().cpu(), batch.target[(..., *inner)].to(torch.int64).cpu())
    return tally.found(group)


class _One:
    """Counts pairs of true and most likely class."""

    def __init__(self, n_classes: int) -> None:
        self.matrix_KK, self.loss = np.zeros((n_classes, n_classes), np.int64), 0.0

    def add(self, logits_BKHW: torch.Tensor, target_BHW: torch.Tensor) -> None:
        predicted = logits_BKHW.argmax(dim=1).numpy()
        self.matrix_KK += confusion(target_BHW.numpy(), predicted, len(self.matrix_KK))
        self.loss += float(
            functional.cross_entropy(logits_BKHW, target_BHW, ignore_index=IGNORE, reduction="sum")
        )

    def found(self, group: Group) -> Evaluation | None:
        matrix_KK = group.total(self.matrix_KK)
        n = int(matrix_KK.sum())
        return (
            Evaluation(Scores.of(matrix_KK), float(group.total(np.array([self.loss]))[0]) / n) if n else None
        )


class _Several:
    """Counts right and wrong answers of each class, at a probability of one half."""

    def __init__(self, lessons: Lessons) -> None:
        self.truths_KK = torch.from_numpy(ClassTree.of(lessons.classes).truths())
        self.counts_K22: NDArray[np.int64] = np.zeros((lessons.n_classes, 2, 2), np.int64)
        self.loss = 0.0

    def add(self, logits_BKHW: torch.Tensor, target_BHW: torch.Tensor) -> None:
        truth_BKHW = several(target_BHW, self.truths_KK)
        yes_BKHW = logits_BKHW > 0
        for k, counts_22 in enumerate(self.counts_K22):
            counts_22 += confusion(truth_BKHW[:, k].numpy(), yes_BKHW[:, k].numpy(), 2)
        known = truth_BKHW != IGNORE
        self.loss += float(
            functional.binary_cross_entropy_with_logits(
                logits_BKHW[known], truth_BKHW[known].float(), reduction="sum"
            )
        )

    def found(self, group: Group) -> Evaluation | None:
        counts_K22 = group.total(self.counts_K22)
        n = int(counts_K22.sum())
        loss = float(group.total(np.array([self.loss]))[0])
        return Evaluation(Scores.of_several(counts_K22), loss / n) if n else None
