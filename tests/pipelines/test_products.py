"""What a run publishes, from stores and records that lie there: a mosaic, its styles, its catalogue."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import zarr
from pydantic import ValidationError
from typer.testing import CliRunner

from engine.archive.items import ItemTable
from engine.products.legends import write_styles
from engine.products.mosaic import write_mosaic
from engine.products.read_styles import read_style
from engine.refine.chain import CHANGED, CHANGED_NO_DATA, RefineSpec
from engine.store.layout import create
from engine.store.ledger import Ledger, TileRecord
from engine.store.storespec import StoreSpec, Variable
from engine.store.view import open_view
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box, Grid, TileKey, tiles_over
from engine.values.spec import CubeSpec
from pipelines.cli import app
from pipelines.export_stac import Exported, write_catalogue
from pipelines.map_job import MapJob
from pipelines.products import Products, make_products
from pipelines.publish_config import PublishConfig
from pipelines.refine_job import RefineJob
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import put_area
from tests.archive.samples import record
from tests.pipelines.test_map_area import make_bundle
from tests.products.stac_rules import validate

GRID, TILE_PX = Grid("EPSG:32633", (10.0, 10.0)), 512
BOX = Box(-5_800 * 100, 390 * 100, -5_800 * 100 + 700, 390 * 100 + 1300)
CUT = Box(BOX.y0 + 100, BOX.x0 + 100, BOX.y0 + 300, BOX.x0 + 400)
SCHEME = ClassScheme.from_names(["wheat", "maize", "water"])
STEPS = RefineSpec.model_validate(
    {"steps": [{"step": "mmu", "min_px": 9}, {"step": "majority", "share": 0.5}]}
)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[MapJob, RefineJob, Area]:
    """A run folder with a map, its refinement and their records."""
    home = tmp_path_factory.mktemp("run")
    area = Area.from_bbox(_degrees(), name="Land")
    outline = put_area(str(home), area)
    bundle = make_bundle(home / "bundle", SCHEME, seed=0)
    job = MapJob(str(home), GRID, TILE_PX, 512, CubeSpec(bands=("red",)), bundle, "items.parquet", outline)
    refined = RefineJob(str(home), GRID, TILE_PX, STEPS, "d", SCHEME, outline, "map", TILE_PX, 1)
    rng = np.random.default_rng(0)
    variables = [
        Variable("label", "uint8", 0, attrs=SCHEME.flag_attributes()),
        Variable("confidence", "uint8", 255, attrs={"scale": 1 / 250, "units": "1"}),
        Variable("observations", "uint8", 0),
    ]
    changed = Variable(CHANGED, "uint8", CHANGED_NO_DATA, attrs=STEPS.changed_attributes())
    for stage, layers in ((job, variables), (refined, [*variables, changed])):
        create(stage.store_url, StoreSpec(GRID, BOX, TILE_PX, tuple(layers), chunk_px=256))
        root = zarr.open_group(stage.store_url, mode="r+")
        for variable in layers:
            array = root[variable.name]
            array[...] = rng.integers(1, 3, array.shape).astype(np.uint8)
        for tile in tiles_over(BOX, TILE_PX):
            _commit(stage, tile, "first")
    return job, refined, area


def _degrees() -> tuple[float, float, float, float]:
    import shapely

    from engine.values.area import to_lonlat

    west, south, east, north = to_lonlat(shapely.box(*GRID.bounds_of_box(BOX)), GRID.crs).bounds
    return west + 1e-3, south + 1e-3, east - 1e-3, north - 1e-3


def _commit(stage: MapJob | RefineJob, tile: TileKey, checksum: str, epoch: int = 1) -> None:
    about = {"seconds": 1.0, "peak_bytes": 1, "counts": {}, "finished_utc": "", "worker": "w", "engine": "1"}
    key = hashlib.sha256(checksum.encode()).hexdigest()
    Ledger(stage.run_dir, stage.name).commit(
        TileRecord(tile, key, 1, {"label": checksum}, epoch=epoch, **about)
    )


TABLE = ItemTable((record("a"), record("b")), (dt.date(2023, 3, 1), dt.date(2023, 10, 31)))
PUBLISH = PublishConfig.model_validate(
    {
        "licence": "CC-BY-4.0",
        "providers": [{"name": "Agency", "url": "https://agency.example"}],
        "cell_px": 1024,
    }
)


@pytest.fixture(scope="module")
def made(jobs: tuple[MapJob, RefineJob, Area]) -> Products:
    job, refined, area = jobs
    return make_products(job, area, TABLE, refined, PUBLISH)


def test_a_refined_map_is_published_with_all_that_belongs_to_it(
    jobs: tuple[MapJob, RefineJob, Area], made: Products
) -> None:
    job, refined, _ = jobs
    home = Path(job.run_dir)
    assert {"label", "confidence", "observations", CHANGED} <= set(made.files)
    assert made.files["label"] == str(home / "cog/label.vrt")
    documents = {p.name: json.loads(p.read_text()) for p in (home / "stac").glob("*.json")}
    for document in documents.values():
        validate(document)
    collection = documents["collection.json"]
    items = [d for d in documents.values() if d["type"] == "Feature"]
    assert made.item == str(home / "stac/collection.json")
    assert len(items) == len(list((home / "cog/label").glob("r*.tif"))) >= 2
    for item in items:
        derived = {k["href"]: k.get("title") for k in item["links"] if k["rel"] == "derived_from"}
        assert derived == {
            "../items.parquet": None,
            "../map.zarr": "The map before refinement",
            "../bundle/manifest.json": "random unet",
        }
        assert (
            "refined: mmu (min_px 9), then majority (within_px 1, shape square, share 0.5)"
            in item["properties"]["processing:lineage"]
        )
        changed = item["assets"][CHANGED]
        assert [c["name"] for c in changed["classification:classes"]] == ["unchanged", "1_mmu", "2_majority"]
        assert changed["nodata"] == CHANGED_NO_DATA
    assert collection["license"] == "CC-BY-4.0"
    assert collection["providers"][0]["name"] == "Agency"
    assert "Contains modified Copernicus Sentinel data 2023." in collection["description"]
    assert collection["assets"]["zarr"]["href"] == "../refined.zarr"
    for asset in pystac.Collection.from_file(made.item).assets.values():
        assert Path(asset.get_absolute_href() or "").exists()
    assert read_style(home / "cog/label.qml").names == SCHEME.names
    assert read_style(home / f"cog/{CHANGED}.qml").names == STEPS.names
    with rasterio.open(made.files["label"]) as whole:
        left, _, _, top = GRID.bounds_of_box(BOX)
        row, col = whole.index(left + 5005, top - 4005)
        stored = zarr.open_group(refined.store_url, mode="r")
        y, x = float(stored["y"][0]), float(stored["x"][0])
        at = stored["label"][int((y - (top - 4005)) / 10 + 0.5), int((left + 5005 - x) / 10 + 0.5)]
        assert whole.read(1)[row, col] == at


def test_publishing_again_writes_what_changed_and_no_more(
    jobs: tuple[MapJob, RefineJob, Area], made: Products
) -> None:
    job, refined, area = jobs
    home = Path(job.run_dir)

    def written() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in (home / "cog/label").glob("r*.tif")}

    first = written()
    make_products(job, area, TABLE, refined, PUBLISH)
    assert written() == first
    tile = tiles_over(BOX, TILE_PX)[0]
    zarr.open_group(refined.store_url, mode="r+")["label"][:TILE_PX, :TILE_PX] = 3
    _commit(refined, tile, "second", epoch=2)
    make_products(job, area, TABLE, refined, PUBLISH)
    third = written()
    cell = next(name for name, stamp in third.items() if stamp != first[name])
    assert [n for n in third if third[n] != first[n]] == [cell]
    item = json.loads(next((home / "stac").glob(f"*_{cell.removesuffix('.tif')}.json")).read_text())
    with rasterio.open(home / "cog/label" / cell) as source:
        assert 3 in source.read(1)
    assert item["assets"]["label"]["file:size"] == (home / "cog/label" / cell).stat().st_size


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="power of two"):
        PublishConfig(cell_px=3000)
    with pytest.raises(ValidationError, match="licensor"):
        PublishConfig.model_validate({"providers": [{"name": "x", "roles": ["boss"]}]})
    assert PublishConfig(attribution="").terms("notice").attribution == ""


def test_an_export_has_a_catalogue_of_its_own(jobs: tuple[MapJob, RefineJob, Area], tmp_path: Path) -> None:
    job, refined, area = jobs
    config = {
        "time": "2023-03/2023-10",
        "bundle": job.bundle.path,
        "publish": PUBLISH.model_dump(mode="json"),
    }
    about = {
        "store": "map.zarr",
        "area": area.name,
        "config": config,
        "outline": job.outline,
        "items": job.items,
    }
    write_plan(job.run_dir, {"stage": "map", **about})
    steps = {"refine": STEPS.model_dump(mode="json")}
    write_plan(job.run_dir, {"stage": "refined", "store": "refined.zarr", "config": steps})
    layers = ("label", CHANGED)
    mosaics = tuple(write_mosaic(refined.store_url, tmp_path, n, box=CUT) for n in layers)
    files = write_styles(tmp_path, SCHEME)
    view = open_view(refined.store_url)
    path = write_catalogue(Exported(job.run_dir, view, CUT, tmp_path, mosaics, files))
    assert path == tmp_path / "stac/Land-2023-03-2023-10.json"
    item = json.loads(path.read_text())
    for document in (item, *(json.loads(p.read_text()) for p in path.parent.glob("c*.json"))):
        validate(document)
    run = os.path.relpath(job.run_dir, path.parent)
    assert {k["href"] for k in item["links"] if k["rel"] == "derived_from"} == {
        f"{run}/items.parquet",
        f"{run}/map.zarr",
        f"{run}/bundle/manifest.json",
    }
    assert item["properties"]["proj:shape"] == [200, 300]
    assert "refined: mmu (min_px 9)" in item["properties"]["processing:lineage"]
    names = [c["name"] for c in item["assets"][CHANGED]["classification:classes"]]
    assert names == ["unchanged", "1_mmu", "2_majority"]
    assert item["properties"]["license"] == "CC-BY-4.0"
    assert set(item["assets"]) == {"label", CHANGED, *files}


def test_a_store_without_a_run_is_described_if_its_time_is_told(
    jobs: tuple[MapJob, RefineJob, Area], tmp_path: Path
) -> None:
    store = tmp_path / "other.zarr"
    shutil.copytree(jobs[0].store_url, store)
    mosaic = write_mosaic(str(store), tmp_path / "out", "label", box=CUT)
    exported = Exported(str(store), open_view(str(store)), CUT, tmp_path / "out", (mosaic,), {})
    with pytest.raises(InputError, match="--time"):
        write_catalogue(exported)
    item = json.loads(write_catalogue(replace(exported, time="2022", title="Theirs")).read_text())
    validate(item)
    assert item["id"] == "Theirs"
    assert item["properties"]["start_datetime"] == "2022-01-01T00:00:00Z"
    assert not [k for k in item["links"] if k["rel"] == "derived_from"]


def test_the_export_command_writes_a_catalogue_of_all_that_it_made(
    jobs: tuple[MapJob, RefineJob, Area], tmp_path: Path
) -> None:
    store = tmp_path / "map.zarr"
    shutil.copytree(jobs[0].store_url, store)
    call = ["export", str(store), "--out", str(tmp_path / "out"), "--stac", "--legend", "--gdal", "--vrt"]
    call += [
        "--layers",
        "label",
        "--cell",
        "1024",
        "--time",
        "2022-05/2022-06",
        "--title",
        "Land 2022",
        "--json",
    ]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    collection = json.loads(Path(told["stac"]).read_text())
    validate(collection)
    assert collection["id"] == "Land-2022-collection"
    assert {"label", "label-overview", "style", "legend", "gdal"} <= set(collection["assets"])
    assert collection["assets"]["gdal"]["type"] == "application/vnd.zarr; version=2"
    for item in (tmp_path / "out/stac").glob("Land-2022_*.json"):
        validate(json.loads(item.read_text()))
    cells = sorted(p.stem for p in (tmp_path / "out/label").glob("r*.tif"))
    assert sorted(p.stem for p in (tmp_path / "out/stac").glob("L*.json")) == [
        f"Land-2022_{c}" for c in cells
    ]
