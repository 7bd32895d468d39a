from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from engine.runs.signals import Interrupts, Stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_second_stops(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.asked
        os.kill(os.getpid(), number)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append((interrupts.asked, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_sigterm_has_a_deadline_and_ctrl_c_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    with Interrupts(term_s=100) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked
        assert interrupts.deadline is None
        os.kill(os.getpid(), signal.SIGTERM)  # the batch system speaks after the user: not a second one
        assert interrupts.deadline == pytest.approx(time.monotonic() + 100, abs=5)
        assert not interrupts.overdue
    with Interrupts(term_s=-1) as interrupts:
        assert not interrupts.overdue
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.overdue
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("told", "left"), [("120", 110), ("", None), ("never", None)])
def test_slurms_own_signal_drains_until_the_end_of_the_job(
    monkeypatch: pytest.MonkeyPatch, told: str, left: float | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + float(told)) if left else told)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupts.asked
        if left is None:
            assert interrupts.deadline is None
        else:
            assert interrupts.deadline == pytest.approx(time.monotonic() + left, abs=30)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_outside_a_run_a_signal_stops_at_once_and_inside_one_both_hear_it(number: int) -> None:
    with Stops() as stops:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert stops.seen == {number}
    with Stops() as stops:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
            assert interrupts.asked
        assert stops.seen == interrupts.seen == {number}
        stops.waits = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.seen == {number, signal.SIGTERM}
