"""From YAML to map with radar, an index and elevation beside reflectance: fused networks, alone and in an ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from distributed import Client

from engine.cube.cube import open_cube
from engine.cube.reading import Archive
from engine.inference.bundle import load_bundle
from engine.inference.ensemble import load_model
from engine.inference.predict import predict
from engine.values.area import Area
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_radar, find_scenes, grid_and_box
from pipelines.make_ensemble import make_ensemble
from pipelines.map_area import MapResult, design, map_area
from pipelines.sample.archive import SampleArchive
from pipelines.sample.stac import RADAR_COLLECTION
from pipelines.tile_inputs import items_in
from pipelines.train_model import load_train_config, train_model
from tests.pipelines.test_ensemble_run import middle_of

SMALL = {"series": 4, "series_depth": 1, "width": 4, "depth": 1}


def elevation(archive: SampleArchive, path: Path) -> Path:
    """A plane that rises to the east, on the pixels of the truth."""
    with rasterio.open(archive.truth) as truth:
        profile = {**truth.profile, "dtype": "float32", "count": 1, "nodata": -9999.0, "driver": "GTiff"}
        shape = truth.shape
    values = np.broadcast_to(np.linspace(100, 700, shape[1], dtype=np.float32), shape)
    with rasterio.open(path, "w", **profile) as out:
        out.write(values, 1)
    return path


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused model and an optical one, trained for a few steps, and both as an ensemble."""
    folder = tmp_path_factory.mktemp("radar")
    source = {
        "time": "2023-04/2023-06",
        "catalog": str(sample.catalog),
        "sentinel1": {"catalog": str(sample.catalog), "collection": RADAR_COLLECTION},
    }
    layer = {"name": "height", "file": str(elevation(sample, folder / "dem.tif"))}
    fused = {
        "bands": ["red", "nir"],
        "features": {"indices": ["NDVI"], "layers": [layer]},
        "sentinel1": {"polarisations": ["vv"]},
    }
    models: dict[str, tuple[Any, Any, Any]] = {
        "fused": (fused, "fusion_unet", SMALL),
        "optical": ({"bands": ["nir", "green"]}, "unet", {"stem": 4, "width": 4, "depth": 1}),
    }
    for name, (cube, architecture, config) in models.items():
        split = {"block_px": 32, "buffer_px": 2, "val": 0.2, "test": 0.0}
        options = {"architecture": architecture, "config": config, "steps": 8, "batch": 4, "checks": 1}
        training = {
            **source,
            "area": str(sample.territory),
            "cube": cube,
            "labels": {"file": str(sample.labels), "classes": str(sample.classes)},
            "bundle": name,
            "lattice": {"window_px": 32, "overlap_px": 8},
            "options": {**options, "crop_px": 16, "learning_rate": 3e-3, "split": split},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(training))
        train_model(load_train_config(folder / f"{name}.yaml"))
    both = {
        "name": "both",
        "bundle": "both",
        "members": [{"bundle": "fused", "weight": 2}, {"bundle": "optical"}],
    }
    (folder / "both.yaml").write_text(yaml.safe_dump(both))
    make_ensemble(folder / "both.yaml", [])
    run = {**source, "area": middle_of(Area.from_file(sample.territory)), "products": False, "tile_px": 96}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


def settings(project: Path, model: str, out: str, *overrides: str) -> list[str]:
    named = {"out": str(project / out), "bundle": str(project / model)}
    return [*(f"{key}={json.dumps(value)}" for key, value in named.items()), *overrides]


def run(project: Path, client: Client, model: str, out: str, *overrides: str) -> MapResult:
    return map_area(
        load_config(project / "run.yaml", settings(project, model, out, *overrides)), client=client
    )


def untiled(project: Path, model: str) -> xr.Dataset:
    """The map in one piece: one chunk, with the halo around it."""
    config = load_config(project / "run.yaml", settings(project, model, "none"))
    bundle, area = load_model(config.bundle), area_of(config.area)
    grid, box = grid_and_box(area, None, 10)
    spec = bundle.spec.model_copy(update={"season": None})
    scenes, radar = find_scenes(config, area, pad_m=400), find_radar(config, area, spec, pad_m=400)
    outer, chunks = bundle.outer(box), (4096, 4096)
    cube = open_cube(scenes, spec, grid=grid, box=outer, chunks_yx=chunks, sentinel1=radar)
    return predict(cube, bundle, core=box).compute(scheduler="sync")


def stored(project: Path, out: str, like: xr.Dataset) -> xr.Dataset:
    return xr.open_zarr(project / out / "map.zarr", chunks=None).sel(y=like.y, x=like.x)


def test_the_bundle_says_what_its_network_sees(project: Path) -> None:
    bundle = load_bundle(project / "fused")
    assert [(p.name, p.group) for p in bundle.planes] == [
        ("red", "optical"),
        ("nir", "optical"),
        ("NDVI", "optical"),
        ("vv", "radar"),
        ("height", "static"),
    ]
    mean = dict(zip([p.name for p in bundle.planes], bundle.normalisation.mean, strict=True))  # type: ignore[union-attr]
    assert -25 < mean["vv"] / 100 - 100 < 0, "decibels"
    assert 200 < mean["height"] / 5 - 1000 < 600, "metres"
    assert 0 < mean["NDVI"] / 10_000 - 3 < 1


@pytest.mark.parametrize("model", ["fused", "both"])
def test_tiles_from_the_archive_are_the_untiled_map(project: Path, client: Client, model: str) -> None:
    assert run(project, client, model, f"map-{model}").exit_code == 0
    whole = untiled(project, model)
    found = stored(project, f"map-{model}", whole)
    inside = found.label.values > 0
    # Where one member sees nothing the ensemble has no answer, and clouds hide much from the optical one.
    assert inside.mean() > (0.5 if model == "fused" else 0.1)
    np.testing.assert_array_equal(found.label.values[inside], whole.label.values[inside])
    np.testing.assert_array_equal(found.confidence.values[inside], whole.confidence.values[inside])
    assert run(project, client, model, f"map-{model}").summary.done == 0, "what is known is not made again"


@pytest.mark.long
def test_tiles_from_a_staged_cube_are_those_from_the_archive(project: Path, client: Client) -> None:
    whole = untiled(project, "fused")
    assert run(project, client, "fused", "staged", "through=staged", "tile_px=128").exit_code == 0
    found = stored(project, "staged", whole)
    inside = found.label.values > 0
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(found.label.values[inside], whole.label.values[inside])
    np.testing.assert_array_equal(found.confidence.values[inside], whole.confidence.values[inside])


def test_radar_scenes_are_a_part_of_a_tiles_key(project: Path) -> None:
    jobs = {
        name: design(load_config(project / "run.yaml", settings(project, name, f"key-{name}"))).job
        for name in ("fused", "optical")
    }
    inputs = {name: job.inputs(next(iter(job.tiles()))) for name, job in jobs.items()}
    assert inputs["fused"]["radar"]
    assert "radar" not in inputs["optical"]


def test_what_a_plan_reads_counts_the_radar(project: Path) -> None:
    made = design(load_config(project / "run.yaml", settings(project, "fused", "cost")))
    job, tile = made.job, next(iter(made.job.tiles()))
    core = job.core(tile)
    scenes, outer = job.scenes_near(core), job.outer(core)
    assert scenes is not None
    optical = Archive(scenes.items, job.spec, job.cube_grid).bytes_in(scenes, outer)
    read = job.bytes_read(job.archive(made.table), scenes, outer)
    files = [Path(asset.href) for item in items_in(job.run_dir, job.radar) for asset in item.assets]
    most = sum(file.stat().st_size for file in files if "vv" in file.name.lower())
    assert optical < read <= optical + most
