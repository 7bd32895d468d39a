"""`landweave search --summary` on real items: tables, JSON, the small map and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from engine.archive.coverage import Coverage
from engine.archive.items import ItemTable
from engine.values.grid import Box, Grid
from pipelines.cli import app
from pipelines.search_view import small_map

BBOX = [-108.5, 37.5, -102.5, 40.5]


@pytest.fixture
def run(real_data: Path, tmp_path: Path) -> Path:
    settings = {
        "area": BBOX, "time": "2024-07/2024-08", "bundle": "bundle", "out": "out",
        "catalog": str(real_data / "stac" / "pc_s2l2a_1000_colorado_2024.parquet"),
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_program_gets_json(run: Path, tmp_path: Path) -> None:
    counted = json.loads(invoke(str(run), "--summary", "--json", "--out", str(tmp_path / "items.parquet")))
    table = ItemTable.from_parquet(tmp_path / "items.parquet")
    assert counted["digest"] == table.digest()
    assert sum(counted["months"].values()) == counted["scenes"] == len(table)
    shares = list(counted["coverage"]["share_seen_at_least"].values())
    assert shares == sorted(shares, reverse=True)
    assert counted["probe"] == {"not looked at": len(table)}


def test_a_person_gets_tables_and_a_map(run: Path) -> None:
    text = invoke(str(run), "--summary", "-o", "orbits=[98]")
    for line in ("R098", "2024-07", "per place", "offset (DN)", "never"):
        assert line in text
    assert "R141" not in text
    assert "!" in text.splitlines()[-2] or any(line.startswith("!") for line in text.splitlines())


def test_the_picture_shows_outline_and_holes(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    invoke(str(run), "--map", str(path), "-o", "orbits=[98]")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    red = (np.abs(pixels - [204, 26, 26]).max(axis=1) < 12).mean()
    black = (pixels.max(axis=1) < 40).mean()
    assert 0.1 < red < 0.6  # one orbit leaves holes
    assert black > 0.002


def test_the_small_map_marks_holes_and_outside() -> None:
    observations = np.array([[0, 1, 4], [0, 1, 4]], np.uint16)
    inside = np.array([[True, True, True], [True, True, False]])
    seen = Coverage(Grid.make("EPSG:3035", 1000), Box(0, 0, 2, 3), inside, observations)
    drawn = small_map(seen).splitlines()
    assert all(len(line) == len(drawn[0]) for line in drawn[:-1])
    assert drawn[0][0] == "!"
    assert "█" in "".join(drawn[:-1]) or "." in "".join(drawn[:-1])
    assert "seen 4 times" in drawn[-1]
