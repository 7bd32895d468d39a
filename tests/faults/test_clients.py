"""Clients that are killed, started twice, put to sleep and stopped; the same command must end with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from engine.runs.driver import RunOptions, run_tiles
from engine.runs.gaps import read_gaps
from engine.store.ledger import Ledger
from engine.store.regions import read_region
from engine.values.errors import ConflictError
from engine.values.grid import TileKey
from tests.faults.harness import bytes_under
from tests.faults.kill_point import TILE
from tests.faults.processes import ROOT, end, family, run, running, wait_for, workers_of
from tests.faults.strike import POINTS
from tests.runs.fake_job import FakeJob

IN_FLIGHT = 3  # two workers of one thread, and one

pytestmark = pytest.mark.slow


def _recorded(job: FakeJob) -> set[str]:
    return {p.name.split(".")[0] for p in Path(job.run_dir, "ledger").rglob("r*.json")}


def test_a_killed_client_loses_at_most_what_was_in_flight(
    tmp_path: Path, undisturbed: dict[str, bytes], client: Client
) -> None:
    job = FakeJob(str(tmp_path), side=5, sleep_s=0.1)
    settings = {"folder": job.folder, "side": 5, "sleep_s": 0.1}
    with running(job=settings) as process:
        wait_for(lambda: len(_recorded(job)) >= 6, "six tiles")
        workers = workers_of(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(w.is_running() for w in workers), "the workers' end")
    done = _recorded(job)
    assert 6 <= len(done) < 25
    begun = job.executions()
    summary = run_tiles(job, client, job.run_dir)
    assert (summary.exit_code, summary.reused, summary.epoch) == (0, len(done), 2)
    again = {tile: n for tile, n in job.executions().items() if n > 1}
    assert not set(again) & done, "no finished tile is done twice"
    assert len(again) <= IN_FLIGHT
    assert set(again) == set(begun) - done
    assert bytes_under(job.store_url) == undisturbed


def test_a_killed_worker_is_no_loss(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    job = FakeJob(str(tmp_path), side=5)
    with running(job={"folder": job.folder, "side": 5, "sleep_s": 0.1}) as process:
        wait_for(lambda: len(_recorded(job)) >= 4, "four tiles")
        workers_of(process.pid)[0].kill()
        summary = end(process)
    assert (summary["exit"], summary["done"]) == (0, 25)
    assert sum(job.executions().values()) <= 25 + IN_FLIGHT
    assert bytes_under(job.store_url) == undisturbed


def test_a_tile_that_kills_its_worker_is_quarantined_and_no_other(tmp_path: Path) -> None:
    job = FakeJob(str(tmp_path), side=4)
    summary = run(job={"folder": job.folder, "side": 4, "sleep_s": 0.02, "poison": ["r1_c1"]})
    assert (summary["exit"], summary["done"], summary["quarantined"]) == (3, 15, 1)
    assert [(g.tile, g.kind) for g in read_gaps(job.run_dir)] == [("r1_c1", "quarantined")]
    assert job.executions()["r1_c1"] <= 2 + 3
    for tile in job.tiles():
        wanted = job.expected(tile)["label"] if tile != TileKey(1, 1) else 0
        assert np.array_equal(
            read_region(job.store_url, job.box(tile))["label"], np.broadcast_to(wanted, (32, 32))
        )


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_tile_is_repaired(tmp_path: Path, point: str) -> None:
    """Also when, after the kill, half of its shard is gone: without a record nobody trusts it."""
    job = FakeJob(str(tmp_path))
    command = [sys.executable, "-m", "tests.faults.kill_point", job.folder]
    assert subprocess.run([*command, point], cwd=ROOT).returncode == -signal.SIGKILL
    recorded = Ledger(job.run_dir, job.name).done(TILE, job.key(TILE))
    assert (recorded is not None) == (point == "after-record")
    for shard in Path(job.store_url).rglob("c/*/*"):
        if recorded is None:
            shard.write_bytes(shard.read_bytes()[:-20])
    subprocess.run([*command, "nowhere"], cwd=ROOT, check=True)
    got, wanted = read_region(job.store_url, job.box(TILE)), job.expected(TILE)
    assert all(np.array_equal(got[n], wanted[n]) for n in wanted)
    assert job.executions()[str(TILE)] == (1 if recorded else 2)
    assert [p.name for p in tmp_path.glob(".map.zarr.staging/*")] == ["gate-2"]


def test_two_runs_into_one_folder(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path), side=5, sleep_s=0.2)
    with running(job={"folder": job.folder, "side": 5, "sleep_s": 0.2}, options={"beat_s": 0.2}) as first:
        wait_for(lambda: bool(job.executions()), "a first tile")
        begun = time.monotonic()
        with pytest.raises(ConflictError, match=f"process {first.pid} on "):
            run_tiles(job, client, job.run_dir, RunOptions(beat_s=0.5))
        assert time.monotonic() - begun < 5
        assert end(first)["done"] == 25
    assert set(job.executions().values()) == {1}


def test_of_two_runs_started_at_once_one_runs(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Both ask for the folder before either has a worker."""
    job = FakeJob(str(tmp_path), side=5, sleep_s=0.1)
    settings = {"job": {"folder": job.folder, "side": 5, "sleep_s": 0.1}, "options": {"beat_s": 0.1}}
    with running(**settings) as one, running(**settings) as other:
        ends = sorted((end(p) for p in (one, other)), key=lambda told: told["exit"])
    won, refused = ends
    assert (won["exit"], won["done"]) == (0, 25)
    assert (refused["exit"], refused["error"]) == (2, "ConflictError")
    assert "another run is writing into this folder" in refused["text"]
    assert "wait until it ends or stop it" in refused["text"]
    assert set(job.executions().values()) == {1}
    assert bytes_under(job.store_url) == undisturbed


def test_a_paused_run_that_wakes_after_a_take_over_is_fenced(tmp_path: Path, client: Client) -> None:
    """Client and workers sleep in the middle of tiles while another run makes a newer map."""
    old, new = FakeJob(str(tmp_path), sleep_s=0.3), FakeJob(str(tmp_path), version=2)
    quick = {"patience_s": 1.5, "beat_s": 0.1}
    with running(job={"folder": old.folder, "sleep_s": 0.3}, options=quick) as process:
        wait_for(lambda: len(_recorded(old)) >= 3, "three tiles")
        asleep = family(process.pid)
        for member in asleep:
            member.send_signal(signal.SIGSTOP)
        summary = run_tiles(new, client, new.run_dir, RunOptions(**quick))
        assert (summary.exit_code, summary.done, summary.epoch) == (0, 16, 2)
        newer = bytes_under(new.store_url)
        for member in asleep:
            member.send_signal(signal.SIGCONT)
        woken = end(process)
    assert (woken["exit"], woken["error"]) == (2, "ConflictError")
    assert "took this" in woken["text"]
    assert bytes_under(new.store_url) == newer
    assert run_tiles(new, client, new.run_dir).reused == 16
    for tile in new.tiles():
        assert np.array_equal(read_region(new.store_url, new.box(tile))["label"], new.expected(tile)["label"])


def test_ctrl_c_at_the_terminal_drains_and_twice_stops(tmp_path: Path, client: Client) -> None:
    job = FakeJob(str(tmp_path), side=5)
    settings = {"folder": job.folder, "side": 5, "sleep_s": 0.3}
    with running(job=settings) as process:
        wait_for(lambda: len(_recorded(job)) >= 2, "two tiles")
        os.killpg(process.pid, signal.SIGINT)
        summary = end(process)
    assert (summary["exit"], summary["interrupted"]) == (5, True)
    assert 2 <= summary["done"] < 15
    assert set(job.executions().values()) == {1}
    assert len(job.executions()) == summary["done"], "what was begun was finished"
    with running(job=settings | {"sleep_s": 20}) as process:
        wait_for(lambda: len(job.executions()) > summary["done"], "another tile")
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=15)
        assert time.monotonic() - begun < 15
        assert process.returncode != 0
    assert run_tiles(replace(job, sleep_s=0), client, job.run_dir).exit_code == 0
