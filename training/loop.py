"""Training, read top to bottom: lessons and a network become a trained model.

::

    lessons.batches ─► call ─► loss ─► backward ─► optimiser ─► schedule ─┐
        ▲                                                                 │ at each check: score the
        └─────────────────────────────── steps ◄──────────────────────────┘ validation part, keep the best

Arrays are built as prediction builds them: the cube's uint16 values go through the same `prepare`.

Shape suffixes: B batch, T date, C band, H row, W column, K class.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from engine.inference.bundle import BundleFields
from engine.models.normalise import Standard
from engine.models.registry import build, check_config, takes_days
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from training.batch import Batch
from training.lessons import CubeLessons, Lessons, call, statistics
from training.losses import IGNORE, WeightKind, class_weights, cross_entropy, dice
from training.metrics import Scores, confusion
from training.options import TrainOptions
from training.pixels import Streamed
from training.rates import Rates
from training.splits import TEST, VAL
from training.transfer import bands_of, start_fields, started

if TYPE_CHECKING:
    import xarray as xr

    from training.labels import LabelRaster

__all__ = ["Fitted", "Progress", "TrainOptions", "TrainedModel", "fit", "statistics", "train"]


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
class Fitted:
    """What `fit` did; the best state is in the module.

    Attributes:
        history: One row per check: step, loss, accuracy, mean IoU, seconds.
        best_step: Steps after which the kept state stood.
        val: Its scores on the validation part, None without any.
        test: Its scores on the test part, None without any.
    """

    history: tuple[dict[str, float], ...]
    best_step: int
    val: Scores | None
    test: Scores | None


def train(
    cube: xr.Dataset,
    labels: LabelRaster,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Train a network on a cube.

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
    lessons = CubeLessons.of(cube, labels, options)
    module = fresh_network(lessons, options, options.crop_px)
    lessons, rates = started(module, lessons, bands_of(cube), options)
    fitted = fit(module, lessons, options, progress, rates)
    return TrainedModel(
        module=module.to("cpu"),
        options=options,
        classes=labels.classes,
        normalisation=lessons.normalisation,
        val=fitted.val,
        test=fitted.test,
        history=fitted.history,
        pixels=lessons.pixels,
        n_dates=lessons.n_dates,
        streamed=isinstance(lessons.cube, Streamed),
    )


def fresh_network(lessons: Lessons, options: TrainOptions, patch_px: int = 1) -> torch.nn.Module:
    """Build the network of the options with the weights of their seed.

    Args:
        lessons: Tell its dates, bands and classes.
        options: Tell its architecture, configuration and seed.
        patch_px: Side of the patches that it will learn from.

    Raises:
        InputError: If the configuration does not fit, or the patch does not divide by the network's poolings.
    """
    sizes = {"n_dates": lessons.n_dates, "n_bands": lessons.n_bands, "n_classes": lessons.n_classes}
    start = start_fields(options.transfer.start) if options.transfer else {}
    fields = start | options.config | sizes
    multiple = check_config(options.architecture, fields).window_multiple
    if patch_px % multiple:
        raise InputError(
            "the patch does not divide by the network's poolings",
            where="train.crop_px",
            found=f"{patch_px} px",
            limit=f"a multiple of {multiple} px",
        )
    torch.manual_seed(options.seed)
    return build(options.architecture, fields)


def fit(
    module: torch.nn.Module,
    lessons: Lessons,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
    rates: Rates | None = None,
) -> Fitted:
    """Train a network in place and leave its best state in it, in evaluation mode, on the options' device.

    Args:
        module: ``forward(x_BTCHW, valid_BTHW[, days_BT])``; days where ``options.architecture`` takes them.
        lessons: What it learns from.
        options: How.
        progress: Called after every step, on this thread; an exception that it raises ends the training.
        rates: Which parameters learn how fast, and when; None: all at ``options.learning_rate``.
    """
    with _threads(options.threads):
        return _fit(module, lessons, options, progress or (lambda _: None), rates)


def _fit(
    module: torch.nn.Module,
    lessons: Lessons,
    options: TrainOptions,
    progress: Callable[[Progress], None],
    rates: Rates | None,
) -> Fitted:
    module.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learnt = _loss_of(lessons, options)
    groups = rates.groups(module) if rates else [{"params": module.parameters()}]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)
    peaks = [group["lr"] for group in optimiser.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=peaks, total_steps=max(2, options.steps), pct_start=0.25
    )
    checks = {round(options.steps * (i + 1) / options.checks) for i in range(options.checks)}
    days = takes_days(options.architecture)
    history: list[dict[str, float]] = []
    best, best_step, best_state, losses = -1.0, options.steps, None, []
    start = time.perf_counter()
    with closing(lessons.batches()) as drawn:  # type: ignore[type-var]  # it is a generator
        for step in range(1, options.steps + 1):
            batch = next(drawn).to(options.device)
            module.train()
            if rates is not None:
                rates.hold(module, step, options.steps)
            torch.manual_seed(options.seed * 1_000_003 + step)
            loss = learnt(call(module, batch, lessons.normalisation, days), batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), options.clip)
            optimiser.step()
            if step < options.steps:
                schedule.step()
            losses.append(float(loss.detach()))
            val = evaluate(module, lessons, VAL, days) if step in checks else None
            progress(Progress(step, options.steps, float(np.mean(losses)), time.perf_counter() - start, val))
            if step in checks:
                history.append(_row(step, losses, val, time.perf_counter() - start))
                losses = []
            if val is not None and val.mean_iou > best:
                best, best_step, best_state = val.mean_iou, step, copy.deepcopy(module.state_dict())
    if best_state is not None:
        module.load_state_dict(best_state)
    module.eval()
    scores = [evaluate(module, lessons, part, days) for part in (VAL, TEST)]
    return Fitted(tuple(history), best_step, scores[0], scores[1])


@torch.inference_mode()
def evaluate(module: torch.nn.Module, lessons: Lessons, part: int, days: bool) -> Scores | None:
    """Score a part; None when it holds nothing annotated. Leaves the module in evaluation mode."""
    module.eval()
    device = next(module.parameters()).device
    matrix_KK = np.zeros((lessons.n_classes, lessons.n_classes), np.int64)
    for batch, inner in lessons.part(part):
        logits_BKHW = call(module, batch.to(device), lessons.normalisation, days)[(..., *inner)]
        predicted_BHW = logits_BKHW.argmax(dim=1).cpu().numpy()
        truth_BHW = batch.target[(..., *inner)].numpy()
        matrix_KK += confusion(truth_BHW, predicted_BHW, lessons.n_classes)
    return Scores.of(matrix_KK) if matrix_KK.any() else None


def _loss_of(lessons: Lessons, options: TrainOptions) -> Callable[[torch.Tensor, Batch], torch.Tensor]:
    weights_K = _loss_weights(lessons.counts, options)

    def loss(logits_BKHW: torch.Tensor, batch: Batch) -> torch.Tensor:
        target_BHW = batch.target.to(torch.int64)
        weight_BHW = batch.weight if bool((batch.weight[target_BHW != IGNORE] != 1).any()) else None
        found = cross_entropy(logits_BKHW, target_BHW, weights_K, weight_BHW)
        if options.dice:
            found = (1 - options.dice) * found + options.dice * dice(logits_BKHW, target_BHW, weight_BHW)
        return found

    return loss


def _loss_weights(counts_K: NDArray[np.int64], options: TrainOptions) -> torch.Tensor | None:
    asked = options.weigh_classes
    if not asked:
        return None
    kind: WeightKind = "root" if asked is True else asked
    return torch.from_numpy(class_weights(counts_K, kind)).to(options.device)


def _row(step: int, losses: list[float], val: Scores | None, seconds: float) -> dict[str, float]:
    row = {"step": step, "loss": round(float(np.mean(losses)), 5), "seconds": round(seconds, 2)}
    return row | ({"accuracy": val.accuracy, "mean_iou": val.mean_iou} if val else {})


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
