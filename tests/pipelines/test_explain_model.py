"""`landweave explain` on a cube and on a table: what was trained is explained on the part it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from engine.inference.bundle import Bundle, load_bundle
from engine.values.errors import InputError, SpecError
from pipelines.cli import app
from pipelines.explain_model import ExplainOptions, cube_material, date_names, explain_model, read_states
from pipelines.sample.archive import SampleArchive
from pipelines.table_config import load_table_config
from pipelines.train_model import load_train_config, train_model
from pipelines.train_table import train_on_table

_CHEAP = ExplainOptions(per_class=2, integration_steps=4, repeats=1)


def _write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def trained(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the weights of both checks of its training beside it."""
    folder = tmp_path_factory.mktemp("explained")
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
            "split": {"block_px": 20, "buffer_px": 3, "val": 0.3},
            "steps": 4, "batch": 2, "crop_px": 16, "checks": 2, "config": {"width": 4, "stem": 4, "depth": 2},
            "checkpoint": {"folder": str(folder / "moments"), "keep": True},
        },
        "bundle": str(folder / "bundle"),
    }  # fmt: skip
    train_model(load_train_config(_write(folder / "train.yaml", settings)))
    return folder


def test_a_bundle_is_explained_on_the_labels_of_its_training(trained: Path, tmp_path: Path) -> None:
    config = load_train_config(trained / "train.yaml")
    options = _CHEAP.model_copy(update={"checkpoints": trained / "moments"})
    heard: list[str] = []
    found = explain_model(trained / "bundle", config, tmp_path, options, lambda name, *_: heard.append(name))
    assert {"permutation", "integrated"} <= set(heard)
    assert found.about["part of the split"] == "val", "there is no test part"
    assert set(found.not_made) == {"attention"}
    made = {sheet.name for sheet in found.sheets}
    assert made >= {"in_season", "integrated", "activation_speaks", "hidden_season", "hidden_training"}
    for name in made:
        assert (tmp_path / f"{name}.png").stat().st_size > 3000
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 1
    cells = pd.read_csv(tmp_path / "integrated.csv")
    assert set(cells["band"]) == {"red", "nir"}
    assert cells["date"].str.match(r"2023-\d\d$").all()
    told = json.loads((tmp_path / "explain.json").read_text())
    assert list(told["sheets"]) == [sheet.name for sheet in found.sheets]
    assert told["sheets"]["hidden_training"]["pictures"][-1]["name"] == "step 4"
    assert found.lines()["page"] == tmp_path / "index.html"


def test_the_command_explains_what_it_is_asked_for(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "why"
    args = ["explain", str(trained / "bundle"), str(trained / "train.yaml"), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, [*args, "--only", "in_season", "--only", "confidence", "--per-class", "2"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["architecture"] == "unet"
    assert {p.stem for p in out.iterdir()} == {"in_season", "confidence", "index", "explain"}
    wrong = CliRunner().invoke(app, [*args, "--part", "moon"])
    assert isinstance(wrong.exception, InputError)
    assert "part" in str(wrong.exception)


def test_examples_are_of_the_part_and_patches_as_in_training(trained: Path) -> None:
    config, bundle = load_train_config(trained / "train.yaml"), load_bundle(trained / "bundle")
    material = cube_material(bundle, config)
    assert (material.patch_px, material.bands) == (16, ("red", "nir"))
    assert len(material.dates) == material.lessons.n_dates


def test_another_cube_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    config = load_train_config(trained / "train.yaml", ["cube.period=1MS"])
    with pytest.raises(SpecError, match="period"):
        explain_model(trained / "bundle", config, tmp_path, _CHEAP)
    with pytest.raises(InputError, match="2 or more"):
        read_states(tmp_path)


def _series(folder: Path) -> Path:
    """Class late is bright in nir in June, class early in March; red tells nothing."""
    rng = np.random.default_rng(0)
    n, days = 90, pd.date_range("2023-03-01", periods=6, freq="MS") + pd.Timedelta(days=9)
    label = np.where(np.arange(n) % 2 == 1, "late", "early")
    values = rng.normal(0.2, 0.02, (n, 6, 2))
    values[label == "early", 0, 1] += 0.3
    values[label == "late", 3, 1] += 0.3
    pd.DataFrame(
        {
            "sample_id": range(n),
            "label": label,
            "x": 500_000 + 300 * (np.arange(n) % 10),
            "y": 300 * (np.arange(n) // 10),
        }
    ).to_csv(folder / "samples.csv", index=False)
    rows = pd.DataFrame(values.reshape(-1, 2), columns=["B04", "B08"])
    own = rng.integers(0, 5, n * 6)  # every series has dates of its own
    date = pd.to_datetime(np.tile(days, n)) + pd.to_timedelta(own, unit="D")
    rows.assign(sample_id=np.repeat(np.arange(n), 6), date=date).to_csv(folder / "series.csv", index=False)
    classes = [
        {"value": 1, "name": "early", "colour": "#aa3300"},
        {"value": 2, "name": "late", "colour": "#0033aa"},
    ]
    _write(folder / "classes.yaml", {"classes": classes})
    settings = {
        "samples": {
            "file": "samples.csv", "values": "series.csv", "classes": "classes.yaml",
            "columns": {"x": "x", "y": "y", "crs": "EPSG:32633"},
        },
        "cube": {"bands": ["red", "nir"], "resolution_m": 10, "period": "1MS"},
        "crs": "EPSG:32633",
        "options": {
            "architecture": "ltae", "steps": 60, "batch": 24, "learning_rate": 0.01, "checks": 1,
            "split": {"block_px": 10, "buffer_px": 0, "val": 0.2, "test": 0.3},
        },
        "bundle": "bundle",
    }  # fmt: skip
    return _write(folder / "train.yaml", settings)


def test_a_network_of_a_table_is_explained_by_what_its_classes_are_made_of(tmp_path: Path) -> None:
    config = load_table_config(_series(tmp_path))
    assert config is not None
    bundle, trained = train_on_table(config)
    assert trained.test is not None
    assert trained.test.accuracy > 0.95
    found = explain_model(
        bundle.path, config, tmp_path / "why", ExplainOptions(repeats=2, integration_steps=16)
    )
    assert found.about["part of the split"] == "test"
    assert set(found.not_made) == {"training"}
    sheets = {sheet.name: sheet for sheet in found.sheets}
    assert "Of the bands nir costs most" in sheets["permutation"].sentence
    cells = sheets["integrated"].table
    strongest = cells.loc[cells.groupby("class")["mean_absolute"].idxmax()]
    assert set(strongest["band"]) == {"nir"}
    assert set(strongest["date"]) <= {"Mar", "Jun"}
    assert sheets["in_season"].table["last_date"].tolist() == ["Mar", "Apr", "May", "Jun", "Jul", "Aug"]
    assert sheets["attention"].table["weight"].between(0, 1).all()
    _refuses_patches(bundle, tmp_path)


def _refuses_patches(bundle: Bundle, tmp_path: Path) -> None:
    config = load_table_config(tmp_path / "train.yaml", ["cube.bands=[red]"])
    assert config is not None
    with pytest.raises(InputError, match="other bands"):
        explain_model(bundle.path, config, tmp_path / "why", _CHEAP)


def test_dates_are_named_by_month_where_that_is_enough() -> None:
    assert date_names(np.array(["2023-03-01", "2023-06-01"], "datetime64[ns]")) == ("2023-03", "2023-06")
    assert date_names(np.array(["2023-03-01", "2023-03-11"], "datetime64[ns]")) == (
        "2023-03-01",
        "2023-03-11",
    )
    assert date_names(np.array([], "datetime64[D]")) == ()
