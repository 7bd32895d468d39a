"""What TensorBoard reads is what the training told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small import fitted_with, options_with
from training.logbook import tensorboard
from training.loop import Progress


def test_tensorboard_reads_what_was_told(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[Progress] = []
    with tensorboard(tmp_path) as write:

        def hear(progress: Progress) -> None:
            told.append(progress)
            write(progress)

        fitted_with(options_with(steps=4), hear)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    for name, field in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/gradient", "gradient"),
    ):
        found = read.Scalars(name)
        assert [event.step for event in found] == [1, 2, 3, 4]
        assert [event.value for event in found] == pytest.approx([getattr(p, field) for p in told])
    scored = [p for p in told if p.val is not None]
    assert [event.step for event in read.Scalars("val/mean_iou")] == [p.step for p in scored]
    assert [event.value for event in read.Scalars("val/mean_iou")] == pytest.approx(
        [p.val.mean_iou for p in scored if p.val]
    )
    assert [event.value for event in read.Scalars("val/loss")] == pytest.approx([p.val_loss for p in scored])
