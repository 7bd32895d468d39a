from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cluster.submit import Job, Look
from engine.runs.pulse import State as Pulse
from engine.store.lease import Holder
from engine.values.errors import ConflictError
from pipelines.drivers import Driver, Drivers
from tests.pipelines.submitted import as_record, dead, far

JOB = Job("slurm", "4711", "landweave-lux-1", socket.gethostname(), "out")


def test_numbers_are_claimed_once(folder_url: str) -> None:
    drivers = Drivers(folder_url)
    assert drivers.last() is None

    def claim(_: int) -> int:
        try:
            return drivers.claim().number
        except ConflictError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        won = list(filter(None, pool.map(claim, range(4))))
    assert sorted(won) == list(range(1, len(won) + 1)), "each number once"
    last = drivers.last()
    assert last is not None
    assert (last.number, last.job, last.submitter.pid) == (len(won), None, Holder.me().pid)


def test_what_is_written_is_read(folder_url: str) -> None:
    drivers = Drivers(folder_url)
    first = replace(drivers.claim(), job=JOB)
    drivers.record(first)
    second = drivers.claim(after=1, idle=2)
    assert drivers.numbered(1) == first
    assert drivers.last() == second
    assert drivers.numbered(3) is None
    assert drivers.ended(1) is None
    drivers.end(1, 5, "see https://a/b?sig=abc", made=3, next=2)
    told = drivers.ended(1)
    assert told is not None
    assert (told["exit_code"], told["made"], told["next"], told["message"]) == (
        5,
        3,
        2,
        "see https://a/b?***",
    )
    assert not drivers.cancelled(2)
    drivers.cancel(2)
    drivers.cancel(2)
    assert (drivers.cancelled(1), drivers.cancelled(2)) == (False, True)
    drivers.begin(1)
    assert drivers.ended(1) is None, "Slurm has put it into the queue again"


def _at(url: str, *, begun: Holder | None = None, cancelled: bool = False) -> tuple[Drivers, Driver]:
    drivers = Drivers(url)
    driver = replace(drivers.claim(), job=JOB)
    drivers.record(driver)
    if begun is not None:
        drivers.folder.replace("begun-000001", as_record(begun))
    if cancelled:
        drivers.cancel(1)
    return drivers, driver


@pytest.mark.parametrize(
    ("place", "begun", "cancelled", "state", "said"),
    [
        (Look("pending", "Priority"), None, False, "pending", "Priority"),
        (Look("running", "on node7"), far(), False, "running", "on node7"),
        (Look("gone", "NODE_FAIL"), far(), False, "killed", "NODE_FAIL"),
        (Look("gone", "FAILED"), None, False, "killed", "sees this folder"),
        (Look("gone", "CANCELLED"), None, True, "cancelled", "CANCELLED"),
        (Look("pending", "BeginTime"), far(), False, "pending", "BeginTime"),
    ],
)
def test_the_place_is_believed(
    place: Look, begun: Holder | None, cancelled: bool, state: str, said: str, tmp_path: object
) -> None:
    drivers, driver = _at(f"{tmp_path}/run", begun=begun, cancelled=cancelled)
    judged = drivers.judge(driver, "never", place)
    assert judged.state == state
    assert said in judged.said
    assert judged.live == (state in ("pending", "running"))


@pytest.mark.parametrize(
    ("begun", "pulse", "cancelled", "state"),
    [
        (None, "never", False, "pending"),
        (None, "ended", True, "cancelled"),
        (far(), "alive", False, "running"),
        (far(), "alive", True, "running"),
        (far(), "silent", False, "lost"),
        (dead(), "killed", False, "killed"),
    ],
)
def test_without_the_places_word_the_folder_is_read_and_it_is_said_so(
    begun: Holder | None, pulse: Pulse, cancelled: bool, state: str, tmp_path: object
) -> None:
    drivers, driver = _at(f"{tmp_path}/run", begun=begun, cancelled=cancelled)
    judged = drivers.judge(driver, pulse, Look("unknown", "squeue is not on this machine"))
    assert judged.state == state
    if state != "killed":
        assert "squeue is not on this machine" in judged.said


def test_its_own_last_word_counts_most(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers, driver = _at(f"{tmp_path}/run", begun=far())
    drivers.end(1, 3, "two gaps", made=7, next=None)
    judged = drivers.judge(driver, "ended", Look("running", "COMPLETING on node7"))
    assert (judged.state, judged.exit_code, judged.said, judged.live) == ("ended", 3, "two gaps", False)
    drivers.end(1, 5, "stopped by a signal", made=7, next=None)
    monkeypatch.setattr("pipelines.drivers.look", lambda job: Look("pending", "requeued"))
    assert drivers.judge(driver, "ended").state == "pending", "its node is drained, and it comes again"
    drivers.cancel(1)
    assert drivers.judge(driver, "ended").state == "ended"


def test_one_that_was_never_handed_over(tmp_path: object) -> None:
    drivers = Drivers(f"{tmp_path}/run")
    driver = drivers.claim()
    judged = drivers.judge(driver, "never")
    assert (judged.state, judged.as_dict()["called"]) == ("submitting", "never handed over")
    abandoned = replace(driver, submitter=dead())
    assert drivers.judge(abandoned, "never").state == "killed"


def test_what_is_told_is_json(tmp_path: object) -> None:
    drivers, driver = _at(f"{tmp_path}/run")
    told = json.loads(json.dumps(drivers.judge(driver, "never", Look("pending", "Priority")).as_dict()))
    assert (told["number"], told["place"], told["job"]) == (1, "slurm", "4711")
    assert told["called"] == "Slurm job 4711"
