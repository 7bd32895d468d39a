"""What a training tells while it runs, written for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.values.errors import InputError
from training.loop import Progress


@contextmanager
def tensorboard(folder: Path | str) -> Iterator[Callable[[Progress], None]]:
    """Open a logbook; what it gives is a progress callback for `training.loop.fit`.

    Each step has its loss, learning rate and norm of the gradient, each check its scores on the validation part, those
    of single classes by their number. ``tensorboard --logdir FOLDER`` shows them.

    Args:
        folder: Of this training alone; one that goes on writes on.

    Raises:
        InputError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed", where="--tensorboard", mend="pip install tensorboard"
        ) from error
    with SummaryWriter(str(folder)) as writer:
        yield lambda progress: _write(writer.add_scalar, progress)


def _write(add: Callable[[str, float, int], None], progress: Progress) -> None:
    step, val = progress.step, progress.val
    add("train/loss", progress.loss, step)
    add("train/learning_rate", progress.learning_rate, step)
    add("train/gradient", progress.gradient, step)
    if val is None:
        return
    named = {"accuracy": val.accuracy, "mean_iou": val.mean_iou, "mean_f1": val.mean_f1}
    if progress.val_loss is not None:
        named["loss"] = progress.val_loss
    named |= {f"f1/class_{k}": f1 for k, f1 in enumerate(val.f1)}
    for name, value in named.items():
        add(f"val/{name}", value, step)
