"""Fill fixed batches with the windows of many callers, for a device that is fast only when it is full.

::

    thread 1  ■■■■■■■          ┌─ batch of 4 ─┐      place 1   copy in │ network │ copy out
    thread 2  ■■■■■      ──►   │ ■ ■ ■ ■      │ ──►  place 2           │ copy in │ network │ copy out
    thread 3  ■■■■■■■■■        └──────────────┘

No thread of its own: a caller whose windows wait takes a free place, fills a batch from the queue, in the
order of asking, and evaluates it, for itself and for others. Two places let one batch be copied
while the other is computed. A batch that is short is filled up by the evaluation and cut again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import BudgetError

Evaluate = Callable[[int, NDArray[np.uint16]], NDArray[np.int32]]
"""``(place, x_BTCHW) -> p_BKHW``; B is at most the size that holds at that time."""

_log = logging.getLogger(__name__)


@dataclass
class _Asked:
    """The windows of one call."""

    windows: NDArray[np.uint16]
    found: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.found) == len(self.windows)


class Batches:
    """One queue of windows before one device.

    Args:
        evaluate: Evaluates a batch at a place.
        size: Windows of a batch.
        places: Batches under way at a time.
        full: The error by which the device says that its memory is full; None: it never does. The batch
            is then halved for good, and its windows are evaluated again.
    """

    def __init__(
        self, evaluate: Evaluate, size: int, places: int, full: type[BaseException] | None = None
    ) -> None:
        self.size, self._evaluate = size, evaluate
        self._full: tuple[type[BaseException], ...] = () if full is None else (full,)
        self._changed = threading.Condition()
        self._queue: deque[tuple[_Asked, int]] = deque()
        self._free = list(range(places))

    def run(self, x_BTCHW: NDArray[np.uint16]) -> list[NDArray[np.int32]]:
        """Evaluate windows, together with those of other callers.

        Returns:
            (K, H, W) of each window, in order.

        Raises:
            BudgetError: If not even one window fits the device's memory.
        """
        asked = _Asked(x_BTCHW)
        with self._changed:
            self._queue.extend((asked, number) for number in range(len(x_BTCHW)))
            while not asked.done:
                self._changed.wait_for(lambda: asked.done or (self._queue and self._free))
                if not asked.done:
                    self._take_place()
        if asked.error is not None:
            raise asked.error
        return [asked.found[number] for number in range(len(x_BTCHW))]

    def _take_place(self) -> None:
        """Evaluate one batch; the lock is held before and after, not meanwhile."""
        place, size = self._free.pop(), self.size
        batch = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
        self._changed.release()
        found: Any = None
        error: BaseException | None = None
        try:
            found = self._evaluate(place, np.stack([asked.windows[number] for asked, number in batch]))
        except BaseException as caught:  # raised again by those whose windows they are
            error = caught
        self._changed.acquire()
        self._free.append(place)
        if isinstance(error, self._full) and (size > 1 or self.size < size):
            self._halve(size)
            self._queue.extendleft(reversed(batch))
        else:
            self._give(batch, found, error)
        self._changed.notify_all()

    def _halve(self, size: int) -> None:
        """Halve the batch, once for all batches of that size that were under way."""
        if self.size == size:
            self.size = size // 2
            _log.warning(
                "the device is out of memory at %d windows a batch; going on with %d", size, self.size
            )

    def _give(self, batch: list[tuple[_Asked, int]], found: Any, error: BaseException | None) -> None:
        if isinstance(error, self._full):
            error = BudgetError(
                "one window does not fit the device's memory",
                where="lane",
                found=str(error),
                mend="use a smaller window, a smaller network or device cpu",
            )
        for slot, (asked, number) in enumerate(batch):
            if error is not None:
                asked.error = error
            else:
                asked.found[number] = found[slot]
        if error is not None:  # what a failed caller still has in the queue is of no use
            self._queue = deque((asked, number) for asked, number in self._queue if asked.error is None)
