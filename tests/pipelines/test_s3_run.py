"""A run folder in a bucket: the same map as in a local one, gone on with, verified, and without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from distributed import Client, LocalCluster

from engine.store.ledger import Ledger
from engine.store.objects import Folder
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from pipelines.config import load_config
from pipelines.map_area import MapResult, map_area
from pipelines.run_status import status_of
from pipelines.sample.archive import SampleArchive
from pipelines.verify_run import verify_run
from tests.pipelines.test_map_area import make_bundle
from tests.services.s3 import SECRET, S3Server


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3-run")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "map",
        "tile_px": 128,
        "refine": {"steps": [{"step": "majority"}]},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def workers(s3_server: S3Server) -> Iterator[Client]:
    """Two worker processes that were started with the server's environment."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster, set_as_default=False) as running:
        yield running


def run(project: Path, client: Client, out: str, **settings: Any) -> MapResult:
    extra = [f"{k}={json.dumps(v)}" for k, v in {"out": out, **settings}.items()]
    return map_area(load_config(project / "run.yaml", extra), client=client)


def layers(store: str) -> dict[str, np.ndarray]:
    opened = xr.open_zarr(store, chunks=None)
    return {str(n): opened[n].to_numpy() for n in opened.data_vars}


@pytest.fixture(scope="module")
def runs(project: Path, workers: Client) -> tuple[MapResult, MapResult]:
    """The same run, into a local folder and into a bucket."""
    url = f"s3://first/{project.name}/run"
    return run(project, workers, str(project / "local")), run(project, workers, url)


def test_a_run_in_a_bucket_is_the_run_on_a_disk(
    runs: tuple[MapResult, MapResult], project: Path, workers: Client, s3_server: S3Server
) -> None:
    first, second = runs
    local, url = Path(first.run), second.run
    assert (first.exit_code, second.exit_code) == (0, 0)
    for store in ("map.zarr", "refined.zarr"):
        mine, theirs = layers(f"{url}/{store}"), layers(f"{local}/{store}")
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=f"{store}: {name}")
    objects, endpoint = s3_server.objects(url), s3_server.endpoint.encode()
    files = {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()}
    # Logs are appended to on a disk, and written in numbered segments in a bucket.
    assert {name.replace(".00001.jsonl", ".jsonl") for name in objects} == files.keys()
    shards = {n for n in files if "/c/" in n} | {"cog/label.tif", "quicklook.png", "gaps.json"}
    assert all(objects[n] == files[n] for n in shards), "byte by byte, overviews too"
    assert not any(SECRET.encode() in data or endpoint in data for data in objects.values())
    assert second.products is not None
    assert second.products.files["label"] == f"{url}/cog/label.tif"
    item = json.loads(objects[second.products.item.removeprefix(f"{url}/")])
    assert item["assets"]["zarr"]["href"] == "../refined.zarr"
    with rasterio.MemoryFile(objects["cog/label.tif"]) as file, file.open() as cog:
        assert cog.read(1).any()
    here, there = (status_of(place)["stages"][0]["counts"] for place in (str(local), url))
    assert here["done"] + here["reused"] == there["done"] + there["reused"] > 0


def test_a_run_in_a_bucket_goes_on_where_it_stopped(
    runs: tuple[MapResult, MapResult], project: Path, workers: Client
) -> None:
    first, second = runs
    ledger = Ledger(second.run, "map")
    lost = next(iter(ledger.records()))
    ledger.clear(lost.tile, 99)
    again = run(project, workers, second.run, products=False)
    of_map, of_refined = again.summaries
    assert (of_map.done, of_map.reused) == (1, second.summary.total - 1)
    assert (of_refined.done, of_refined.reused) == (0, of_refined.total), "the tile came back as it was"
    mine, theirs = layers(f"{second.run}/map.zarr"), layers(f"{first.run}/map.zarr")
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("where", [0, 1], ids=["local", "s3"])
@pytest.mark.parametrize("harm", ["a byte", "gone"])
def test_verify_names_tile_variable_and_file(
    runs: tuple[MapResult, MapResult], where: int, harm: str
) -> None:
    out = runs[where].run
    assert verify_run(out).exit_code == 0
    folder = Folder(f"{out}/map.zarr")
    name = f"label/c/{next(folder.child('label', 'c').names())}"
    name = f"{name}/{next(folder.child(name).names())}"
    whole = folder.read(name) or b""
    data = bytearray(whole)
    data[len(data) // 3] ^= 1
    if harm == "gone":
        folder.remove(name)
    else:
        folder.replace(name, bytes(data))
    (told,) = verify_run(out).differ
    folder.replace(name, whole)
    assert told.tile in {str(r.tile) for r in Ledger(out, "map").records()}
    assert name in told.why
    assert verify_run(out).exit_code == 0


def test_a_bucket_that_is_not_there_is_said_at_once(project: Path, workers: Client) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        run(project, workers, "s3://never-made-by-anybody/run")
