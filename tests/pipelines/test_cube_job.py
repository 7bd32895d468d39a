"""Staging a cube: layouts, resuming, appending, kills; and the staged cube is the live one to the bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor
import shapely
import xarray as xr
import yaml
from distributed import Client
from rasterio.crs import CRS
from scipy.ndimage import binary_dilation

from engine.cube.cube import open_cube
from engine.cube.stored import read_staged
from engine.inference.predict import predict
from engine.store.lease import Lease
from engine.store.ledger import Ledger
from engine.store.regions import write_region
from engine.values.classes import ClassScheme
from engine.values.errors import BudgetError, ConflictError, InputError, SpecError
from engine.values.grid import Box
from engine.values.spec import CubeSpec
from pipelines.config import CubeConfig, load_config
from pipelines.cube_area import area_of, find_scenes, grid_and_box
from pipelines.make_cube import CubeResult, make_cube, prepare_cube
from pipelines.map_area import map_area
from pipelines.plan_cube import Scenes, ask, load_cube_config, plan_staging
from pipelines.run_folder import current_records, read_plan
from pipelines.run_status import status_of
from pipelines.sample.archive import SampleArchive
from pipelines.sample.stac import RADAR_COLLECTION
from pipelines.verify_run import verify_run
from tests.pipelines.test_map_area import BANDS, make_bundle

ROOT = Path(__file__).parents[2]
HALO = 48


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cube.yaml over the sample archive."""
    folder = tmp_path_factory.mktemp("cubes")
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "out": "cube",
        "tile_px": 128,
        "halo_px": HALO,
        "cube": {"bands": list(BANDS)},
        "cluster": {"kind": "local", "n_workers": 2},
    }
    (folder / "cube.yaml").write_text(yaml.safe_dump(settings))
    return folder


def stage(project: Path, client: Client | None, out: str, *overrides: str) -> CubeResult:
    extra = [f"out={json.dumps(str(project / out))}", *overrides]
    return make_cube(load_cube_config(project / "cube.yaml", extra), client=client)


def live(project: Path, time_range: str = "2023-03/2023-10", spec: CubeSpec | None = None) -> xr.Dataset:
    """The cube from the scenes, in one chunk, over the staged box."""
    config = load_cube_config(project / "cube.yaml", [f"time={time_range}"])
    area, spec = area_of(config.area), spec or config.cube
    grid, box = grid_and_box(area, None, spec.resolution_m)
    scenes = find_scenes(config, area, pad_m=HALO * spec.resolution_m)
    return open_cube(scenes, spec, grid=grid, box=box.pad(HALO), chunks_yx=(4096, 4096))


def same(found: xr.Dataset, wanted: xr.Dataset) -> None:
    xr.testing.assert_identical(found.compute(scheduler="sync"), wanted.compute(scheduler="sync"))


@pytest.fixture(scope="module")
def whole(project: Path) -> xr.Dataset:
    return live(project).compute(scheduler="sync")


@pytest.mark.parametrize(
    ("tile", "chunk"), [(64, 64), pytest.param(96, 80, marks=pytest.mark.long), (512, 100), (1024, 4096)]
)
def test_every_layout_gives_the_live_cube(
    tile: int, chunk: int, project: Path, client: Client, whole: xr.Dataset
) -> None:
    result = stage(project, client, f"layout-{tile}", f"tile_px={tile}", f"chunk_px={chunk}")
    assert (result.exit_code, result.summary.done) == (0, result.summary.total)
    staged = open_cube(project / f"layout-{tile}")
    same(staged, whole)
    assert staged.attrs.keys() == whole.attrs.keys()
    assert staged.reflectance.chunksizes["time"] == (1,) * 8
    peak = max(r.peak_bytes for r in current_records(result.run, "cube"))
    assert peak <= read_plan(result.run, "cube")["projected_bytes"] < 4 * peak
    assert verify_run(result.run).exit_code == 0


def test_xarray_sees_everything_with_no_help(project: Path, client: Client, whole: xr.Dataset) -> None:
    stage(project, client, "plain")
    url = project / "plain" / "cube.zarr"
    raw = xr.open_zarr(url)
    assert raw.reflectance.dtype == np.uint16
    assert raw.reflectance.rio.crs == raw.rio.crs == CRS.from_epsg(32633)
    assert raw.reflectance.rio.nodata == 0
    assert raw.attrs["proj:code"] == "EPSG:32633"
    assert raw.attrs["landweave_spec"] == whole.attrs["landweave_spec"]
    cut = raw.sel(y=whole.y, x=whole.x)
    np.testing.assert_array_equal(cut.reflectance.values, whole.reflectance.values)
    np.testing.assert_array_equal(cut.time.values, whole.time.values)
    np.testing.assert_array_equal(cut.time_bnds.values, whole.time_bnds.values)
    assert list(cut.band.values) == list(BANDS)
    meta = json.loads((url / "zarr.json").read_text())
    assert set(meta["consolidated_metadata"]["metadata"]) >= {"reflectance", "observations", "time", "band"}


def test_an_appended_cube_is_the_cube_of_the_whole_time(
    project: Path, client: Client, whole: xr.Dataset
) -> None:
    first = stage(project, client, "grown", "time=2023-03/2023-05")
    before = _shards(project / "grown")
    same(open_cube(project / "grown"), live(project, "2023-03/2023-05"))
    second = stage(project, client, "grown", "time=2023-06/2023-08")
    third = stage(project, client, "grown", "time=2023-03/2023-10")  # the season so far: two more months
    assert [r.time_steps for r in (first, second, third)] == [(0, 3), (3, 6), (6, 8)]
    assert [r.stage for r in (first, second, third)] == ["cube", "cube-2023-06", "cube-2023-09"]
    assert {r.exit_code for r in (first, second, third)} == {0}
    same(open_cube(project / "grown"), whole)
    raw = xr.open_zarr(project / "grown" / "cube.zarr")
    np.testing.assert_array_equal(raw.time.values, whole.time.values)
    np.testing.assert_array_equal(raw.time_bnds.values, whole.time_bnds.values)
    after = _shards(project / "grown")
    assert {k: after[k] for k in before} == before, "no shard of an earlier time was touched"
    again = stage(project, client, "grown", "time=2023-06/2023-08")
    assert (again.stage, again.summary.done) == ("cube-2023-06", 0)
    told = {s["stage"]: s["counts"] for s in status_of(str(project / "grown"))["stages"]}
    assert told["cube-2023-06"]["reused"] == told["cube-2023-06"]["total"] == second.summary.total
    verified = verify_run(str(project / "grown"))
    assert (verified.exit_code, verified.read) == (0, 3 * first.summary.total)
    shard = next(
        project / "grown/cube.zarr" / k for k in after.keys() - before.keys() if "/c/5/" in k or "/c/3/" in k
    )
    shard.write_bytes(shard.read_bytes()[:-9])
    differ = verify_run(str(project / "grown")).differ
    assert [d.stage for d in differ] == ["cube-2023-06"]


def test_acquisitions_are_appended_too(project: Path, client: Client) -> None:
    spec = CubeSpec(bands=BANDS, period=None)
    for span in ("2023-03/2023-06", "2023-03/2023-10"):
        assert stage(project, client, "dates", f"time={span}", "cube.period=null").exit_code == 0
    same(open_cube(project / "dates"), live(project, spec=spec))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cube.reducer=mean"], r"another cube \[cube.reducer\]"),
        (["cube.mask=none", "cube.bands=[red]"], r"cube.bands, cube.mask"),
        (["halo_px=16"], r"another cube \[box\]"),
        (["tile_px=64"], "something else .*shard_px"),
        (["crs=EPSG:32632"], r"another cube \[grid, box\]"),
        (["time=2023-03-15/2023-09"], r"do not continue .*2023-03-15"),
        (["time=2023-03/2023-04"], "later time steps already"),
        (["time=2022-03/2022-05"], "later time steps already"),
        (["time=2023-03/2023-10", "cube.period=10D"], "cube.period"),
    ],
)
def test_another_cube_is_refused_by_name_and_changes_nothing(
    overrides: list[str], words: str, project: Path, client: Client
) -> None:
    stage(project, client, "fixed", "time=2023-03/2023-05")
    before = _files(project / "fixed")
    with pytest.raises(ConflictError, match=words):
        stage(
            project,
            None,
            "fixed",
            *(overrides if "time" in overrides[0] else ["time=2023-03/2023-05", *overrides]),
        )
    assert _files(project / "fixed") == before


EVERYTHING = {
    "bands": list(BANDS),
    "variability": True,
    "gap_fill": "linear",
    "features": {
        "indices": ["NDVI"],
        "statistics": ["NDVI_mean", "red_p90"],
        "phenology": "NDVI",
        "day_of_year": True,
        "position": True,
    },
}


def test_whatever_a_spec_asks_for_is_staged(project: Path, client: Client) -> None:
    asked = [f"cube={json.dumps(EVERYTHING)}", "tile_px=256"]
    result = stage(project, client, "everything", *asked)
    wanted = live(project, spec=CubeSpec.model_validate(EVERYTHING)).compute(scheduler="sync")
    names = {"variability", "filled", "indices", "statistics", "phenology", "day_of_year", "position"}
    assert names < set(wanted.data_vars)
    same(open_cube(project / "everything"), wanted)
    peak = max(r.peak_bytes for r in current_records(result.run, "cube"))
    assert peak <= read_plan(result.run, "cube")["projected_bytes"]
    assert verify_run(result.run).exit_code == 0
    with pytest.raises(
        ConflictError, match=r"cannot grow \[gap_fill, features.statistics, features.phenology\]"
    ):
        stage(project, None, "everything", "time=2023-11/2023-12", *asked)


def test_features_of_a_date_are_appended(project: Path, client: Client) -> None:
    features = {"indices": ["NDVI"], "day_of_year": True, "position": True}
    cube = {"bands": list(BANDS), "variability": True, "features": features}
    for span in ("2023-03/2023-05", "2023-06/2023-10"):
        stage(project, client, "features", f"cube={json.dumps(cube)}", f"time={span}")
    same(open_cube(project / "features"), live(project, spec=CubeSpec.model_validate(cube)))


def test_radar_of_two_zones_is_staged_and_appended(
    two_zones: SampleArchive, client: Client, tmp_path: Path
) -> None:
    settings = {
        "area": str(two_zones.territory),
        "catalog": str(two_zones.catalog),
        "sentinel1": {"catalog": str(two_zones.catalog), "collection": RADAR_COLLECTION},
        "cube": {"bands": ["red"], "sentinel1": True},
        "out": "radar",
        "tile_px": 256,
        "halo_px": HALO,
    }

    def config(time_range: str, out: str) -> CubeConfig:
        (tmp_path / "cube.yaml").write_text(yaml.safe_dump(settings | {"time": time_range, "out": out}))
        return load_cube_config(tmp_path / "cube.yaml")

    for months in ("2023-03/2023-04", "2023-05/2023-08"):
        result = make_cube(config(months, "radar"), client=client)
        assert result.exit_code == 0
    staged = open_cube(tmp_path / "radar")
    assert (staged.radar_observations > 0).any(("y", "x")).sum() >= 2
    wanted = cube_of_box(config("2023-03/2023-08", "none"))
    same(staged, wanted)
    assert make_cube(config("2023-05/2023-08", "radar"), client=client).summary.done == 0


def cube_of_box(config: CubeConfig) -> xr.Dataset:
    """The live cube of a configuration over the box that it would stage."""
    asked = ask(config)
    scenes = Scenes.find(config, asked)
    return open_cube(scenes.items, asked.spec, grid=asked.grid, box=asked.box, sentinel1=scenes.radar)


def test_a_staged_cube_maps_to_the_same_bits(
    project: Path, client: Client, whole: xr.Dataset, sample: SampleArchive
) -> None:
    stage(project, client, "layout-64", "tile_px=64")
    bundle = make_bundle(project / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    staged = open_cube(project / "layout-64", bundle.spec)
    _, box = grid_and_box(area_of(load_cube_config(project / "cube.yaml").area), None, 10)
    wanted, found = predict(live(project), bundle, core=box), predict(staged, bundle, core=box)
    xr.testing.assert_identical(found.compute(scheduler="threads"), wanted.compute(scheduler="threads"))


def test_parts_of_a_staged_cube(project: Path, client: Client, whole: xr.Dataset) -> None:
    stage(project, client, "layout-64", "tile_px=64")
    url = f"file://{project}/layout-64"
    _, cut, _ = read_staged(str(project / "layout-64" / "cube.zarr"))
    inner = Box(cut.box.y0 + 33, cut.box.x0 + 7, cut.box.y1 - 90, cut.box.x1 - 51)
    part = open_cube(url, box=inner, chunks_yx=(64, 128))
    config = load_cube_config(project / "cube.yaml")
    scenes = find_scenes(config, area_of(config.area), pad_m=480)
    grid, _ = grid_and_box(area_of(config.area), None, 10)
    same(part, open_cube(scenes, config.cube, grid=grid, box=inner))
    edges = np.cumsum((inner.y0, *part.reflectance.chunksizes["y"]))[1:-1]
    assert (edges % 64 == 0).all(), "chunks end where the store's inner chunks end"
    area = area_of(config.area)
    same(
        open_cube(url, area=area),
        live(project).pipe(lambda d: open_cube(scenes, config.cube, area, grid=grid)),
    )
    with pytest.raises(InputError, match="does not reach so far"):
        open_cube(url, box=cut.box.pad(1))
    with pytest.raises(SpecError, match="bands"):
        open_cube(url, CubeSpec(bands=["red"]))
    with pytest.raises(InputError, match="no store"):
        open_cube(project / "nothing")
    with pytest.raises(InputError, match="needs a spec"):
        open_cube(scenes)


def test_what_is_missing_is_told_and_reads_as_no_data(
    project: Path, client: Client, whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.make_cube as module

    monkeypatch.setattr(module, "run_jobs", _die)
    with pytest.raises(KeyboardInterrupt):
        stage(project, client, "begun", "time=2023-03/2023-05")
    empty = open_cube(project / "begun")
    assert "cube (time steps 0..2) is being made" in empty.attrs["landweave_incomplete"]
    assert not empty.reflectance.any()
    monkeypatch.undo()
    stage(project, client, "begun", "time=2023-03/2023-05")
    monkeypatch.setattr(module, "run_jobs", _die)
    with pytest.raises(KeyboardInterrupt):
        stage(project, client, "begun", "time=2023-06/2023-08")
    half = open_cube(project / "begun")
    assert half.attrs["landweave_incomplete"] == "cube-2023-06 (time steps 3..5) is being made"
    np.testing.assert_array_equal(half.reflectance[:3].values, whole.reflectance[:3].values)
    assert not half.reflectance[3:].any()
    monkeypatch.undo()
    assert stage(project, client, "begun", "time=2023-06/2023-08").exit_code == 0
    same(open_cube(project / "begun"), live(project, "2023-03/2023-08"))


def test_one_yaml_serves_map_and_cube(sample: SampleArchive, tmp_path: Path, client: Client) -> None:
    bundle = make_bundle(tmp_path / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "both",
        "tile_px": 512,
        "products": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    config = load_cube_config(tmp_path / "run.yaml")
    assert config.halo_px == bundle.lattice.window_px
    assert load_cube_config(tmp_path / "run.yaml", ["halo_px=7"]).halo_px == 7
    assert make_cube(config, client=client).exit_code == 0
    assert map_area(load_config(tmp_path / "run.yaml"), client=client).exit_code == 0
    run = str(tmp_path / "both")
    assert read_plan(run)["scenes"] == read_plan(run, "cube")["scenes"]
    told = [(s["stage"], s["state"], s["counts"]["total"]) for s in status_of(run)["stages"]]
    assert told == [("cube", "done", 2), ("map", "done", 2)]
    assert (verify_run(run).read, verify_run(run).exit_code) == (4, 0)
    mapped = xr.open_zarr(f"{run}/map.zarr", chunks=None)
    cube = open_cube(run)
    _, box = grid_and_box(area_of(config.area), None, 10)
    found = predict(cube, bundle, core=box).compute(scheduler="threads")
    cut = mapped.sel(y=found.y, x=found.x)
    inside = cut.label.values > 0
    np.testing.assert_array_equal(found.label.values[inside], cut.label.values[inside])


def test_a_tile_that_would_not_fit_is_refused_before_it_runs(project: Path) -> None:
    small = {"kind": "local", "n_workers": 1, "memory_limit": "512MiB"}
    with pytest.raises(BudgetError, match="no smaller setting fits"):
        stage(project, None, "unfit", f"cluster={json.dumps(small)}")
    assert not (project / "unfit" / "ledger").exists()


def test_wrong_settings_are_told_together(project: Path) -> None:
    with pytest.raises(InputError, match=r"2 setting\(s\) are wrong: halo_px.*colour"):
        load_cube_config(project / "cube.yaml", ["halo_px=-1", "colour=red"])


def test_pixels_out_of_reach_of_any_map_are_left_out_whatever_the_tiles(
    sample: SampleArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An L-shaped outline, small blocks: all within the halo is there, and no block beyond it."""
    monkeypatch.setattr("pipelines.cube_job.BLOCK_PX", 32)
    left, bottom, right, top = sample.bounds
    arms = [shapely.box(left, bottom, left + 400, top), shapely.box(left, bottom, right, bottom + 300)]
    outline = shapely.union_all(arms)
    shape = geopandas.GeoDataFrame(geometry=[outline], crs=sample.crs).to_crs(4326)
    shape.to_file(tmp_path / "corner.geojson")
    settings = {"area": str(tmp_path / "corner.geojson"), "time": "2023-05", "catalog": str(sample.catalog)}
    settings |= {"out": str(tmp_path), "halo_px": 20, "cube": {"bands": ["red"]}}
    staged = {}
    for tile_px in (80, 128):
        (tmp_path / "cube.yaml").write_text(
            yaml.safe_dump(settings | {"out": f"t{tile_px}", "tile_px": tile_px})
        )
        config = load_cube_config(tmp_path / "cube.yaml")
        with Lease(str(tmp_path / f"t{tile_px}")) as lease:
            job, area = prepare_cube(config, lease)
        for tile in job.tiles():
            write_region(job.store_url, job.box(tile), job.compute(tile, 1).arrays)
        staged[tile_px] = open_cube(config.out).compute()
    xr.testing.assert_identical(staged[80], staged[128])
    scenes = find_scenes(config, area, pad_m=200)
    grid, box = grid_and_box(area, None, 10)
    wanted = open_cube(scenes, config.cube, grid=grid, box=box.pad(20)).compute()
    found, there = staged[80].reflectance.values[0, 0], wanted.reflectance.values[0, 0]
    reach = np.zeros(there.shape, bool)
    for block in box.pad(20).blocks(32):
        near = shapely.box(*grid.bounds_of_box(block.snap_out(32).pad(20)))
        reach[block.slices_in(box.pad(20))] = area.to_crs(grid.crs).intersects(near)
    assert 0.3 < reach.mean() < 0.7
    np.testing.assert_array_equal(found, np.where(reach, there, 0))
    y, x = grid.centres(box.pad(20))
    inside = shapely.contains_xy(area.to_crs(grid.crs), *np.meshgrid(x, y))
    assert reach[binary_dilation(inside, np.ones((41, 41)))].all(), "the halo of each pixel is there"


def test_a_broken_scene_is_a_gap_and_mends(
    sample: SampleArchive, project: Path, client: Client, tmp_path: Path, whole: xr.Dataset
) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(sample.root, copy)
    catalog = copy / sample.catalog.relative_to(sample.root)
    broken = sorted(copy.rglob("*20230524*/B04.tif"))[0]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    overrides = [f"catalog={catalog}", f"out={tmp_path / 'run'}"]
    config = load_cube_config(project / "cube.yaml", overrides)
    result = make_cube(config, client=client)
    assert result.exit_code == 3
    gaps = json.loads((tmp_path / "run" / "gaps.json").read_text())["cube"]
    assert {(g["kind"], g["item"]) for g in gaps} == {("DataError", broken.parent.name)}
    told = open_cube(tmp_path / "run").attrs["landweave_incomplete"]
    assert told == "cube (time steps 0..7) is partial, gaps.json of the run says what could not be read"
    dates = load_cube_config(project / "cube.yaml", [*overrides, "cube.period=null", f"out={tmp_path / 'd'}"])
    assert make_cube(dates, client=client).exit_code in (3, 4)
    told = open_cube(tmp_path / "d").attrs["landweave_incomplete"]
    assert told.startswith("cube (time steps 0..3) is partial, without the tiles r")
    broken.write_bytes(content)
    assert make_cube(config, client=client, resume=False).exit_code == 0
    found = open_cube(tmp_path / "run").compute()
    np.testing.assert_array_equal(found.reflectance.values, whole.reflectance.values)
    assert "landweave_incomplete" not in found.attrs


def test_a_plan_says_what_staging_needs(project: Path) -> None:
    told = plan_staging(load_cube_config(project / "cube.yaml"))
    assert (told["time steps"], told["variables"]) == (8, "reflectance, observations")
    assert told["tiles"].startswith("at most ")
    assert not (project / "cube").exists()


@pytest.mark.long
def test_killed_while_appending_it_goes_on_to_the_same_bytes(project: Path, client: Client) -> None:
    """SIGKILL; the same command again; no finished tile is made twice."""
    reference, out = project / "kill-reference", project / "killed"
    stage(project, client, reference.name, "tile_px=96", "time=2023-03/2023-08")
    stage(project, client, out.name, "tile_px=96", "time=2023-03/2023-04")
    later = ["cube", "cube.yaml", "--out", str(out), "--tile", "96", "-o", "time=2023-05/2023-08", "--json"]
    process = subprocess.Popen(_command(*later), cwd=project, env=_env(), stdout=subprocess.DEVNULL)
    _wait_for_tiles(out, "cube-2023-05", 3, process)
    process.kill()
    process.wait(timeout=240)
    before = _records(out, "cube-2023-05")
    assert len(before) < read_plan(str(out), "cube-2023-05")["tiles"]
    assert "being made" in open_cube(out).attrs["landweave_incomplete"]
    again = subprocess.run(
        _command(*later), cwd=project, env=_env(), capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stage"] == "cube-2023-05"
    after = _records(out, "cube-2023-05")
    assert {k: after[k] for k in before} == before
    assert _shards(out).keys() == _shards(reference).keys()
    assert {k: v[1] for k, v in _shards(out).items()} == {k: v[1] for k, v in _shards(reference).items()}


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


def _files(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and "lease" not in str(p)
    }


def _shards(run: Path) -> dict[str, tuple[int, bytes]]:
    """Name to time of writing and bytes of each shard."""
    root = run / "cube.zarr"
    files = [
        p for name in ("reflectance", "observations") for p in (root / name / "c").rglob("*") if p.is_file()
    ]
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def _records(run: Path, name: str) -> dict[tuple[str, str], str]:
    return {(str(r.tile), r.key): r.finished_utc for r in Ledger(str(run), name).records()}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()", *arguments]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _wait_for_tiles(out: Path, name: str, count: int, process: subprocess.Popen[Any]) -> None:
    while process.poll() is None:
        if (out / "ledger" / name).exists() and len(_records(out, name)) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the run ended before it could be killed")
