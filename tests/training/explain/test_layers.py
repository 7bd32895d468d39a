"""Sheets of layers: their numbers, and figures that are drawn for patches and for single pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.models.registry import build
from engine.values.classes import ClassScheme
from tests.training.explain.planted import BANDS, DATES, NORMAL, examples, season
from training.batch import IGNORE
from training.explain.activations import LayerMaps, layer_maps, layer_strengths
from training.explain.examples import Examples
from training.explain.layers import chosen_examples, maps_sheet, strengths_sheet
from training.explain.lens import Lens
from training.explain.report import write_sheet
from training.explain.sheets import Legend

CLASSES = ClassScheme.from_names(["a", "b"])


def _patches() -> Examples:
    rng = np.random.default_rng(0)
    made = examples(rng.normal(0, 1, (5, DATES, BANDS)).clip(-3, 3), np.array([0, 0, 1, 1, 1]), side=8)
    made.batch.target[[0, 2, 4], :, 4:] = IGNORE
    made.batch.x[1] = 0  # no data at all
    return made


def _legend(made: Examples) -> Legend:
    return Legend(CLASSES, ("red", "green", "blue"), season(made))


def test_the_patch_that_its_class_covers_most_stands_for_it() -> None:
    assert chosen_examples(_patches()).tolist() == [1, 3]
    assert chosen_examples(_patches(), most=1).tolist() == [1]


def test_the_share_on_the_class_is_that_of_the_map() -> None:
    made = _patches()[np.array([0, 3])]
    coarse = np.zeros((2, 2, 2), np.float32)
    coarse[0] = [[3, 1], [3, 1]]
    coarse[1] = 1
    sheet = maps_sheet(
        LayerMaps(("deep",), ((7, 2, 2),), (coarse,), (coarse,)), made, _legend(made), "speaks"
    )
    assert sheet.table["share_on_class"].tolist() == pytest.approx([0.75, 1.0])
    assert sheet.table["class_covers"].tolist() == [0.5, 1.0]
    assert "88% lies on the pixels" in sheet.sentence


def test_maps_of_a_u_net_are_drawn_even_without_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_dates": DATES, "n_bands": BANDS, "n_classes": 2, "stem": 4, "width": 4, "depth": 1}
    made = _patches()
    found = layer_maps(Lens(build("unet", sizes), NORMAL), made)
    for kind in ("strength", "speaks"):
        picture, _ = write_sheet(tmp_path, maps_sheet(found, made, _legend(made), kind))
        assert np.asarray(Image.open(picture).convert("L")).std() > 5


def test_strengths_of_a_series_network_are_drawn_by_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_dates": DATES, "n_bands": BANDS, "n_classes": 2, "width": 6, "depth": 2}
    rng = np.random.default_rng(0)
    made = examples(rng.normal(0, 1, (8, DATES, BANDS)).clip(-3, 3), np.arange(8) % 2)
    found = layer_strengths(Lens(build("tempcnn", sizes), NORMAL, takes_days=True), made, 2)
    assert len(found.layers) >= 2
    picture, numbers = write_sheet(tmp_path, strengths_sheet(found, _legend(made)))
    assert np.asarray(Image.open(picture).convert("L")).std() > 5
    assert len(numbers.read_text().splitlines()) == 1 + 2 * sum(u.shape[1] for u in found.units)
