"""A poisoned item costs its own scene and nothing else: a gap to the file, and otherwise the map without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from distributed import Client

from engine.archive.items import ItemRecord, ItemTable
from engine.runs import readable
from engine.values.classes import ClassScheme
from pipelines.config import load_config
from pipelines.cube_area import area_of, find_scenes
from pipelines.map_area import MapResult, map_area
from pipelines.sample.archive import SampleArchive, make_sample_archive
from tests.pipelines.test_map_area import make_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleArchive:
    folder = tmp_path_factory.mktemp("sample")
    return make_sample_archive(folder, seed=7, size_m=1800, n_dates=4, zones=(33,))


@pytest.fixture(scope="module")
def local() -> Client:
    """Threads of this process: nothing is killed here."""
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readable, "WAITS_S", (0.0, 0.0))


BAD = 2  # which scene is spoilt


@pytest.fixture(scope="module")
def clean(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, a bundle and a run.yaml over it."""
    folder = tmp_path_factory.mktemp("clean")
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "tile_px": 128,
        "probe": "off",
        "products": False,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def without(clean: Path, local: Client) -> dict[str, np.ndarray]:
    """The map of all scenes but one."""
    config = load_config(clean / "run.yaml", ["out=none"])
    table = find_scenes(config, area_of(config.area))
    kept = ItemTable(tuple(i for i in table if i != table.items[BAD]), table.time_range)
    kept.to_parquet(clean / "kept.parquet")
    assert _run(clean, local, "without", clean / "kept.parquet").exit_code == 0
    layers = _layers(clean / "without")
    assert layers["observations"].max() > 1
    return layers


@pytest.fixture
def archive(sample: SampleArchive, tmp_path: Path) -> Path:
    """The catalogue of a copy that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "archive")
    return tmp_path / "archive" / sample.catalog.relative_to(sample.root)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rewrite(path: Path, change: Callable[[np.ndarray, dict], np.ndarray]) -> None:
    """Write a file anew with other pixels or another header."""
    with rasterio.open(path) as file:
        profile, values = file.profile, file.read(1)
    values = change(values, profile)
    profile |= {"height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    path.unlink()
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)


def _halve(path: Path) -> None:
    _rewrite(path, lambda values, profile: values[: len(values) // 2])


def _to_nan(path: Path) -> None:
    def change(values: np.ndarray, profile: dict) -> np.ndarray:
        profile["nodata"] = np.nan
        return np.full(values.shape, np.nan, np.float32)

    _rewrite(path, change)


def _to_other_zone(path: Path) -> None:
    def change(values: np.ndarray, profile: dict) -> np.ndarray:
        profile["crs"] = "EPSG:32632"
        return values

    _rewrite(path, change)


def _other_zone_in_metadata(path: Path) -> None:
    (entry,) = list(path.parent.glob("*.json")) or [path.parent.with_suffix(".json")]
    item = json.loads(entry.read_text())
    told = item["properties"]
    told["proj:code"] = "EPSG:32632"
    told.pop("proj:epsg", None)
    entry.write_text(json.dumps(item))


POISONS = {
    "truncated": (_truncate, "red"),
    "wrong shape": (_halve, "another square than the other bands"),
    "all NaN": (_to_nan, "holds no integers"),
    "wrong CRS in the file": (_to_other_zone, "another CRS than its item says"),
    "wrong CRS in the metadata": (_other_zone_in_metadata, "another CRS than its item says"),
}


def _run(clean: Path, client: Client, out: str, catalog: Path) -> MapResult:
    extra = [f"out={json.dumps(str(clean / out))}", f"catalog={json.dumps(str(catalog))}"]
    return map_area(load_config(clean / "run.yaml", extra), client=client)


def _scene(clean: Path, catalog: Path) -> ItemRecord:
    """Return the scene to be spoilt."""
    config = load_config(clean / "run.yaml", ["out=none", f"catalog={json.dumps(str(catalog))}"])
    return find_scenes(config, area_of(config.area)).items[BAD]


def _layers(folder: Path) -> dict[str, np.ndarray]:
    opened = xr.open_zarr(folder / "map.zarr", chunks=None)
    return {str(name): opened[name].values for name in opened.data_vars}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_item_is_a_gap_and_the_map_is_that_without_it(
    clean: Path, archive: Path, local: Client, without: dict[str, np.ndarray], poison: str
) -> None:
    bad = _scene(clean, archive)
    spoil, because = POISONS[poison]
    spoil(Path(bad.asset("red").href))
    result = _run(clean, local, poison, archive)
    assert (result.exit_code, result.summary.failed) == (3, 0)
    gaps = json.loads((clean / poison / "gaps.json").read_text())["map"]
    assert {g["item"] for g in gaps} == {bad.id}
    assert {g["kind"] for g in gaps} == {"DataError"}
    assert all(g["tile"].startswith("r") and because in g["message"] for g in gaps), gaps[0]
    spoilt = set(bad.bands) if "metadata" in poison else {"red"}
    assert {g["asset"] for g in gaps} <= spoilt
    _assert_equal(_layers(clean / poison), without)


def test_an_item_of_nothing_but_no_data_changes_nothing(
    clean: Path, archive: Path, local: Client, without: dict[str, np.ndarray]
) -> None:
    """Indistinguishable from a swath that ends before the tile: no gap, and not one observation of it."""
    path = Path(_scene(clean, archive).asset("red").href)
    _rewrite(path, lambda values, profile: np.zeros_like(values))
    assert _run(clean, local, "empty", archive).exit_code == 0
    _assert_equal(_layers(clean / "empty"), without)


def _assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
