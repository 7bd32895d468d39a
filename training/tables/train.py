"""Train a network on a table of series, as `training.loop.train` does on a cube.

Shape suffixes: N sample, T date, K class, F feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from engine.models.registry import takes_days
from engine.values.planes import Plane
from training.lessons import call
from training.loop import Progress, TrainedModel, TrainOptions, fit, fresh_network
from training.series import SeriesTable
from training.tables.jitter import SeriesJitter
from training.tables.lessons import SeriesDraw, TableLessons
from training.tables.planes import planes_of_table, with_indices
from training.transfer import started


class TableOptions(TrainOptions):
    """How a network is trained on series: what `TrainOptions` says, with defaults for tables.

    ``crop_px``, ``date_dropout``, ``augment`` and ``memory_bytes`` are for cubes and do nothing here.

    Attributes:
        indices: Spectral indices that are computed from the bands and go in beside them.
        jitter: Augmentation of series.
    """

    architecture: str = "cnn1d"
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    balance: float = Field(default=1.0, ge=0, le=1)
    indices: tuple[str, ...] = ()
    jitter: SeriesJitter = Field(default_factory=SeriesJitter)


def train_table(
    table: SeriesTable,
    options: TableOptions,
    progress: Callable[[Progress], None] | None = None,
    planes: Sequence[Plane] | None = None,
) -> TrainedModel:
    """Train a network on the samples that the split leaves to training.

    Args:
        table: Labelled series; gaps are NaN. A date counts where all bands have a value.
        options: How. The split is by blocks (with a grid), groups, years or regions.
        progress: Called after every batch.
        planes: How each band is written, of the table with its indices; None: by its name and range.

    Returns:
        The state with the best mean IoU on the validation samples (the last one without any). It takes as many
        dates as the table has, or any number where samples differ in theirs; a network that cannot is refused.

    Raises:
        InputError: If nothing trains, or an option does not fit.
    """
    lessons = lessons_of(table, options, planes)
    module = fresh_network(lessons, options)
    lessons, tuning = started(module, lessons, lessons.planes, options)
    fitted = fit(module, lessons, options, progress, tuning)
    return TrainedModel(
        module=module.to("cpu"),
        options=options,
        classes=table.classes,
        normalisation=lessons.normalisation,
        val=fitted.val,
        test=fitted.test,
        history=fitted.history,
        pixels=lessons.pixels,
        n_dates=lessons.n_dates,
        steps=fitted.steps,
        best_step=fitted.best_step,
        planes=lessons.planes,
    )


def lessons_of(
    table: SeriesTable, options: TableOptions, planes: Sequence[Plane] | None = None
) -> TableLessons:
    """Split a table and write it in planes, as `train_table` does.

    Raises:
        InputError: As `train_table`.
    """
    table = with_indices(table, options.indices)
    draw = SeriesDraw(options.batch, options.balance, options.jitter, options.seed)
    parts = options.split.parts_of(table.samples())
    return TableLessons.of(table, parts, planes or planes_of_table(table), draw)


@torch.inference_mode()
def shares_of_network(
    module: torch.nn.Module, lessons: TableLessons, architecture: str, part: int
) -> NDArray[np.float32]:
    """Return the probability of each class for the samples of a part, (N, K), in the table's order.

    Args:
        module: In evaluation mode, on the CPU.
        lessons: What holds the samples, and the normalisation of the training.
        architecture: Name in the registry.
        part: Of `training.splits`.
    """
    days = takes_days(architecture)
    found = [
        torch.softmax(call(module, batch, lessons.normalisation, days)[:, :, 0, 0], dim=1).numpy()
        for batch, _ in lessons.part(part)
    ]
    return np.concatenate(found) if found else np.zeros((0, lessons.n_classes), np.float32)


@torch.inference_mode()
def features_of_network(
    module: torch.nn.Module, lessons: TableLessons, architecture: str, part: int
) -> NDArray[np.float32]:
    """Return what the last layer of a network sees, (N, F), for the samples of a part, in the table's order."""
    days = takes_days(architecture)
    found = []
    for batch, _ in lessons.part(part):
        given = (*batch.prepared(lessons.normalisation), *((batch.dates.to(torch.float32),) if days else ()))
        found.append(module.features(*given)[:, :, 0, 0].numpy())  # type: ignore[operator]
    return np.concatenate(found)
