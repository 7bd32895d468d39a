"""`landweave bundle`: create, show, check and export, as a person calls them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from engine.inference.bundle import load_bundle
from engine.inference.export import export_bundle
from engine.values.errors import InputError, TrustError
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.make_bundle import make_bundle
from tests.inference.bundles import FIELDS, network, random_bundle


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bundle", *map(str, arguments)])


YAML = """
name: test model
bundle: made
cube: {bands: [blue, green, nir], period: 1MS, season: 03-01/04-30}
n_dates: 2
classes: classes.yaml
lattice: {window_px: 32, overlap_px: 8}
normalisation: {kind: standard, mean: [700, 900, 2500], std: [300, 350, 900]}
temperature: 1.25
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.yaml").write_text(FIELDS.classes.to_yaml())
    random_bundle(tmp_path / "net")
    return tmp_path


def test_a_state_dict_with_its_architecture_becomes_the_same_bundle(folder: Path) -> None:
    config = {
        k: v for k, v in network().config.model_dump().items() if k not in ("n_dates", "n_bands", "n_classes")
    }
    more = f"weights: net/model.safetensors\narchitecture: unet\nconfig: {json.dumps(config)}\n"
    (folder / "a.yaml").write_text(YAML + more)
    result = run("create", folder / "a.yaml")
    assert result.exit_code == 0, result.output
    assert load_bundle(folder / "made").digest() == load_bundle(folder / "net").digest()
    wrong = run("create", folder / "a.yaml", "-o", "config.width=16")
    assert isinstance(wrong.exception, InputError)
    assert "do not fit the architecture" in str(wrong.exception)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("", "one of onnx, pt2 and weights"),
        ("onnx: a.onnx\npt2: b.pt2\n", "one of onnx, pt2 and weights"),
        ("weights: a.safetensors\n", "architecture come together"),
    ],
)
def test_one_network_and_no_other_is_asked_for(folder: Path, more: str, named: str) -> None:
    (folder / "a.yaml").write_text(YAML + more)
    with pytest.raises(InputError, match=named):
        make_bundle(folder / "a.yaml")


def test_the_schema_of_a_bundles_yaml_describes_every_setting() -> None:
    told = json.loads(CliRunner().invoke(app, ["schema", "--kind", "bundle"]).output)
    assert {"onnx", "pt2", "weights", "head", "precision"} <= set(told["properties"])
    assert all("description" in field for field in told["properties"].values())


def test_an_export_of_each_format(folder: Path) -> None:
    assert "wrote" in run("export", folder / "net").output
    assert load_bundle(folder / "net-onnx").kind == "onnx"
    assert run("export", folder / "net", "--to", "safetensors", "--out", folder / "plain").exit_code == 0
    assert (folder / "plain" / "model.safetensors").exists()
    wrong = run("export", folder / "net", "--to", "pickle")
    assert isinstance(wrong.exception, InputError)


def test_show_tells_all_and_json_is_for_programs(folder: Path) -> None:
    text = run("show", folder / "net").output
    for word in (
        "test model",
        "blue, green, nir",
        "32 px, overlap 8 px",
        "grass land",
        "Apache-2.0",
        "label, confidence",
    ):
        assert word in text, word
    fields = json.loads(run("show", folder / "net", "--json").output)
    bundle = load_bundle(folder / "net")
    assert fields["digest"] == bundle.digest()
    assert [c["colour"] for c in fields["classes"]] == [c.colour for c in bundle.classes.classes]
    assert (fields["temperature"], fields["training"]["scores"]) == (1.25, {"accuracy": 0.5})


def test_check_prints_findings_and_its_exit_code_tells(folder: Path) -> None:
    good = run("check", folder / "net", "--json")
    assert good.exit_code == 0
    assert all(f["passed"] for f in json.loads(good.output))
    manifest = folder / "net" / "manifest.json"
    item = json.loads(manifest.read_text())
    item["properties"]["mlm:tasks"] = ["guessing"]
    manifest.write_text(json.dumps(item))
    bad = run("check", folder / "net")
    assert bad.exit_code == 4
    assert "FAILED  MLM fields" in bad.output


def test_trust_is_a_word_of_the_command_line_alone(folder: Path) -> None:
    export_bundle(load_bundle(folder / "net"), folder / "graph", "pt2")
    assert isinstance(run("show", folder / "graph").exception, TrustError)
    assert run("show", folder / "graph", "--trust-model").exit_code == 0
    settings = f"area: [1, 1, 2, 2]\ntime: 2023-03/2023-04\nbundle: {folder}/graph\nout: out\n"
    (folder / "run.yaml").write_text(settings)
    assert not load_config(folder / "run.yaml").trust_model
    trusted = load_config(folder / "run.yaml", ["trust_model=true"])
    assert trusted.trust_model
    assert "trust_model" not in trusted.model_dump()
    (folder / "sly.yaml").write_text(settings + "trust_model: true\n")
    with pytest.raises(TrustError, match="not given in a file"):
        load_config(folder / "sly.yaml")
    refused = CliRunner().invoke(app, ["check", str(folder / "run.yaml")])
    assert isinstance(refused.exception, TrustError)
    told = CliRunner().invoke(app, ["check", str(folder / "run.yaml"), "--trust-model"])
    assert told.exit_code == 0, told.exception


def test_published_networks_are_made_from_their_weights_alone(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights"
    settings = ("-o", "bands=[B02,B03,B04,B08]", "-o", "n_dates=12", "-o", "place=[50.6, 5.3]")
    result = run(
        "create", "--from", "presto", weights / "presto_default_model.pt", "--out", tmp_path / "p", *settings
    )
    assert result.exit_code == 0, result.exception
    bundle = load_bundle(tmp_path / "p")
    assert (bundle.head.kind, bundle.n_dates, bundle.config.place) == ("values", 12, (50.6, 5.3))
    onnx = weights / "dynamicworld_forward.onnx"
    assert run("create", "--from", "dynamic-world", onnx, "--out", tmp_path / "dw").exit_code == 0
    assert load_bundle(tmp_path / "dw").name == "dynamic-world"
    assert isinstance(run("create", "--from", "mystery", onnx, "--out", tmp_path / "m").exception, InputError)


def test_weights_in_place_of_a_yaml_are_told_apart_and_do_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (witness,)

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Evil()))
    for arguments in (("create",), ("show",), ("check",), ("export",), ("create", "--from", "presto")):
        assert isinstance(run(*arguments, tmp_path / "model.pkl").exception, InputError), arguments
    assert not witness.exists()


def test_an_ensemble_is_shown_and_checked_member_by_member(folder: Path) -> None:
    random_bundle(folder / "other", network(stem=12))
    members = [{"bundle": "net", "weight": 2}, {"bundle": str(folder / "other")}]
    (folder / "both.yaml").write_text(
        yaml.safe_dump({"name": "two of them", "bundle": "both", "members": members})
    )
    made = run("create", folder / "both.yaml")
    assert made.exit_code == 0, made.output
    told = json.loads(run("show", folder / "both", "--json").output)
    assert [m["weight"] for m in told["members"]] == [2, 1]
    assert "two of them" in run("show", folder / "both").output
    result = run("check", folder / "both")
    assert result.exit_code == 0, result.output
    assert {"net: runs", "other: runs"} <= {line[8:].split("  ")[0] for line in result.output.splitlines()}
