"""A real map by the real command, on processes that are killed one after the other: the same bytes in the end."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from engine.values.classes import ClassScheme
from pipelines.sample.archive import make_sample_archive
from tests.faults.harness import bytes_under
from tests.faults.processes import Cluster, family, start, wait_for
from tests.pipelines.test_map_area import make_bundle

pytestmark = pytest.mark.slow

IN_FLIGHT = 3  # two workers of one thread, and one


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive, a bundle and a run.yaml."""
    folder = tmp_path_factory.mktemp("map")
    sample = make_sample_archive(folder / "archive", seed=7, size_m=2560, n_dates=3, zones=(33,))
    make_bundle(folder / "bundle", ClassScheme.from_file(sample.classes), seed=0)
    settings = {
        "area": str(sample.territory),
        "time": "2023-03/2023-10",
        "catalog": str(sample.catalog),
        "bundle": "bundle",
        "tile_px": 64,
        "probe": "off",
        "products": False,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose workers log each tile that they begin."""
    folder = tmp_path_factory.mktemp("mapped")
    log = {"LANDWEAVE_TILE_LOG": str(folder / "tiles.log")}
    cluster = Cluster(folder, env=log, preload="tests.faults.tile_log")
    yield cluster
    cluster.close()


@contextmanager
def _command(project: Path, cluster: Cluster, out: str) -> Iterator[subprocess.Popen[str]]:
    """Start `landweave map`; end it and all below it in the end."""
    cluster.heal()
    arguments = ["map", str(project / "run.yaml"), "--json", "--out", str(project / out)]
    process = start("tests.faults.tile_log", *arguments, "--cluster", cluster.address)
    try:
        yield process
    finally:
        for member in family(process.pid):
            member.kill()
        process.communicate()


def _begun(cluster: Cluster) -> Counter[str]:
    log = cluster.folder / "tiles.log"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def _recorded(run: Path) -> set[str]:
    return {p.name.split(".")[0] for p in (run / "ledger").rglob("r*.json")}


def test_a_map_whose_processes_are_killed_in_turn_ends_with_the_same_bytes(
    project: Path, mapped: Cluster
) -> None:
    with _command(project, mapped, "whole") as process:
        told = json.loads(process.communicate(timeout=120)[0])
    assert (process.returncode, told["gaps"]) == (0, 0)
    total = len(_recorded(project / "whole"))
    assert total > 12
    (mapped.folder / "tiles.log").unlink()

    run, ends = project / "killed", []
    for victim in ("worker", "nanny", "client", "scheduler", None):
        with _command(project, mapped, "killed") as process:
            _kill_at_work(run, mapped, process, victim)
            err = process.communicate(timeout=120)[1]
        ends.append(process.returncode)
        if victim == "scheduler":
            assert "scheduler is lost" in err
            assert "run the same command again" in err
        if process.returncode == 0:
            break
    assert set(ends) <= {0, 3, -9}
    assert ends[-1] == 0, err
    assert len(_recorded(run)) == total
    again = {tile: n - 1 for tile, n in _begun(mapped).items() if n > 1}
    assert sum(again.values()) <= IN_FLIGHT * len(ends)
    assert bytes_under(str(run / "map.zarr")) == bytes_under(str(project / "whole" / "map.zarr"))


def _kill_at_work(run: Path, cluster: Cluster, process: subprocess.Popen[str], victim: str | None) -> None:
    """Wait for two more tiles on record, then kill."""
    done = len(_recorded(run))
    wait_for(lambda: len(_recorded(run)) >= done + 2 or process.poll() is not None, "two tiles", 60)
    assert cluster.scheduler is not None
    match victim:
        case "worker":
            cluster.workers()[0].kill()
        case "nanny":
            cluster.nannies[0].kill()
        case "client":
            process.kill()
        case "scheduler":
            cluster.scheduler.kill()
