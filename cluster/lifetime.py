"""Workers that leave in good order before their time is over.

Dask's own lifetime takes a worker away from the tiles that it has in hand: the scheduler hands them to another
worker, which begins anew. Here a worker knows how long its tiles take, takes no more when another one would
not fit, finishes those in hand and goes::

    begun                                        no more tiles         end
      │  tile   │  tile   │  tile   │  tile   │  (tile does not fit)  │
      └─────────┴─────────┴─────────┴─────────┴─ leaves ──────────────┘

What is not finished at the end is handed over all the same, and told (`engine.runs.news`), so that a tile that
no worker lives long enough for is not tried for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from typing import Any

from distributed import WorkerPlugin
from distributed.core import Status

from engine.runs.news import TOPIC, News

JITTER = 0.1
"""Workers that came together leave at times that differ by up to this share of their lifetime."""

_LOOK_S = 0.5
_MARGIN, _MARGIN_S = 0.05, 15.0  # kept for leaving: a share of the lifetime, and at most so many seconds
_LONGER = 1.25  # the next tile may take longer than the longest so far
_EMPTY_S = 3.0  # how long the client is given to take note of the last tile
_RETIRE_S = 10.0


class Retirement(WorkerPlugin):
    """Lets a worker leave in good order before its time is over.

    Args:
        lifetime_s: Seconds from the start of the worker's job, which is that of its nanny; where its nanny starts
            it again, from when it joined.
        again: Whether its nanny starts it again (a machine that stays), or ends too (a job that ends).
        jitter: See `JITTER`.
    """

    name = "landweave-retirement"

    def __init__(self, lifetime_s: float, *, again: bool, jitter: float = JITTER) -> None:
        self.lifetime_s, self.again, self.jitter = lifetime_s, again, jitter
        self.longest_s, self.made = 0.0, 0
        self._begun: dict[Any, float] = {}
        self._leaving = False
        self._watch: asyncio.Task[None] | None = None

    async def setup(self, worker: Any) -> None:
        """Find out when the time is over, and watch the clock."""
        early = random.random() * self.jitter
        self.end = _born(worker, self.again) + self.lifetime_s * (1 - early)
        self._watch = asyncio.create_task(self._leave_in_time(worker))

    async def teardown(self, worker: Any) -> None:
        """Stop watching, unless the worker is closing because of it."""
        if self._watch is not None and not self._leaving:
            self._watch.cancel()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Learn how long tiles take here."""
        if finish == "executing":
            self._begun[key] = time.monotonic()
        elif start == "executing" and (begun := self._begun.pop(key, None)) is not None:
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.made += finish == "memory"

    @property
    def last_call(self) -> float:
        """Return when the worker takes its last tile, in seconds of the clock."""
        return self._must_go - _LONGER * self.longest_s

    @property
    def _must_go(self) -> float:
        return self.end - min(_MARGIN_S, _MARGIN * self.lifetime_s)

    async def _leave_in_time(self, worker: Any) -> None:
        while time.time() < self.last_call:
            await asyncio.sleep(_LOOK_S)
        self._leaving = True
        await self._leave(worker)

    async def _leave(self, worker: Any) -> None:
        worker.status = Status.closing_gracefully  # takes no more tiles; what it executes goes on
        while worker.state.executing and time.time() < self._must_go:
            await asyncio.sleep(0.05)
        left = [str(task.key) for task in worker.state.executing]
        told = f"left at the end of its time, {self.made} tiles made, the longest in {self.longest_s:.1f} s"
        told += f"; not finished, and handed over: {len(left)}" if left else ""
        worker.log_event(TOPIC, News("worker-left", worker.address, told, tuple(left)).told())
        soon = time.monotonic() + _EMPTY_S
        while worker.data and not left and time.monotonic() < soon:  # results that nobody has fetched yet
            await asyncio.sleep(0.05)
        with contextlib.suppress(OSError, TimeoutError):
            retire = worker.scheduler.retire_workers(
                workers=[worker.address], close_workers=False, remove=True
            )
            await asyncio.wait_for(retire, _RETIRE_S)
        await worker.close(nanny=not self.again, executor_wait=not left, reason="landweave-lifetime")


def _born(worker: Any, again: bool) -> float:
    """Return when the worker's time began, in seconds of the clock: with its job, or, where it stays, now."""
    import psutil

    if again:
        return time.time()
    return float(psutil.Process(os.getpid() if worker.nanny is None else os.getppid()).create_time())
