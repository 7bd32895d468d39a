"""Train a network on a table of series and write it as a bundle that maps, its split beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.inference.bundle import Bundle, save_bundle
from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.lattice import Lattice
from engine.values.planes import Plane, planes_of
from pipelines.model_card import write_card
from pipelines.table_config import TableTrainConfig
from pipelines.train_model import forget_state, state_beside
from training.calibration.answers import Groups
from training.calibration.examine import examine
from training.leakage import Leakage, measure_samples, refuse_leaks
from training.loop import Progress, TrainedModel
from training.series import SeriesTable
from training.split_file import write_split
from training.splits import Split
from training.stratify import Counts, count_samples, stratified
from training.tables.planes import planes_of_table, with_bands, with_indices
from training.tables.train import lessons_of, train_table


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """What a training on a table works on.

    Attributes:
        table: With the bands of the map's cube, in its order.
        planes: How each of them is written.
        split: On the grid of the configuration, its units assigned if it is stratified.
        counts: Samples of each class value in each unit.
        leakage: Measured on the samples.
    """

    table: SeriesTable
    planes: tuple[Plane, ...]
    split: Split
    counts: Counts
    leakage: Leakage

    def lines(self) -> dict[str, Any]:
        """Return what the table holds and how it is split, for people."""
        n, dates, bands = self.table.values.shape
        gaps = f", {self.table.missing:.0%} missing" if self.table.missing else ""
        left = ", ".join(f"{count} {name}" for name, count in self.table.left_out.items())
        told = {"samples": f"{n} of {dates} dates, {bands} bands{gaps}", "split": self.leakage.line()}
        return told | ({"not in the scheme": left} if left else {})


def prepare_table(config: TableTrainConfig) -> PreparedTable:
    """Read the table, take from it what the map's cube shows, split it, and refuse leaks.

    Raises:
        InputError: If table, cube or split do not fit together, or the parts of the split leak.
    """
    table = config.samples.read()
    spec = config.cube
    if spec.bands:
        planes = planes_of(spec)
        table = with_indices(table, spec.features.indices if spec.features else ())
        table = with_bands(table, [plane.name for plane in planes])
    else:
        planes = planes_of_table(table)
    split = config.options.split
    if config.crs is not None:
        split = split.on(Grid.make(config.crs, spec.resolution_m))
    samples = table.samples()
    counts = count_samples(split, samples)
    split = stratified(split, counts) if split.stratify else split
    leakage = measure_samples(split.parts_of(samples), samples, config.crs or "EPSG:3857", table.values)
    refuse_leaks(leakage, split)
    return PreparedTable(table, planes, split, counts, leakage)


def train_on_table(
    config: TableTrainConfig,
    progress: Callable[[Progress], None] | None = None,
    prepared: PreparedTable | None = None,
) -> tuple[Bundle, TrainedModel]:
    """Train, and write the bundle and, beside it, the split.

    Args:
        config: The training.
        progress: Called after every batch.
        prepared: What `prepare_table` made; default makes it.

    Raises:
        InputError: If samples or options do not fit together, or the network looks at neighbours.
    """
    from engine.models.registry import pixelwise

    if not pixelwise(config.options.architecture):
        raise InputError(
            "a table has no neighbours for this network to look at",
            where="options.architecture",
            found=config.options.architecture,
            mend="take one that looks at single pixels: mlp, tempcnn, ...",
        )
    ready = prepared or prepare_table(config)
    options = state_beside(config.options, config.bundle).model_copy(update={"split": ready.split})
    trained = train_table(ready.table, options, progress, ready.planes)
    fields = trained.bundle_fields(config.name, config.cube, Lattice(1, 0), config.licence)
    lessons = lessons_of(ready.table, options, ready.planes)
    fields = examine(trained, lessons, config.calibration, _units(ready)).given_to(fields)
    told = {
        "data": {"area": "the places of its samples"} | ready.lines(),
        "card": config.card.model_dump(mode="json"),
    }
    fields = replace(fields, training=fields.training | told)
    bundle = save_bundle(config.bundle, trained.module, config.options.architecture, fields)
    write_card(bundle)
    write_split(table_split_path(config), ready.split, ready.counts, ready.table.classes, ready.leakage)
    forget_state(options)
    return bundle, trained


def _units(ready: PreparedTable) -> Groups:
    """Group samples by the units of the split; places of a table's batches are its rows."""
    names = ready.split.units_of(ready.table.samples()).astype(str)
    _, number = np.unique(names, return_inverse=True)
    return lambda places: number[places[:, 0]]


def table_split_path(config: TableTrainConfig) -> Path:
    """Return where the split of a training is written: beside its bundle."""
    bundle = Path(config.bundle)
    return bundle.with_name(f"{bundle.name}-split.json")
