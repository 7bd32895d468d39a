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

from training.intervals import bootstrap, confusions
from training.metrics import Scores
from training.splits import TEST, TRAIN, Split

_DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
_BASELINES = ("forest", "boosting")
COMMITTEES: dict[str, tuple[str, ...]] = {
    "networks": ("mlp", "cnn1d"),
    "three networks": ("mlp", "cnn1d", "tempcnn"),
    "networks + deep forest": ("mlp", "cnn1d", "deep-forest"),
    "networks + forest": ("mlp", "cnn1d", "forest"),
    "three networks + forest": ("mlp", "cnn1d", "tempcnn", "forest"),
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
    models = {name: (name,) for name in real_models.MODELS} | COMMITTEES
    held = {name: _matrices(task, stem, folds, members) for name, members in models.items()}
    found = {name: matrices for name, matrices in held.items() if matrices}
    known = [name for name in _BASELINES if name in found]
    best = max(known, key=lambda name: _mean_f1(sum_over_units(found[name])), default=None)
    n_units = len(set(task.drawn_units()))
    lines = [
        f"{task.name}: {len(task.table)} samples, {len(task.table.classes.classes)} classes, {n_units} units drawn",
        "",
        "| model | deals | macro F1 | against the better baseline | accuracy |",
        "|---|---|---|---|---|",
    ]
    for name, deals in found.items():
        (f1,) = bootstrap(np.stack(list(deals.values()), axis=1), lambda m_DKK: (_mean_f1(m_DKK),))
        accuracy = np.mean([Scores.of(m_KK).accuracy for m_KK in sum_over_units(deals)])
        against = "" if best in (None, name) else _difference(deals, found[str(best)])
        lines.append(f"| {name} | {len(deals)} | {f1.line()} | {against} | {accuracy:.3f} |")
    return "\n".join([*lines, ""])


_Deals = dict[int, NDArray[np.int64]]
"""Deal to the confusion matrix of each unit, (G, K, K)."""


def sum_over_units(deals: _Deals) -> NDArray[np.int64]:
    """Return the confusion matrix of each deal, (D, K, K)."""
    return np.stack([matrices_GKK.sum(axis=0) for matrices_GKK in deals.values()])


def _mean_f1(matrices_DKK: NDArray[np.int64]) -> float:
    return float(np.mean([Scores.of(matrix_KK).mean_f1 for matrix_KK in matrices_DKK]))


def _difference(mine: _Deals, other: _Deals) -> str:
    """Compare on the deals that both have, each time on the same units."""
    both = sorted(set(mine) & set(other))
    if not both:
        return ""
    pairs_GDPKK = np.stack([np.stack([mine[d], other[d]], axis=1) for d in both], axis=1)
    (found,) = bootstrap(pairs_GDPKK, lambda m_DPKK: (_mean_f1(m_DPKK[:, 0]) - _mean_f1(m_DPKK[:, 1]),))
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _matrices(task: Task, stem: Path, folds: list[int], members: tuple[str, ...]) -> _Deals:
    """Return the confusion matrices of the deals that are whole."""
    truth_N, units_N = real_models.classes_of(task), task.drawn_units()
    n_classes, found = len(task.table.classes.classes), {}
    for deal, n in enumerate(folds):
        answer = _answer(stem, deal, n, members)
        if answer is not None:
            index_N, shares_NK = answer
            units = units_N[index_N].astype(str)
            found[deal] = confusions(truth_N[index_N], shares_NK.argmax(axis=1), units, n_classes)
    return found


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
