"""Run the trials of a sweep: one after the other here, or side by side on the workers of a Dask client.

The study is a journal file that only grows (optuna's). Workers write to it themselves, so pruning knows all trials;
killed sweeps go on: a trial that was under way is tried again with the same values.

One process drives a sweep. It holds a lock on the folder, which the system lets go when the process ends,
however it ends; so trials that are still "running" when a sweep begins belong to nobody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.values.errors import ConflictError, InputError, LandweaveError
from training.sweep.space import Sweep

if TYPE_CHECKING:
    from distributed import Client
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL, LOCK = "study.journal", "study.lock"
_NAME = "sweep"
_STARTUP_TRIALS = 4
_ABANDONED = "abandoned"

Report = Callable[[int, float], None]
"""Tells the metric after a step; raises `Pruned` where the trial is not worth its end."""


class Pruned(Exception):  # noqa: N818 - no error: a trial ends early
    """Ends a trial; an objective lets it pass."""


class Objective(Protocol):
    """A training that a sweep repeats; must pickle for a Dask client."""

    def __call__(self, values: dict[str, Any], report: Report) -> float:
        """Train with these values, report each check, and return the metric on the validation part."""
        ...


@dataclass(frozen=True)
class TrialRow:
    """One trial as the table shows it.

    Attributes:
        number: In the order of beginning.
        state: ``complete``, ``pruned`` or ``failed``.
        value: The metric: at the end, or where it was pruned; None where it failed.
        seconds: It took.
        values: Setting to what was tried.
        checks: Step to the metric there.
        note: Why it failed.
    """

    number: int
    state: str
    value: float | None
    seconds: float
    values: dict[str, Any]
    checks: dict[int, float]
    note: str = ""


def run_sweep(
    sweep: Sweep,
    objective: Objective,
    folder: Path,
    client: Client | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[TrialRow]:
    """Run a sweep's trials, those that are missing.

    Args:
        sweep: What is tried.
        objective: The training.
        folder: Of the study; with a client on a file system that its workers share.
        client: A `distributed.Client`, one trial a worker at a time; None: in this process.
        progress: Called with trials done, trials in all, and the best so far.

    Returns:
        All trials of the study that ended, by number.

    Raises:
        ConflictError: If another process drives this sweep, or the folder holds one of another space.
        InputError: If no trial came to an end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = progress or (lambda *_: None)
    with _driving(folder):
        study = _opened(sweep, folder)
        _take_up(study)

        def tell() -> None:
            told(len(trial_rows(study)), sweep.trials, _best_line(study))

        tell()
        missing = max(0, sweep.trials - len(trial_rows(study)))
        if client is None:
            for _ in range(missing):
                run_trial(sweep, objective, folder)
                tell()
        else:
            for _ in _on_workers(client, sweep, objective, folder, missing):
                tell()
        rows = trial_rows(study)
    if all(row.state == "failed" for row in rows):
        raise InputError("every trial failed", where="sweep", found=rows[0].note if rows else "no trial")
    return rows


def run_trial(sweep: Sweep, objective: Objective, folder: Path, several: bool = False) -> None:
    """Run one trial and write its end into the study; a training that cannot be made fails alone."""
    from optuna.pruners import MedianPruner
    from optuna.trial import TrialState

    study = _study(folder)
    trial = study.ask()
    # A sampler begins anew with each trial, wherever that runs: its seed is that of the trial's number.
    study.sampler = _sampler(sweep, (sweep.seed * 1_000_003 + trial.number) % 2**32, several)
    study.pruner = MedianPruner(n_startup_trials=_STARTUP_TRIALS)
    trial.set_user_attr("begun", time.time())

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if sweep.prune and trial.should_prune():
            raise Pruned

    value: float | None = None
    try:
        value = objective(sweep.drawn(trial), report)
        state = TrialState.COMPLETE
    except Pruned:
        state = TrialState.PRUNED
    except LandweaveError as error:
        trial.set_user_attr("note", str(error))
        state = TrialState.FAIL
    study.tell(trial, value, state=state)


def trial_rows(study: Study) -> list[TrialRow]:
    """Return the trials that ended, but for those that were taken up again."""
    ended = (t for t in study.get_trials(deepcopy=False) if t.state.is_finished())
    return [_row(trial) for trial in ended if _ABANDONED not in trial.user_attrs]


def open_study(folder: Path) -> Study:
    """Open a sweep's study to look at it."""
    return _study(folder)


def _row(trial: FrozenTrial) -> TrialRow:
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    checks = {int(k): float(v) for k, v in sorted(trial.intermediate_values.items())}
    value = trial.value if trial.value is not None else (list(checks.values())[-1] if checks else None)
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    note = str(trial.user_attrs.get("note", ""))
    return TrialRow(trial.number, state, value, round(seconds, 1), dict(trial.params), checks, note)


def _best_line(study: Study) -> str:
    values = [row.value for row in trial_rows(study) if row.state == "complete" and row.value is not None]
    return f"best {max(values):.4f}" if values else "no trial has ended yet"


def _opened(sweep: Sweep, folder: Path) -> Study:
    """Open the study, and refuse one that searched elsewhere."""
    study = _study(folder)
    space = json.dumps(sweep.model_dump(mode="json", include={"space", "metric"}), sort_keys=True)
    known = study.user_attrs.get("space")
    if known not in (None, space):
        raise ConflictError(
            "the folder holds a sweep of another space or metric",
            where=str(folder),
            found=known,
            limit=space,
            mend="give another folder (out), or delete this one",
        )
    study.set_user_attr("space", space)
    return study


def _study(folder: Path) -> Study:
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "sweeps need optuna", where="sweep", mend="pip install 'landweave[training]'"
        ) from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.create_study(storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True)


def _sampler(sweep: Sweep, seed: int, several: bool) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    if sweep.sampler == "random":
        return RandomSampler(seed=seed)
    startup = max(_STARTUP_TRIALS, sweep.trials // 4)
    return TPESampler(seed=seed, n_startup_trials=startup, constant_liar=several)


def _take_up(study: Study) -> None:
    """End the trials that a killed sweep left running, and queue their values again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, _ABANDONED, True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def _on_workers(
    client: Client, sweep: Sweep, objective: Objective, folder: Path, missing: int
) -> Iterator[None]:
    """Keep one trial on each worker until there are enough; yields as each ends."""
    from distributed import as_completed

    several = len(client.nthreads()) > 1
    begin = lambda: client.submit(run_trial, sweep, objective, folder.resolve(), several, pure=False)  # noqa: E731
    first = min(missing, max(1, len(client.nthreads())))
    under_way = as_completed([begin() for _ in range(first)])
    left = missing - first
    for future in under_way:
        future.result()
        yield
        if left > 0:
            left -= 1
            under_way.add(begin())


@contextmanager
def _driving(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends."""
    import fcntl

    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                "another process drives this sweep",
                where=str(folder),
                mend="wait for it, or give another folder (out)",
            ) from error
        yield
