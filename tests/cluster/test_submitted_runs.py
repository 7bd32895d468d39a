"""Whole submitted runs, their drivers real processes and real Slurm jobs: the bytes of the map made at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from engine.values.errors import ConflictError
from pipelines.cli import app
from pipelines.drivers import Drivers
from pipelines.run_status import Watch, cancel, status_of
from pipelines.submission import Asked
from pipelines.submit_run import Submitted, resume, submit
from tests.cluster.sample import ROOT, TILES, SampleRun, hears_hangups
from tests.services.slurm import Slurm

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture(autouse=True)
def from_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


def tiles(run: Path) -> int:
    return len(list(run.glob("ledger/map/*/*.json")))


def until(condition: Callable[[], bool], run: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told(run)
        time.sleep(0.05)


def told(run: Path) -> str:
    parts = [json.dumps(status_of(str(run)), indent=1)]
    parts += [f"{p.name}:\n{p.read_text()}" for p in sorted((run / "drivers").iterdir())]
    return "\n".join(parts)


def ended(run: Path, number: int) -> dict[str, Any]:
    """Wait until a driver has ended, and its process or job too; return what it said."""
    drivers = Drivers(str(run))
    until(lambda: drivers.ended(number) is not None, run)
    found = drivers.ended(number)
    assert found is not None
    return found


def asked(sample: SampleRun, run: Path, cluster: dict[str, Any] | None = None) -> Asked:
    more = () if cluster is None else (f"cluster={json.dumps(cluster)}",)
    return Asked(str(sample.yaml), (f"out={json.dumps(str(run))}", *more))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder whose runs are killed at the end, whatever happened."""
    yield tmp_path
    for record in tmp_path.rglob("drivers/begun-*"):
        holder = json.loads(record.read_text())
        if (
            psutil.pid_exists(holder["pid"])
            and psutil.Process(holder["pid"]).create_time() > time.time() - 3600
        ):
            os.killpg(os.getpgid(holder["pid"]), signal.SIGKILL)


@pytest.mark.long
def test_a_detached_run_outlives_its_shell_drains_on_cancel_and_goes_on(
    sample_run: SampleRun, home: Path
) -> None:
    run = home / "run"
    command = f"{sys.executable} -P -m pipelines submit {sample_run.yaml} -o out={run} --workers 1; sleep 600"
    shell = subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hears_hangups,
    )
    assert shell.stdout is not None
    try:
        assert shell.stdout.readline().startswith("submitted  process ")
        until(lambda: (run / "drivers" / "begun-000001").exists(), run)
    finally:
        os.killpg(shell.pid, signal.SIGHUP)  # the terminal is closed
        shell.wait(30)
        shell.stdout.close()
    driver = psutil.Process(json.loads((run / "drivers" / "begun-000001").read_text())["pid"])
    driver.send_signal(signal.SIGHUP)  # and even one that is meant for it
    until(lambda: (run / "plan.json").exists(), run)
    alive = status_of(str(run), Watch(str(run)))
    assert (alive["alive"], alive["driver"]["state"], alive["area"]) == ("watching", "running", "territory")
    with pytest.raises(ConflictError, match=f"submitted already.*process {driver.pid} on"):
        resume(str(run))
    assert f"process {driver.pid} on" in cancel(str(run))
    assert ended(run, 1)["exit_code"] == 5
    until(lambda: not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE, run)
    stopped = status_of(str(run))
    assert (stopped["driver"]["state"], stopped["driver"]["live"]) == ("ended", False)
    assert f"`landweave resume {run}` goes on" in stopped["advice"]
    assert tiles(run) < TILES
    assert Drivers(str(run)).last().number == 1, "never goes on after cancel"
    goes_on = resume(str(run))
    assert goes_on.judged.driver.number == 2
    assert ended(run, 2)["exit_code"] == 0
    sample_run.assert_same(run)
    shown = CliRunner().invoke(app, ["logs", str(run), "--driver"], catch_exceptions=False).stdout
    assert shown.index("=== driver 1: process") < shown.index("=== driver 2: process")
    assert shown.index("=== driver 2: process") < shown.index(f"{TILES - ended(run, 1)['made']} made")


def slurm_spec(home: Path, **driver: Any) -> dict[str, Any]:
    return {
        "kind": "slurm",
        "n_workers": 1,
        "memory_limit": "1GiB",
        "interface": "lo",
        "log_directory": str(home / "logs"),
        "driver": {"memory": "1GiB", "drain": "30s", **driver},
    }


def test_slurm_jobs_go_on_by_themselves_until_they_are_cancelled(
    slurm: Slurm, sample_run: SampleRun, home: Path
) -> None:
    run = home / "run"
    first = submit(asked(sample_run, run, slurm_spec(home)))
    assert first.place == "slurm"
    until(lambda: tiles(run) >= 2, run)
    assert status_of(str(run))["driver"]["said"].startswith("on ")
    slurm.run("scancel", "--signal=USR1", "--batch", str(_job(first)))  # what --signal=B:USR1@30 sends
    said = ended(run, 1)
    assert (said["exit_code"], said["next"]) == (5, 2)
    assert said["made"] >= 2
    second = Drivers(str(run)).last()
    assert second is not None
    assert (second.number, second.after, second.idle) == (2, 1, 0)
    until(lambda: (run / "drivers" / "begun-000002").exists(), run)
    cancel(str(run))
    said = ended(run, 2)
    assert (said["exit_code"], said["next"]) == (5, None)
    assert said["message"].endswith("cancelled")
    assert tiles(run) < TILES
    until(lambda: not slurm.jobs(), run)
    resume(str(run))
    assert ended(run, 3)["exit_code"] == 0
    assert Drivers(str(run)).last().number == 3
    sample_run.assert_same(run)
    until(lambda: not slurm.jobs(), run)


def test_a_slurm_job_that_waits_is_cancelled_in_its_queue(
    slurm: Slurm, sample_run: SampleRun, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home / "run"
    later = asked(sample_run, run, slurm_spec(home, directives=["--begin=now+1hour"]))
    job = _job(submit(later))
    waiting = status_of(str(run))
    assert (waiting["alive"], waiting["stages"]) == ("never", [])
    assert (waiting["driver"]["state"], waiting["driver"]["job"]) == ("pending", job)
    assert f"Slurm job {job} waits for its turn" in waiting["advice"]
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "/nowhere")
        far = status_of(str(run))["driver"]
        assert far["state"] == "pending"
        assert "as far as the folder knows (squeue is not on this machine" in far["said"]
    assert f"took Slurm job {job} out of the queue" in cancel(str(run))
    until(lambda: not slurm.jobs(), run)
    assert status_of(str(run))["driver"]["state"] == "cancelled"
    again = _job(resume(str(run)))
    assert again != job
    assert status_of(str(run))["driver"]["state"] == "pending"
    cancel(str(run))


def _job(submitted: Submitted) -> str:
    assert submitted.judged.driver.job is not None
    return submitted.judged.driver.job.id


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_walltime_shorter_than_the_run(slurm: Slurm, sample_run: SampleRun, home: Path) -> None:
    """Slurm itself says that the time ends; a worker that is suspended makes the run longer on any machine."""
    run = home / "run"
    submit(asked(sample_run, run, slurm_spec(home, walltime="2m", drain="20s")))
    until(lambda: tiles(run) >= 2, run)
    suspended = list(slurm.jobs("landweave-worker"))
    for job in suspended:
        slurm.run("scontrol", "suspend", job)
    until(lambda: "stopping" in (run / "drivers" / "000001.out").read_text(), run)
    for job in suspended:
        slurm.run("scontrol", "resume", job)
    number = 1
    while (said := ended(run, number))["next"] is not None:
        assert said["exit_code"] == 5
        number = said["next"]
    assert said["exit_code"] == 0, told(run)
    assert number > 1
    assert ended(run, 1)["made"] >= 2
    sample_run.assert_same(run)


@pytest.mark.long
def test_one_allocation_drives_a_run(slurm: Slurm, sample_run: SampleRun, home: Path) -> None:
    run = home / "run"
    submit(asked(sample_run, run, {**slurm_spec(home), "one_allocation": True, "walltime": "10m"}))
    assert ended(run, 1)["exit_code"] == 0
    sample_run.assert_same(run)
