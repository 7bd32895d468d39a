"""Two processes of torchrun learn what one learns from twice as many batches a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.small import UNET, fitted_with, options_with, without_times

# a group norm, as running statistics of a batch norm are the first process's; and no Adam, which
# makes a whole step of the last bit of a gradient
LEARNT = {
    "config": {**UNET, "norm": "group"},
    "optimiser": {"kind": "sgd", "momentum": 0.5},
    "learning_rate": 0.05,
    "schedule": {"kind": "constant"},
    "steps": 4,
}


def test_two_processes_are_two_accumulated_batches(tmp_path: Path) -> None:
    options = options_with(**LEARNT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        sys.executable,
        *launch,
        "-m",
        "tests.training.small",
        str(tmp_path),
        options.model_dump_json(),
    ]
    env = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    module, fitted = fitted_with(options_with(**LEARNT, accumulate=2))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    history = json.loads((tmp_path / "history.json").read_text())
    for together, alone in zip(history, without_times(fitted), strict=True):
        assert together == pytest.approx(alone, rel=1e-3)
