"""Sweeps of a made-up training whose best settings are known: found, repeated, pruned, gone on with."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from engine.values.errors import ConflictError, InputError
from training.sweep.report import best_of, importances, write_report
from training.sweep.space import Choices, Numbers, Sweep
from training.sweep.study import Pruned, Report, open_study, run_sweep, run_trial

SWEEP = Sweep.model_validate(
    {
        "space": {
            "options.rate": {"low": 1e-4, "high": 1, "log": True},
            "options.width": {"low": 8, "high": 64, "step": 8},
            "options.kind": {"choices": ["a", "b", None]},
        },
        "trials": 12,
    }
)


def value_of(values: dict[str, Any]) -> float:
    """Best at rate 0.01; the kind matters little, the width not at all."""
    return 1 - 0.2 * (np.log10(values["options.rate"]) + 2) ** 2 - 0.01 * (values["options.kind"] == "b")


def training(values: dict[str, Any], report: Report) -> float:
    found = value_of(values)
    for step in (1, 2, 3):
        report(step, found * step / 3)
    return found


def failing(values: dict[str, Any], report: Report) -> float:
    if values["options.kind"] == "b":
        raise InputError("the network does not fit", where="options.kind")
    return training(values, report)


def test_the_same_seed_gives_the_same_trials_and_the_best_is_found(tmp_path: Path) -> None:
    first = run_sweep(SWEEP.model_copy(update={"trials": 25}), training, tmp_path / "a")
    again = run_sweep(SWEEP.model_copy(update={"trials": 25}), training, tmp_path / "b")
    assert [r.values for r in first] == [r.values for r in again]
    assert best_of(first).values["options.rate"] == pytest.approx(0.01, rel=1.0)
    assert all(r.value == pytest.approx(value_of(r.values)) for r in first if r.state == "complete")
    assert {type(r.values["options.width"]) for r in first} == {int}
    other = run_sweep(SWEEP.model_copy(update={"seed": 1}), training, tmp_path / "c")
    assert other[0].values != first[0].values


def test_a_sweep_goes_on_and_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = run_sweep(SWEEP, training, tmp_path / "whole")
    told: list[tuple[int, int, str]] = []
    run_sweep(SWEEP.model_copy(update={"trials": 5}), training, tmp_path / "parts")
    parts = run_sweep(SWEEP, training, tmp_path / "parts", progress=lambda *a: told.append(a))
    assert [r.values for r in parts[:4]] == [r.values for r in whole[:4]]
    assert len(parts) == 12
    assert [t[0] for t in told] == list(range(5, 13))
    assert told[-1][2] == f"best {best_of(parts).value:.4f}"
    assert run_sweep(SWEEP, training, tmp_path / "parts") == parts, "nothing is left to do"


def test_a_killed_trial_is_tried_again_with_its_values(tmp_path: Path) -> None:
    begun: list[dict[str, Any]] = []

    def killed(values: dict[str, Any], report: Report) -> float:
        begun.append(values)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return training(values, report)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, killed, tmp_path)
    rows = run_sweep(SWEEP, killed, tmp_path)
    assert begun[3] == begun[2]
    assert len(rows) == 12
    assert {r.state for r in rows} <= {"complete", "pruned"}
    assert len(open_study(tmp_path).trials) == 13


def test_hopeless_trials_are_pruned_and_can_be_kept(tmp_path: Path) -> None:
    pruned = run_sweep(SWEEP.model_copy(update={"trials": 20}), training, tmp_path / "a")
    states = [r.state for r in pruned]
    assert "pruned" in states[4:]
    assert "pruned" not in states[:4]
    shown = next(r for r in pruned if r.state == "pruned")
    assert len(shown.checks) < 3
    assert shown.value == list(shown.checks.values())[-1]
    kept = run_sweep(SWEEP.model_copy(update={"prune": False}), training, tmp_path / "b")
    assert {r.state for r in kept} == {"complete"}


def test_a_training_that_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    rows = run_sweep(SWEEP, failing, tmp_path)
    failed = [r for r in rows if r.state == "failed"]
    assert failed
    assert all(r.values["options.kind"] == "b" and "does not fit" in r.note for r in failed)
    assert len(rows) == 12
    with pytest.raises(InputError, match="every trial failed"):
        run_sweep(SWEEP.model_copy(update={"trials": 2}), _always_failing, tmp_path / "all")


def _always_failing(values: dict[str, Any], report: Report) -> float:
    raise InputError("no")


def test_another_space_or_another_driver_is_refused(tmp_path: Path) -> None:
    few = SWEEP.model_copy(update={"trials": 1})
    run_sweep(few, training, tmp_path)
    with pytest.raises(ConflictError, match="another space"):
        run_sweep(
            few.model_copy(update={"space": {"options.rate": Numbers(low=0, high=1)}}), training, tmp_path
        )
    held, free = threading.Event(), threading.Event()

    def slow(values: dict[str, Any], report: Report) -> float:
        held.set()
        free.wait(30)
        return training(values, report)

    driver = threading.Thread(target=run_sweep, args=(SWEEP.model_copy(update={"trials": 2}), slow, tmp_path))
    driver.start()
    try:
        assert held.wait(30)
        with pytest.raises(ConflictError, match="drives this sweep"):
            run_sweep(SWEEP, training, tmp_path)
    finally:
        free.set()
        driver.join()


def test_trials_run_on_the_workers_of_a_client(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        rows = run_sweep(SWEEP, training, tmp_path, client)
    assert len(rows) == 12
    assert len({json.dumps(r.values, sort_keys=True) for r in rows}) >= 11, "side by side, not alike"
    assert best_of(rows).value == max(r.value for r in rows if r.state == "complete")  # type: ignore[type-var]


def test_the_report_tells_every_trial_and_which_setting_matters(tmp_path: Path) -> None:
    sweep = SWEEP.model_copy(update={"prune": False, "sampler": "random", "trials": 16})
    rows = run_sweep(sweep, training, tmp_path)
    paths = write_report(sweep, rows, tmp_path)
    assert {p.name for p in paths} == {
        "trials.csv", "trials.json", "history.png", "parallel.png", "importance.png",
    }  # fmt: skip
    assert all(p.stat().st_size > 5000 for p in paths if p.suffix == ".png")
    with (tmp_path / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(r["mean_iou"]) for r in table] == [r.value for r in rows]
    assert [float(r["options.rate"]) for r in table] == [r.values["options.rate"] for r in rows]
    shares = json.loads((tmp_path / "trials.json").read_text())["importance"]
    assert max(shares, key=shares.get) == "options.rate"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert importances(sweep, rows[:2], tmp_path) == {}


def test_a_sweep_that_makes_no_sense_is_refused() -> None:
    for wrong in (
        {"low": 1, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"choices": ["one"]},
        {"low": 1},
    ):
        with pytest.raises(ValueError, match="space"):
            Sweep.model_validate({"space": {"options.x": wrong}})
    assert Choices(choices=(True, 1, 0.5, "x", None)).choices[0] is True


def test_pruning_is_the_objectives_to_let_pass(tmp_path: Path) -> None:
    def swallowing(values: dict[str, Any], report: Report) -> float:
        for step in range(1, 4):
            try:
                report(step, -float(step) * len(seen))
            except Pruned:
                ended.append(step)
                raise
        seen.append(1)
        return 0.0

    seen: list[int] = []
    ended: list[int] = []
    for _ in range(8):
        run_trial(SWEEP, swallowing, tmp_path)
    assert len(seen) + len(ended) == 8
    assert ended
