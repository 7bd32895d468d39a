"""Tables scored: figures against scikit-learn, intervals against redrawn rows, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from typer.testing import CliRunner

from engine.values.errors import InputError
from pipelines.cli import app
from pipelines.config import parse_config
from pipelines.score_tables import TableOptions, score_tables

NAMES = ["wheat", "maize", "rye"]


def f1_of(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    return float(2 * (truth & said).sum() / (truth.sum() + said.sum()))


def single(folder: Path, n: int = 200) -> tuple[Path, Path, pd.DataFrame]:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, n)
    said = np.where(rng.random(n) < 0.7, truth, rng.integers(0, 3, n))
    frame = pd.DataFrame({"id": np.arange(n), "label": np.array(NAMES)[truth], "farm": np.arange(n) // 10})
    frame["said"] = np.array(NAMES)[said]
    frame[["id", "label", "farm"]].to_csv(folder / "truth.csv", index=False)
    told = frame[["id", "said"]].rename(columns={"said": "label"}).sample(frac=1, random_state=2)
    told.to_parquet(folder / "said.parquet")
    return folder / "truth.csv", folder / "said.parquet", frame


def several(folder: Path, name: str, ids: range, seed: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(seed)
    truth = rng.random((len(ids), 3)) < (0.6, 0.3, 0.2)
    score = np.clip(0.4 * truth + 0.7 * rng.random((len(ids), 3)), 0, 1).round(3)
    for what, values in (("truth", truth.astype(int)), ("said", score)):
        frame = pd.DataFrame(values, columns=NAMES)
        frame.insert(0, "id", [f"{i}" for i in ids])
        frame.to_csv(folder / f"{name}-{what}.csv", index=False)
    return folder / f"{name}-truth.csv", folder / f"{name}-said.csv"


def test_one_class_an_item(tmp_path: Path) -> None:
    truth, said, frame = single(tmp_path)
    found = score_tables(truth, said, TableOptions(kappa=True, replicates=50), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    names = sorted(NAMES)
    assert told["classes"] == names
    report: dict[str, Any] = metrics.classification_report(frame["label"], frame["said"], output_dict=True)
    assert told["overall"]["accuracy"]["value"] == pytest.approx(report["accuracy"], abs=1e-6)
    assert told["overall"]["macro_f1"]["value"] == pytest.approx(report["macro avg"]["f1-score"], abs=1e-6)
    kappa = metrics.cohen_kappa_score(frame["label"], frame["said"])
    assert told["overall"]["kappa"]["value"] == pytest.approx(kappa, abs=1e-6)
    for name in names:
        own = told["per_class"][name]
        assert own["users_accuracy"]["value"] == pytest.approx(report[name]["precision"], abs=1e-6)
        assert own["producers_accuracy"]["value"] == pytest.approx(report[name]["recall"], abs=1e-6)
        assert own["truth"] == report[name]["support"]
        for figure in ("users_accuracy", "producers_accuracy", "f1", "iou"):
            assert own[figure]["low"] <= own[figure]["value"] <= own[figure]["high"]
    expected = metrics.confusion_matrix(frame["said"], frame["label"], labels=names)
    assert told["matrix"]["items"] == expected.tolist()
    assert {p.name for p in found.files} == {"scores.json", "scores.md", "classes.png", "matrix.png"}


def test_the_interval_of_accuracy_is_that_of_redrawn_farms(tmp_path: Path) -> None:
    truth, said, frame = single(tmp_path)
    told = score_tables(truth, said, TableOptions(cluster="farm", replicates=400, seed=3)).told
    right = (frame["label"] == frame["said"]).groupby(frame["farm"]).mean().to_numpy()  # farms of one size
    rng = np.random.default_rng(9)
    means = [rng.choice(right, len(right)).mean() for _ in range(4000)]
    own = told["overall"]["accuracy"]
    assert [own["low"], own["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.015)
    assert told["intervals"]["clusters"] == 20


def test_the_likeliest_class_of_probabilities(tmp_path: Path) -> None:
    truth, _, frame = single(tmp_path)
    rng = np.random.default_rng(5)
    score = rng.random((len(frame), 3))
    table = pd.DataFrame(score, columns=NAMES).assign(id=frame["id"])
    table.to_csv(tmp_path / "p.csv", index=False)
    told = score_tables(truth, tmp_path / "p.csv", TableOptions(replicates=0)).told
    right = np.array(NAMES)[score.argmax(axis=1)] == frame["label"]
    assert told["overall"]["accuracy"] == {
        "value": pytest.approx(right.mean(), abs=1e-6),
        "low": None,
        "high": None,
    }


def test_several_classes_an_item_with_chosen_thresholds(tmp_path: Path) -> None:
    test = several(tmp_path, "test", range(150), 1)
    other = several(tmp_path, "val", range(500, 700), 2)
    options = TableOptions(multilabel=True, validation=(str(other[0]), str(other[1])), replicates=20)
    told = score_tables(*test, options).told
    truth, score = (pd.read_csv(path)[NAMES].to_numpy() for path in test)
    thresholds = np.array([told["thresholds"][n] for n in NAMES])
    said = score >= thresholds
    assert told["overall"]["micro_f1"]["value"] == pytest.approx(
        metrics.f1_score(truth, said, average="micro"), abs=1e-6
    )
    v_truth, v_score = (pd.read_csv(path)[NAMES].to_numpy() for path in other)
    for k, name in enumerate(NAMES):
        best = max(f1_of(v_truth[:, k] == 1, v_score[:, k] >= t) for t in np.linspace(0, 1, 1001))
        assert f1_of(v_truth[:, k] == 1, v_score[:, k] >= thresholds[k]) == pytest.approx(best)
        assert told["per_class"][name]["tp"] == int((truth[:, k] & said[:, k]).sum())
    (tmp_path / "t.json").write_text(json.dumps(told))
    again = score_tables(
        *test, TableOptions(multilabel=True, thresholds=str(tmp_path / "t.json"), replicates=20)
    ).told
    assert again["overall"]["macro_f1"]["value"] == pytest.approx(
        told["overall"]["macro_f1"]["value"], abs=1e-5
    )


def test_thresholds_are_never_chosen_on_what_is_scored(tmp_path: Path) -> None:
    test = several(tmp_path, "test", range(50), 1)
    near = several(tmp_path, "near", range(49, 90), 2)
    options = TableOptions(multilabel=True, validation=(str(near[0]), str(near[1])))
    with pytest.raises(InputError, match=r"must not be chosen on items that are scored.*1 shared ids: 49"):
        score_tables(*test, options)


def test_truth_as_lists_of_classes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,label\n1,wheat;rye\n2,\n3,maize|wheat\n")
    (tmp_path / "p.csv").write_text("id,wheat,maize,rye\n1,0.9,0.1,0.8\n2,0.1,0.1,0.1\n3,0.9,0.2,0.3\n")
    told = score_tables(
        tmp_path / "t.csv", tmp_path / "p.csv", TableOptions(multilabel=True, replicates=0)
    ).told
    assert told["overall"]["subset_accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert told["per_class"]["maize"]["fn"] == 1


@pytest.mark.parametrize(
    ("truth", "said", "settings", "message"),
    [
        ("id,label\n1,a\n1,b\n", "id,label\n1,a\n", {}, "more than once.*1 ids: 1"),
        ("id,label\n1,a\n2,b\n", "id,label\n1,a\n", {}, "no prediction.*1 of 2: 2.*--common-only"),
        ("nr,label\n1,a\n", "id,label\n1,a\n", {}, "no column of ids.*found nr, label, expected id"),
        ("id,label\n1,a\n", "id,label\n2,a\n", {"common_only": True}, "no item is in both"),
        ("id,label\n1,a\n2,b\n", "id,a,b\n1,0.5,7\n2,0,1\n", {}, "outside 0..1.*found 0 to 7"),
        ("id,label\n1,\n", "id,label\n1,a\n", {}, "items without a class"),
        ("id,label\n1,a\n", "id,label\n1,a\n", {"cluster": "farm"}, "no such column.*found farm"),
        ("id,a\n1,0.5\n", "id,a\n1,0.5\n", {"multilabel": True}, "truth must be 0 or 1.*found 0.5"),
        ("id,x\n1,0\n", "id,y\n1,1\n", {}, "no classes found"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, truth: str, said: str, settings: Any, message: str) -> None:
    (tmp_path / "t.csv").write_text(truth)
    (tmp_path / "p.csv").write_text(said)
    with pytest.raises(InputError, match=message):
        score_tables(tmp_path / "t.csv", tmp_path / "p.csv", TableOptions(replicates=0, **settings))


def test_unknown_classes_are_named_with_their_rows(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("classes:\n  - {value: 1, name: wheat, colour: '#aa0000', codes: [W]}\n")
    (tmp_path / "t.csv").write_text("id,label\n7,W\n8,1\n9,weat\n")
    (tmp_path / "p.csv").write_text("id,label\n7,wheat\n8,1\n9,1\n")
    options = TableOptions(classes=str(tmp_path / "c.yaml"), replicates=0)
    with pytest.raises(
        InputError, match=r"1 unknown class.* \[truth\]; found 'weat' \(id 9\), expected wheat"
    ):
        score_tables(tmp_path / "t.csv", tmp_path / "p.csv", options)
    (tmp_path / "t.csv").write_text("id,label\n7,W\n8,1\n9,wheat\n")
    assert (
        score_tables(tmp_path / "t.csv", tmp_path / "p.csv", options).told["overall"]["accuracy"]["value"]
        == 1
    )


def test_thresholds_need_several_classes() -> None:
    with pytest.raises(InputError, match="thresholds are for several classes"):
        parse_config({"threshold": 0.4}, "here", TableOptions)
    with pytest.raises(InputError, match="one of threshold, thresholds and validation"):
        parse_config({"threshold": 0.4, "thresholds": "a.json", "multilabel": True}, "here", TableOptions)


def test_the_command_prints_json(tmp_path: Path) -> None:
    truth, said, _ = single(tmp_path, 40)
    out = CliRunner().invoke(app, ["assess", "table", str(truth), str(said), "--replicates", "10", "--json"])
    assert out.exit_code == 0, out.output
    assert json.loads(out.stdout)["items"] == 40
