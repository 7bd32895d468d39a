"""A training that is ended anywhere goes on to the very weights, scores and history of an unbroken one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.values.errors import ConflictError, DataError
from tests.training.small import fitted_with, lessons_with, options_with, without_times
from training.checkpoints import FILE, kept_path, remove
from training.loop import Fitted, Progress


class _EndedError(Exception):
    pass


def _end_at(step: int) -> Any:
    def hear(progress: Progress) -> None:
        if progress.step == step:
            raise _EndedError

    return hear


def _same(a: torch.nn.Module, b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.state_dict().items())


def _alike(a: tuple[torch.nn.Module, Fitted], b: tuple[torch.nn.Module, Fitted]) -> bool:
    scores = [repr((f.val, f.test, f.best_step, without_times(f))) for _, f in (a, b)]  # NaN is NaN there
    return _same(a[0], b[0].state_dict()) and scores[0] == scores[1]


VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "everything that has a state": {
        "optimiser": {"kind": "sgd"},
        "learning_rate": 0.02,
        "schedule": {"kind": "plateau", "warm_up": 0.2, "patience": 0, "factor": 0.5},
        "average": 0.8,
        "accumulate": 2,
        "precision": "float16",
        "checks": 5,
        "steps": 8,
    },
    "cosine and augmentation": {
        "schedule": {"kind": "cosine"},
        "augment": {"noise": 0.01, "date_drop": 0.3},
        "loss": [{"kind": "focal"}, {"kind": "lovasz"}],
        "early_stop": {"patience": 4},
        "best_by": "loss",
        "checks": 5,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 6])
def test_it_goes_on_as_if_it_had_never_ended(variant: str, step: int, tmp_path: Path) -> None:
    changes = VARIANTS[variant]
    whole = fitted_with(options_with(**changes))
    options = options_with(checkpoint={"folder": tmp_path, "every_s": 0}, **changes)
    with pytest.raises(_EndedError):
        fitted_with(options, _end_at(step))
    again = fitted_with(options)
    # what is told comes before what is written: the step that was told last is made again
    assert again[1].begun_at == step - 1
    assert _alike(whole, again)


def test_a_streamed_cube_goes_on_too(tmp_path: Path) -> None:
    def lessons(options: Any) -> Any:
        return lessons_with(options, chunk_px=12)

    plain = options_with(memory_bytes=60_000)
    options = options_with(memory_bytes=60_000, checkpoint={"folder": tmp_path, "every_s": 0})
    whole = fitted_with(plain, lessons=lessons(plain))
    with pytest.raises(_EndedError):
        fitted_with(options, _end_at(4), lessons(options))
    again = fitted_with(options, lessons=lessons(options))
    assert again[1].begun_at == 3
    assert _alike(whole, again)


@pytest.mark.parametrize("kill", [pytest.param("step", marks=pytest.mark.long), "write"])
def test_a_kill_at_any_moment_leaves_a_state_to_go_on_from(kill: str, tmp_path: Path) -> None:
    options = options_with(checkpoint={"folder": tmp_path / "state", "every_s": 0})
    command = [sys.executable, "-m", "tests.training.small", str(tmp_path), options.model_dump_json(), kill]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": "."}, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    again = fitted_with(options)
    assert again[1].begun_at == 4
    assert _alike(fitted_with(options_with()), again)


def test_ctrl_c_lets_the_step_end_and_writes_it(tmp_path: Path) -> None:
    options = options_with(checkpoint={"folder": tmp_path, "every_s": 3600})
    told: list[int] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress.step)
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fitted_with(options, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    again = fitted_with(options, interrupt)
    assert told == list(range(1, 11))
    assert _alike(fitted_with(options_with()), again)


def test_a_training_that_is_done_makes_no_more_steps(tmp_path: Path) -> None:
    options = options_with(checkpoint={"folder": tmp_path})
    told: list[Progress] = []
    first = fitted_with(options)
    again = fitted_with(options, told.append)
    assert not told
    assert _alike(first, again)
    remove(tmp_path)
    assert not tmp_path.exists()


def test_another_trainings_state_is_refused_and_overwritten_only_on_wish(tmp_path: Path) -> None:
    def options(**changes: Any) -> Any:
        return options_with(
            checkpoint={"folder": tmp_path, **changes.pop("checkpoint", {})}, steps=2, **changes
        )

    fitted_with(options())
    for changes in ({"learning_rate": 3e-3}, {"seed": 1}, {"config": {"stem": 4, "width": 4, "depth": 2}}):
        with pytest.raises(ConflictError, match=r"another training.*--no-resume"):
            fitted_with(options(**changes))
    found = fitted_with(options(threads=2))[1]
    assert found.begun_at == 2, "threads are no other training"
    anew = fitted_with(options(seed=1, checkpoint={"resume": False}))[1]
    assert (anew.begun_at, anew.steps) == (0, 2)
    assert fitted_with(options(seed=1))[1].begun_at == 2


def test_other_labels_are_another_training(tmp_path: Path) -> None:
    options = options_with(checkpoint={"folder": tmp_path}, steps=2)
    fitted_with(options)
    moved = options.model_copy(update={"split": options.split.model_copy(update={"seed": 7})})
    with pytest.raises(ConflictError):
        fitted_with(moved)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(DataError, match=FILE):
        fitted_with(options_with(checkpoint={"folder": tmp_path}))


def test_the_weights_of_each_check_are_kept_where_asked(tmp_path: Path) -> None:
    options = options_with(checkpoint={"folder": tmp_path, "keep": True})
    module, found = fitted_with(options)
    kept = {step: load_file(kept_path(tmp_path, step)) for step in (0, 5, 10)}
    assert _same(module, kept[found.best_step])
    assert not _same(module, kept[0])
    remove(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [kept_path(tmp_path, s).name for s in kept]
