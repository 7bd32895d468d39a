"""Training from the command line: followed, ended, taken up again, in several processes; on a small table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import pipelines.train_together
from engine.inference.bundle import load_bundle
from engine.values.classes import ClassScheme
from engine.values.errors import ConflictError
from pipelines.cli import app
from pipelines.table_config import TableTrainConfig, load_table_config
from pipelines.train_together import TrainCall, followed, train_together
from training.loop import Progress
from training.metrics import Scores


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two classes of four regions that differ in when they are green."""
    rng = np.random.default_rng(0)
    n, days = 160, (60, 120, 180, 240)
    label = rng.choice(["wheat", "maize"], n)
    peak = np.where(label == "wheat", 120, 200)[:, None]
    ndvi = 0.2 + 0.6 * np.exp(-(((np.array(days) - peak) / 50) ** 2)) + rng.normal(0, 0.05, (n, 4))
    table = pd.DataFrame(ndvi, columns=[f"NDVI_doy{d}" for d in days]).assign(
        crop=label, year=2020, longitude=15.0, latitude=48.0, region=rng.choice(list("abcd"), n)
    )
    table.to_csv(tmp_path / "fields.csv", index=False)
    (tmp_path / "classes.yaml").write_text(ClassScheme.from_names(["wheat", "maize"]).to_yaml())
    settings = {
        "samples": {
            "file": "fields.csv",
            "pattern": r"(?P<band>NDVI)_doy(?P<step>\d+)",
            "steps": "year",
            "columns": {"label": "crop", "group": "region"},
            "classes": "classes.yaml",
        },
        "cube": {"bands": []},
        "bundle": "made/bundle",
        "options": {
            "architecture": "mlp",
            "config": {"width": 16, "dropout": 0.1},
            "steps": 30,
            "batch": 16,
            "checks": 3,
            "split": {"by": "groups", "buffer_px": 0, "assigned": [["a", 2], ["b", 3]]},
        },
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _read(path: Path, *overrides: str) -> TableTrainConfig:
    found = load_table_config(path, list(overrides))
    assert found is not None
    return found


def _end_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send Ctrl-C when a step is told."""

    def interrupting(show: object) -> object:
        def hear(progress: Progress) -> None:
            if progress.step == step:
                os.kill(os.getpid(), signal.SIGINT)

        return hear

    monkeypatch.setattr(pipelines.train_together, "followed", interrupting)


def test_an_ended_training_goes_on_to_the_same_bundle(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = config.parent
    whole = train_together(_read(config, f"bundle={home}/whole"), TrainCall())
    assert whole is not None
    assert whole["weights"].endswith("30 of 30 steps made")
    _end_at(12, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_together(_read(config), TrainCall())
    assert (home / "made" / "bundle-training" / "training.pt").exists()
    assert not (home / "made" / "bundle").exists()
    monkeypatch.undo()
    told = train_together(_read(config), TrainCall())
    assert told is not None
    assert not (home / "made" / "bundle-training").exists()
    bundles = [load_bundle(home / name) for name in ("whole", "made/bundle")]
    assert bundles[0].weights_sha256 == bundles[1].weights_sha256
    assert told["validation"] == whole["validation"]


def test_other_options_do_not_go_on_unless_told_to_begin_anew(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _end_at(12, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_together(_read(config), TrainCall())
    monkeypatch.undo()
    with pytest.raises(ConflictError, match="--no-resume"):
        train_together(_read(config, "options.seed=3"), TrainCall())
    more = ["--no-resume", "--json", "--tensorboard", str(config.parent / "log")]
    result = CliRunner().invoke(app, ["train", str(config), "-o", "options.seed=3", *more])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert load_bundle(told["bundle"]).training["options"]["seed"] == 3
    assert list((config.parent / "log").glob("events*"))


def test_what_is_shown_is_the_loss_and_the_last_and_best_score() -> None:
    shown: list[str] = []
    hear = followed(lambda done, total, note: shown.append(f"{done}/{total} {note}"))
    scores = [Scores.of(np.array(m)) for m in ([[4, 0], [0, 4]], [[4, 0], [4, 0]])]
    hear(Progress(1, 3, 0.9, 0.1))
    hear(Progress(2, 3, 0.8, 0.2, scores[0]))
    hear(Progress(3, 3, 0.7, 0.3, scores[1]))
    assert shown == [
        "1/3 loss 0.900",
        "2/3 loss 0.800, mean IoU 1.000, best 1.000",
        "3/3 loss 0.700, mean IoU 0.250, best 1.000",
    ]


@pytest.mark.long
def test_the_command_line_trains_in_two_processes(config: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines"]
    done = subprocess.run(
        [sys.executable, *launch, "train", str(config), "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert load_bundle(told["bundle"]).training["pixels"]["train"] > 0
