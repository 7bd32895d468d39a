from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import cluster.slurm_jobs as slurm_jobs
from cluster.launch import open_client
from cluster.slurm import SlurmSpec
from engine.store.ledger import Ledger
from pipelines.map_area import map_area
from tests.cluster.conformance import ClusterConformance
from tests.cluster.sample import TILES, SampleRun
from tests.services.slurm import Slurm

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", autouse=True)
def quick_looks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_jobs, "_LOOK_S", 0.5)
        yield


def _spec(folder: Path, **changes: Any) -> SlurmSpec:
    settings = {"n_workers": 1, "memory_limit": "1GiB", "interface": "lo", "log_directory": str(folder)}
    return SlurmSpec(**{**settings, **changes})


def _after_some_tiles(run: Path, do: Any) -> threading.Thread:
    """Do something once a few tiles are on record."""

    def watch() -> None:
        begun = time.monotonic()
        while len(list((run / "ledger").rglob("*.json"))) < 4 and time.monotonic() - begun < 120:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


class TestJobs(ClusterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> SlurmSpec:
        return _spec(tmp_path_factory.mktemp("logs"))

    def test_a_job_cancelled_in_the_middle_is_followed_by_another(
        self, client: Client, slurm: Slurm, sample_run: SampleRun, tmp_path: Path
    ) -> None:
        run, before = tmp_path / "run", slurm.jobs("landweave-worker")
        done: list[int] = []

        def cancel() -> None:
            slurm.run("scancel", *before)
            done.append(sum(1 for _ in Ledger(str(run), "map").records()))

        watcher = _after_some_tiles(run, cancel)
        made = map_area(sample_run.config(run), client=client)
        watcher.join(30)
        assert 0 < done[0] < TILES
        assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
        sample_run.assert_same(run)
        after = slurm.jobs("landweave-worker")
        assert len(after) == 1
        assert after.keys().isdisjoint(before)


def test_a_walltime_shorter_than_the_run(slurm: Slurm, sample_run: SampleRun, tmp_path: Path) -> None:
    """Workers leave before a minute's walltime, Slurm's shortest; maps are made until that happens within one."""
    with open_client(_spec(tmp_path / "logs", walltime="1m", lifetime="30s")) as client:
        for number in range(20):
            run = tmp_path / f"run-{number}"
            made = map_area(sample_run.config(run), client=client)
            assert (made.exit_code, made.summary.done, made.summary.quarantined) == (0, TILES, 0)
            sample_run.assert_same(run)
            if _left_in_the_middle(run):
                break
        else:
            pytest.fail("no worker left while a map was made")
    outputs = [path.read_text() for path in (tmp_path / "logs").glob("*.out")]
    assert len(outputs) > 1
    assert all("TIME LIMIT" not in text for text in outputs)
    assert sum("landweave-lifetime" in text for text in outputs) >= len(outputs) - 1


def _left_in_the_middle(run: Path) -> bool:
    """Tell whether tiles were made both before and after a worker left."""
    lines = (json.loads(line) for path in sorted((run / "logs").glob("*.jsonl")) for line in path.open())
    events = [line["event"] for line in lines]
    if "worker-left" not in events:
        return False
    at = events.index("worker-left")
    return "done" in events[:at] and "done" in events[at:]
