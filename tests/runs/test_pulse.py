"""Signs of life of a run, and a request to stop it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.runs.cancel import ask_cancel, cancel_asked
from engine.runs.pulse import Pulse
from engine.store.lease import Holder, Lease, standing
from engine.store.objects import Folder
from tests.runs.records import Clock


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run"


def hold(run_dir: str, holder: Holder, epoch: int = 1, counter: int = 0) -> None:
    """Hold a folder as a process on another machine would."""
    from dataclasses import asdict

    Folder(run_dir).child("lease").create(f"epoch-{epoch:06d}.json", json.dumps(asdict(holder)).encode())
    beat_to(run_dir, counter, epoch)


def beat_to(run_dir: str, counter: int, epoch: int = 1) -> None:
    Folder(run_dir).child("lease").replace(f"beat-{epoch:06d}", str(counter).encode())


def elsewhere() -> Holder:
    return replace(Holder.me(), machine="another", host="far")


def test_a_folder_that_nobody_held(run_dir: str) -> None:
    assert Pulse(run_dir).look() == "never"


def test_a_counter_that_moves_is_a_sign_of_life(run_dir: str) -> None:
    clock = Clock()
    hold(run_dir, elsewhere())
    pulse = Pulse(run_dir, clock=clock)
    assert pulse.look() == "watching"
    beat_to(run_dir, 1)
    assert pulse.look() == "alive"
    clock.now += 8
    assert pulse.look() == "alive"
    clock.now += 2
    assert pulse.look() == "silent"
    beat_to(run_dir, 2)
    assert pulse.look() == "alive"
    assert pulse.seen.who.startswith("process ")
    assert "far" in pulse.seen.who


def test_a_counter_that_never_moves_is_silent(run_dir: str) -> None:
    clock = Clock()
    hold(run_dir, elsewhere(), counter=7)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    assert Pulse(run_dir, clock=clock).wait(sleep) == "silent"
    assert clock.now - 1000 < 10


def test_a_process_of_this_machine_that_is_gone_was_killed(run_dir: str) -> None:
    hold(run_dir, replace(Holder.me(), pid=2**22 - 1, pid_started=1.0))
    assert Pulse(run_dir).look() == "killed"


def test_a_real_lease_beats_and_ends(run_dir: str) -> None:
    with Lease(run_dir, beat_s=0.05):
        assert Pulse(run_dir).wait() == "alive"
        assert standing(run_dir).epoch == 1
    assert Pulse(run_dir).look() == "ended"


def test_another_run_has_to_show_its_own_signs(run_dir: str) -> None:
    hold(run_dir, elsewhere())
    pulse = Pulse(run_dir)
    pulse.look()
    beat_to(run_dir, 1)
    assert pulse.look() == "alive"
    hold(run_dir, elsewhere(), epoch=2)
    assert pulse.look() == "watching"


def test_a_request_to_stop_speaks_to_one_epoch(run_dir: str) -> None:
    assert not cancel_asked(run_dir, 3)
    ask_cancel(run_dir, 3)
    ask_cancel(run_dir, 3)
    assert cancel_asked(run_dir, 3)
    assert not cancel_asked(run_dir, 4)
    with Lease(run_dir) as lease:
        assert lease.epoch == 1
