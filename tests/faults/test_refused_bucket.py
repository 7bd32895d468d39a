"""A bucket that refuses puts, as one whose keys ran out half way: the run stops at once and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from distributed import Client, LocalCluster
from fsspec.implementations.memory import MemoryFileSystem

from engine.runs.driver import RunOptions, run_tiles
from engine.runs.gaps import read_gaps
from tests.faults.harness import SIDE, assert_pixels
from tests.faults.struck_job import StruckJob


@pytest.fixture
def threads() -> Iterator[Client]:
    """Workers in this process share its memory file system."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("what", ["shards", "records"])
def test_a_bucket_that_refuses_stops_the_run_at_once(
    tmp_path: Path,
    threads: Client,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """s3fs tells of AccessDenied and ExpiredToken by a PermissionError without a number."""
    job = StruckJob(str(tmp_path), side=SIDE, base=f"memory://{tmp_path}").create()
    part = {"shards": "/map.zarr/label/c/", "records": "/ledger/"}[what]
    plain, allowed = MemoryFileSystem.pipe_file, [6]

    def pipe_file(self: MemoryFileSystem, path: str, *args: object, **kwargs: object) -> object:
        if part in path:
            allowed[0] -= 1
            if allowed[0] < 0:
                raise PermissionError("Access Denied.")
        return plain(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
        summary = run_tiles(job, threads, job.run_dir, RunOptions())
    assert "the store refuses to be written to" in summary.refused
    assert "Access Denied." in summary.refused
    assert "then run the same command again" in summary.refused
    assert (summary.exit_code, summary.done, summary.failed) == (3, 6, 0)
    assert summary.left == SIDE * SIDE - 6
    assert sum(job.executions().values()) <= 6 + 3, "nothing is tried again"
    assert read_gaps(job.run_dir) == []
    assert run_tiles(job, threads, job.run_dir).exit_code == 0
    assert_pixels(job)
    fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)
