"""Status, logs and cancel of a run in a process of its own: alive, killed, gone on, ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.store.lease import Lease
from engine.values.errors import InputError
from pipelines.cli import app
from pipelines.run_status import cancel, status_of
from tests.pipelines.small_run import StageJob

ROOT = Path(__file__).parents[2]


def cli(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@contextmanager
def begun(folder: Path, tiles: int = 3, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, some tiles on record."""
    told = json.dumps({"folder": str(folder), "side": 8, "sleep_s": 0.1, **settings})
    command = [sys.executable, "-W", "ignore", "-m", "tests.pipelines.small_run", told]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        until(lambda: len(list((folder / "run").glob("ledger/map/*/*.json"))) >= tiles, process)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)


@pytest.mark.slow
def test_alive_killed_and_gone_on(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with begun(tmp_path) as process:
        alive = status_of(run)
        assert alive["alive"] == "alive"
        assert alive["stages"][0]["state"] == "running"
        until(lambda: status_of(run)["stages"][0]["counts"]["done"] >= 3, process)
        shown = cli("status", run)
        assert f"process {process.pid} on" in shown
        assert "http://127.0.0.1" in shown
        assert "time left" in shown
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    dead = status_of(run)
    assert (dead["alive"], dead["stages"][0]["state"]) == ("killed", "killed")
    assert dead["advice"].startswith(f"killed: process {process.pid} on ")
    assert "last written 20" in dead["advice"]
    assert "The same `landweave map` command goes on" in dead["advice"]
    assert 0 < dead["stages"][0]["counts"]["left"] < 64
    assert "command goes on" in cli("status", run)
    assert "dashboard" not in cli("status", run)
    with pytest.raises(InputError, match=r"no run is alive .* was killed"):
        cancel(run)
    with begun(tmp_path, tiles=64, sleep_s=0.0) as process:
        assert process.wait(timeout=60) == 0
    ended = status_of(run)
    assert (ended["alive"], ended["stages"][0]["state"], ended["advice"]) == ("ended", "done", "ended")
    counts = ended["stages"][0]["counts"]
    assert counts["done"] + counts["reused"] == 64
    assert counts["reused"] >= 3
    told = [json.loads(line) for line in cli("logs", run, "--json").splitlines()]
    assert [x["epoch"] for x in told if x["event"] == "begun"] == [1, 2]
    assert len({x["tile"] for x in told if x["event"] == "done"} | {"r-1_c0"}) > 50


@pytest.mark.slow
def test_cancel_drains_a_run_and_never_the_next(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with begun(tmp_path) as process:
        told = cli("cancel", run)
        assert f"asked process {process.pid} on" in told
        assert process.wait(timeout=60) == 5
        out, errors = process.communicate()
    left = int(json.loads(out)["tiles"].split(" left")[0].rsplit(" ", 1)[1])
    assert left > 0
    assert "stopping: tiles in flight end" in errors
    stopped = status_of(run)
    assert (stopped["alive"], stopped["stages"][0]["state"]) == ("ended", "stopped")
    assert "command goes on" in stopped["advice"]
    assert stopped["stages"][0]["counts"]["left"] == left
    assert "draining" in cli("logs", run)
    with pytest.raises(InputError, match="a run that has ended") as error:
        cancel(run)
    assert error.value.exit_code == 2
    with begun(tmp_path, tiles=64, sleep_s=0.0) as process:
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run with an error, a second try and a worker that died."""
    folder = tmp_path_factory.mktemp("ended")
    with begun(folder, tiles=15, side=4, sleep_s=0.0, bad=["r0_c1"], flaky=["r1_c2"]) as process:
        assert process.wait(timeout=60) == 3
        _, errors = process.communicate()
    assert "Compute Failed" not in errors
    assert "Traceback" not in errors
    return str(folder / "run")


def test_the_errors_of_a_run_are_told_once_each(ended: str) -> None:
    stage = status_of(ended)["stages"][0]
    assert {kind: e["count"] for kind, e in stage["errors"].items()} == {"DataError": 1, "RetryableError": 1}
    assert stage["errors"]["DataError"]["example"]["tile"] == "r0_c1"
    assert stage["errors"]["DataError"]["example"]["worker"].startswith("tcp://")
    assert (stage["state"], stage["second_attempts"], stage["gaps"]) == ("partial", 1, 1)
    shown = cli("status", ended)
    assert "1 x DataError, such as r0_c1: the scene is truncated" in shown
    assert "gaps.json names what is missing" in shown


def test_logs_are_filtered(ended: str) -> None:
    errors = cli("logs", ended, "--errors").splitlines()
    assert len(errors) == 3
    assert "DataError: the scene is truncated" in errors[0]
    tile = cli("logs", ended, "--tile", "r1_c2").splitlines()
    assert [x.split("  ")[2] for x in tile] == ["error", "done"]
    assert tile[1].endswith("try 2")
    everything = cli("logs", ended).splitlines()
    assert "begun  16 tiles" in everything[0]
    assert "ended  15 done, 1 failed" in everything[-1]
    assert cli("logs", ended, "--follow").splitlines() == everything


def test_status_is_json_for_programs_and_needs_only_the_folder(ended: str, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path / "moved")
    told = json.loads(cli("status", str(tmp_path / "moved"), "--json"))
    assert told["stages"][0]["counts"]["done"] == 15
    watched = cli("status", str(tmp_path / "moved"), "--watch", "--json").splitlines()
    assert [json.loads(x)["alive"] for x in watched] == ["ended"]


def test_status_works_over_any_file_system(ended: str, tmp_path: Path) -> None:
    import fsspec

    url = f"memory://{tmp_path}/run"
    fs, path = fsspec.core.url_to_fs(url)
    fs.put(f"{ended}/", path, recursive=True)
    told = status_of(url)
    assert (told["alive"], told["stages"][0]["counts"]["done"]) == ("ended", 15)
    assert cli("logs", url).count("\n") == cli("logs", ended).count("\n")


def test_a_folder_without_a_journal_is_counted_by_names(ended: str, tmp_path: Path) -> None:
    run = tmp_path / "older"
    shutil.copytree(ended, run)
    shutil.rmtree(run / "status")
    for record in (run / "ledger").rglob("*.json"):
        record.write_bytes(b"not read")
    stage = status_of(str(run))["stages"][0]
    assert (stage["state"], stage["counts"]) == ("counted", {"total": 16, "done": 15, "left": 1})
    assert "no journal: counted by the names" in cli("status", str(run))
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**plan, "tiles": [f"r0_c{n}" for n in range(20)]}))
    assert status_of(str(run))["stages"][0]["counts"]["total"] == 20


def test_a_stage_that_was_killed_before_a_later_run_is_told_so(ended: str, tmp_path: Path) -> None:
    run = tmp_path / "two"
    shutil.copytree(ended, run)
    status = json.loads((run / "status" / "map.json").read_text())
    (run / "status" / "map.json").write_text(json.dumps({**status, "state": "running"}))
    assert status_of(str(run))["stages"][0]["state"] == "broke off"
    with Lease(str(run), beat_s=0.1):
        told = status_of(str(run))
    assert (told["alive"], told["stages"][0]["state"]) == ("alive", "killed")


def test_several_stages_have_a_block_each(ended: str, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path / "run")
    StageJob(str(tmp_path), side=4, name="cube").prepare()
    told = status_of(str(tmp_path / "run"))
    assert [(s["stage"], s["state"]) for s in told["stages"]] == [("cube", "not begun"), ("map", "partial")]
    shown = cli("status", str(tmp_path / "run"))
    assert "cube  not begun" in shown
    assert "map  partial" in shown


def test_what_is_no_run_folder_is_said_so(tmp_path: Path) -> None:
    for command in ("status", "logs", "cancel", "verify"):
        result = CliRunner().invoke(app, [command, str(tmp_path)])
        assert isinstance(result.exception, InputError)
        words = "no run is alive" if command == "cancel" else "not a run folder"
        assert words in str(result.exception)
