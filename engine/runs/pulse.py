"""Is a run alive? Judged from its folder, from any machine, without comparing clocks.

The holder of the folder raises a counter every two seconds. Whoever sees it move knows that the run lives;
whoever sees it stand still for long enough, on a clock of his own, knows that it does not, or is paused, or
cut off from its folder, which from here is the same. On the holder's own machine its process is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from engine.store.lease import Standing, standing

WATCH_S = 9.0
"""How long a counter is watched before its run counts as silent: more than four beats."""

State = Literal["never", "watching", "alive", "ended", "killed", "silent"]


class Pulse:
    """Watches the holder of a run folder.

    Args:
        run_dir: The run's folder, local or any fsspec URL.
        watch_s: How long a counter must stand still for ``silent``.
        clock: Monotonic seconds.

    Attributes:
        seen: What the last look found.
    """

    def __init__(
        self, run_dir: str, *, watch_s: float = WATCH_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run_dir, self.watch_s, self.clock = run_dir, watch_s, clock
        self.seen = Standing(0)
        self._since, self._moved = clock(), False

    def look(self) -> State:
        """Look once.

        Returns:
            ``never`` held; ``ended`` in good order; ``killed``: its process is gone; ``alive``: the counter
            moved; ``silent``: it stood still for `watch_s`; ``watching``: not known yet.
        """
        now = standing(self.run_dir)
        if (now.epoch, now.counter) != (self.seen.epoch, self.seen.counter):
            self._moved = now.epoch == self.seen.epoch
            self._since = self.clock()
        self.seen = now
        if not now.epoch:
            return "never"
        if now.ended:
            return "ended"
        if now.holder is not None and now.holder.is_dead():
            return "killed"
        if self.still_s >= self.watch_s:
            return "silent"
        return "alive" if self._moved else "watching"

    @property
    def still_s(self) -> float:
        """Seconds since the counter was seen to move, or first seen."""
        return self.clock() - self._since

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> State:
        """Look until it is known."""
        while (state := self.look()) == "watching":
            sleep(0.3)
        return state
