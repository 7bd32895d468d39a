"""A training of a second or two, also as a process of its own.

``python -m tests.training.small OUT OPTIONS`` trains with options as JSON and writes weights and history; a third
argument says when to kill itself: ``step`` (in a step) or ``write`` (in the middle of writing a checkpoint).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from tests.training.synthetic import Season, season
from training.lessons import CubeLessons
from training.loop import Fitted, Progress, fit, fresh_network
from training.options import TrainOptions
from training.splits import Split
from training.together import together

SEASON = Season(side_px=96, n_dates=2, n_bands=3, n_classes=3, fields=60, noise=250.0, seed=3)
UNET = {"stem": 4, "width": 4, "width_max": 8, "depth": 1, "dropout": 0.2}
KILLED_AT = 5


def options_with(**changes: Any) -> TrainOptions:
    """Return options of ten steps on small patches, with other fields."""
    fields: dict[str, Any] = {
        "config": UNET,
        "split": Split(block_px=16, buffer_px=2, val=0.25, test=0.2).model_dump(),
        "steps": 10,
        "batch": 3,
        "crop_px": 16,
        "checks": 2,
    }
    return TrainOptions.model_validate(fields | changes)


def lessons_with(options: TrainOptions, chunk_px: int | None = None) -> CubeLessons:
    """Return the season's lessons, streamed where chunks are asked for."""
    cube, labels = season(SEASON, (-2000, 700))
    if chunk_px is not None:
        cube = cube.chunk({"y": chunk_px, "x": chunk_px})
        options = options.model_copy(update={"memory_bytes": 60_000})
    return CubeLessons.of(cube, labels, options)


def fitted_with(
    options: TrainOptions, progress: Any = None, lessons: CubeLessons | None = None
) -> tuple[torch.nn.Module, Fitted]:
    """Train a fresh network."""
    lessons = lessons or lessons_with(options)
    module = fresh_network(lessons, options, options.crop_px)
    return module, fit(module, lessons, options, progress)


def without_times(fitted: Fitted) -> list[dict[str, float]]:
    """Return a history without its seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history]


def _die(progress: Progress) -> None:
    if progress.step == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def _die_writing() -> None:
    """Make the checkpoint of step `KILLED_AT` end in the middle of its file."""
    save, seen = torch.save, []

    def half(state: dict[str, Any], file: Any) -> None:
        seen.append(0)
        if len(seen) == KILLED_AT:
            file.write(b"half of it")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    torch.save = half


def main(out: str, options: str, kill: str = "") -> None:
    """Train and write weights and history."""
    if kill == "write":
        _die_writing()
    read = TrainOptions.model_validate_json(options)
    with together(read.device) as group:
        module, fitted = fitted_with(read, _die if kill == "step" else None)
        if group.first:
            torch.save(module.state_dict(), Path(out) / "weights.pt")
            (Path(out) / "history.json").write_text(json.dumps(without_times(fitted)))


if __name__ == "__main__":
    main(*sys.argv[1:])
