"""A training from the command line: alone or with the other processes of torchrun, followed on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.console import steps_progress
from pipelines.table_config import TableTrainConfig
from pipelines.train_model import (
    TrainConfig,
    overlap_line,
    prepare_training,
    score_lines,
    split_path,
    state_beside,
    train_model,
)
from pipelines.train_table import prepare_table, table_split_path, train_on_table
from training.loop import Progress
from training.together import together

Heard = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainCall:
    """What a command line says beside the YAML.

    Attributes:
        resume: Go on from what an ended training left.
        tensorboard: Folder for TensorBoard, or None.
    """

    resume: bool = True
    tensorboard: Path | None = None


def train_together(config: TrainConfig | TableTrainConfig, call: TrainCall) -> dict[str, Any] | None:
    """Train, write the bundle and say what became of it; None in all processes of torchrun but the first.

    Raises:
        InputError: If data, labels or options do not fit together.
        ConflictError: If the state of another training lies where this one's would.
    """
    options = state_beside(config.options, config.bundle, resume=call.resume)
    config = config.model_copy(update={"options": options})
    with together(options.device) as group:
        if group.first:
            with _listeners(call) as heard:
                return _trained(config, heard)
        with TemporaryDirectory() as scratch:  # the bundle is the first one's to write
            _trained(config.model_copy(update={"bundle": f"{scratch}/bundle"}), None)
    return None


def _trained(config: TrainConfig | TableTrainConfig, heard: Heard | None) -> dict[str, Any]:
    if isinstance(config, TableTrainConfig):
        table = prepare_table(config)
        bundle, trained = train_on_table(config, heard, table)
        told = {"bundle": bundle.path, **table.lines(), "split file": table_split_path(config)}
        return told | score_lines(trained)
    ready = prepare_training(config)
    bundle, trained = train_model(config, heard, ready)
    told = {"bundle": bundle.path, **ready.lines(), "split file": split_path(config)}
    return told | score_lines(trained) | {"looks": overlap_line(bundle)}


@contextmanager
def _listeners(call: TrainCall) -> Iterator[Heard]:
    """Follow a training on the console and, if asked for, in TensorBoard."""
    with ExitStack() as opened:
        listeners = [followed(opened.enter_context(steps_progress("train", "steps")))]
        if call.tensorboard is not None:
            from training.logbook import tensorboard

            listeners.append(opened.enter_context(tensorboard(call.tensorboard)))

        def heard(progress: Progress) -> None:
            for listener in listeners:
                listener(progress)

        yield heard


def followed(show: Callable[[int, int, str], None]) -> Heard:
    """Return a listener that tells how a training goes: its loss, and what was scored last and best."""
    scored: list[float] = []

    def hear(progress: Progress) -> None:
        if progress.val is not None:
            scored.append(progress.val.mean_iou)
        told = f"loss {progress.loss:.3f}"
        if scored:
            told += f", mean IoU {scored[-1]:.3f}, best {max(scored):.3f}"
        show(progress.step, progress.steps, told)

    return hear
