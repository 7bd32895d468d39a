from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.store.lease import Holder, Lease, check
from engine.values.errors import ConflictError

PATIENCE = {"patience_s": 0.6, "beat_s": 0.1}


@pytest.fixture
def run_dir(folder_url: str) -> str:
    return folder_url


def _forge(run_dir: Path, holder: Holder, epoch: int = 1) -> None:
    (run_dir / "lease").mkdir(exist_ok=True)
    (run_dir / "lease" / f"epoch-{epoch:06d}.json").write_text(json.dumps(asdict(holder)))


def test_one_run_after_another_needs_no_waiting(run_dir: str) -> None:
    begun = time.monotonic()
    for epoch in (1, 2, 3):
        with Lease(run_dir, patience_s=60, beat_s=5) as lease:
            assert lease.epoch == epoch
            lease.check()
    assert time.monotonic() - begun < 3


def test_a_second_run_is_refused_and_told_who_holds_it(run_dir: str) -> None:
    with Lease(run_dir, **PATIENCE) as first:
        with pytest.raises(ConflictError) as refused:
            Lease(run_dir, **PATIENCE).acquire()
        me = Holder.me()
        assert f"process {me.pid} on {me.host} since 20" in str(refused.value)
        first.check()


def test_a_holder_that_stands_still_is_followed_and_fenced(run_dir: str) -> None:
    asleep = Lease(run_dir, patience_s=60, beat_s=60).acquire()  # its first beat is a minute away
    begun = time.monotonic()
    with Lease(run_dir, **PATIENCE) as second:
        assert time.monotonic() - begun >= PATIENCE["patience_s"]
        assert second.epoch == asleep.epoch + 1
        with pytest.raises(ConflictError, match="took this folder over"):
            asleep.check()
        with pytest.raises(ConflictError):
            check(run_dir, asleep.epoch)
        second.check()
        asleep.release()  # going home late takes nothing from the new holder
        second.check()
        with pytest.raises(ConflictError):
            Lease(run_dir, **PATIENCE).acquire()


def test_a_dead_process_on_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    _forge(tmp_path, replace(Holder.me(), pid=child.pid))
    begun = time.monotonic()
    with Lease(str(tmp_path), patience_s=60) as lease:
        assert lease.epoch == 2
    assert time.monotonic() - begun < 3


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    assert not Holder.me().is_dead()
    assert replace(Holder.me(), pid_started=1.0).is_dead()


def test_a_process_elsewhere_is_never_taken_for_dead(tmp_path: Path) -> None:
    elsewhere = replace(Holder.me(), machine="another", pid=2**22 - 7, pid_started=1.0)
    assert not elsewhere.is_dead()
    _forge(tmp_path, elsewhere)
    begun = time.monotonic()
    with Lease(str(tmp_path), **PATIENCE):
        assert time.monotonic() - begun >= PATIENCE["patience_s"]


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from engine.store.lease import _started

    holder = replace(Holder.me(), pid=child.pid, pid_started=_started(child.pid))
    assert not holder.is_dead()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert holder.is_dead()
    child.communicate()


def test_of_many_newcomers_exactly_one_takes_over(tmp_path: Path) -> None:
    _forge(tmp_path, replace(Holder.me(), pid_started=1.0))
    leases, refused = [], []

    def take() -> None:
        try:
            leases.append(Lease(str(tmp_path), **PATIENCE).acquire())
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(leases), len(refused)) == (1, 5)
    assert leases[0].epoch == 2
    leases[0].release()


def test_a_damaged_holder_file_still_holds(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "epoch-000004.json").write_text("{")
    with Lease(str(tmp_path), **PATIENCE) as lease:
        assert lease.epoch == 5


def test_a_folder_that_was_deleted_fences_its_writer(tmp_path: Path) -> None:
    import shutil

    with Lease(str(tmp_path), patience_s=60, beat_s=60) as lease:
        shutil.rmtree(tmp_path / "lease")
        with pytest.raises(ConflictError):
            lease.check()


def test_a_holder_of_another_process_is_known_by_its_start() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = Holder.of(process.pid)
    assert (holder.pid, holder.is_here(), holder.is_dead()) == (process.pid, True, False)
    assert replace(holder, machine="elsewhere").is_here() is False
    process.communicate(b"\n")
    assert holder.is_dead()
    assert not Holder.me().is_dead()
