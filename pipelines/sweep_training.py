"""Search good settings of a training: many trainings by one YAML, compared on their validation part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

from cluster.spec import AnyCluster
from engine.values.errors import InputError
from pipelines.config import parse_config, read_yaml
from pipelines.table_config import TableTrainConfig, load_table_config
from pipelines.train_model import Prepared, TrainConfig, load_train_config, prepare_training
from pipelines.train_table import PreparedTable, prepare_table
from training.loop import Progress, TrainedModel, train
from training.sweep.report import best_of, write_report
from training.sweep.space import Metric, Sweep
from training.sweep.study import Report, TrialRow, run_sweep
from training.tables.train import train_table

if TYPE_CHECKING:
    from distributed import Client
    from rich.table import Table

BEST = "best.yaml"
_SHOWN = 15


class SweepConfig(Sweep):
    """A sweep's YAML: what is searched, where it is kept, and where trials run."""

    out: str = Field(default="sweep", description="Folder of the study, the table and the plots.")
    cluster: AnyCluster | None = Field(
        default=None, description="As of a map: one trial a worker at a time; none: here, one by one."
    )


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        config: The sweep.
        rows: Its trials.
        best: The best of them.
        files: Table, plots and the training's YAML with the best settings.
    """

    config: SweepConfig
    rows: tuple[TrialRow, ...]
    best: TrialRow
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "metric": self.config.metric,
            "best": vars(self.best),
            "trials": [vars(row) for row in self.rows],
            "files": [str(path) for path in self.files],
        }

    def table(self) -> Table:
        """Return the best trials for people."""
        from rich.table import Table

        names = list(self.config.space)
        table = Table("trial", "state", self.config.metric, "s", *(n.removeprefix("options.") for n in names))
        order = {"complete": 0, "pruned": 1, "failed": 2}
        for row in sorted(self.rows, key=lambda r: (order[r.state], -(r.value or 0.0)))[:_SHOWN]:
            value = "-" if row.value is None else f"{row.value:.4f}"
            values = (_word(row.values.get(name)) for name in names)
            table.add_row(str(row.number), row.state, value, f"{row.seconds:.0f}", *values)
        return table

    def lines(self) -> dict[str, str]:
        """Return the rest for people."""
        failed = [row.note for row in self.rows if row.state == "failed"]
        told = {"best": f"trial {self.best.number}, {self.config.metric} {self.best.value:.4f} on validation"}
        if failed:
            told["failed"] = f"{len(failed)} of {len(self.rows)}, such as: {failed[0]}"
        return told | {
            "written": ", ".join(map(str, self.files)),
            "next": f"landweave train {self.files[-1]}",
        }


def load_sweep_config(path: str | Path) -> SweepConfig:
    """Read a sweep's YAML; ``out`` starts at its folder.

    Raises:
        InputError: If it cannot be read or a field is wrong.
    """
    raw = {"out": str(Path(path).parent / "sweep")} | read_yaml(path, None, paths=("out",))
    return parse_config(raw, str(path), SweepConfig)


@dataclass(frozen=True)
class TrialTraining:
    """One training of a sweep; travels to workers, which read the YAML and the data themselves.

    Attributes:
        path: The training's YAML, where all of them can read it.
        overrides: Of the command line, before those of the trial.
        metric: What is told.
    """

    path: str
    overrides: tuple[str, ...]
    metric: Metric

    def config(self, values: dict[str, Any]) -> TrainConfig | TableTrainConfig:
        """Return the training with a trial's values; it leaves no state of its own behind.

        Raises:
            InputError: If a setting is none, or a value does not fit.
        """
        asked = [*self.overrides, *(f"{name}={_as_yaml(value)}" for name, value in values.items())]
        found = load_table_config(self.path, asked) or load_train_config(self.path, asked)
        return found.model_copy(update={"options": found.options.model_copy(update={"checkpoint": None})})

    def __call__(self, values: dict[str, Any], report: Report) -> float:
        """Train and return the metric on the validation part."""

        def heard(progress: Progress) -> None:
            if progress.val is not None:
                report(progress.step, float(getattr(progress.val, self.metric)))

        trained = _trained(self.config(values), heard)
        if trained.val is None:
            raise InputError(
                "a sweep compares trainings on their validation part, and the split has none",
                where="options.split.val",
                found=trained.options.split.val,
                limit="above 0",
            )
        return float(getattr(trained.val, self.metric))


def sweep_training(
    path: str | Path,
    sweep: SweepConfig,
    overrides: list[str] | None = None,
    client: Client | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SweepResult:
    """Run a sweep, or go on with it, and write its table, plots and best settings.

    Args:
        path: The training's YAML.
        sweep: What is searched.
        overrides: ``key=value`` of the training, the same for all trials.
        client: A `distributed.Client` to run trials on; default what ``sweep.cluster`` says.
        progress: Called with trials done, trials in all, and the best so far.

    Raises:
        InputError: If a swept setting is none of the training's, or no trial came to an end.
        ConflictError: If another process drives the sweep, or ``out`` holds another one.
    """
    objective = TrialTraining(str(Path(path).resolve()), tuple(overrides or ()), sweep.metric)
    _require_settings(objective, sweep)
    folder = Path(sweep.out)
    if client is None and sweep.cluster is not None:
        from cluster.launch import open_client

        with open_client(sweep.cluster) as opened:
            rows = run_sweep(sweep, objective, folder, opened, progress)
    else:
        rows = run_sweep(sweep, objective, folder, client, progress)
    best, files = best_of(rows), write_report(sweep, rows, folder)
    settings = objective.config(best.values).model_dump(mode="json", exclude_unset=True)
    settings["options"].pop("checkpoint", None)
    (folder / BEST).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return SweepResult(sweep, tuple(rows), best, (*files, folder / BEST))


def _require_settings(objective: TrialTraining, sweep: SweepConfig) -> None:
    """Refuse a setting that the training does not have before anything is read or trained."""
    for name, part in sweep.space.items():
        try:
            objective.config({name: part.example})
        except InputError as error:
            raise InputError(
                f"a setting of the sweep does not fit the training: {error.what}",
                where=f"space.{name}",
                mend="landweave schema prints every setting with its meaning",
            ) from error


_PREPARED: dict[str, Prepared | PreparedTable] = {}
"""What this process read last: trials that differ in their options alone read no pixel again."""


def _trained(config: TrainConfig | TableTrainConfig, heard: Callable[[Progress], None]) -> TrainedModel:
    kept = {"options": {"split", "memory_bytes"}}
    key = config.model_dump(mode="json", exclude={"options", "bundle", "name", "licence"})
    key |= config.model_dump(mode="json", include=kept)
    name = json.dumps(key, sort_keys=True)
    if name not in _PREPARED:
        _PREPARED.clear()
        table = isinstance(config, TableTrainConfig)
        _PREPARED[name] = prepare_table(config) if table else prepare_training(config)  # type: ignore[arg-type]
    ready = _PREPARED[name]
    options = config.options.model_copy(update={"split": ready.split})
    if isinstance(ready, PreparedTable):
        return train_table(ready.table, options, heard, ready.planes)  # type: ignore[arg-type]
    return train(ready.cube, ready.labels, options, heard)


def _as_yaml(value: Any) -> str:
    """Write a value so that YAML reads the same one: ``1.0e-05``, where JSON's ``1e-05`` would be a word."""
    return str(yaml.safe_dump(value)).split("\n")[0]


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
