"""Runs that end early end in good order: a clear message, the right exit code, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.runs.gaps import read_gaps
from tests.faults.harness import SIDE, bytes_under
from tests.faults.processes import end, run, running, wait_for, workers_of
from tests.runs.fake_job import FakeJob

pytestmark = pytest.mark.slow

ALL = SIDE * SIDE


def _settings(folder: Path, sleep_s: float = 0.0, **options: object) -> dict[str, object]:
    return {"job": {"folder": str(folder), "side": SIDE, "sleep_s": sleep_s}, "options": options}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if subprocess.run([*sudo, *mount], capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("a small disk cannot be mounted here")
        pytest.skip("a small disk cannot be mounted here: not root")
    if sudo:
        subprocess.run([*sudo, "chmod", "777", str(place)], check=True)
    yield place
    subprocess.run([*sudo, "umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_half_way_stops_the_run_at_once(
    small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    job = FakeJob(str(small_disk), side=SIDE)
    ballast = small_disk / "ballast"
    settings = _settings(small_disk, 0.1)
    with running(**settings) as process:
        wait_for(lambda: len(list(Path(job.run_dir, "ledger").rglob("r*.json"))) >= 6, "six tiles")
        _fill(ballast)
        told = end(process)
    assert told["exit"] == 3, told
    assert "the disk is full" in told["refused"]
    assert str(small_disk) in told["refused"]
    assert "bytes free" in told["refused"]
    assert "make room there" in told["refused"]
    assert 6 <= told["done"] < ALL
    assert told["failed"] == told["quarantined"] == 0, "no tile is to blame"
    assert told["left"] == ALL - told["done"]
    assert sum(job.executions().values()) <= told["done"] + 3, "nothing is tried again on a full disk"
    begun = job.executions()

    still_full = run(**settings)
    assert still_full["exit"] == 3, still_full
    assert "the disk is full" in still_full.get("refused", "") + still_full.get("text", "")
    assert sum(job.executions().values()) <= sum(begun.values()) + 3

    ballast.unlink()
    mended = run(**settings)
    assert (mended["exit"], mended["done"] + mended["reused"]) == (0, ALL), mended
    assert mended["reused"] == told["done"]
    assert bytes_under(job.store_url) == undisturbed
    assert not list(small_disk.rglob(".tmp-*")), "no halves are left behind"


def _fill(path: Path) -> None:
    """Leave not one block."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                return


def test_a_store_that_may_not_be_written_to_stops_the_run_at_once(
    small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    """Half way its file system becomes read-only, as the kernel makes one whose disk is failing."""
    job = FakeJob(str(small_disk), side=SIDE)
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    with running(**_settings(small_disk, 0.1)) as process:
        wait_for(lambda: len(list(Path(job.run_dir, "ledger").rglob("r*.json"))) >= 6, "six tiles")
        _remount(sudo, small_disk, "ro")
        told = end(process)
    _remount(sudo, small_disk, "rw")
    assert told["exit"] == 3, told
    assert "Read-only file system" in told.get("refused", "") + told.get("text", ""), told
    again = run(**_settings(small_disk))
    assert (again["exit"], again["done"] + again["reused"]) == (0, ALL)
    assert bytes_under(job.store_url) == undisturbed


def _remount(sudo: list[str], place: Path, how: str) -> None:
    for _ in range(200):  # a file that is just being written keeps it busy
        done = subprocess.run([*sudo, "mount", "-o", f"remount,{how}", str(place)], capture_output=True)
        if not done.returncode:
            return
        time.sleep(0.01)
    pytest.fail(f"never {how}: {done.stderr!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_batch_systems_signal_to_all_processes_drains(
    tmp_path: Path, undisturbed: dict[str, bytes], number: int
) -> None:
    job = FakeJob(str(tmp_path), side=SIDE)
    with running(**_settings(tmp_path, 0.4)) as process:
        wait_for(lambda: len(list(Path(job.run_dir, "ledger").rglob("r*.json"))) >= 2, "two tiles")
        os.killpg(process.pid, number)
        told = end(process)
    assert (told["exit"], told["interrupted"]) == (5, True), told
    assert told["done"] == len(job.executions()) < ALL, "what was begun was finished"
    assert run(**_settings(tmp_path))["exit"] == 0
    assert set(job.executions().values()) == {1}
    assert bytes_under(job.store_url) == undisturbed


def test_a_drain_ends_before_the_batch_system_kills(tmp_path: Path) -> None:
    """Tiles that take longer than the grace period are left, and the folder is given back in good order."""
    job = FakeJob(str(tmp_path), side=SIDE)
    with running(**_settings(tmp_path, 60, term_s=1)) as process:
        wait_for(lambda: len(job.executions()) >= 2, "two tiles begun")
        begun, workers = time.monotonic(), workers_of(process.pid)
        process.send_signal(signal.SIGTERM)
        told = end(process, timeout=25)
        assert time.monotonic() - begun < 25
    assert (told["exit"], told["interrupted"], told["left"]) == (5, True, ALL), told
    assert not any(w.is_running() for w in workers)
    assert Path(job.run_dir, "lease", "end-000001").exists()
    assert read_gaps(job.run_dir) == []


def test_a_tile_over_the_memory_limit_is_quarantined_with_the_numbers(tmp_path: Path) -> None:
    """Dask ends its worker each time; the other tiles are made, the message says memory and what to change."""
    settings = {"folder": str(tmp_path), "side": 3, "hungry": "r1_c1"}
    limit = {"n_workers": 2, "memory_limit": "400MiB"}
    told = run(job=settings, cluster=limit)
    assert (told["exit"], told["done"], told["quarantined"]) == (3, 8, 1), told
    (gap,) = read_gaps(FakeJob(str(tmp_path)).run_dir)
    assert (gap.tile, gap.kind) == ("r1_c1", "quarantined")
    assert "over its memory limit, at " in gap.message
    assert "the most that a finished tile took is 0." in gap.message
    assert "cluster.memory_limit" in gap.message
    assert "tile_px" in gap.message
