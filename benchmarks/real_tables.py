"""Networks against tuned forests and boosting on real tables of series, on the same splits.

Run: ``python benchmarks/real_tables.py RESULTS [--tasks bahia ...] [--models forest ...] [--deals 3]``; what RESULTS
holds already is not run again, so that it may be stopped at any time. ``--table`` prints the figures alone.
``LANDWEAVE_TEST_DATA`` names the folder of real data.

Each task (`real_series.py`) is cross-validated by space: every sample is tested once in each deal of its units to
folds, by models that saw no sample of its unit or near it. All models get the same bands. Forest and boosting are
tuned by random search within the training part, by units. Networks are trained on the training part alone, at
settings fixed here for all tasks. The figure is macro F1 over all tested samples of a deal; the interval is that of a
bootstrap over units (95%), of all deals together; the difference is that to the better of forest and boosting,
drawn with the same units.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import real_models
import real_series
from numpy.typing import NDArray
from real_series import Task

from training.splits import TEST, TRAIN, Split
from training.tables.score import Interval, bootstrap, macro_f1, macro_f1_draws, unit_matrices

_DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
_BASELINES = ("forest", "boosting")
COMMITTEES: dict[str, tuple[str, ...]] = {
    "networks": ("mlp", "tempcnn"),
    "networks + deep forest": ("mlp", "tempcnn", "deep-forest"),
}
"""Means of models' shares: nothing is trained for them."""


def main() -> None:
    """Run what is missing, then print the tables."""
    options = _arguments()
    for name in options.tasks:
        task = real_series.TASKS[name](_DATA)
        deals = [task.deal(deal) for deal in range(options.deals if task.folds else 1)]
        for deal, folds in enumerate(deals):
            for fold, split in enumerate(folds):
                for model in () if options.table else options.models:
                    _once(options.results / f"{name}-{deal}-{fold}-{model}.npz", task, split, model)
        print(_markdown(task, options.results / name, [len(folds) for folds in deals]), flush=True)


def _once(path: Path, task: Task, split: Split, model: str) -> None:
    if path.exists():
        return
    parts = split.parts_of(task.samples())
    start, cpu = time.perf_counter(), time.process_time()
    shares_NK, told = real_models.MODELS[model](task, split, parts == TRAIN, parts == TEST)
    told |= {"seconds": round(time.perf_counter() - start, 1), "cpu": round(time.process_time() - cpu, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(
            file, index=np.flatnonzero(parts == TEST), shares=shares_NK, told=json.dumps(told)
        )
    part.replace(path)
    print(path.stem, told, flush=True)


def _markdown(task: Task, stem: Path, folds: list[int]) -> str:
    """Write the table of a task from what its folder of results holds."""
    n = len(task.table.classes.classes)
    truth_N, units_N = real_models.classes_of(task), task.drawn_units()
    answers = {
        name: [_answer(stem, deal, k, (name,)) for deal, k in enumerate(folds)] for name in real_models.MODELS
    }
    for name, members in COMMITTEES.items():
        answers[name] = [_answer(stem, deal, k, members) for deal, k in enumerate(folds)]
    found = {name: [a for a in several if a is not None] for name, several in answers.items()}
    counts_RU = bootstrap(len(set(units_N)))
    scored = {
        name: [
            _scored((index_N, shares_NK), truth_N, units_N, n, counts_RU) for index_N, shares_NK in several
        ]
        for name, several in found.items()
        if several
    }
    best = max((b for b in _BASELINES if b in scored), key=lambda b: _mean(scored[b]), default=None)
    told = f"{len(task.table)} samples, {n} classes, {len(set(units_N))} units drawn"
    lines = [
        f"{task.name}: {told}",
        "",
        "| model | deals | macro F1 | against the better baseline | accuracy |",
        "|---|---|---|---|---|",
    ]
    for name, deals in scored.items():
        draws_R = np.mean([draws for _, draws, _ in deals], axis=0)
        against = "" if best is None or name == best else _difference(deals, scored[best])
        accuracy = np.mean([a for _, _, a in deals])
        lines.append(
            f"| {name} | {len(deals)} | {Interval.of(_mean(deals), draws_R)} | {against} | {accuracy:.3f} |"
        )
    return "\n".join([*lines, ""])


_Scored = tuple[float, NDArray[np.float64], float]


def _mean(deals: list[_Scored]) -> float:
    return float(np.mean([value for value, _, _ in deals]))


def _difference(mine: list[_Scored], other: list[_Scored]) -> str:
    """Compare on the deals that both have, draw by draw."""
    pairs = list(zip(mine, other, strict=False))
    value = float(np.mean([a - b for (a, _, _), (b, _, _) in pairs]))
    draws = np.mean([a - b for (_, a, _), (_, b, _) in pairs], axis=0)
    found = Interval.of(value, draws)
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _answer(
    stem: Path, deal: int, folds: int, members: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Join the folds of a deal, the mean of members; None where one is missing."""
    index, shares = [], []
    for fold in range(folds):
        paths = [stem.parent / f"{stem.name}-{deal}-{fold}-{name}.npz" for name in members]
        if not all(path.exists() for path in paths):
            return None
        loaded = [np.load(path) for path in paths]
        index.append(loaded[0]["index"])
        shares.append(np.mean([each["shares"] for each in loaded], axis=0))
    return np.concatenate(index), np.concatenate(shares)


def _scored(
    answer: tuple[NDArray[np.int64], NDArray[np.float64]],
    truth_N: NDArray[np.int64],
    units_N: NDArray[np.object_],
    n_classes: int,
    counts_RU: NDArray[np.int64],
) -> _Scored:
    index_N, shares_NK = answer
    predicted = shares_NK.argmax(axis=1)
    matrices = unit_matrices(units_N[index_N], truth_N[index_N], predicted, n_classes)
    accuracy = float((predicted == truth_N[index_N]).mean())
    return float(macro_f1(matrices.sum(axis=0))), macro_f1_draws(matrices, counts_RU), accuracy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--tasks", nargs="+", default=list(real_series.TASKS), choices=list(real_series.TASKS)
    )
    parser.add_argument(
        "--models", nargs="+", default=list(real_models.MODELS), choices=list(real_models.MODELS)
    )
    parser.add_argument("--deals", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
