"""Small simulated archives, of one and of two UTM zones, and two worker processes, made once per session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from pipelines.sample.archive import SampleArchive, make_sample_archive
from pipelines.sample.truth import Landscape, make_landscape

SEED, SIZE_M, DATES = 7, 2560, 4


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleArchive:
    """An archive whose tiles all lie in the zone of the truth: reading it needs no warp."""
    folder = tmp_path_factory.mktemp("sample")
    return make_sample_archive(folder, seed=SEED, size_m=SIZE_M, n_dates=DATES, zones=(33,))


@pytest.fixture(scope="session")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> SampleArchive:
    """The same territory, its western part in the tiles of the next zone."""
    folder = tmp_path_factory.mktemp("two-zones")
    return make_sample_archive(folder, seed=SEED, size_m=SIZE_M, n_dates=DATES)


@pytest.fixture(scope="session")
def small_land() -> Landscape:
    return make_landscape(SEED, SIZE_M)


@pytest.fixture(scope="session")
def wide_land() -> Landscape:
    return make_landscape(SEED, 6000)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster, set_as_default=False) as running:  # other tests compute on their own
        yield running
