"""What follows from a training's file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.values.lattice import Lattice
from pipelines.train_model import lattice_of, load_train_config

BRANCHES = [{"architecture": "gru"}, {"architecture": "cnn1d"}]


@pytest.mark.parametrize(
    ("options", "lattice", "expected"),
    [
        ({}, None, Lattice(256, 96)),
        ({"architecture": "gru"}, None, Lattice(1, 0)),
        ({"architecture": "gru"}, {"window_px": 64, "overlap_px": 0}, Lattice(64, 0)),
        ({"architecture": "hybrid"}, None, Lattice(256, 96)),
        ({"architecture": "hybrid", "config": {"branches": BRANCHES}}, None, Lattice(1, 0)),
    ],
)
def test_windows_are_those_given_or_those_that_suit_the_network(
    options: dict[str, Any], lattice: dict[str, int] | None, expected: Lattice, tmp_path: Path
) -> None:
    settings = {
        "area": {"name": "Weavonia", "file": "territory.geojson"},
        "time": "2023-03/2023-10",
        "catalog": "catalog.json",
        "cube": {"bands": ["red", "nir"], "period": "1MS", "reducer": "median", "mask": "scl"},
        "labels": {"file": "labels.gpkg", "column": "class_name", "classes": "classes.yaml"},
        "bundle": "bundle",
        "options": options,
    }
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(settings if lattice is None else settings | {"lattice": lattice}))
    assert lattice_of(load_train_config(file)) == expected
