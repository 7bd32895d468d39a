"""A whole map read over HTTP through nginx, with every fault that an archive shows: what can be had is had,
what cannot is in the gap list to the file, and no signature is left anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from distributed import Client

from engine.archive import gdal, signing, source
from engine.archive.items import ItemTable
from engine.runs import readable
from engine.values.classes import ClassScheme
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes
from pipelines.map_area import MapResult, map_area
from pipelines.run_folder import current_records
from pipelines.sample.archive import SampleArchive
from tests.pipelines.test_map_area import make_bundle
from tests.services.nginx import FaultyServer, serve

pytestmark = pytest.mark.service

SECRET = "SECRET"


@pytest.fixture(scope="module")
def web(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyServer]:
    """Serve the sample archive."""
    work = tmp_path_factory.mktemp("web")
    with serve(sample.root, work / "nginx") as server:
        yield server


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("http")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "out": "map",
        "tile_px": 128,
        "probe": "off",
        "products": False,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readable, "WAITS_S", (0.0, 0.0))
    for name, value in {"GDAL_HTTP_MAX_RETRY": "3", "GDAL_HTTP_RETRY_DELAY": "0.05"}.items():
        monkeypatch.setitem(gdal.GDAL_OPTIONS, name, value)


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sign every address with a token that can be renewed; the list holds its number."""
    token = [0]

    def sign(href: str, provider: str) -> str:
        return f"{href}?sig={SECRET}{token[0]}" if href.startswith("http") else href

    def sign_anew(href: str, provider: str, refused: str) -> bool:
        if refused == sign(href, provider):
            token[0] += 1
        return True

    for module in (source, signing):
        monkeypatch.setattr(module, "sign", sign)
    monkeypatch.setattr(source, "sign_anew", sign_anew)
    return token


def _run(project: Path, out: str, catalog: str) -> MapResult:
    extra = [f"out={json.dumps(str(project / out))}", f"catalog={json.dumps(catalog)}"]
    config = load_config(project / "run.yaml", extra)
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
    ) as client:
        return map_area(config, client=client)


def _layers(project: Path, out: str) -> dict[str, np.ndarray]:
    opened = xr.open_zarr(project / out / "map.zarr", chunks=None)
    return {str(n): opened[n].values for n in opened.data_vars}


def test_faults_cost_what_they_must_and_nothing_more(
    project: Path,
    sample: SampleArchive,
    web: FaultyServer,
    signed: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = load_config(project / "run.yaml", [f"catalog={json.dumps(str(sample.catalog))}"])
    table = find_scenes(config, area_of(config.area))
    paths = {(i.id, a.band): str(Path(a.href).relative_to(sample.root)) for i in table for a in i.assets}
    ids = [i.id for i in table]
    absent, cut = ids[2], ids[5]
    web.faults |= {
        paths[ids[0], "red"]: lambda n, q: 429 if n <= 2 else None,
        paths[ids[1], "nir"]: lambda n, q: 500 if n <= 2 else None,
        paths[absent, "red"]: lambda n, q: 404,
        paths[ids[3], "swir16"]: lambda n, q: "slow" if n == 2 else None,
        paths[ids[4], "red"]: lambda n, q: 403 if q == f"sig={SECRET}0" else None,
        paths[cut, "nir"]: lambda n, q: "cut" if n > 1 else None,
    }
    with caplog.at_level("DEBUG"):
        faulty = _run(project, "faulty", f"{web.url}/{sample.catalog.relative_to(sample.root)}")

    assert faulty.exit_code == 3
    assert faulty.summary.done == faulty.summary.total
    gaps = json.loads((project / "faulty" / "gaps.json").read_text())["map"]
    touched = {str(r.tile): {g.item for g in r.gaps} for r in current_records(str(project / "faulty"))}
    assert {(g["item"], g["asset"]) for g in gaps} == {(absent, "red"), (cut, "nir")}
    assert {g["kind"] for g in gaps if g["item"] == absent} == {"DataError"}
    assert {g["kind"] for g in gaps if g["item"] == cut} == {"RetryableError"}, gaps
    assert {(g["tile"], g["item"]) for g in gaps} == {(t, i) for t, items in touched.items() for i in items}
    assert signed[0] >= 1  # the refused signature was renewed, and its scene is in no gap
    for path in (paths[ids[0], "red"], paths[ids[1], "nir"], paths[ids[3], "swir16"], paths[ids[4], "red"]):
        assert web.requests[path] > 2, path

    kept = ItemTable(tuple(i for i in table if i.id not in {absent, cut}), table.time_range)
    kept.to_parquet(project / "kept.parquet")
    assert _run(project, "kept", str(project / "kept.parquet")).exit_code == 0
    expected, found = _layers(project, "kept"), _layers(project, "faulty")
    assert expected["observations"].max() > 1
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)

    assert any(SECRET in query for query in web.queries)
    for path in (project / "faulty").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    told = [r.getMessage() for r in caplog.records if r.name.startswith(("engine", "odc", "distributed"))]
    assert not any(SECRET in text for text in told)


def test_the_same_command_tries_the_gaps_again(
    project: Path, sample: SampleArchive, web: FaultyServer, signed: list[int]
) -> None:
    """After the faults of the test above are mended, the same folder ends as if there had been none."""
    holes = {str(r.tile) for r in current_records(str(project / "faulty")) if r.gaps}
    web.faults.clear()
    mended = _run(project, "faulty", f"{web.url}/{sample.catalog.relative_to(sample.root)}")
    assert mended.exit_code == 0
    assert mended.summary.done == len(holes) > 0
    assert _run(project, "whole", str(sample.catalog)).exit_code == 0
    expected, found = _layers(project, "whole"), _layers(project, "faulty")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
