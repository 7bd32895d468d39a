"""First training: labels and the very cube that will be mapped become a network, read top to bottom.

Arrays are built as prediction builds them: the cube's uint16 values go through the same `prepare`.

Shape suffixes: T date, C band, Y X the whole box, B batch, H row, W column, K class.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.inference.bundle import BundleFields
from engine.inference.predict import days_of
from engine.models.normalise import Standard, prepare
from engine.models.order import channels_last
from engine.models.registry import build, check_config
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from training.augment import AugmentOptions
from training.batches import Draw, batches
from training.labels import LabelRaster
from training.losses import IGNORE, WeightKind, class_weights, cross_entropy, dice
from training.metrics import Scores, confusion
from training.pixels import Loaded, Streamed, pixels_of
from training.splits import TEST, TRAIN, VAL, Split
from training.statistics import drawn_pixels, fit_standard
from training.targets import Targets, class_indices

if TYPE_CHECKING:
    import xarray as xr

_VAL_WINDOW_PX, _VAL_MARGIN_PX = 256, 32


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


@dataclass(frozen=True)
class Progress:
    """What a progress callback hears after every batch.

    Attributes:
        step: Batches done.
        steps: Batches in all.
        loss: Mean loss since the last check.
        seconds: Since the start.
        val: Scores on the validation part, when this step checked it.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    val: Scores | None = None


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network and what is known of it.

    Attributes:
        module: The network, in evaluation mode, on the CPU.
        options: How it was trained.
        classes: Its classes.
        normalisation: Of the training pixels.
        val: Scores on the validation blocks, None without any.
        test: Scores on the test blocks, None without any.
        history: One row per check: step, loss, accuracy, mean IoU, seconds.
        pixels: Annotated pixels of each part.
        n_dates: Dates of the cube.
        streamed: Whether the cube was too large to be loaded whole.
    """

    module: torch.nn.Module
    options: TrainOptions
    classes: ClassScheme
    normalisation: Standard
    val: Scores | None
    test: Scores | None
    history: tuple[dict[str, float], ...]
    pixels: dict[str, int]
    n_dates: int
    streamed: bool = False

    def bundle_fields(self, name: str, spec: CubeSpec, lattice: Lattice, licence: str) -> BundleFields:
        """Return what `engine.inference.bundle.save_bundle` needs beside the network."""
        names = self.classes.names
        return BundleFields(
            name=name,
            spec=spec,
            n_dates=self.n_dates,
            classes=self.classes,
            lattice=lattice,
            normalisation=self.normalisation,
            licence=licence,
            training={
                "options": self.options.model_dump(mode="json"),
                "pixels": self.pixels,
                "val": self.val.as_json(names) if self.val else None,
                "test": self.test.as_json(names) if self.test else None,
                "history": list(self.history),
            },
        )


@dataclass(frozen=True, eq=False)
class _Task:
    """What one training works on: the cube, and for each part targets (y, x) with `IGNORE` elsewhere."""

    cube: Loaded | Streamed
    targets: dict[int, NDArray[np.uint8]]
    box: Box
    n_classes: int
    normalisation: Standard
    options: TrainOptions
    days: tuple[int, ...] = ()
    weights: NDArray[np.uint8] | None = None

    def training_targets(self) -> Targets:
        return Targets(self.targets[TRAIN], self.box, self.n_classes, self.weights)

    def counts(self, part: int) -> NDArray[np.int64]:
        found = np.bincount(self.targets[part].ravel(), minlength=256)
        return found[: self.n_classes]


def train(
    cube: xr.Dataset,
    labels: LabelRaster,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Train a network.

    Args:
        cube: ``reflectance`` (time, band, y, x) uint16, lazy or loaded, on the labels' box. It is loaded
            whole (dates x bands x pixels x 2 bytes) where ``options.memory_bytes`` allow it, else streamed;
            patches and their order then differ.
        labels: Annotated pixels.
        options: How.
        progress: Called after every batch.

    Returns:
        The state with the best mean IoU on the validation blocks (the last one without any).

    Raises:
        InputError: If cube and labels differ, nothing is annotated, or an option does not fit.
    """
    with _threads(options.threads):
        torch.manual_seed(options.seed)
        task = _task(cube, labels, options)
        module = _fresh(task)
        history = _fit(module, task, progress or (lambda _: None))
        module = module.to("cpu").eval()
        scores = {part: _scores(module, task, part) for part in (VAL, TEST)}
    return TrainedModel(
        module=module,
        options=options,
        classes=labels.classes,
        normalisation=task.normalisation,
        val=scores[VAL],
        test=scores[TEST],
        history=tuple(history),
        pixels={n: int(task.counts(p).sum()) for n, p in (("train", TRAIN), ("val", VAL), ("test", TEST))},
        n_dates=task.cube.n_dates,
        streamed=isinstance(task.cube, Streamed),
    )


def _fit(
    module: torch.nn.Module, task: _Task, progress: Callable[[Progress], None]
) -> list[dict[str, float]]:
    """Train in place and leave the best state in the module."""
    options, device = task.options, task.options.device
    weights_K = _loss_weights(task)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=options.learning_rate, total_steps=max(2, options.steps), pct_start=0.25
    )
    checks = {round(options.steps * (i + 1) / options.checks) for i in range(options.checks)}
    history: list[dict[str, float]] = []
    best, best_state, losses, start = -1.0, None, [], time.perf_counter()
    drawn = batches(task.cube, task.training_targets(), task.days, _draw(task))
    for step in range(1, options.steps + 1):
        batch = next(drawn).to(device)
        module.train()
        logits_BKHW = module(*batch.prepared(task.normalisation))
        target_BHW = batch.target.to(torch.int64)
        weight_BHW = batch.weight if task.weights is not None else None
        loss = cross_entropy(logits_BKHW, target_BHW, weights_K, weight_BHW)
        if options.dice:
            loss = (1 - options.dice) * loss + options.dice * dice(logits_BKHW, target_BHW, weight_BHW)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), options.clip)
        optimiser.step()
        if step < options.steps:
            schedule.step()
        losses.append(float(loss.detach()))
        val = _scores(module, task, VAL) if step in checks else None
        progress(Progress(step, options.steps, float(np.mean(losses)), time.perf_counter() - start, val))
        if step in checks:
            history.append(_row(step, losses, val, time.perf_counter() - start))
            losses = []
        if val is not None and val.mean_iou > best:
            best, best_state = val.mean_iou, copy.deepcopy(module.state_dict())
    if best_state is not None:
        module.load_state_dict(best_state)
    return history


def _draw(task: _Task) -> Draw:
    options = task.options
    return Draw(
        steps=options.steps,
        batch=options.batch,
        crop_px=options.crop_px,
        balance=options.balance,
        seed=options.seed,
        date_dropout=options.date_dropout,
        augment=options.augment,
        band_means=task.normalisation.mean,
    )


def _row(step: int, losses: list[float], val: Scores | None, seconds: float) -> dict[str, float]:
    row = {"step": step, "loss": round(float(np.mean(losses)), 5), "seconds": round(seconds, 2)}
    return row | ({"accuracy": val.accuracy, "mean_iou": val.mean_iou} if val else {})


def _loss_weights(task: _Task) -> torch.Tensor | None:
    asked = task.options.weigh_classes
    if not asked:
        return None
    kind: WeightKind = "root" if asked is True else asked
    return torch.from_numpy(class_weights(task.counts(TRAIN), kind)).to(task.options.device)


def _fresh(task: _Task) -> torch.nn.Module:
    sizes = {"n_dates": task.cube.n_dates, "n_bands": task.cube.n_bands, "n_classes": task.n_classes}
    fields = task.options.config | sizes
    multiple = check_config(task.options.architecture, fields).window_multiple
    if task.options.crop_px % multiple:
        raise InputError(
            "the patch does not divide by the network's poolings",
            where="train.crop_px",
            found=f"{task.options.crop_px} px",
            limit=f"a multiple of {multiple} px",
        )
    module = build(task.options.architecture, fields)
    return channels_last(module, task.options.device)


def _task(cube: xr.Dataset, labels: LabelRaster, options: TrainOptions) -> _Task:
    reflectance = cube["reflectance"]
    if reflectance.dims != ("time", "band", "y", "x") or reflectance.shape[2:] != labels.box.shape_yx:
        raise InputError(
            "cube and labels do not cover the same pixels",
            where="train",
            found=dict(reflectance.sizes),
            limit=f"(time, band, y, x) with {labels.box.shape_yx} px",
            mend="rasterise the labels on the cube's own grid and box",
        )
    if reflectance.dtype != np.uint16:
        raise InputError(
            "the cube is not reflectance", where="train", found=reflectance.dtype, limit="uint16"
        )
    pixels = pixels_of(cube, labels.box, options.memory_bytes)
    index_YX = class_indices(labels)
    parts_YX = options.split.parts(labels.box)
    targets = {part: np.where(parts_YX == part, index_YX, np.uint8(IGNORE)) for part in (TRAIN, VAL, TEST)}
    normalisation = statistics(pixels, targets[TRAIN] != IGNORE, options.seed)
    n_classes = len(labels.classes.classes)
    weights = labels.weights
    return _Task(pixels, targets, labels.box, n_classes, normalisation, options, days_of(cube), weights)


def statistics(
    pixels: NDArray[np.uint16] | Loaded | Streamed, known_YX: NDArray[np.bool_], seed: int
) -> Standard:
    """Measure mean and standard deviation per band over valid dates of annotated training pixels.

    Args:
        pixels: (T, C, Y, X) uint16, 0 = no data, as an array or as training reads it.
        known_YX: Pixels that count; at most 200 000 of them, drawn by the seed, are read.
        seed: Of that draw.

    Raises:
        InputError: If no annotated pixel has data.
    """
    ys, xs = drawn_pixels(known_YX, seed)
    return fit_standard(pixels[:, :, ys, xs] if isinstance(pixels, np.ndarray) else pixels.at(ys, xs))


@torch.inference_mode()
def _scores(module: torch.nn.Module, task: _Task, part: int) -> Scores | None:
    """Score a part window by window; None when it holds nothing annotated."""
    target_YX = task.targets[part]
    if not (target_YX != IGNORE).any():
        return None
    module.eval()
    device = next(module.parameters()).device
    matrix_KK = np.zeros((task.n_classes, task.n_classes), np.int64)
    for inner, x_TCHW in _val_windows(task, target_YX):
        values, valid = prepare(torch.from_numpy(x_TCHW)[None].to(device), task.normalisation)
        label_HW = module(values, valid)[0].argmax(dim=0).cpu().numpy()
        truth_YX = target_YX[inner]
        m = _VAL_MARGIN_PX
        predicted_YX = label_HW[m : m + truth_YX.shape[0], m : m + truth_YX.shape[1]]
        matrix_KK += confusion(truth_YX, predicted_YX, task.n_classes)
    return Scores.of(matrix_KK)


def _val_windows(
    task: _Task, target_YX: NDArray[np.uint8]
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.uint16]]]:
    """Yield windows that hold annotated pixels: their scored part, and the input with a margin around it."""
    m, inner, box = _VAL_MARGIN_PX, _VAL_WINDOW_PX - 2 * _VAL_MARGIN_PX, task.box
    parts = [
        Box(part.y0 + box.y0, part.x0 + box.x0, part.y1 + box.y0, part.x1 + box.x0)
        for part in Box(0, 0, *box.shape_yx).blocks(inner)
    ]
    for part in task.cube.sweep(p for p in parts if (target_YX[p.slices_in(box)] != IGNORE).any()):
        outer = Box(part.y0 - m, part.x0 - m, part.y0 + inner + m, part.x0 + inner + m)
        there = outer & box
        x_TCHW = np.zeros((task.cube.n_dates, task.cube.n_bands, *outer.shape_yx), np.uint16)
        x_TCHW[(..., *there.slices_in(outer))] = task.cube.cut(there)
        yield part.slices_in(box), x_TCHW


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
