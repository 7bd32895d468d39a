"""Threads that share their windows, so that none is idle while another has some left.

A block's windows are evaluated by the thread that has the block. Near the end of a graph there are fewer
blocks than threads; then, and while a thread reads or decides, another stands in for it::

    thread 1   read ■■■■■■■■■■■■■■■■■■■■■■■■ read ■■■■■■■■■■■■■■■■ (last block)
    thread 2        read ■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■ done
    helper     a window of the other's now and then ............ ■■■■■■■■

Never are more windows under way than there were callers at one time, so that memory and processors
are those the callers were given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_LINGER_S = 2.0


class _Work:
    """What one caller has to do: calls numbered from 0."""

    def __init__(self, count: int, one: Callable[[int], None]) -> None:
        self.count, self.one = count, one
        self.next, self.under_way = 0, 0
        self.error: BaseException | None = None

    @property
    def waits(self) -> bool:
        return self.next < self.count

    @property
    def done(self) -> bool:
        return not self.waits and not self.under_way


class Crew:
    """Callers and helpers of one process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._works: list[_Work] = []
        self._seats = self._taken = self._callers = self._queued = self._idle = 0

    def share(self, count: int, one: Callable[[int], None]) -> None:
        """Call ``one(0)`` to ``one(count - 1)``, each once, here and on threads that stand in for others.

        Args:
            count: Number of calls.
            one: Must allow calls from several threads at a time.

        Raises:
            BaseException: The first error of a call; those not yet begun are then left out.
        """
        if count == 0:
            return
        work = _Work(count, one)
        with self._changed:
            self._callers += 1
            self._seats = max(self._seats, self._callers)
            self._queued += 1  # goes before helpers
            self._changed.wait_for(lambda: self._taken < self._seats)
            self._queued -= 1
            self._taken += 1
            self._works.append(work)
            while work.waits:
                self._step(work)
            self._taken -= 1
            self._send_helper()
            self._changed.wait_for(lambda: work.done)
            self._works.remove(work)
            self._callers -= 1
            if not self._callers:
                self._seats = 0
        if work.error is not None:
            raise work.error

    def _step(self, work: _Work) -> None:
        """Make one call; the lock is held before and after, not meanwhile."""
        number = work.next
        work.next += 1
        work.under_way += 1
        self._send_helper()
        self._changed.release()
        error: BaseException | None = None
        try:
            work.one(number)
        except BaseException as caught:  # raised again in the thread that asked
            error = caught
        self._changed.acquire()
        work.under_way -= 1
        if error is not None:
            work.error, work.next = work.error or error, work.count
        self._changed.notify_all()

    def _send_helper(self) -> None:
        if not self._may_help():
            return
        if self._idle:
            self._changed.notify_all()
        else:
            self._idle += 1
            threading.Thread(target=self._help, name="landweave-helper", daemon=True).start()

    def _may_help(self) -> bool:
        free = self._taken + self._queued < self._seats
        return free and any(work.waits for work in self._works)

    def _help(self) -> None:
        with self._changed:
            while self._changed.wait_for(self._may_help, timeout=_LINGER_S):
                self._idle -= 1
                self._taken += 1
                # The work with the most left: it would be the last to end.
                self._step(max(self._works, key=lambda work: work.count - work.next))
                self._taken -= 1
                self._idle += 1
                self._changed.notify_all()
            self._idle -= 1


share = Crew().share
"""`Crew.share` of this process."""
