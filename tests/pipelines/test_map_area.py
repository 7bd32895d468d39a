"""The whole job on the simulated archive: layouts, resuming, changes, kills, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import torch
import xarray as xr
import yaml
from distributed import Client
from rio_cogeo.cogeo import cog_validate

from engine.cube.cube import open_cube
from engine.inference.bundle import Bundle, BundleFields, load_bundle, save_bundle
from engine.inference.predict import predict
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.store.ledger import Ledger
from engine.values.classes import ClassScheme
from engine.values.errors import BudgetError, ConflictError, InputError, SpecError
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.map_area import MapResult, map_area
from pipelines.run_folder import current_records, read_plan
from pipelines.run_status import status_of
from pipelines.sample.archive import SampleArchive
from pipelines.verify_run import verify_run

BANDS = ("red", "nir", "swir16")
ROOT = Path(__file__).parents[2]


def make_bundle(folder: Path, scheme: ClassScheme, seed: int) -> Bundle:
    """A U-Net with random weights: its answer at a pixel depends on all that surrounds it."""
    torch.manual_seed(seed)
    config = {"n_dates": 8, "n_bands": 3, "n_classes": len(scheme.values), "width": 4, "stem": 8, "depth": 2}
    network = build("unet", config).eval()
    fields = BundleFields(
        name="random unet",
        spec=CubeSpec(bands=BANDS),
        n_dates=8,
        classes=scheme,
        lattice=Lattice(48, 16),
        normalisation=Standard(mean=[1500.0, 2500.0, 2000.0], std=[900.0, 1200.0, 900.0]),
        licence="CC0-1.0",
    )
    return save_bundle(folder, network, "unet", fields)


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and a run.yaml over the sample archive."""
    folder = tmp_path_factory.mktemp("project")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "map",
        "tile_px": 64,
        "cluster": {"kind": "local", "n_workers": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run(project: Path, client: Client | None, out: str, *overrides: str) -> MapResult:
    extra = [f"out={json.dumps(str(project / out))}", "products=false", *overrides]
    return map_area(load_config(project / "run.yaml", extra), client=client)


def layers(run_dir: str | Path) -> dict[str, np.ndarray]:
    opened = xr.open_zarr(f"{run_dir}/map.zarr", chunks=None)
    return {str(n): opened[n].values for n in opened.data_vars}


@pytest.fixture(scope="module")
def whole(project: Path) -> xr.Dataset:
    """The map in one piece: no tiles, no cluster, one chunk, with the halo around it."""
    config = load_config(project / "run.yaml")
    bundle, area = load_bundle(config.bundle), area_of(config.area)
    grid, box = grid_and_box(area, None, 10)
    scenes = find_scenes(config, area, pad_m=480)
    outer = bundle.lattice.pad(box)
    cube = open_cube(scenes, bundle.spec, grid=grid, box=outer, chunks_yx=(4096, 4096))
    return predict(cube, bundle, core=box, layers=("probability",)).compute(scheduler="sync")


def compare(found: xr.Dataset, whole: xr.Dataset) -> None:
    """Equal to the bit inside the outline, no data outside."""
    cut = found.sel(y=whole.y, x=whole.x)
    inside = cut.observations.values > 0
    assert 0.3 < inside.mean() < 1
    np.testing.assert_array_equal(cut.label.values[inside], whole.label.values[inside])
    np.testing.assert_array_equal(cut.confidence.values[inside], whole.confidence.values[inside])
    np.testing.assert_array_equal(cut.observations.values[inside], whole.observations.values[inside])
    assert set(np.unique(cut.label.values[~inside])) == {0}


@pytest.mark.parametrize(
    ("tile", "chunk"),
    [
        (64, 64),
        (96, 1024),
        (512, 100),
        pytest.param(128, 80, marks=pytest.mark.long),
        pytest.param(256, 4096, marks=pytest.mark.long),
    ],
    ids=lambda v: str(v),
)
def test_every_layout_gives_the_bytes_of_the_untiled_map(
    tile: int, chunk: int, project: Path, client: Client, whole: xr.Dataset
) -> None:
    out = f"layout-{tile}-{chunk}"
    result = run(project, client, out, f"tile_px={tile}", f"chunk_px={chunk}")
    assert result.exit_code == 0
    assert result.summary.done == result.summary.total
    compare(xr.open_zarr(project / out / "map.zarr", chunks=None), whole)


def test_probabilities_are_those_of_the_untiled_map(project: Path, client: Client, whole: xr.Dataset) -> None:
    run(project, client, "prob", "layers=[probability]", "tile_px=128")
    found = xr.open_zarr(project / "prob" / "map.zarr", chunks=None).sel(y=whole.y, x=whole.x)
    inside = found.label.values > 0
    np.testing.assert_array_equal(found.probability.values[:, inside], whole.probability.values[:, inside])
    assert found.probability.dtype == np.uint8


def test_the_cli_maps_writes_products_and_resumes(project: Path) -> None:
    begun = _cli("map", "run.yaml", "--tile", "128", "--json", cwd=project)
    assert begun.returncode == 0, begun.stderr
    told = json.loads(begun.stdout)
    assert told["tiles"].endswith("0 left of " + told["tiles"].rsplit(" ", 1)[1])
    again = _cli("map", "run.yaml", "--tile", "128", "--json", cwd=project)
    assert json.loads(again.stdout)["tiles"].startswith("0 made")
    folder = project / "map"
    valid, errors, _ = cog_validate(folder / "cog" / "label.tif")
    assert valid, errors
    with rasterio.open(folder / "cog" / "label.tif") as cog:
        labels = cog.read(1)
        assert cog.nodata == 0
        assert cog.colormap(1)[1][:3] == load_bundle(project / "bundle").classes.classes[0].rgb
        bounds = cog.bounds
    zarr = xr.open_zarr(folder / "map.zarr", chunks=None)
    part = zarr.label.sel(y=slice(bounds.top, bounds.bottom), x=slice(bounds.left, bounds.right))
    np.testing.assert_array_equal(labels, part.values)
    assert (folder / "quicklook.png").stat().st_size > 10_000
    assert json.loads(next((folder / "stac").glob("*-*.json")).read_text())["type"] == "Feature"
    offsets = {r["offset_dn"] for r in json.loads((folder / "plan.json").read_text())["radiometry"].values()}
    assert offsets == {0.0, -1000.0}
    counts = json.loads(_cli("status", "map", "--json", cwd=project).stdout)["stages"][0]["counts"]
    assert counts["done"] + counts["reused"] == counts["total"] == read_plan(str(folder))["tiles"]
    peak = max(r.peak_bytes for r in current_records(str(folder)))
    assert peak <= read_plan(str(folder))["projected_bytes"] < 3 * peak
    verified = _cli("verify", "map", "--json", cwd=project)
    assert (verified.returncode, json.loads(verified.stdout)["differ"]) == (0, [])
    assert json.loads(verified.stdout)["tiles read"] == counts["total"]
    told = json.loads((folder / "seams.json").read_text())
    assert json.loads(verified.stdout)["seams"] == {"map": told}, "the stored map says the same by itself"


def test_verify_names_a_tile_whose_bytes_changed(project: Path, client: Client) -> None:
    run(project, client, "damaged", "tile_px=128")
    shards = [p for p in (project / "damaged" / "map.zarr" / "label" / "c").rglob("*") if p.is_file()]
    shard = max(shards, key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(bytes(content))
    assert [d.variable for d in verify_run(str(project / "damaged")).differ] == ["label"]


def test_a_change_redoes_exactly_what_it_touches(
    project: Path, client: Client, sample: SampleArchive
) -> None:
    first = run(project, client, "change", "tile_px=64").summary
    assert (first.reused, first.done) == (0, first.total)
    again = run(project, client, "change", "tile_px=64").summary
    assert (again.reused, again.done) == (first.total, 0)

    # A folder holds one area: another one is refused, and what is there stays as it is.
    west, south, east, north = area_of(load_config(project / "run.yaml").area).bounds
    with pytest.raises(ConflictError, match="holds all of territory"):
        run(project, client, "change", "tile_px=64", f"area=[{west},{south},{(west + east) / 2},{north}]")
    assert run(project, client, "change", "tile_px=64").summary.reused == first.total

    make_bundle(project / "other", ClassScheme.from_file(sample.classes), seed=1)
    changed = run(project, client, "change", "tile_px=64", f"bundle={project / 'other'}").summary
    assert (changed.reused, changed.done) == (0, first.total)


def test_a_second_run_into_a_held_folder_is_refused_and_changes_nothing(project: Path) -> None:
    from engine.store.lease import Lease

    folder = project / "held"
    folder.mkdir()
    with Lease(str(folder), beat_s=0.2), pytest.raises(ConflictError, match="another run"):
        map_area(load_config(project / "run.yaml", [f"out={json.dumps(str(folder))}"]))
    assert not (folder / "plan.json").exists()


def test_a_tile_that_would_not_fit_is_refused_before_it_runs(project: Path) -> None:
    small = {"kind": "local", "n_workers": 1, "memory_limit": "512MiB"}
    with pytest.raises(BudgetError, match=r"projected, expected 0.50 GiB; to mend: no smaller setting fits"):
        run(project, None, "unfit", f"cluster={json.dumps(small)}")
    assert not (project / "unfit" / "ledger").exists()


@pytest.mark.long  # tests/faults/test_map_kills.py kills each process of a run in turn
@pytest.mark.parametrize("victim", ["client", "worker"])
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    victim: str, project: Path, client: Client
) -> None:
    """SIGKILL; the same command again; no finished tile is made twice."""
    reference = "kill-reference"
    if not (project / reference).exists():
        run(project, client, reference, "tile_px=64")
    out = project / f"killed-{victim}"
    command = ["map", "run.yaml", "--out", str(out), "-o", "products=false", "--json"]
    process = subprocess.Popen(_command(*command), cwd=project, env=_env(), stdout=subprocess.DEVNULL)
    done = _wait_for_tiles(out, 4, process)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [p for p in family if "spawn_main" in " ".join(p.cmdline())]
    target = process.pid if victim == "client" else workers[-1].pid
    os.kill(target, signal.SIGKILL)
    process.wait(timeout=240)
    before = {(r.tile, r.key): r.finished_utc for r in Ledger(str(out), "map").records()}
    assert len(before) >= done
    if victim == "client":
        assert process.returncode == -signal.SIGKILL
        assert len(before) < read_plan(str(out))["tiles"]
    again = _cli(*command, cwd=project)
    assert again.returncode == 0, again.stderr
    after = {(r.tile, r.key): r.finished_utc for r in Ledger(str(out), "map").records()}
    assert {k: after[k] for k in before} == before
    assert len(after) == read_plan(str(out))["tiles"]
    for name, values in layers(project / reference).items():
        np.testing.assert_array_equal(layers(out)[name], values)


def test_status_reads_a_run_that_has_ended(project: Path, client: Client) -> None:
    run(project, client, "status", "tile_px=128")
    told = status_of(str(project / "status"))
    assert (told["alive"], told["stages"][0]["state"], told["stages"][0]["gaps"]) == ("ended", "done", 0)
    with pytest.raises(InputError, match="not a run folder"):
        status_of(str(project))


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["time=2023-04/2023-10"], SpecError, "dates"),
        (["time=2019-03/2019-10"], InputError, "2023"),
        (["area=[0,0,1,1]"], InputError, "no items"),
        (["bundle=nowhere"], InputError, "manifest"),
        (["tile_px=2560"], InputError, "whole shards"),
        (["cube.bands=[red,nir]"], SpecError, "bands"),
        (["tile_px=1", "bogus=3"], InputError, "2 setting"),
    ],
)
def test_wrong_input_is_told_before_anything_runs(
    overrides: list[str], error: type[Exception], words: str, project: Path
) -> None:
    with pytest.raises(error, match=words):
        map_area(load_config(project / "run.yaml", [f"out={project / 'wrong'}", *overrides]))


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()", *arguments]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), cwd=cwd, env=_env(), capture_output=True, text=True, timeout=300, check=False
    )


def _wait_for_tiles(out: Path, count: int, process: subprocess.Popen[Any]) -> int:
    ledger = Ledger(str(out), "map")
    while process.poll() is None:
        found = sum(1 for _ in ledger.records()) if (out / "ledger").exists() else 0
        if found >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("the run ended before it could be killed")
