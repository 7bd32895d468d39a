"""A YAML with samples: from a table to a bundle that maps a cube of the same planes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from engine.inference.bundle import load_bundle
from engine.inference.planes import cube_of_planes
from engine.inference.predict import predict
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from engine.values.planes import Plane
from pipelines.cli import app
from pipelines.table_config import load_table_config
from pipelines.train_table import prepare_table, train_on_table
from tests.training.tables.made import made_table
from training.split_file import read_split

_CLASSES = [{"value": v, "name": n, "colour": "#123456"} for v, n in ((1, "early"), (4, "mid"), (9, "late"))]


def _settings(folder: Path) -> dict[str, Any]:
    table = made_table()
    names = {1: "early", 4: "mid", 9: "late"}
    samples = pd.DataFrame(
        {"sample_id": range(120), "label": [names[v] for v in table.value], "x": table.x, "y": table.y}
    )
    samples.loc[0, "label"] = "nobody knows"
    rows = pd.DataFrame(table.values.reshape(-1, 3)[:, :2], columns=["B04", "B08"])
    rows = rows.assign(sample_id=np.repeat(np.arange(120), 8), date=table.dates.ravel())
    samples.to_csv(folder / "samples.csv", index=False)
    rows.to_csv(folder / "series.csv.gz", index=False)
    (folder / "classes.yaml").write_text(yaml.safe_dump({"classes": _CLASSES}))
    columns = {"x": "x", "y": "y", "crs": "EPSG:32633"}
    return {
        "samples": {"file": "samples.csv", "values": "series.csv.gz", "classes": "classes.yaml", "columns": columns},
        "cube": {"bands": ["red", "nir"], "resolution_m": 10, "period": "1MS", "features": {"indices": ["NDVI"]}},
        "crs": "EPSG:32633",
        "options": {
            "architecture": "mlp", "config": {"width": 16, "depth": 1}, "steps": 60, "batch": 24, "learning_rate": 0.02,
            "checks": 1, "split": {"block_px": 10, "buffer_px": 0, "val": 0.2, "test": 0.2, "stratify": True},
        },
        "bundle": "made/bundle",
    }  # fmt: skip


def _write(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _cube(bands: list[str], season: np.ndarray) -> xr.Dataset:
    """One pixel for each sample: 12 x 10."""
    values = season.transpose(1, 2, 0).reshape(season.shape[1], season.shape[2], 12, 10)
    planes = [Plane(name=b, kind="index" if b.isupper() else "reflectance") for b in bands]
    times = made_table().dates[0]
    return cube_of_planes(values, planes, times, Grid.make("EPSG:32633", 10), Box(0, 0, 12, 10))


def test_a_table_becomes_a_bundle_that_maps_the_same_series(tmp_path: Path) -> None:
    config = load_table_config(_write(tmp_path, _settings(tmp_path)))
    assert config is not None
    ready = prepare_table(config)
    assert ready.table.bands == ("red", "nir", "NDVI")
    assert ready.lines()["not in the scheme"] == "1 nobody knows"
    made, trained = train_on_table(config, prepared=ready)
    assert trained.test is not None
    assert trained.test.accuracy > 0.85
    split = read_split(tmp_path / "made" / "bundle-split.json")
    assert split.assigned == ready.split.assigned
    bundle = load_bundle(made.path)
    assert [plane.name for plane in bundle.planes] == ["red", "nir", "NDVI"]
    assert (bundle.n_dates, bundle.lattice.window_px) == (8, 1)
    table = made_table()
    red, nir = table.values[:, :, 0], table.values[:, :, 1]
    cube = _cube(["red", "nir", "NDVI"], np.stack([red, nir, (nir - red) / (nir + red)], axis=2))
    label = predict(cube, bundle)["label"].values.ravel()
    assert float((label == table.value).mean()) > 0.9


def test_a_cube_without_bands_takes_the_tables_own(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    settings["cube"] = {"bands": [], "resolution_m": 10, "period": None}
    config = load_table_config(_write(tmp_path, settings))
    assert config is not None
    ready = prepare_table(config)
    assert [(p.name, p.kind) for p in ready.planes] == [("B04", "reflectance"), ("B08", "reflectance")]


def test_the_command_trains_looks_and_tells(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    settings["options"]["steps"] = 2
    path = str(_write(tmp_path, settings))
    looked = CliRunner().invoke(app, ["train", path, "--inspect", "--json"])
    assert looked.exit_code == 0, looked.output
    assert json.loads(looked.stdout)["classes"] == {"early": 39, "mid": 40, "late": 40}
    assert not (tmp_path / "made").exists()
    done = CliRunner().invoke(app, ["train", path, "--json", "-o", "bundle=" + str(tmp_path / "other")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert Path(told["bundle"]) == tmp_path / "other"
    assert "apart" in told["split"]
    assert (tmp_path / "other-split.json").exists()


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    both = {**settings, "samples": {**settings["samples"], "pattern": "x"}}
    with pytest.raises(InputError, match="give values"):
        load_table_config(_write(tmp_path, both))
    lacking = {**settings, "cube": {**settings["cube"], "bands": ["red", "nir", "swir16"]}}
    config = load_table_config(_write(tmp_path, lacking))
    assert config is not None
    with pytest.raises(InputError, match="lacks what the map"):
        prepare_table(config)
    looking = {**settings, "options": {**settings["options"], "architecture": "unet"}}
    config = load_table_config(_write(tmp_path, looking))
    assert config is not None
    with pytest.raises(InputError, match="no neighbours"):
        train_on_table(config)
    area = tmp_path / "area.yaml"
    area.write_text("area: Luxembourg")
    assert load_table_config(area) is None
