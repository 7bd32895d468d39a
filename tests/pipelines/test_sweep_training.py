"""Sweeps and cards from the command line, on the simulated archive."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import yaml
from typer.testing import CliRunner

from engine.inference.bundle import Bundle
from engine.values.errors import InputError
from pipelines.cli import app
from pipelines.model_card import card_lines, write_card
from pipelines.sample.archive import SampleArchive
from pipelines.sweep_training import TrialTraining, load_sweep_config, sweep_training
from pipelines.train_model import load_train_config, train_model


@pytest.fixture(scope="module")
def training(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    west, south, east, north = gpd.read_file(sample.labels).to_crs(4326).total_bounds
    settings = {
        "area": [float(west), float(south), float(east), float(north)],
        "time": "2023",
        "catalog": str(sample.catalog),
        "crs": "EPSG:32633",
        "cube": {"bands": ["red", "nir"], "resolution_m": 20, "period": "1QS", "reducer": "median", "mask": "scl"},
        "labels": {"file": str(sample.labels), "column": "class_name", "classes": str(sample.classes)},
        "lattice": {"window_px": 32, "overlap_px": 8},
        "options": {
            "split": {"block_px": 16, "buffer_px": 2, "val": 0.3, "test": 0.2},
            "steps": 2, "batch": 2, "crop_px": 16, "checks": 1, "config": {"width": 4, "depth": 2},
        },
        "card": {"intended_use": "Tests of this software.", "limits": ["Two steps teach nothing."]},
        "bundle": str(folder / "bundle"),
    }  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    return folder / "train.yaml"


@pytest.fixture(scope="module")
def bundle(training: Path) -> Bundle:
    return train_model(load_train_config(training))[0]


def _sweep(folder: Path, **changes: Any) -> Path:
    space = {
        "options.learning_rate": {"low": 1e-5, "high": 0.03, "log": True},
        "options.config.width": {"choices": [2, 4]},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"space": space, "trials": 3, **changes}))
    return path


def test_a_sweep_from_the_command_line_ends_with_the_best_settings(training: Path, tmp_path: Path) -> None:
    command = ["train", str(training), "--sweep", str(_sweep(tmp_path)), "--json", "-o", "options.steps=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert len(told["trials"]) == 3
    complete = [t for t in told["trials"] if t["state"] == "complete"]
    assert told["best"]["value"] == max(t["value"] for t in complete)
    best = load_train_config(tmp_path / "sweep" / "best.yaml")
    assert best.options.learning_rate == pytest.approx(told["best"]["values"]["options.learning_rate"])
    assert best.options.config["width"] == told["best"]["values"]["options.config.width"]
    assert best.options.steps == 1
    assert best.labels == load_train_config(training).labels
    assert not Path(best.bundle).with_name("bundle-training").exists()
    again = CliRunner().invoke(app, [*command[:4], "-o", "options.steps=1"])
    assert again.exit_code == 0, again.output
    assert f"trial {told['best']['number']}" in again.stdout
    assert "learning_rate" in again.stdout


def test_settings_that_do_not_exist_are_refused_before_anything_is_read(
    training: Path, tmp_path: Path
) -> None:
    wrong = load_sweep_config(_sweep(tmp_path, space={"options.learning_rat": {"low": 0.1, "high": 1}}))
    with pytest.raises(InputError, match="does not fit the training"):
        sweep_training(training, wrong)
    negative = load_sweep_config(_sweep(tmp_path, space={"options.clip": {"low": -1, "high": 1}}))
    with pytest.raises(InputError, match="does not fit the training"):
        sweep_training(training, negative)
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(InputError, match="trials"):
        load_sweep_config(_sweep(tmp_path, trials=0))


def test_a_trial_travels_and_writes_numbers_that_yaml_reads(training: Path) -> None:
    trial = pickle.loads(pickle.dumps(TrialTraining(str(training), ("name=a b",), "mean_f1")))
    found = trial.config(
        {"options.learning_rate": 1e-05, "options.config.stem": 7, "options.early_stop": None}
    )
    assert found.options.learning_rate == 1e-05
    assert found.options.config["stem"] == 7
    assert found.options.early_stop is None
    assert found.name == "a b"
    rates = [1e-05, 12345678.9, 3e22]
    assert [trial.config({"options.config.x": r}).options.config["x"] for r in rates] == rates


def test_a_card_tells_data_scores_calibration_use_and_limits(bundle: Bundle) -> None:
    text = (bundle.path / "card.md").read_text()
    for heading in ("Model", "Data", "Scores", "Calibration", "Intended use", "Limits"):
        assert f"\n## {heading}\n" in text
    assert "Tests of this software." in text
    assert "- Two steps teach nothing." in text
    assert "catalog.json" in text
    assert str(bundle.path.parent) not in text, "no paths of this machine"
    told = bundle.training["calibration"]["parts"]["test"]
    row = next(line for line in text.splitlines() if line.startswith("| test blocks"))
    assert f"| {told['groups']} | {told['accuracy']['value']:.3f} (" in row
    assert f"temperature {bundle.temperature:.3g}" in text
    assert "Classes it finds badly" in text
    assert (bundle.path / "reliability.png").stat().st_size > 5000
    assert bundle.familiar is not None


def test_a_card_is_shown_and_written_again(bundle: Bundle) -> None:
    shown = CliRunner().invoke(app, ["bundle", "card", str(bundle.path)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.strip() == "\n".join(card_lines(bundle)).strip()
    (bundle.path / "card.md").unlink()
    written = CliRunner().invoke(app, ["bundle", "card", str(bundle.path), "--write"])
    assert "card.md" in written.stdout
    assert (bundle.path / "card.md").exists()
    facts = CliRunner().invoke(app, ["bundle", "show", str(bundle.path)])
    assert "reliability" not in facts.stdout, "what is long stands in the card"


def test_a_bundle_without_a_training_has_a_card_too(tmp_path: Path) -> None:
    from tests.inference.bundles import random_bundle

    card = write_card(random_bundle(tmp_path, training={})).read_text()
    assert "no scores of an examined training" in card
    assert "Not stated by its maker" in card
    assert not (tmp_path / "reliability.png").exists()


def test_the_settings_of_a_sweep_are_told() -> None:
    told = json.loads(CliRunner().invoke(app, ["schema", "--kind", "sweep"]).output)
    assert {"space", "trials", "metric", "cluster"} <= set(told["properties"])
