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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import real_models
import real_series
from numpy.typing import NDArray
from real_series import Task

from training.splits import TEST, TRAIN, Split
from training.tables.score import macro_f1, resampled

_DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
_BASELINES = ("forest", "boosting")


def main() -> None:
    """Run what is missing, then print the tables."""
    options = _arguments()
    for name in options.tasks:
        task = real_series.TASKS[name](_DATA)
        for deal in range(options.deals if task.folds else 1):
            for fold, split in enumerate(task.deal(deal)):
                for model in () if options.table else options.models:
                    _once(options.results / f"{name}-{deal}-{fold}-{model}.npz", task, split, model)
        print(_markdown(task, name, options.results))


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
        np.savez_compressed(file, index=np.flatnonzero(parts == TEST), shares=shares_NK, told=json.dumps(told))
    part.replace(path)
    print(path.stem, told, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(real_series.TASKS), choices=list(real_series.TASKS))
    parser.add_argument("--models", nargs="+", default=list(real_models.MODELS), choices=list(real_models.MODELS))
    parser.add_argument("--deals", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
