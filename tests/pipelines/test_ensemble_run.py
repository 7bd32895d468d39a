"""Maps by an ensemble and with turned windows, tile by tile: the bytes of the untiled map, and their price."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from distributed import Client

from engine.cube.cube import open_cube
from engine.inference.bundle import BundleFields, save_bundle
from engine.inference.ensemble import load_model
from engine.inference.predict import predict
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.area import Area
from engine.values.budget import tile_bytes
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.make_ensemble import lists_members, make_ensemble
from pipelines.map_area import MapResult, design, map_area
from pipelines.plan_area import describe_bundle, tile_shape
from pipelines.plan_map import PlanOptions, plan_map
from pipelines.run_folder import current_records, read_plan
from pipelines.sample.archive import SampleArchive
from pipelines.verify_run import verify_run

SCALES = {"red": (1500.0, 900.0), "nir": (2500.0, 1200.0), "swir16": (2000.0, 900.0), "green": (900.0, 400.0)}


def member(folder: Path, bands: tuple[str, ...], lattice: Lattice, names: list[str]) -> Path:
    torch.manual_seed(len(bands))
    sizes = {"n_dates": 8, "n_bands": len(bands), "n_classes": len(names), "width": 4, "stem": 4, "depth": 2}
    fields = BundleFields(
        name=f"unet of {len(bands)}",
        spec=CubeSpec(bands=bands),
        n_dates=8,
        classes=ClassScheme.from_names(names),
        lattice=lattice,
        normalisation=Standard(mean=[SCALES[b][0] for b in bands], std=[SCALES[b][1] for b in bands]),
    )
    net = build("unet", sizes)
    for part in net.modules():  # statistics as after training, so that answers are not near to constant
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_var, 0.05, 0.2)
    save_bundle(folder, net.eval(), "unet", fields)
    return folder


def middle_of(area: Area) -> list[float]:
    """A quarter of an area's box, so that few tiles are made."""
    west, south, east, north = area.bounds
    return [(3 * west + east) / 4, (3 * south + north) / 4, (west + 3 * east) / 4, (south + 3 * north) / 4]


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    names = list(ClassScheme.from_file(sample.classes).names)
    one = member(folder / "one", ("red", "nir", "swir16"), Lattice(48, 16), names)
    other = member(folder / "other", ("nir", "green"), Lattice(32, 8, "trim"), names[::-1])
    members = [{"bundle": one.name}, {"bundle": str(other), "weight": 2}]
    (folder / "both.yaml").write_text(yaml.safe_dump({"name": "both", "bundle": "both", "members": members}))
    assert lists_members(folder / "both.yaml")
    make_ensemble(folder / "both.yaml", ["description=Two networks."])
    settings = {
        "area": middle_of(Area.from_file(sample.territory)),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "layers": ["disagreement"],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def settings(project: Path, model: str, out: str, *overrides: str) -> list[str]:
    paths = (f"{key}={json.dumps(str(project / name))}" for key, name in (("out", out), ("bundle", model)))
    return [*paths, *overrides]


def run(project: Path, client: Client, model: str, out: str, *overrides: str) -> MapResult:
    return map_area(
        load_config(project / "run.yaml", settings(project, model, out, *overrides)), client=client
    )


def untiled(project: Path, model: str, **options: Any) -> xr.Dataset:
    """The map in one piece: one chunk, with the halo around it."""
    config = load_config(project / "run.yaml", settings(project, model, "none"))
    bundle, area = load_model(config.bundle), area_of(config.area)
    grid, box = grid_and_box(area, None, 10)
    scenes = find_scenes(config, area, pad_m=480)
    cube = open_cube(scenes, bundle.spec, grid=grid, box=bundle.outer(box), chunks_yx=(4096, 4096))
    return predict(cube, bundle, core=box, layers=config.layers, **options).compute(scheduler="sync")


def compare(stored: Path, whole: xr.Dataset) -> None:
    found = xr.open_zarr(stored / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
    inside = found.observations.values > 0
    assert inside.mean() > 0.5
    for name in ("label", "confidence", "disagreement"):
        np.testing.assert_array_equal(found[name].values[inside], whole[name].values[inside])
    assert found.disagreement.values[inside].max() > 0


def test_an_ensemble_maps_tile_by_tile_what_it_maps_in_one_piece(project: Path, client: Client) -> None:
    whole = untiled(project, "both")
    client.restart()  # its memory is measured: the workers must not have done anything else before
    fused = run(project, client, "both", "fused", "tile_px=128")
    assert fused.exit_code == 0
    compare(project / "fused", whole)
    staged = run(project, client, "both", "staged", "tile_px=96", "through=staged", "products=false")
    assert staged.exit_code == 0
    compare(project / "staged", whole)
    cube = xr.open_zarr(project / "staged" / "cube.zarr", chunks=None)
    assert cube["band"].values.tolist() == ["red", "nir", "swir16", "green"], "the union, staged once"
    assert verify_run(str(project / "fused")).differ == []
    assert fused.products is not None
    item = json.loads(Path(fused.products.item).read_text())
    (model,) = [link for link in item["links"] if link["rel"] == "derived_from" and "mlm:name" in link]
    assert (model["mlm:name"], Path(model["href"]).name) == ("both", "manifest.json")
    assert "disagreement" in item["assets"]
    peak = max(r.peak_bytes for r in current_records(str(project / "fused")))
    assert peak <= read_plan(str(project / "fused"))["projected_bytes"] < 3 * peak


def test_views_are_part_of_the_key_and_of_the_price(project: Path, client: Client) -> None:
    plain = design(
        load_config(project / "run.yaml", settings(project, "one", "none", "layers=[]", "tile_px=128"))
    )
    config = load_config(
        project / "run.yaml", settings(project, "one", "turned", "augment=flips", "tile_px=128")
    )
    turned = run(project, client, "one", "turned", "augment=flips", "tile_px=128", "products=false")
    assert turned.exit_code == 0
    compare(project / "turned", untiled(project, "one", augment="flips"))
    job = design(config).job
    tile = next(iter(job.tiles()))
    assert job.windows(tile) == 4 * plain.job.windows(tile)
    other = replace(job, augment="turns")
    assert {k for k, v in other.inputs(tile).items() if v != job.inputs(tile)[k]} == {"augment"}
    windows = sum(r.counts["windows"] for r in current_records(str(project / "turned")))
    plan = plan_map(config, PlanOptions(probe=0))
    assert (plan.survey.windows, plan.record) == (windows, {"kept": plan.survey.tiles})


def test_a_plan_counts_all_members_and_their_memory(project: Path) -> None:
    def made(model: str) -> Any:
        return design(load_config(project / "run.yaml", settings(project, model, "none", "layers=[]")))

    one, other, both = (made(m) for m in ("one", "other", "both"))
    tile = next(iter(both.job.tiles()))
    assert both.job.windows(tile) == one.job.windows(tile) + other.job.windows(tile)
    bytes_of = [tile_bytes(tile_shape(m.job, m.steps)) for m in (one, other, both)]
    for part in ("sums", "cube"):
        assert bytes_of[2][part] > max(b[part] for b in bytes_of[:2])
    core = both.job.core(tile)
    assert isinstance(core, Box)
    assert both.job.outer(core).holds(one.job.outer(core))
    told = describe_bundle(both.job.bundle)
    assert told["bands"] == "red, nir, swir16, green"
    assert "unet of 3 (weight 1, red, nir, swir16, 48 px" in told["members"]
    assert "unet of 2 (weight 2, nir, green, 32 px" in told["members"]


def test_disagreement_of_one_answer_is_refused_before_anything_is_searched(project: Path) -> None:
    config = load_config(project / "run.yaml", settings(project, "one", "alone", "catalog=nowhere.json"))
    with pytest.raises(InputError, match="cannot disagree with itself"):
        map_area(config)


def test_an_ensemble_keeps_its_members_windows(project: Path) -> None:
    for window in ("auto", "96"):
        config = load_config(project / "run.yaml", settings(project, "both", "window", f"window={window}"))
        with pytest.raises(InputError, match="keep the windows"):
            map_area(config)


def test_a_yaml_of_an_ensemble_that_is_wrong_names_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "bundle": "e", "members": [{"bundle": "a", "weight": 0}]}))
    with pytest.raises(InputError, match=r"members(.*at least 2|\.0\.weight)"):
        make_ensemble(path)
    assert not (tmp_path / "e").exists()
