"""What makes one step of a training: batches, losses, gradients, the optimiser and its rate.

Everything that a step depends on follows from the options and its number: which batches it learns, what dropout draws,
its rate. So a training that goes on from a checkpoint makes the very steps that an unbroken one would have made.

Shape suffixes: B batch, K class, H row, W column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.models.normalise import LogSigmoid, Standard
from engine.models.order import channels_last
from engine.models.registry import pixelwise, takes_days
from engine.values.errors import DataError
from training.batch import Batch
from training.feed import Background
from training.lessons import Lessons, call
from training.losses.options import Criterion, Learnt, criterion
from training.optimisers import Schedule, make_optimiser, make_schedule
from training.options import TrainOptions
from training.scoring import Evaluation, evaluate
from training.together import Group

_AHEAD = 3
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**12


class Tuning(Protocol):
    """Which parameters learn, how fast, and from when on."""

    def groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        """Return groups as torch's optimisers take them: ``params``, and ``lr`` (its peak) where it is its own."""
        ...

    def before(self, step: int, module: torch.nn.Module) -> bool:
        """Freeze or thaw for a step (from 1), by its number alone; the module is in training mode.

        Returns:
            Whether other parameters than in the step before have ``requires_grad``.
        """
        ...


class _AllAlike:
    """All parameters learn from the first step on, at one rate."""

    def groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(module.parameters())}]

    def before(self, step: int, module: torch.nn.Module) -> bool:
        return False


@dataclass
class Learner:
    """A network and what makes its steps.

    Attributes:
        module: The network, on the group's device.
        options: How it is trained.
        group: The processes that train together.
        criterion: What is learnt.
        optimiser: Over the groups of `tuning`.
        schedule: Of its rates.
        scaler: Of the loss, so that half-precision gradients do not vanish; does nothing otherwise.
        tuning: Which parameters learn.
        normalisation: Of the lessons.
        days: Whether the network asks for running days.
        pixelwise: Whether it looks at one pixel at a time, so that it need not see pixels that are not annotated.
        average: Moving average of the weights, or None.
        wrapped: The network whose backward pass averages over the group; made at the first step.
    """

    module: torch.nn.Module
    options: TrainOptions
    group: Group
    criterion: Criterion
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    tuning: Tuning
    normalisation: Standard | LogSigmoid
    days: bool
    pixelwise: bool = False
    average: AveragedModel | None = None
    wrapped: torch.nn.Module | None = None

    @property
    def scored(self) -> torch.nn.Module:
        """The weights that are scored and kept: their moving average, if one is asked for."""
        if self.average is None:
            return self.module
        averaged: torch.nn.Module = self.average.module
        return averaged

    def step(self, drawn: Iterator[Batch], done: int) -> tuple[float, float]:
        """Make one step; returns its loss and the norm of its gradient, which are the group's."""
        options = self.options
        self.module.train()
        if self.tuning.before(done + 1, self.module) or self.wrapped is None:
            self.wrapped = self.group.wrapped(self.module)
        self.optimiser.zero_grad(set_to_none=True)
        losses = []
        for i in range(options.accumulate):
            last = i + 1 == options.accumulate
            with nullcontext() if last else self.group.silent(self.wrapped):
                losses.append(self._backward(next(drawn), done * options.accumulate + i))
        self.scaler.unscale_(self.optimiser)
        learning = [p for p in self.module.parameters() if p.grad is not None]
        gradient = torch.nn.utils.clip_grad_norm_(learning, options.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.stepped()
        if self.average is not None:
            self.average.update_parameters(self.module)
        loss = self.group.mean(float(torch.stack(losses).sum()))
        if not math.isfinite(loss):
            raise DataError(
                "the loss is no number any more",
                where=f"train, step {done + 1}",
                found=loss,
                mend="lower options.learning_rate or options.clip, or use precision float32 or bfloat16",
            )
        return loss, float(gradient)

    def _backward(self, batch: Batch, number: int) -> torch.Tensor:
        """Add the gradient of a batch, this process's `number`; returns its share of the step's loss."""
        options, device, rank = self.options, self.group.device, self.group.rank
        batch = batch.to(device)
        batch = batch.annotated() if self.pixelwise else batch
        # By the batch's number over all processes: what dropout draws hangs on neither a past nor a process.
        torch.manual_seed(options.seed * 1_000_003 + number * rank.count + rank.number + 1)
        precision = _PRECISIONS[options.precision]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits_BKHW = call(self.wrapped or self.module, batch, self.normalisation, self.days)
        loss = self.criterion(logits_BKHW.to(torch.float32), batch) / options.accumulate
        self.scaler.scale(loss).backward()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return where it stands: numbers, tensors and plain values."""
        return {
            "module": self.module.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def go_to(self, state: dict[str, Any]) -> None:
        """Go to where another one of the same training stood."""
        self.module.load_state_dict(state["module"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])

    def score(self, lessons: Lessons, part: int, module: torch.nn.Module) -> Evaluation | None:
        """Score weights on a part."""
        return evaluate(module, lessons, part, self.days, self.options.several_labels, self.group)


def make_learner(
    module: torch.nn.Module, lessons: Lessons, options: TrainOptions, tuning: Tuning | None = None
) -> Learner:
    """Put together what makes the steps of a training; moves the network to its device.

    Raises:
        InputError: If a loss does not fit the classes.
    """
    tuning = tuning or _AllAlike()
    group = Group.here(options.device)
    channels_last(module, options.device)
    learnt = Learnt(lessons.classes, lessons.counts, options.weigh, options.device)
    optimiser = make_optimiser(
        options.optimiser, tuning.groups(module), options.learning_rate, options.weight_decay
    )
    average = None
    if options.average:
        average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(options.average), use_buffers=True)
    return Learner(
        module=module,
        options=options,
        group=group,
        criterion=criterion(options.losses, learnt),
        optimiser=optimiser,
        schedule=make_schedule(options.schedule, optimiser, options.steps),
        scaler=torch.amp.GradScaler(
            group.device.type, init_scale=_FIRST_SCALE, enabled=options.precision == "float16"
        ),
        tuning=tuning,
        normalisation=lessons.normalisation,
        days=takes_days(options.architecture),
        pixelwise=pixelwise(options.architecture, options.config),
        average=average,
    )


@contextmanager
def drawn_batches(lessons: Lessons, skip: int, group: Group) -> Iterator[Iterator[Batch]]:
    """Draw this process's batches, for a GPU in a thread that works ahead; closed at the end."""
    given = lessons.batches(skip, group.rank)
    if group.device.type == "cuda":
        ahead = Background((batch.pin_memory() for batch in given), _AHEAD)
        try:
            yield iter(ahead)
        finally:
            ahead.close()
        return
    try:
        yield given
    finally:
        close = getattr(given, "close", None)
        if close is not None:
            close()
