"""Ctrl-C once drains, twice stops; SIGTERM and SIGUSR1, as batch systems send them, do the same.

A batch system that ends a job says so first and kills later, so a drain may have a deadline: what is still
running then is left, and the run ends in good order, with its gap list written and its folder given back::

    SIGINT    Ctrl-C                               no deadline
    SIGUSR1   Slurm's --signal=B:USR1@120          the end of the job, where Slurm says when that is
    SIGTERM   Slurm, Kubernetes, before SIGKILL    25 s: both kill after 30 s
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

TERM_S = 25.0
"""How long a drain may take after SIGTERM; Slurm's KillWait and Kubernetes' grace period are 30 s."""

_CLOSE_S = 10.0  # to end the workers and write the gap list before the batch system kills
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """Catch SIGINT, SIGTERM and SIGUSR1 while entered; the second of a kind raises KeyboardInterrupt.

    A SIGTERM after another signal only brings the deadline. Outside the main thread (notebooks' servers,
    tests) signals cannot be caught and stay as they are.

    Args:
        term_s: How long a drain may take after SIGTERM.

    Attributes:
        asked: Whether a signal came.
        deadline: When the drain must be over, on the monotonic clock; None for whenever it is.
        seen: The signals that came, also while another one inside this one caught them.
    """

    def __init__(self, term_s: float = TERM_S) -> None:
        self.term_s = term_s
        self.asked = False
        self.deadline: float | None = None
        self.seen: set[int] = set()
        self._before: dict[int, Any] = {}

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        again = number in self.seen or (self.asked and number == signal.SIGINT)
        self._note(number)
        if again:
            raise KeyboardInterrupt
        ends = [job_end_s()] if number != signal.SIGTERM else [job_end_s(), time.monotonic() + self.term_s]
        self.deadline = min((e for e in (*ends, self.deadline) if e is not None), default=None)

    def _note(self, number: int) -> None:
        """Remember a signal, here and in the one around this one."""
        self.seen.add(number)
        self.asked = True
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, Interrupts):
            outer._note(number)


class Stops(Interrupts):
    """What a process does with these signals that nobody watches: each stops it at once, until it is told to wait.

    A run inside still drains (`Interrupts`); before and after it, nothing would be gained by going on.

    Attributes:
        waits: Only remember what comes: something short must be finished.
    """

    waits = False

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._note(number)
        if not self.waits:
            raise KeyboardInterrupt


def job_end_s() -> float | None:
    """Return when Slurm ends this job, less what closing takes, on the monotonic clock; None if unknown.

    Slurm 22.05 and later tell it in ``SLURM_JOB_END_TIME``, in seconds of the wall clock.
    """
    try:
        left_s = float(os.environ["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return None
    return time.monotonic() + left_s - _CLOSE_S
