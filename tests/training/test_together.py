"""Two processes of torchrun learn what one learns from twice as many batches a step, and go on as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small import UNET, fitted_with, options_with, without_times
from training.options import TrainOptions

# a group norm, as running statistics of a batch norm are the first process's; and no Adam, which
# makes a whole step of the last bit of a gradient
LEARNT: dict[str, Any] = {
    "config": {**UNET, "norm": "group"},
    "optimiser": {"kind": "sgd", "momentum": 0.5},
    "learning_rate": 0.05,
    "schedule": {"kind": "constant"},
}


def _two_processes(out: Path, options: TrainOptions, *kill: str) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        sys.executable,
        *launch,
        "-m",
        "tests.training.small",
        str(out),
        options.model_dump_json(),
        *kill,
    ]
    env = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long
def test_two_processes_are_two_accumulated_batches(tmp_path: Path) -> None:
    done = _two_processes(tmp_path, options_with(**LEARNT, steps=4))
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    module, fitted = fitted_with(options_with(**LEARNT, steps=4, accumulate=2))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    history = json.loads((tmp_path / "history.json").read_text())
    for together, alone in zip(history, without_times(fitted), strict=True):
        assert together == pytest.approx(alone, rel=1e-3)


@pytest.mark.long
def test_processes_whose_first_is_killed_go_on_together(tmp_path: Path) -> None:
    """With batch norm and Adam: the same two processes make the same bits."""
    whole, state = tmp_path / "whole", {"folder": tmp_path / "state", "every_s": 0}
    assert _two_processes(whole, options_with()).returncode == 0
    assert _two_processes(tmp_path / "again", options_with(checkpoint=state), "step").returncode != 0
    assert not (tmp_path / "again" / "weights.pt").exists()
    done = _two_processes(tmp_path / "again", options_with(checkpoint=state))
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = (
        torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, tmp_path / "again")
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert (whole / "history.json").read_text() == (tmp_path / "again" / "history.json").read_text()
