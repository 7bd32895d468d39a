"""A map that is refined in the run that makes it: `refine` in the map's YAML."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from distributed import Client
from typer.testing import CliRunner

from engine.refine.chain import RefineSpec
from engine.refine.whole import refine_map
from engine.store.ledger import Ledger
from engine.values.classes import ClassScheme
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.explain_tile import explain_tile
from pipelines.map_area import MapResult, map_area
from pipelines.refine_config import RefineConfig
from pipelines.refine_run import RefineCall, refine_run
from pipelines.run_folder import read_plan
from pipelines.sample.archive import SampleArchive
from pipelines.verify_run import verify_run
from tests.pipelines.test_map_area import make_bundle

STEPS = {"steps": [{"step": "rules", "rules": [{"below": 0.13, "into": "maize"}]}, {"step": "majority"}]}


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refined-map")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "run",
        "tile_px": 128,
        "refine": STEPS,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def made(project: Path, client: Client) -> MapResult:
    return map_area(load_config(project / "run.yaml"), client=client)


def opened(run: Path, name: str) -> xr.Dataset:
    return xr.open_zarr(run / name, chunks=None).load()


def test_one_run_makes_the_map_and_refines_it(project: Path, made: MapResult, sample: SampleArchive) -> None:
    run, scheme = project / "run", ClassScheme.from_file(sample.classes)
    assert (made.exit_code, [s.job for s in made.summaries]) == (0, ["map", "refined"])
    assert made.as_dict()["tiles"].startswith(f"{made.summaries[0].total} made")
    spec = RefineSpec.model_validate(STEPS)
    wanted, found = refine_map(opened(run, "map.zarr"), spec, scheme), opened(run, "refined.zarr")
    for name in ("label", "confidence", "changed", "observations"):
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert set(np.unique(found.changed)) == {1, 255}  # an untrained network is sure of nothing
    plan = read_plan(str(run), "refined")
    assert (plan["of"], plan["steps_done"], plan["reach_px"]) == ("map", ["1_rules", "2_majority"], 1)
    assert verify_run(str(run)).exit_code == 0


def test_a_refined_tile_is_explained(project: Path, made: MapResult) -> None:
    tile = str(next(iter(Ledger(str(project / "run"), "refined").records())).tile)
    told = explain_tile(load_config(project / "run.yaml"), tile)["refined"]
    assert (told["stage"], told["because"]) == ("refined", [])
    other = load_config(project / "run.yaml", ["refine.steps=[{step: majority}]"])
    told = explain_tile(other, tile)
    assert told["would be"].startswith("kept")
    assert [line.partition(":")[0] for line in told["refined"]["because"]] == ["steps"]


def test_products_show_the_refined_map(project: Path, made: MapResult) -> None:
    run = project / "run"
    found = opened(run, "refined.zarr")
    for name, no_data in (("label", 0), ("confidence", 255), ("changed", 255)):
        with rasterio.open(run / "cog" / f"{name}.tif") as file:
            west, north = file.transform * (0.5, 0.5)
            x, y = west + 10 * np.arange(file.width), north - 10 * np.arange(file.height)
            np.testing.assert_array_equal(file.read(1), found[name].sel(x=x, y=y))
            assert file.nodata == no_data
    names = ET.parse(run / "cog" / "changed.tif.aux.xml").iter("Category")
    assert [name.text for name in names] == ["unchanged", "1_rules", "2_majority"]
    items = [json.loads(p.read_text()) for p in (run / "stac").rglob("*.json")]
    hrefs = [asset["href"] for item in items for asset in item.get("assets", {}).values()]
    assert any(href.endswith("refined.zarr") for href in hrefs)


def test_refining_it_again_alone_keeps_every_tile(project: Path, made: MapResult, client: Client) -> None:
    config = RefineConfig(refine=RefineSpec.model_validate(STEPS), products=False)
    alone = refine_run(str(project / "run"), config, RefineCall(client=client))
    assert (alone.summary.done, alone.summary.reused) == (0, made.summary.total)


def test_other_steps_in_the_yaml_leave_the_map_alone(project: Path, made: MapResult, client: Client) -> None:
    extra = ["products=false", "refine={sieve: {min_px: 4}}"]
    result = map_area(load_config(project / "run.yaml", extra), client=client)
    raw, refined = result.summaries
    assert (raw.done, raw.reused) == (0, made.summary.total)
    assert (refined.job, refined.done, refined.exit_code) == ("refined", made.summary.total, 0)
    label = opened(project / "run", "map.zarr").label.values
    wanted = rasterio.features.sieve(label, 4, mask=label > 0)
    np.testing.assert_array_equal(opened(project / "run", "refined.zarr").label, wanted)


def test_the_command_line_refines_a_run_and_a_raster(project: Path, made: MapResult, tmp_path: Path) -> None:
    runner = CliRunner()
    steps = "steps=[{step: majority, within_px: 2}]"
    tif = str(project / "run" / "cog" / "label.tif")
    told = runner.invoke(app, ["refine", tif, "-o", steps, "--out", str(tmp_path / "o.tif"), "--json"])
    assert told.exit_code == 0, told.output
    assert "changed by 1_majority" in told.output
    with rasterio.open(tmp_path / "o.tif") as file, rasterio.open(tif) as before:
        assert file.shape == before.shape
        assert file.tags(1)["class_2"] == before.tags(1)["class_2"]
    helped = runner.invoke(app, ["refine", "--help"])
    assert "refined.zarr" in helped.output
    kinds = json.loads(runner.invoke(app, ["schema", "--kind", "refine"]).output)["$defs"]
    assert {"MajorityConfig", "MinimumMappingUnit", "FillConfig", "RulesConfig", "SieveConfig"} <= set(kinds)
