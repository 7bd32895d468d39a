from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.submit import Look
from engine.store.lease import Lease
from engine.values.errors import ConflictError, InputError, RetryableError
from pipelines.cli import app
from pipelines.drivers import Drivers
from pipelines.run_status import cancel, status_of
from pipelines.submission import SUBMISSION, Asked
from pipelines.submit_run import draft, go_on, resume, submit
from tests.pipelines.submitted import Remembers, make_project

SLURM = 'cluster={"kind": "slurm", "queue": "main"}'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remembers]:
    return Remembers().into(monkeypatch)


def asked(project: Path, run: Path, *overrides: str, **more: bool) -> Asked:
    return Asked(str(project), (SLURM, f"out={json.dumps(str(run))}", *overrides), **more)  # type: ignore[arg-type]


def test_what_is_started_is_named_and_finds_its_run(project: Path, place: Remembers, tmp_path: Path) -> None:
    run = tmp_path / "Lux 2023"
    told = submit(asked(project, run)).as_dict()
    kind, order = place.orders[0]
    assert kind == "slurm"
    assert order.argv[:5] == (sys.executable, "-u", "-P", "-m", "pipelines")
    assert order.argv[5:] == ("drive", str(run), "1")
    assert order.name.startswith("landweave-lux-2023-")
    assert order.output == str(run / "drivers" / "000001.out")
    assert told["submitted"].startswith("Slurm job 1, pending: Priority; goes on by itself")
    assert told["follow"] == [f"landweave status {run} --watch", f"landweave logs {run} --follow"]
    frozen = json.loads((run / SUBMISSION).read_text())
    assert yaml.safe_load((run / frozen["config"]).read_text())["cluster"]["queue"] == "main"


def test_a_second_submission_is_refused_while_one_waits_or_lives(
    project: Path, place: Remembers, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    submit(asked(project, run))
    for again in (lambda: submit(asked(project, run)), lambda: resume(str(run))):
        with pytest.raises(ConflictError, match=r"submitted already.*Slurm job 1, pending: Priority"):
            again()
    place.states["1"] = Look("running", "on node7")
    with pytest.raises(ConflictError, match="running: on node7"):
        resume(str(run))
    place.states["1"] = Look("gone", "NODE_FAIL")
    assert status_of(str(run))["driver"]["state"] == "killed"
    assert f"`landweave resume {run}` goes on" in status_of(str(run))["advice"]
    assert resume(str(run)).judged.driver.number == 2
    assert len(place.orders) == 2


def test_a_folder_that_a_plain_run_holds_is_refused(project: Path, place: Remembers, tmp_path: Path) -> None:
    with (
        Lease(str(tmp_path / "run"), beat_s=0.1),
        pytest.raises(ConflictError, match="another run is writing"),
    ):
        submit(asked(project, tmp_path / "run"))
    assert place.orders == []


def test_wrong_settings_are_told_before_anything_is_written(
    project: Path, place: Remembers, tmp_path: Path
) -> None:
    for override, words in (
        ("bundle=nowhere", "manifest"),
        ("tile_px=1", "tile_px"),
        ("cube.bands=[x]", "x"),
    ):
        with pytest.raises(InputError, match=words):
            submit(asked(project, tmp_path / "run", override))
    assert not (tmp_path / "run" / SUBMISSION).exists()


def test_a_place_that_refuses_leaves_no_claim(project: Path, place: Remembers, tmp_path: Path) -> None:
    run = tmp_path / "run"
    place.refuses = RetryableError("Slurm does not answer", where="sbatch")
    with pytest.raises(RetryableError):
        submit(asked(project, run))
    told = status_of(str(run))
    assert (told["driver"]["state"], told["driver"]["exit_code"]) == ("ended", 3)
    assert "not handed over: Slurm does not answer" in told["advice"]
    place.refuses = None
    assert resume(str(run)).judged.state == "pending"


def test_the_next_driver_waits_for_the_job_of_this_one(
    project: Path, place: Remembers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    first = submit(asked(project, tmp_path / "run", trust_model=True)).judged.driver
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    following = go_on(run, first, idle=2, trust_model=True)
    assert (following.number, following.after, following.idle) == (2, 1, 2)
    order = place.orders[1][1]
    assert (order.after, order.argv[-1]) == ("4711", "--trust-model")
    assert "trust" not in (tmp_path / "run" / SUBMISSION).read_text()


def test_cancelled_while_it_waits(project: Path, place: Remembers, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    submit(asked(project, tmp_path / "run"))
    assert cancel(run) == f"took Slurm job 1 out of the queue; landweave resume {run} goes on later"
    assert Drivers(run).cancelled(1)
    assert status_of(run)["driver"]["state"] == "cancelled"
    with pytest.raises(InputError, match="nothing to cancel"):
        cancel(run)


def test_cancel_reaches_the_one_that_was_handed_over_to(
    project: Path, place: Remembers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    first = submit(asked(project, tmp_path / "run")).judged.driver
    stop = place.stop

    def hands_over(job: object) -> str:
        if len(place.orders) == 1:
            go_on(run, first, idle=0)
        return stop(job)  # type: ignore[arg-type]

    monkeypatch.setattr("pipelines.run_status.stop", hands_over)
    cancel(run)
    drivers = Drivers(run)
    assert [drivers.cancelled(n) for n in (1, 2)] == [True, True]
    assert set(place.states) == {"1", "2"}


def test_here_is_a_process_whatever_the_cluster(project: Path, place: Remembers, tmp_path: Path) -> None:
    submit(asked(project, tmp_path / "run"), here=True)
    assert place.orders[0][0] == "process"
    text = draft(asked(project, tmp_path / "other"), here=True)
    assert text.startswith("setsid nohup ")
    assert not (tmp_path / "other").exists()


def test_a_draft_is_what_would_be_handed_over(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["submit", str(project), "-o", SLURM, "--out", str(run), "--dry-run"]
    text = CliRunner().invoke(app, options, catch_exceptions=False).stdout
    assert "#SBATCH --partition=main\n" in text
    assert text.endswith(f"-m pipelines drive {run} 1\n")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert not run.exists()


def test_pods_must_see_the_run_folder(project: Path, tmp_path: Path) -> None:
    spec = {"kind": "kubernetes", "image": "landweave:1"}
    with pytest.raises(InputError, match="pods do not see this run folder"):
        draft(asked(project, tmp_path, f"cluster={json.dumps(spec)}"))
    spec["volumes"] = [{"claim": "runs", "path": str(tmp_path)}]  # type: ignore[assignment]
    text = draft(asked(project, tmp_path / "run", f"cluster={json.dumps(spec)}"))
    manifest = yaml.safe_load(text)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert (manifest["kind"], container["args"]) == (
        "Job",
        ["landweave", "drive", str(tmp_path / "run"), "1"],
    )


def test_output_beside_a_bucket_lies_in_the_users_state_folder(
    project: Path, place: Remembers, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    submit(Asked(str(project), (SLURM, f"out={s3_folder}/run")))
    output = Path(place.orders[0][1].output)
    assert output.is_relative_to(tmp_path / "landweave")
    assert place.orders[0][1].argv[-2:] == (f"{s3_folder}/run", "1")
    told = CliRunner().invoke(app, ["logs", f"{s3_folder}/run", "--driver"], catch_exceptions=False).stdout
    assert f"its output is {output}" in told
    Drivers(f"{s3_folder}/run").folder.replace("000001.out", b"copied\nhalf a li")
    told = CliRunner().invoke(app, ["logs", f"{s3_folder}/run", "--driver"], catch_exceptions=False).stdout
    assert told.splitlines() == ["=== driver 1: Slurm job 1", "copied"]


def test_nothing_submitted_nothing_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was submitted"):
        resume(str(tmp_path))


def test_status_of_what_waits_needs_no_plan(project: Path, place: Remembers, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submit(asked(project, run))
    shown = CliRunner().invoke(app, ["status", str(run)], catch_exceptions=False).stdout
    assert "Slurm job 1 waits for its turn: Priority" in shown
    assert "1, Slurm job 1: pending: Priority" in shown
    place.states["1"] = Look("gone", "NODE_FAIL")
    watched = (
        CliRunner().invoke(app, ["status", str(run), "--watch", "--json"], catch_exceptions=False).stdout
    )
    assert [json.loads(x)["driver"]["state"] for x in watched.splitlines()] == ["killed"]
    assert CliRunner().invoke(app, ["logs", str(run), "--follow"], catch_exceptions=False).stdout == ""
