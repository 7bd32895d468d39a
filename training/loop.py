"""The training loop, read top to bottom: a network learns its lessons, and its best state is kept.

::

    lessons.batches ─► call ─► loss ─► backward ─► clip ─► optimiser ─► schedule ─┐
        ▲                                                                         │ at each check: score the
        └─────────────────────────────────── steps ◄──────────────────────────────┘ validation part, keep the best

`training.learner` makes the steps, `training.checkpoints` keeps what is needed to go on.

Shape suffixes: B batch, T date, C band, H row, W column, K class.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.inference.bundle import BundleFields
from engine.inference.planes import planes_in
from engine.models.normalise import Standard
from engine.models.registry import build, check_config, knows_groups
from engine.runs.signals import Interrupts
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.head import Classes, MultiLabel
from engine.values.lattice import Lattice
from engine.values.planes import Plane
from engine.values.spec import CubeSpec
from training.checkpoints import CheckpointFile, digest_of
from training.learner import Learner, Tuning, drawn_batches, make_learner
from training.lessons import CubeLessons, Lessons, statistics
from training.loader import Rank
from training.metrics import Scores
from training.options import TrainOptions
from training.pixels import Streamed
from training.scoring import Evaluation
from training.splits import TEST, VAL
from training.threads import threads
from training.together import Group
from training.transfer import start_fields, started

if TYPE_CHECKING:
    import xarray as xr

    from training.labels import LabelRaster

__all__ = [
    "Fitted",
    "Progress",
    "TrainOptions",
    "TrainedModel",
    "fit",
    "fresh_network",
    "statistics",
    "train",
]


@dataclass(frozen=True)
class Progress:
    """What a progress callback hears after every step.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Mean loss since the last check.
        seconds: Since the start; of a training that went on, of all its parts.
        val: Scores on the validation part, when this step checked it.
        val_loss: Mean cross entropy there, likewise.
        learning_rate: Of the first group of parameters, in this step.
        gradient: Norm of the gradient before clipping.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    val: Scores | None = None
    val_loss: float | None = None
    learning_rate: float = math.nan
    gradient: float = math.nan


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` did; the best state is in the module.

    Attributes:
        history: One row per check: step, loss, accuracy, mean IoU, mean F1, loss on the validation part, seconds.
        best_step: Steps after which the kept state stood.
        val: Its scores on the validation part, None without any.
        test: Its scores on the test part, None without any.
        steps: Steps made; fewer than asked for where it ended early.
        begun_at: Steps that were found done in a checkpoint.
    """

    history: tuple[dict[str, float], ...]
    best_step: int
    val: Scores | None
    test: Scores | None
    steps: int = 0
    begun_at: int = 0


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
        n_dates: Dates of the cube, or of each sample; None: any number.
        streamed: Whether the cube was too large to be loaded whole.
        steps: Steps made.
        best_step: Steps after which the kept state stood.
        planes: What it saw of each date; empty: the bands of the cube.
    """

    module: torch.nn.Module
    options: TrainOptions
    classes: ClassScheme
    normalisation: Standard
    val: Scores | None
    test: Scores | None
    history: tuple[dict[str, float], ...]
    pixels: dict[str, int]
    n_dates: int | None
    streamed: bool = False
    steps: int = 0
    best_step: int = 0
    planes: tuple[Plane, ...] = ()

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
            planes=self.planes,
            licence=licence,
            head=MultiLabel() if self.options.several_labels else Classes(),
            training={
                "options": self.options.model_dump(mode="json", exclude={"checkpoint"}),
                "pixels": self.pixels,
                "val": self.val.as_json(names) if self.val else None,
                "test": self.test.as_json(names) if self.test else None,
                "history": list(self.history),
            },
        )


def train(
    cube: xr.Dataset,
    labels: LabelRaster,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Train a network on a cube.

    Args:
        cube: ``reflectance`` (time, band, y, x) uint16 and what else its spec names, lazy or loaded, on the labels'
            box. It is loaded whole (dates x planes x pixels x 2 bytes) where ``options.memory_bytes`` allow it,
            else streamed; patches and their order then differ.
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
    lessons, tuning = started(module, lessons, planes_in(cube), options)
    fitted = fit(module, lessons, options, progress, tuning)
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
        steps=fitted.steps,
        best_step=fitted.best_step,
        planes=lessons.cube.planes,
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
    if knows_groups(options.architecture):
        fields["groups"] = lessons.normalisation.groups
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
    tuning: Tuning | None = None,
) -> Fitted:
    """Train a network in place and leave its best state in it, in evaluation mode, on the options' device.

    Args:
        module: ``forward(x_BTCHW, valid_BTHW[, days_BT])``; days where ``options.architecture`` takes them.
        lessons: What it learns from.
        options: How. With ``options.checkpoint`` it goes on from what lies there; Ctrl-C, SIGTERM and SIGUSR1 then let
            the step end and write it before they stop the training.
        progress: Called after every step, on this thread, in the first of several processes; an exception that it
            raises ends the training.
        tuning: Groups of parameters and when they learn; None: all alike.

    Raises:
        InputError: If a loss does not fit the classes, or an early stop has no validation part to go by.
        DataError: If the loss is no number any more, or a checkpoint cannot be read.
        ConflictError: If the checkpoint is of another training.
        KeyboardInterrupt: If a signal ended it.
    """
    with threads(options.threads):
        learner = make_learner(module, lessons, options, tuning)
        state, file = _begin(learner, lessons)
        if learner.group.first:
            _run(learner, lessons, state, file, progress or (lambda _: None))
        else:
            _run(learner, lessons, state, None, lambda _: None)
        if state.best_weights is not None:
            module.load_state_dict(state.best_weights)
        elif learner.average is not None:
            module.load_state_dict(learner.average.module.state_dict())
        found = [learner.score(lessons, part, module) for part in (VAL, TEST)]
        module.eval()
    val, test = (None if f is None else f.scores for f in found)
    return Fitted(tuple(state.history), state.best_step or state.step, val, test, state.step, state.begun_at)


@dataclass
class _State:
    """How far a training is, beside weights, optimiser and schedule."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    best_weights: dict[str, torch.Tensor] | None = None
    stale: int = 0
    begun_at: int = 0


def _run(
    learner: Learner,
    lessons: Lessons,
    state: _State,
    file: CheckpointFile | None,
    progress: Callable[[Progress], None],
) -> None:
    """Make the steps that are left."""
    options = learner.options
    checks = {round(options.steps * (i + 1) / options.checks) for i in range(options.checks)}
    patience = math.inf if options.early_stop is None else options.early_stop.patience
    start, written = time.perf_counter() - state.seconds, time.perf_counter()
    skip = state.step * options.accumulate
    with _signals(file) as signals, drawn_batches(lessons, skip, learner.group) as drawn:
        while state.step < options.steps and state.stale <= patience:
            rate = learner.optimiser.param_groups[0]["lr"]
            loss, gradient = learner.step(drawn, state.step)
            state.step += 1
            state.losses.append(loss)
            mean = math.fsum(state.losses) / len(state.losses)
            found = None
            if state.step in checks:
                found = _check(learner, lessons, state, time.perf_counter() - start)
                if file is not None:
                    file.keep(state.step, learner.scored)
            state.seconds = time.perf_counter() - start
            val, val_loss = (found.scores, found.loss) if found else (None, None)
            progress(Progress(state.step, options.steps, mean, state.seconds, val, val_loss, rate, gradient))
            asked = signals is not None and signals.asked
            if file is not None and (asked or time.perf_counter() - written >= file.options.every_s):
                file.write({"state": vars(state), **learner.state()})
                written = time.perf_counter()
            if asked:
                raise KeyboardInterrupt
        if file is not None and state.step > state.begun_at:
            file.write({"state": vars(state), **learner.state()})


def _check(learner: Learner, lessons: Lessons, state: _State, seconds: float) -> Evaluation | None:
    """Score the validation part, remember the state if it is the best, and start a new row of the history."""
    options = learner.options
    found = learner.score(lessons, VAL, learner.scored)
    row = {
        "step": state.step,
        "loss": round(math.fsum(state.losses) / len(state.losses), 5),
        "seconds": round(seconds, 2),
    }
    state.losses = []
    if found is not None:
        s = found.scores
        row |= {"accuracy": s.accuracy, "mean_iou": s.mean_iou, "mean_f1": s.mean_f1, "val_loss": found.loss}
        score = found.by(options.best_by)
        least = 0.0 if options.early_stop is None else options.early_stop.least
        better = score > state.best + least or state.best_weights is None
        state.stale = 0 if better else state.stale + 1
        if score > state.best or state.best_weights is None:
            state.best, state.best_step = score, state.step
            state.best_weights = copy.deepcopy(learner.scored.state_dict())
        learner.schedule.checked(better)
    elif options.early_stop is not None:
        raise InputError(
            "an early stop needs a validation part",
            where="options.early_stop",
            mend="give options.split a share for validation, or leave early_stop out",
        )
    state.history.append(row)
    return found


def _begin(learner: Learner, lessons: Lessons) -> tuple[_State, CheckpointFile | None]:
    """Begin anew, or where a checkpoint stands."""
    asked = learner.options.checkpoint
    if asked is None:
        return _State(), None
    # all processes know the state by the first one's first batch
    first = Group(Rank(0, learner.group.rank.count), learner.group.device)
    with drawn_batches(lessons, 0, first) as drawn:
        digest = digest_of(learner.options, learner.module, next(drawn), first.rank.count)
    file = CheckpointFile(asked, digest)
    saved = file.read(learner.group.device)
    if saved is None:
        if learner.group.first:
            file.keep(0, learner.module)
        return _State(), file
    learner.go_to(saved)
    return _State(**(saved["state"] | {"begun_at": saved["state"]["step"]})), file


@contextmanager
def _signals(file: CheckpointFile | None) -> Iterator[Interrupts | None]:
    """Hear signals where there is something to write before one stops the training."""
    if file is None:
        yield None
        return
    with Interrupts() as signals:
        yield signals
