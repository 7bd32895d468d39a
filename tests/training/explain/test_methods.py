"""All methods on one network: sheets with the right numbers, figures that are drawn, a page that shows them."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from tests.training.explain.planted import one_place, season, two_classes
from training.explain.methods import METHODS, Subject, explain
from training.explain.report import write_index, write_sheet
from training.explain.sheets import Legend, Sheet

CLASSES = ClassScheme.from_names(["fallow", "wheat <early>"])


@pytest.fixture(scope="module")
def subject() -> Subject:
    made, lens = two_classes(3, 1, n=24), one_place(3, 1)
    legend = Legend(CLASSES, ("red", "nir", "swir16"), season(made))
    states = [("step 1", one_place(3, 1, -1.0).module.state_dict()), ("step 2", lens.module.state_dict())]
    return Subject(lens, made, legend, states, integration_steps=8, repeats=2)


@pytest.fixture(scope="module")
def sheets(subject: Subject) -> dict[str, Sheet]:
    return {sheet.name: sheet for made in explain(subject) for sheet in made.sheets}


def test_every_method_gives_its_sheets_or_says_why_not(subject: Subject) -> None:
    heard: list[tuple[str, int, int]] = []
    made = {m.method: m for m in explain(subject, told=lambda *a: heard.append(a))}
    assert list(made) == list(METHODS)
    assert made["attention"].why_not == "the network has no attention over dates"
    assert made["activations"].why_not == "none of its layers answers for each example apart"
    assert all(m.sheets for name, m in made.items() if name not in ("attention", "activations"))
    last = {name: (done, total) for name, done, total in heard}
    assert all(done == total for done, total in last.values())
    assert {"permutation", "occlusion", "in_season", "integrated"} <= set(last)


def test_what_was_asked_for_by_name_is_an_error_when_it_cannot_be_had(subject: Subject) -> None:
    assert [m.method for m in explain(subject, ["confidence"])] == ["confidence"]
    with pytest.raises(InputError, match="no attention"):
        list(explain(subject, ["attention"]))
    with pytest.raises(InputError, match="no such explanation"):
        list(explain(subject, ["tea leaves"]))


def test_sentences_name_what_was_planted(sheets: dict[str, Sheet]) -> None:
    assert "Of them nir costs most" in sheets["occlusion_bands"].sentence
    assert "Of them 1 Jun costs most: 50.0 points" in sheets["occlusion_dates"].sentence
    assert "Of the bands nir costs most" in sheets["permutation"].sentence
    assert "held from 1 Jun on" in sheets["in_season"].sentence
    assert "Strongest: nir at 1 Jun, 100% of all" in sheets["integrated"].sentence
    assert sheets["in_season"].facts == {"final_accuracy": 1.0, "held_from": "1 Jun", "chance": 0.5}
    assert sheets["hidden_training"].facts["pictures"][0]["accuracy"] == 0.0


def test_tables_hold_the_numbers_of_the_figure(sheets: dict[str, Sheet]) -> None:
    cells = sheets["integrated"].table
    assert len(cells) == 2 * 5 * 3
    planted = cells[(cells["date"] == "1 Jun") & (cells["band"] == "nir")]
    assert planted["mean_absolute"].min() > 2
    assert cells.drop(planted.index)["mean_absolute"].max() < 1e-3
    curve = sheets["in_season"].table
    assert curve["accuracy"].tolist() == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert list(curve.columns[-2:]) == ["recall fallow", "recall wheat <early>"]
    points = sheets["hidden_season"].table
    assert len(points) == 24 * points["picture"].nunique()
    assert np.isfinite(points[["pca_1", "pca_2", "tsne_1", "tsne_2"]].to_numpy()).all()


def test_figures_are_drawn_and_the_page_shows_all(sheets: dict[str, Sheet], tmp_path: Path) -> None:
    for sheet in sheets.values():
        picture, numbers = write_sheet(tmp_path, sheet)
        image = np.asarray(Image.open(picture).convert("L"))
        assert image.std() > 5, f"{sheet.name} is empty"
        pd.testing.assert_frame_equal(
            pd.read_csv(numbers), sheet.table.reset_index(drop=True), check_dtype=False, rtol=1e-4, atol=1e-6
        )
    about = {"model": "wheat & more", "folder": Path("x")}
    page, facts = write_index(tmp_path, about, list(sheets.values()), {"attention": "none <here>"})
    text = page.read_text()
    assert "wheat &amp; more" in text
    assert "none &lt;here&gt;" in text
    for name, sheet in sheets.items():
        assert f"src='{name}.png'" in text
        assert f"href='{name}.csv'" in text
        assert html.escape(sheet.sentence) in text
    told = json.loads(facts.read_text())
    assert told["about"] == {"model": "wheat & more", "folder": "x"}
    assert list(told["sheets"]) == list(sheets)
    assert told["sheets"]["in_season"]["held_from"] == "1 Jun"
