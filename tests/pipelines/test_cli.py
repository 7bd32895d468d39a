"""The command line as a new user meets it: help, templates, schema, and errors of one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from engine.inference.bundle import load_bundle
from engine.inference.foreign import dynamic_world, dynamic_world_classes
from engine.values.errors import ConflictError, InputError
from pipelines.cli import app
from pipelines.config import load_config, schema, template
from pipelines.sample.archive import SampleArchive

ROOT = Path(__file__).parents[2]
COMMANDS = ["demo", "init", "check", "schema", "stage", "search", "plan", "train", "map", "status", "verify"]
COMMANDS += ["indices", "cube", "logs", "cancel"]


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", [*COMMANDS, "bundle show", "bundle create", ""])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_help_loads_next_to_nothing() -> None:
    heavy = {"torch", "odc", "rasterio", "dask", "zarr", "numpy", "pandas", "xarray"}
    code = f"import sys, pipelines.cli; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


def test_the_template_is_a_valid_run_and_its_schema_agrees(tmp_path: Path) -> None:
    result = cli("init", "run.yaml", "--area", "Luxembourg", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    config = load_config(tmp_path / "run.yaml")
    assert (config.area.name, config.time, config.max_cloud) == ("Luxembourg", "2023-03/2023-10", 80)
    assert config.out == str(tmp_path / "runs/luxembourg")
    described = json.loads(schema())
    assert all("description" in field for field in described["properties"].values())
    again = cli("init", "run.yaml", cwd=tmp_path)
    assert again.returncode == ConflictError.exit_code
    assert again.stderr.startswith("error: the file exists already [run.yaml]")


def test_the_readme_shows_the_template() -> None:
    readme = (ROOT / "README.md").read_text()
    wanted = yaml.safe_load(template("Luxembourg", "2023-03/2023-10"))
    blocks = [yaml.safe_load(b.split("```")[0]) for b in readme.split("```yaml")[1:]]
    assert wanted in blocks


def test_a_schema_refuses_what_the_loader_refuses(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(template("Luxembourg", "2023") + "colour: red\n")
    with pytest.raises(InputError, match=r"1 setting\(s\) are wrong: colour"):
        load_config(tmp_path / "run.yaml")
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(yaml.safe_load((tmp_path / "run.yaml").read_text()), json.loads(schema()))


def test_overrides_go_deep_and_are_checked(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(template("5.7,49.4,6.6,50.2", "2023-05"))
    deep = ["cube.bands=[B02, nir]", "cube.period=10D", "cluster.n_workers=3", "tile_px=512"]
    config = load_config(tmp_path / "run.yaml", deep)
    assert config.cube is not None
    assert (config.cube.bands, config.cube.period) == (("blue", "nir"), "10D")
    assert (config.cluster.n_workers, config.tile_px) == (3, 512)
    assert config.area.bbox == (5.7, 49.4, 6.6, 50.2)
    with pytest.raises(InputError, match="key=value"):
        load_config(tmp_path / "run.yaml", ["tile_px"])
    with pytest.raises(InputError, match="tile_px: Input should be a multiple of 16"):
        load_config(tmp_path / "run.yaml", ["tile_px=1000"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["map", "none.yaml"], "cannot read the configuration [none.yaml]"),
        (["check", "run.yaml"], "manifest"),
        (["status", "nowhere"], "not a run folder [nowhere]"),
        (["stage", "empty"], "error:"),
        (["bundle", "show", "empty"], "manifest"),
    ],
)
def test_an_error_is_one_line_with_its_mend_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(template("Luxembourg", "2023-05"))
    (tmp_path / "empty").mkdir()
    result = cli(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_stage_takes_bands_and_dates(real_data: Path, tmp_path: Path) -> None:
    image = real_data / "s2_ftw_austria" / "inference-img.tif"
    names = ["--bands", "red,green,blue,nir", "--dates", "2021-05-01,2021-08-01"]
    result = cli("stage", str(image), "--out", "stac", *names, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    items = [json.loads(p.read_text()) for p in sorted((tmp_path / "stac" / "staged").glob("*/*.json"))]
    assert [i["id"] for i in items] == ["inference-img_2021-05-01", "inference-img_2021-08-01"]
    assert sorted(items[0]["assets"]) == ["B02_10m", "B03_10m", "B04_10m", "B08_10m"]
    wrong = cli("stage", str(image), "--out", "stac", "--bands", "purple", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "unknown band" in wrong.stderr


def test_search_and_plan_tell_what_there_is(sample: SampleArchive, real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights"
    dynamic_world(
        tmp_path / "bundle",
        weights / "dynamicworld_forward.onnx",
        weights / "dynamicworld_normalisation.json",
    )
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "map",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    found = json.loads(cli("search", "run.yaml", "--json", "--out", "items.parquet", cwd=tmp_path).stdout)
    assert found["overpasses"] == 4
    assert found["CRS"] == "EPSG:32633"
    assert (tmp_path / "items.parquet").exists()
    refused = cli("plan", "run.yaml", cwd=tmp_path)  # four dates, and the bundle was trained on one
    assert refused.returncode == 2
    assert "dates" in refused.stderr
    one = found["first and last"][:10]
    told = cli("plan", "run.yaml", "-o", f"time={one}", "--probe", "0", "--json", cwd=tmp_path)
    planned = json.loads(told.stdout)
    assert planned["windows"] > 0
    assert planned["memory_bytes"]["total"] > planned["memory_bytes"]["process"]


def test_a_foreign_network_becomes_a_bundle(real_data: Path, tmp_path: Path) -> None:
    constants = json.loads((real_data / "weights" / "dynamicworld_normalisation.json").read_text())
    (tmp_path / "classes.yaml").write_text(dynamic_world_classes().to_yaml())
    settings = {
        "name": "Dynamic World",
        "onnx": str(real_data / "weights" / "dynamicworld_forward.onnx"),
        "bundle": "bundle",
        "cube": {"bands": constants["bands"], "period": None, "mask": None},
        "n_dates": 1,
        "classes": "classes.yaml",
        "layout": {"order": "NHWC", "class_axis": 3},
        "normalisation": {"kind": "log_sigmoid", "centre": constants["centre"], "scale": constants["scale"]},
        "lattice": {"window_px": 256, "overlap_px": 64},
    }
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(settings))
    result = cli("bundle", "create", "bundle.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.spec.mask == ()
    assert bundle.spec.period is None
    assert bundle.lattice.stride_px == 192
    shown = json.loads(cli("bundle", "show", "bundle", "--json", cwd=tmp_path).stdout)
    assert [c["name"] for c in shown["classes"]][:2] == ["water", "trees"]


def test_indices_are_listed_with_formula_bands_and_source(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["indices", *arguments])
        assert result.exit_code == 0
        return result.output

    assert "NDVI45" in said()
    assert "(N-R)/(N+R)" in said()
    listed = json.loads(said("--json"))
    assert len(listed) > 200
    assert all(i["formula"] and i["bands"] and i["reference"] for i in listed)
    (evi,) = json.loads(said("EVI", "--json"))
    assert evi["bands"] == {"B": "blue", "R": "red", "N": "nir"}
    assert evi["constants"]["C2"] == 7.5
    assert "3.618" in said("LAI")
    wrong = cli("indices", "ndvi", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "NDVI" in wrong.stderr


@pytest.mark.parametrize(
    ("command", "text"), [("map", None), ("submit", None), ("map", "kind: ["), ("submit", "- local")]
)
def test_a_cluster_file_that_cannot_be_used_is_named(tmp_path: Path, command: str, text: str | None) -> None:
    (tmp_path / "run.yaml").write_text("area: Luxembourg\ntime: 2023\nbundle: b\nout: o\n")
    if text is not None:
        (tmp_path / "cluster.yaml").write_text(text)
    refused = cli(command, "run.yaml", "--cluster", "cluster.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "cluster" in refused.stderr
