"""How a network is trained: one frozen value, checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.models.registry import architectures
from training.augment import AugmentOptions
from training.losses import WeightKind
from training.losses.options import (
    AnyLoss,
    CrossEntropyLoss,
    DiceLoss,
    MultiLabelLoss,
    PositiveUnlabelledLoss,
)
from training.optimisers import AdamW, AnyOptimiser, AnySchedule, OneCycle
from training.splits import Split
from training.transfer import TransferOptions

Metric = Literal["mean_iou", "mean_f1", "accuracy", "loss"]
"""By which states are compared on the validation part; of ``loss``, the mean cross entropy, less is better."""


class EarlyStop(BaseModel):
    """When a training ends before its last step.

    Attributes:
        patience: Checks without improvement that are borne; the next one ends it.
        least: What counts as an improvement, in the metric's unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    patience: int = Field(default=3, ge=0)
    least: float = Field(default=0.0, ge=0)


class Checkpoints(BaseModel):
    """Where a training leaves its state, so that it goes on exactly where it was ended or killed.

    Attributes:
        folder: Local folder; one training each.
        every_s: Seconds between two writings; 0 writes after each step.
        resume: Go on from what lies there; False begins anew.
        keep: Keep the weights of each check, and those of the beginning, as ``step-000350.safetensors``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    every_s: float = Field(default=60.0, ge=0)
    resume: bool = True
    keep: bool = False


class TrainOptions(BaseModel):
    """How a network is trained.

    Attributes:
        architecture: Name in the registry.
        config: Fields of its configuration beside dates, bands and classes.
        split: Blocks for training and validation.
        steps: Steps of the optimiser in all.
        batch: Patches a batch.
        accumulate: Batches whose gradients make one step: as one batch of so many times the patches, in the memory
            of one. Processes that train together (torchrun) multiply it further.
        crop_px: Side of a patch; a multiple of the network's poolings.
        optimiser: ``adamw`` or ``sgd``.
        learning_rate: Peak of the schedule.
        schedule: ``one_cycle``, ``cosine``, ``plateau`` or ``constant``, all but the first with or without warm-up.
        weight_decay: Of the optimiser.
        clip: Largest norm of the gradient.
        precision: In which the network computes while it learns: ``float32``, or mixed with ``bfloat16`` or
            ``float16`` (the losses' gradients are then scaled). Weights and losses stay float32.
        average: Memory of a moving average of the weights, such as 0.99; the average is what is scored and kept. 0
            for none.
        loss: One or a list whose weighted sum is learnt; see `training.losses.options`. None: cross entropy and
            `dice`.
        balance: 0 draws patches of all classes alike, 1 as often as they occur.
        weigh_classes: Weigh the cross entropy by how rare classes are: ``root`` (what True means), ``inverse`` or
            ``effective``, see `training.losses.class_weights`.
        dice: Share of the Dice loss beside the cross entropy, 0..1, where `loss` is None.
        date_dropout: Probability of each date of a patch to be blanked.
        checks: How often the validation part is scored; the best state is kept.
        best_by: What is best.
        early_stop: When to end before the last step; None: never.
        checkpoint: Where to leave what is needed to go on after an end or a kill; None: nowhere.
        seed: Of weights, patches and augmentation.
        threads: Torch threads while training; set back afterwards. Two gain a quarter on an idle machine
            and lose a factor of four on a busy one.
        device: ``cpu`` or ``cuda``; processes of torchrun take a GPU each.
        memory_bytes: What the cube's pixels may take; a larger cube is read block by block, once for many
            patches (`training.loader`). None: half of the memory that is free.
        transfer: What the training starts from, in place of fresh weights; `learning_rate` then says nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: str = "unet"
    config: dict[str, Any] = Field(default_factory=dict)
    split: Split = Field(default_factory=Split)
    steps: int = Field(default=700, ge=1)
    batch: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    crop_px: int = Field(default=64, ge=1)
    optimiser: AnyOptimiser = Field(default_factory=AdamW)
    learning_rate: float = Field(default=1e-2, gt=0)
    schedule: AnySchedule = Field(default_factory=OneCycle)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    average: float = Field(default=0.0, ge=0, lt=1)
    loss: tuple[AnyLoss, ...] | None = None
    balance: float = Field(default=0.0, ge=0, le=1)
    weigh_classes: bool | WeightKind = False
    dice: float = Field(default=0.0, ge=0, le=1)
    date_dropout: float = Field(default=0.05, ge=0, lt=1)
    checks: int = Field(default=4, ge=1)
    best_by: Metric = "mean_iou"
    early_stop: EarlyStop | None = None
    checkpoint: Checkpoints | None = None
    seed: int = 0
    threads: int = Field(default=1, ge=1)
    device: str = "cpu"
    memory_bytes: int | None = Field(default=None, ge=1)
    augment: AugmentOptions | None = None
    transfer: TransferOptions | None = None

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in architectures():
            raise ValueError(f"there is no network {name!r}; known are {', '.join(architectures())}")
        return name

    @field_validator("loss", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, list | tuple) else (value,)

    @model_validator(mode="after")
    def _fits(self) -> TrainOptions:
        if self.loss is not None and self.dice:
            raise ValueError("dice is the share where no loss is given: name it in `loss` instead")
        if self.loss == ():
            raise ValueError("loss names no loss")
        if self.several_labels and len(self.losses) > 1:
            raise ValueError("multi_label stands alone: other losses are for one class a pixel")
        return self

    @property
    def losses(self) -> tuple[AnyLoss, ...]:
        """The losses whose weighted sum is learnt."""
        if self.loss is not None:
            return self.loss
        first = [CrossEntropyLoss(weight=1 - self.dice)] if self.dice < 1 else []
        second = [DiceLoss(kind="dice", weight=self.dice)] if self.dice else []
        return (*first, *second)

    @property
    def several_labels(self) -> bool:
        """Whether a pixel may have several classes: each output is a probability of its own."""
        return any(isinstance(loss, MultiLabelLoss) for loss in self.losses)

    @property
    def unlabelled(self) -> str | None:
        """Name of the class that pixels without annotation are learnt as, or None."""
        named = (loss.unlabelled for loss in self.losses if isinstance(loss, PositiveUnlabelledLoss))
        return next(named, None)

    @property
    def weigh(self) -> WeightKind | None:
        """How classes are weighted, or not."""
        asked = self.weigh_classes
        return "root" if asked is True else asked or None
