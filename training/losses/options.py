"""Losses as a YAML names them, and what they become for one training.

::

    loss: {kind: focal, gamma: 2}
    loss: [{kind: cross_entropy, smoothing: 0.1}, {kind: dice, weight: 0.5}]      # a weighted sum

Shape suffixes: B batch, T date, C band, K class, H row, W column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from training.losses.hierarchy import ClassTree, hierarchical
from training.losses.masking import IGNORE, known_index
from training.losses.partial import Positives, positive_unlabelled
from training.losses.pixels import cross_entropy, focal, multi_label
from training.losses.regions import dice, lovasz
from training.losses.weights import WeightKind, class_weights

if TYPE_CHECKING:
    from training.batch import Batch


class _Loss(BaseModel):
    """What every loss has.

    Attributes:
        weight: By which it is multiplied where several are added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    weight: float = Field(default=1.0, gt=0)


class CrossEntropyLoss(_Loss):
    """Cross entropy; classes weighted by ``weigh_classes``.

    Attributes:
        smoothing: Share of the truth that is spread over all classes (label smoothing).
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class FocalLoss(_Loss):
    """Focal loss (Lin et al. 2017); classes weighted by ``weigh_classes``.

    Attributes:
        gamma: The larger, the less do pixels count that are known well.
    """

    kind: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0)


class DiceLoss(_Loss):
    """Soft Dice over the classes of a batch (Milletari et al. 2016)."""

    kind: Literal["dice"]


class LovaszLoss(_Loss):
    """Lovasz-softmax (Berman et al. 2018); steadier beside some cross entropy."""

    kind: Literal["lovasz"]


class MultiLabelLoss(_Loss):
    """Binary cross entropy of each class: the network's outputs are probabilities of their own, and so is the map.

    A label stands for its class and all ancestors of it that are classes; of its descendants nothing is known.
    Classes weighted by ``weigh_classes``.
    """

    kind: Literal["multi_label"]


class HierarchicalLoss(_Loss):
    """Cross entropy over the tree of classes (Bertinetto et al. 2020); classes weighted by ``weigh_classes``.

    Attributes:
        alpha: 0 is the plain cross entropy; the larger, the less do fine classes count beside broad ones.
    """

    kind: Literal["hierarchical"]
    alpha: float = Field(default=0.3, ge=0)


class PositiveUnlabelledLoss(_Loss):
    """Non-negative positive-unlabelled risk (Kiryo et al. 2017), for partial labels.

    Attributes:
        unlabelled: Name of the class that stands for "not known" in the labels and for "none of the others" in the
            map. Pixels of the training part that are not annotated, but have data, belong to it as well.
        priors: Share of each other class among all pixels, by name.
        beta: How far below zero the risk of negatives may fall.
        gamma: With what share of a step it is pushed back.
    """

    kind: Literal["positive_unlabelled"]
    unlabelled: str
    priors: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    beta: float = Field(default=0.0, ge=0)
    gamma: float = Field(default=1.0, ge=0, le=1)

    @field_validator("priors")
    @classmethod
    def _below_one(cls, priors: dict[str, float]) -> dict[str, float]:
        if sum(priors.values()) >= 1:
            raise ValueError(f"the priors must add up to less than 1, got {sum(priors.values()):g}")
        return priors

    def positives(self, classes: ClassScheme) -> Positives:
        """Find the classes.

        Raises:
            InputError: If priors and classes do not have the same names.
        """
        named = {*self.priors, self.unlabelled}
        if named != set(classes.names) or self.unlabelled in self.priors:
            raise InputError(
                "the loss needs a prior for each class but the unlabelled one",
                where="options.loss.priors",
                found=f"unlabelled {self.unlabelled!r}, priors of {sorted(self.priors)}",
                limit=f"the classes {list(classes.names)}",
            )
        priors = tuple(self.priors.get(name, 0.0) for name in classes.names)
        return Positives(classes.names.index(self.unlabelled), priors, self.beta, self.gamma)


AnyLoss = Annotated[
    CrossEntropyLoss
    | FocalLoss
    | DiceLoss
    | LovaszLoss
    | MultiLabelLoss
    | HierarchicalLoss
    | PositiveUnlabelledLoss,
    Field(discriminator="kind"),
]
"""One loss; the field ``kind`` tells which."""

Criterion = Callable[[torch.Tensor, "Batch"], torch.Tensor]
"""``(logits_BKHW float32, batch) -> loss``; batch on the device of the logits."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """What losses need to know of a training.

    Attributes:
        classes: Of the network's outputs.
        counts: (K) int64, annotated training items of each class.
        weigh: How classes are weighted, or not.
        device: Of the network.
    """

    classes: ClassScheme
    counts: NDArray[np.int64]
    weigh: WeightKind | None = None
    device: str = "cpu"

    def weights_K(self) -> torch.Tensor | None:  # noqa: N802  # shape suffix
        """Return float32 weights of the classes on the device, or None."""
        if self.weigh is None:
            return None
        return torch.from_numpy(class_weights(self.counts, self.weigh)).to(self.device)


def criterion(losses: Sequence[AnyLoss], learnt: Learnt) -> Criterion:
    """Make the weighted sum of losses for one training.

    Raises:
        InputError: If a loss does not fit the classes.
    """
    parts = [(loss.weight, _part(loss, learnt)) for loss in losses]
    need_data = any(isinstance(loss, PositiveUnlabelledLoss) for loss in losses)

    def total(logits_BKHW: torch.Tensor, batch: Batch) -> torch.Tensor:
        target_BHW = batch.target.to(torch.int64)
        if need_data:  # of the pixels that nobody looked at, those without data are no sample of anything
            seen_BHW = (batch.x.view(torch.int16) != 0).all(dim=2).any(dim=1)
            target_BHW = torch.where(seen_BHW, target_BHW, IGNORE)
        known_BHW = target_BHW != IGNORE if target_BHW.ndim == 3 else (target_BHW != IGNORE).any(dim=1)
        weight_BHW = batch.weight if bool((batch.weight[known_BHW] != 1).any()) else None
        terms = [w * part(logits_BKHW, target_BHW, weight_BHW) for w, part in parts]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

    return total


_Part = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _part(loss: AnyLoss, learnt: Learnt) -> _Part:
    """Bind what a loss needs beside logits, targets and their weights."""
    weights_K = learnt.weights_K()
    match loss:
        case CrossEntropyLoss():
            return lambda logits, target, w: cross_entropy(logits, target, weights_K, w, loss.smoothing)
        case FocalLoss():
            return lambda logits, target, w: focal(logits, target, weights_K, w, loss.gamma)
        case DiceLoss():
            return dice
        case LovaszLoss():
            return lovasz
        case MultiLabelLoss():
            truths_KK = torch.from_numpy(ClassTree.of(learnt.classes).truths()).to(learnt.device)
            return lambda logits, target, w: multi_label(logits, several(target, truths_KK), weights_K, w)
        case HierarchicalLoss():
            tree = ClassTree.of(learnt.classes)
            return lambda logits, target, w: hierarchical(logits, target, tree, weights_K, w, loss.alpha)
        case PositiveUnlabelledLoss():
            positives = loss.positives(learnt.classes)
            return lambda logits, target, w: positive_unlabelled(logits, target, positives, w)


def several(target_BHW: torch.Tensor, truths_KK: torch.Tensor) -> torch.Tensor:
    """Turn one label a pixel into what it tells of each class: (B, K, H, W) int64, 1, 0 or `IGNORE`.

    Args:
        target_BHW: int64, class index, `IGNORE` = not annotated. Or (B, K, H, W) int64 of 1, 0 and `IGNORE`, which
            stays as it is.
        truths_KK: `ClassTree.truths`.
    """
    if target_BHW.ndim == 4:
        return target_BHW
    truth_BKHW = truths_KK[known_index(target_BHW)].permute(0, 3, 1, 2)
    return torch.where((target_BHW == IGNORE)[:, None], IGNORE, truth_BKHW)
