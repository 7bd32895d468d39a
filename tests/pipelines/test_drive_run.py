from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipelines.drive_run as drive_run
from cluster.submit import Job, Look
from engine.runs.events import RunSummary
from engine.runs.signals import Interrupts
from engine.store.lease import Lease
from engine.values.errors import DataError, InputError
from pipelines.drivers import Drivers
from pipelines.map_area import MapResult
from pipelines.submission import SUBMISSION, Asked
from pipelines.submit_run import resume, submit
from tests.pipelines.submitted import Remembers, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Remembers:
    monkeypatch.setattr(drive_run, "_LOOK_S", 0.05)
    return Remembers().into(monkeypatch)


@pytest.fixture
def run(project: Path, place: Remembers, tmp_path: Path) -> str:
    """A run that was submitted and waits."""
    submit(Asked(str(project), ('cluster={"kind": "slurm"}', f"out={json.dumps(str(tmp_path / 'run'))}")))
    return str(tmp_path / "run")


def summary(done: int, left: int = 0, *, gaps: int = 0) -> RunSummary:
    return RunSummary(
        "map", done + left, done, 0, 0, 0, left, gaps, left > 0, False, "", 1.0, 1.0, 1, 1
    )  # fmt: skip


def maps(monkeypatch: pytest.MonkeyPatch, make: Callable[..., RunSummary]) -> list[dict[str, Any]]:
    """Replace the mapping; returns what each call was asked."""
    calls: list[dict[str, Any]] = []

    def map_area(config: Any, **how: Any) -> MapResult:
        calls.append({"config": config, **how})
        return MapResult(config.out, 1.0, (make(),))

    monkeypatch.setattr("pipelines.map_area.map_area", map_area)
    return calls


def drained(done: int, *signals: int) -> Callable[[], RunSummary]:
    """A run that is sent signals in the middle."""

    def make() -> RunSummary:
        with Interrupts() as interrupts:
            for number in signals:
                os.kill(os.getpid(), number)
            assert interrupts.asked
        return summary(done, left=4)

    return make


@pytest.mark.parametrize(("made", "code"), [(summary(4), 0), (summary(3, gaps=1), 3)])
def test_a_driver_says_how_it_ended(
    made: RunSummary, code: int, run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = maps(monkeypatch, lambda: made)
    assert drive_run.drive(run, 1) == code
    told = Drivers(run).ended(1)
    assert told is not None
    assert (told["exit_code"], told["made"], told["next"], told["message"]) == (code, made.done, None, "")
    assert calls[0]["config"].cluster.kind == "slurm"
    assert (calls[0]["refresh"], calls[0]["only"]) == (False, None)
    assert f"{made.done} made" in capsys.readouterr().out
    assert len(place.orders) == 1, "nobody goes on"


@pytest.mark.parametrize(
    "error", [DataError("the scene is truncated", where="r0_c1"), RuntimeError("surprise")]
)
def test_an_error_is_told_in_the_folder(
    error: Exception, run: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def breaks() -> RunSummary:
        raise error

    maps(monkeypatch, breaks)
    assert drive_run.drive(run, 1) == (4 if isinstance(error, DataError) else 1)
    told = Drivers(run).ended(1)
    assert told is not None
    assert str(error) in told["message"]
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signals", "goes_on"),
    [
        ((signal.SIGUSR1,), True),
        ((signal.SIGTERM,), False),
        ((signal.SIGUSR1, signal.SIGTERM), False),
        ((signal.SIGINT,), False),
    ],
)
def test_it_goes_on_when_its_time_is_over_and_not_when_somebody_ends_it(
    signals: tuple[int, ...], goes_on: bool, run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    maps(monkeypatch, drained(2, *signals))
    assert drive_run.drive(run, 1) == 5
    told = Drivers(run).ended(1)
    assert told is not None
    assert told["next"] == (2 if goes_on else None)
    assert len(place.orders) == (2 if goes_on else 1)


@pytest.mark.parametrize(("left_s", "walltime"), [(5, True), (600, False)])
def test_a_sigterm_at_the_end_of_the_time_is_the_walltimes(
    left_s: float, walltime: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + left_s)))
    assert drive_run.ended_by_walltime({signal.SIGTERM}) == walltime
    assert drive_run.ended_by_walltime({signal.SIGUSR1, signal.SIGTERM}) == walltime
    assert drive_run.ended_by_walltime({signal.SIGUSR1})
    assert not drive_run.ended_by_walltime(set())


def test_drivers_that_get_nothing_done_do_not_follow_each_other_for_ever(
    run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = iter([0, 1, 0, 0, 0, 0])
    maps(monkeypatch, lambda: drained(next(done), signal.SIGUSR1)())
    number, idle = 1, []
    while number is not None:
        drive_run.drive(run, number)
        told = Drivers(run).ended(number)
        assert told is not None
        idle.append(told["made"])
        number = told["next"]
    assert idle == [0, 1, 0, 0, 0], "one tile begins the count anew; three without end it"
    assert "driver.walltime" in told["message"]
    place.states["5"] = Look("gone", "FAILED")
    assert resume(run).judged.driver.idle == 0


def test_a_signal_outside_the_tiles_stops_at_once_and_the_next_one_goes_on(
    run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searches() -> RunSummary:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
        raise AssertionError

    maps(monkeypatch, searches)
    before = signal.getsignal(signal.SIGUSR1)
    assert drive_run.drive(run, 1) == 5
    assert Drivers(run).last().idle == 1  # type: ignore[union-attr]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_never_after_cancel(run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled_and_out_of_time() -> RunSummary:
        with Interrupts():
            Drivers(run).cancel(1)
            os.kill(os.getpid(), signal.SIGUSR1)
        return summary(2, left=2)

    maps(monkeypatch, cancelled_and_out_of_time)
    assert drive_run.drive(run, 1) == 5
    assert Drivers(run).ended(1)["message"].endswith("cancelled")  # type: ignore[index]
    assert len(place.orders) == 1


def test_never_after_a_cancel_that_comes_while_it_hands_over(
    run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = place.start

    def cancelled_now(*order: Any) -> Job:
        Drivers(run).cancel(1)
        return start(*order)

    monkeypatch.setattr("pipelines.submit_run.start", cancelled_now)
    maps(monkeypatch, drained(2, signal.SIGUSR1))
    assert drive_run.drive(run, 1) == 5
    assert Drivers(run).cancelled(2)
    assert place.states["2"].state == "gone"
    assert Drivers(run).ended(1)["next"] is None  # type: ignore[index]


@pytest.mark.parametrize("held", [False, True])
def test_cancel_reaches_a_driver_that_prepares_and_one_that_runs(
    held: bool, run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits() -> RunSummary:
        if not held:
            Drivers(run).cancel(1)
            time.sleep(60)
        with Lease(run), Interrupts() as interrupts:
            Drivers(run).cancel(1)
            end = time.monotonic() + 30
            while not interrupts.asked and time.monotonic() < end:
                time.sleep(0.01)
        return summary(1, left=3)

    maps(monkeypatch, waits)
    assert drive_run.drive(run, 1) == 5
    told = Drivers(run).ended(1)
    assert told is not None
    assert (told["made"], told["next"]) == (int(held), None)


def test_a_cancelled_or_outrun_driver_does_not_begin(
    run: str, place: Remembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = maps(monkeypatch, lambda: summary(4))
    Drivers(run).claim()
    assert drive_run.drive(run, 1) == 5
    Drivers(run).cancel(2)
    assert drive_run.drive(run, 2) == 5
    assert calls == []
    assert "driver 2 has taken over" in Drivers(run).ended(1)["message"]  # type: ignore[index]


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not seen from here"):
        drive_run.drive(str(tmp_path / "run"), 1)
    assert not (tmp_path / "run").exists()


def test_a_refresh_is_done_once(
    project: Path, place: Remembers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    submit(Asked(str(project), ('cluster={"kind": "slurm"}', f"out={json.dumps(run)}"), refresh=True))
    calls = maps(monkeypatch, drained(1, signal.SIGUSR1))
    drive_run.drive(run, 1)
    drive_run.drive(run, 2)
    assert [c["refresh"] for c in calls] == [True, False]
    assert json.loads((tmp_path / "run" / SUBMISSION).read_text())["refresh"] is False


def test_trust_comes_with_the_command_alone(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = maps(monkeypatch, lambda: summary(4))
    drive_run.drive(run, 1)
    drive_run.drive(run, 1, trust_model=True)
    assert [c["config"].trust_model for c in calls] == [False, True]


def test_the_output_is_shown_in_a_bucket(
    project: Path, place: Remembers, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"{s3_folder}/run"
    submit(Asked(str(project), ('cluster={"kind": "slurm"}', f"out={run}")))
    drivers, output = Drivers(run), tmp_path / "driver.out"
    driver = drivers.last()
    assert driver is not None
    assert driver.job is not None
    drivers.record(replace(driver, job=replace(driver.job, output=str(output))))

    def prints() -> RunSummary:
        output.write_text("first\n")
        end = time.monotonic() + 30
        while drivers.folder.read("000001.out") != b"first\n" and time.monotonic() < end:
            time.sleep(0.05)
        output.write_text("first\nlast\n")
        return summary(4)

    maps(monkeypatch, prints)
    assert drive_run.drive(run, 1) == 0
    assert drivers.folder.read("000001.out") == b"first\nlast\n"
