"""How a network is trained: one frozen value, checked before anything runs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from training.augment import AugmentOptions
from training.losses import WeightKind
from training.splits import Split
from training.transfer import TransferOptions


class TrainOptions(BaseModel):
    """How a network is trained.

    Attributes:
        architecture: Name in the registry.
        config: Fields of its configuration beside dates, bands and classes.
        split: Blocks for training and validation.
        steps: Batches in all.
        batch: Patches a batch.
        crop_px: Side of a patch; a multiple of the network's poolings.
        learning_rate: Peak of the one-cycle schedule (Smith 2018).
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        balance: 0 draws patches of all classes alike, 1 as often as they occur.
        weigh_classes: Weigh the cross entropy by how rare classes are: ``root`` (what True means), ``inverse`` or
            ``effective``, see `training.losses.class_weights`.
        dice: Share of the Dice loss, 0..1.
        date_dropout: Probability of each date of a patch to be blanked.
        checks: How often the validation part is scored; the best state is kept.
        seed: Of weights, patches and augmentation.
        threads: Torch threads while training; set back afterwards. Two gain a quarter on an idle machine
            and lose a factor of four on a busy one.
        device: ``cpu`` or ``cuda``.
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
    crop_px: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, gt=0)
    balance: float = Field(default=0.0, ge=0, le=1)
    weigh_classes: bool | WeightKind = False
    dice: float = Field(default=0.0, ge=0, le=1)
    date_dropout: float = Field(default=0.05, ge=0, lt=1)
    checks: int = Field(default=4, ge=1)
    seed: int = 0
    threads: int = Field(default=1, ge=1)
    device: str = "cpu"
    memory_bytes: int | None = Field(default=None, ge=1)
    augment: AugmentOptions | None = None
    transfer: TransferOptions | None = None
