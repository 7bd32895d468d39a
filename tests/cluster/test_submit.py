"""Where a driver lives: what is handed over, and what is said of it later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from cluster.address import AddressSpec
from cluster.cuda import CudaSpec
from cluster.local import LocalSpec
from cluster.slurm import SlurmSpec
from cluster.slurm_driver import SlurmDriver
from cluster.submit import Job, Order, look, place_of, start, stop, written
from engine.store.lease import Holder
from engine.values.errors import InputError
from tests.cluster.sample import ROOT, hears_hangups
from tests.services.slurm import Slurm


def order(folder: Path, *argv: str, name: str = "landweave-lux-1") -> Order:
    return Order(name, argv or (sys.executable, "-c", "print('said')"), str(folder / "a%b" / "driver.out"))


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_kinds_without_jobs_are_driven_from_here() -> None:
    for spec in (LocalSpec(), AddressSpec(address="tcp://a:1"), CudaSpec()):
        assert place_of(spec) == "process"
    assert place_of(SlurmSpec()) == "slurm"


def test_a_process_is_told_as_a_shell_would_be(tmp_path: Path) -> None:
    text = written("process", LocalSpec(), order(tmp_path, "landweave", "drive", "/runs/my lux", "1"))
    assert text.startswith("setsid nohup landweave drive '/runs/my lux' 1 </dev/null >>")


_PARENT = """
import json, sys, time
from dataclasses import asdict
from cluster.local import LocalSpec
from cluster.submit import Order, start
order = Order("name", (sys.executable, "-u", "-c", "import time; print('begun'); time.sleep(600)"), sys.argv[1])
print(json.dumps(start("process", LocalSpec(), order).as_dict()), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_process_outlives_its_parent_and_all_of_the_parents_session(tmp_path: Path, number: int) -> None:
    output = tmp_path / "drivers" / "driver.out"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(output)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, preexec_fn=hears_hangups,
    )  # fmt: skip
    assert parent.stdout is not None
    job = Job.read(json.loads(parent.stdout.readline()))
    assert job is not None
    child = psutil.Process(int(job.id))
    try:
        os.killpg(parent.pid, number)
        parent.wait(30)
        assert os.getsid(child.pid) == child.pid, "a session of its own: no terminal hangs it up"
        assert child.terminal() is None
        assert look(job).state == "running"
        until(lambda: output.read_text() == "begun\n")
        assert stop(job) == "", "a process that runs is asked through its folder"
        assert child.is_running()
    finally:
        parent.stdout.close()
        child.kill()
    until(lambda: look(job).state == "gone")


def test_a_process_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    me = Holder.me()
    job = Job("process", str(me.pid), "name", me.host, "out", {"holder": asdict(me)})
    assert look(job).state == "running"
    assert look(replace(job, facts={"holder": {**asdict(me), "pid_started": 1.0}})).state == "gone"
    far = look(replace(job, facts={"holder": {**asdict(me), "machine": "elsewhere|boot|pid", "host": "n7"}}))
    assert (far.state, "n7" in far.said) == ("unknown", True)


def test_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = Order("name", (sys.executable,), str(tmp_path / "file" / "driver.out"))
    with pytest.raises(InputError, match="output cannot be written"):
        start("process", LocalSpec(), wrong)


def test_a_slurm_script_asks_for_what_the_driver_needs(tmp_path: Path) -> None:
    driver = SlurmDriver(walltime="26h", memory="1.5GiB", cores=2, drain="10m", directives=("--qos=long",))
    spec = SlurmSpec(
        queue="main", account="lw", walltime="30m", prologue=("module load python",), driver=driver,
        directives=("--gres=gpu:1",),
    )  # fmt: skip
    lines = written("slurm", spec, order(tmp_path, "landweave", "drive", "/runs/my lux", "1")).splitlines()
    options = {x.removeprefix("#SBATCH ") for x in lines if x.startswith("#SBATCH ")}
    assert options == {
        "--job-name=landweave-lux-1",
        f"--output={tmp_path}/a%%b/driver.out",
        "--open-mode=append",
        "--partition=main",
        "--account=lw",
        "--time=1-02:00:00",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=1536M",
        "--signal=B:USR1@600",
        "--requeue",
        "--qos=long",
    }, "what the workers' jobs ask for is theirs"
    assert lines[0] == "#!/bin/bash"
    assert lines[-2:] == ["module load python", "exec landweave drive '/runs/my lux' 1"]
    other = written("slurm", SlurmSpec(queue="main", driver=SlurmDriver(queue="long")), order(tmp_path))
    assert "--partition=long" in other
    assert "--time" not in other, "the queue's own limit"


def test_one_allocation_holds_driver_and_workers(tmp_path: Path) -> None:
    spec = SlurmSpec(one_allocation=True, n_workers=3, walltime="2h", driver=SlurmDriver(drain="4m"))
    text = written("slurm", spec, order(tmp_path, "landweave", "drive", "/runs/lux", "1"))
    assert "#SBATCH --ntasks=4" in text
    assert text.index("--signal=B:USR1@180") < text.index("--signal=B:USR1@240"), "the last one holds"
    assert text.index("--job-name=landweave\n") < text.index("--job-name=landweave-lux-1\n")
    assert text.endswith("exec landweave drive /runs/lux 1\n")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memory": "much"}, "no amount"),
        ({"drain": "soon"}, "no duration"),
        ({"walltime": "5m", "drain": "10m"}, "not shorter"),
        ({"hours": 3}, "Extra"),
    ],
)
def test_wrong_settings_of_the_driver_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SlurmDriver(**settings)


def test_without_slurm_it_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"sbatch is not on this machine.*login node"):
        start("slurm", SlurmSpec(), order(tmp_path))
    job = Job("slurm", "1", "name", "login1", "out")
    assert look(job).state == "unknown"
    assert "squeue is not on this machine" in look(job).said
    assert "scancel is not on this machine" in stop(job)


@pytest.mark.service
def test_a_slurm_job_waits_runs_and_ends(slurm: Slurm, tmp_path: Path) -> None:
    spec = SlurmSpec(driver=SlurmDriver(memory="100MiB", directives=("--begin=now+1hour",)))
    (tmp_path / "a%b").mkdir()
    waiting = start("slurm", spec, order(tmp_path))
    try:
        assert look(waiting).state == "pending"
        until(lambda: look(waiting).said == "BeginTime")
        assert look(replace(waiting, name="somebody-elses")).state == "gone", "a number of another cluster"
        after = replace(order(tmp_path, name="landweave-lux-2"), after=waiting.id)
        next_one = start("slurm", SlurmSpec(driver=SlurmDriver(memory="100MiB")), after)
        until(lambda: look(next_one).said == "Dependency")
        assert stop(waiting) == ""
        until(lambda: look(waiting).state == "gone")
        until(lambda: look(next_one).state == "gone")
        assert look(next_one).said == "COMPLETED"
        assert Path(next_one.output).read_text() == "said\n"
    finally:
        stop(waiting)


@pytest.mark.service
def test_slurms_refusal_is_told_in_its_words(slurm: Slurm, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"invalid partition specified: nowhere.*--here"):
        start("slurm", SlurmSpec(queue="nowhere"), order(tmp_path))
    gone = look(Job("slurm", "999999", "name", "login1", "out"))
    assert (gone.state, "does not know it" in gone.said) == ("gone", True)
