"""How far a stage is: counts, rates, and the time left as an interval. Pure: events and a clock in, figures out.

Memory does not grow with the number of tiles: what is kept is counts, moments of the tiles' times, the few
slowest tiles, one example of each kind of error, and the tiles in flight.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.runs.events import RunEvent
from engine.store.ledger import TileRecord
from engine.values.grid import TileKey
from engine.values.redact import without_secrets

SLOWEST = 5
"""Slowest tiles that are named."""

_RECENT, _RECENT_S = 256, 600.0  # the rate now: at most so many tiles of at most so many seconds
_WORKERS, _KINDS, _RUNNING = 256, 32, 64  # named one by one; more are summed up
_TROUBLE = {"error": "error", "worker-died": "worker died", "refused": "refused"}  # and its kind
_LEAST = 3  # tiles before a time is told
_Z = 1.64  # 90% of a normal distribution
_MESSAGE, _REASON = 2000, 100  # characters of an error's message, of a reason


@dataclass(frozen=True)
class StageFacts:
    """What is known of a stage before its first tile.

    Attributes:
        stage: Its name.
        total: All its tiles, as far as they are known; events tell later.
        tile_km2: Mean surface of one, square kilometres inside the outline.
        projected_bytes: Memory of one tile by the plan.
        limit_bytes: Memory of the smallest worker, None without a limit.
    """

    stage: str
    total: int
    tile_km2: float = 0.0
    projected_bytes: int = 0
    limit_bytes: int | None = None


@dataclass
class Moments:
    """Count, mean, spread and likeness of neighbours of the tiles' times, one by one (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    square: float = 0.0
    product: float = 0.0  # of each deviation with the one before
    last: float = 0.0

    def take(self, value: float) -> None:
        """Add one value."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.square += delta * (value - self.mean)
        self.product += (value - self.mean) * self.last
        self.last = value - self.mean

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample, 0 for fewer than two values."""
        return math.sqrt(self.square / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def inflation(self) -> float:
        """How much more a mean of these values varies than one of independent values.

        Neighbouring tiles are alike. For a series whose values are correlated with the one before by r
        the factor of the variance is (1 + r) / (1 - r) (Bayley and Hammersley 1946).
        """
        r = max(0.0, min(0.95, self.product / self.square)) if self.square > 0 else 0.0
        return (1 + r) / (1 - r)


def time_left_s(
    left: float,
    tile_s: Moments,
    lanes: tuple[float, float],
    *,
    longest_s: float = 0.0,
    recent_per_s: float | None = None,
) -> tuple[float, float] | None:
    """Estimate the time until all tiles have ended, as an interval for about nine runs of ten.

    What is left is a sum of ``left`` times like those so far, shared out over `lanes`. The mean is known
    from few tiles only, neighbouring tiles are alike, the sum itself varies, and at the end lanes wait for
    the longest tile. The rate of the last tiles is always inside the interval.

    Args:
        left: Tiles not ended; one that is running counts half.
        tile_s: Seconds of the tiles so far.
        lanes: Tiles made at once, at least and at most.
        longest_s: Seconds of the slowest tile so far.
        recent_per_s: Tiles a second of late.

    Returns:
        Shortest and longest time in seconds; None before there are 3 tiles to judge by.

    >>> times = Moments()
    >>> for seconds in (9.0, 10.0, 11.0, 10.0):
    ...     times.take(seconds)
    >>> low, high = time_left_s(100, times, (2.0, 2.0))
    >>> low < 500 < high
    True
    """
    if left <= 0:
        return 0.0, 0.0
    if tile_s.count < _LEAST or min(lanes) <= 0:
        return None
    middle = left * tile_s.mean
    student = _Z * (1 + 2.0 / tile_s.count)  # few values: wider than the normal distribution
    spread = student * tile_s.deviation * math.sqrt(tile_s.inflation * (left * left / tile_s.count + left))
    low, high = max(0.0, middle - spread) / max(lanes), (middle + spread) / min(lanes)
    if recent_per_s:
        low, high = min(low, left / recent_per_s), max(high, left / recent_per_s)
    return low, high + longest_s * (1 - 1 / max(1.0, *lanes))


class Progress:
    """Follows one stage by its events.

    Args:
        facts: What is known before.
        clock: Monotonic seconds.
    """

    def __init__(self, facts: StageFacts, clock: Callable[[], float] = time.monotonic) -> None:
        self.facts, self.clock, self.total = facts, clock, facts.total
        self.counts: Counter[str] = Counter()
        self.running: dict[TileKey, float] = {}
        self.draining = False
        self.peak_bytes = self.second_attempts = self.gaps = self.left_workers = 0
        self.times = Moments()
        self._first: float | None = None  # when the first tile was handed out
        self._last = 0.0  # when the last tile came back
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._slowest: list[tuple[float, TileKey, str]] = []
        self._again: Counter[str] = Counter()  # why tiles on record were made again
        self._errors: dict[str, dict[str, Any]] = {}
        self._workers: dict[str, dict[str, Any]] = {}

    def take(self, event: RunEvent) -> None:
        """Take in one event of the stage."""
        now = self.clock()
        self.total = event.total if event.stage else self.total
        match event.kind:
            case "submitted" if event.tile is not None:
                self._first = now if self._first is None else self._first
                self.running[event.tile] = now
            case "done" if event.record is not None:
                self._ended(event)
                self._done(event.record, now)
            case "reused":
                self.counts["reused"] += 1
                self.gaps += len(event.record.gaps) if event.record else 0
            case "failed" | "quarantined":
                self._ended(event)
                self.gaps += 1
                if event.kind == "quarantined":
                    self._error("quarantined", event)
            case "changed":
                reason = event.message[:_REASON]
                known = reason in self._again or len(self._again) < _KINDS
                self._again[reason if known else "others"] += 1
            case "draining":
                self.draining = True
            case "worker-left":
                self.left_workers += 1
            case kind if kind in _TROUBLE:
                self._pop(event)
                self._error(event.error or _TROUBLE[kind], event)

    def _pop(self, event: RunEvent) -> None:
        if event.tile is not None:
            self.running.pop(event.tile, None)

    def _ended(self, event: RunEvent) -> None:
        self._pop(event)
        self.counts[event.kind] += 1

    def _done(self, record: TileRecord, now: float) -> None:
        self.times.take(record.seconds)
        self._last = now
        self._recent.append(now)
        self.peak_bytes = max(self.peak_bytes, record.peak_bytes)
        self.second_attempts += record.attempt > 1
        self.gaps += len(record.gaps)
        entry = (record.seconds, record.tile, record.worker)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        elif entry > self._slowest[0]:
            heapq.heapreplace(self._slowest, entry)
        worker = self._worker(record.worker)
        worker["tiles"] += 1
        worker["seconds"] = round(worker["seconds"] + record.seconds, 3)
        worker["peak_bytes"] = max(worker["peak_bytes"], record.peak_bytes)

    def _worker(self, name: str) -> dict[str, Any]:
        if name not in self._workers and len(self._workers) >= _WORKERS:
            name = "others"
        return self._workers.setdefault(name, {"tiles": 0, "seconds": 0.0, "peak_bytes": 0, "errors": 0})

    def _error(self, kind: str, event: RunEvent) -> None:
        if kind not in self._errors and len(self._errors) >= _KINDS:
            kind = "others"
        example = {
            "tile": str(event.tile),
            "worker": event.worker,
            "message": without_secrets(event.message)[:_MESSAGE],
        }
        self._errors.setdefault(kind, {"count": 0, "example": example})["count"] += 1
        if event.worker:
            self._worker(event.worker)["errors"] += 1

    @property
    def left(self) -> int:
        """Tiles that have not ended."""
        return max(0, self.total - sum(self.counts.values()))

    def rates(self) -> tuple[float, float]:
        """Return tiles an hour: of late, and on the whole."""
        now = self.clock()
        made, recent = self.counts["done"], [t for t in self._recent if now - t <= _RECENT_S]
        if not made or self._first is None:
            return 0.0, 0.0
        mean = made * 3600 / max(1e-3, now - self._first)
        if made <= len(recent):  # all of them: then late is the whole
            return mean, mean
        since = now - recent[0] if len(recent) == _RECENT else min(_RECENT_S, now - self._first)
        return len(recent) * 3600 / max(1e-3, since), mean

    def time_left_s(self) -> tuple[float, float] | None:
        """Return the shortest and the longest time until the end in seconds, None while it cannot be told."""
        if self._first is None or not self.times.count:
            return (0.0, 0.0) if not self.left else None
        longest = max((s for s, _, _ in self._slowest), default=0.0)
        left = self.left - 0.5 * min(len(self.running), self.left)
        recent = self.rates()[0] / 3600 or None
        return time_left_s(left, self.times, self._lanes(), longest_s=longest, recent_per_s=recent)

    def _lanes(self) -> tuple[float, float]:
        """Return how many tiles are made at once, at least and at most: between two tiles it is not known."""
        now, made_s = self.clock(), self.times.mean * self.times.count
        first = now if self._first is None else self._first
        begun_s = sum(min(now - since, self.times.mean) for since in self.running.values())
        low, high = made_s / max(1e-3, self._last - first), (made_s + begun_s) / max(1e-3, now - first)
        return min(low, high), max(low, high)

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON values; sizes in bytes, times in seconds."""
        now, (recent, mean) = self.clock(), self.rates()
        interval = self.time_left_s()
        oldest = sorted(self.running.items(), key=lambda pair: pair[1])[:_RUNNING]
        named = ("done", "reused", "failed", "quarantined")
        counts = {"total": self.total, **{name: self.counts[name] for name in named}}
        return {
            "counts": {**counts, "running": len(self.running), "left": self.left},
            "rate": {
                "tiles_h_now": round(recent, 2),
                "tiles_h_mean": round(mean, 2),
                "km2_h_now": round(recent * self.facts.tile_km2, 2),
                "km2_h_mean": round(mean * self.facts.tile_km2, 2),
            },
            "time_left_s": None if interval is None else [round(t, 1) for t in interval],
            "tile_seconds": {"mean": round(self.times.mean, 3), "deviation": round(self.times.deviation, 3)},
            "memory": {
                "most_bytes": self.peak_bytes,
                "projected_bytes": self.facts.projected_bytes,
                "limit_bytes": self.facts.limit_bytes,
            },
            "running": [{"tile": str(tile), "seconds": round(now - since, 1)} for tile, since in oldest],
            "slowest": [
                {"tile": str(tile), "seconds": seconds, "worker": worker}
                for seconds, tile, worker in sorted(self._slowest, reverse=True)
            ],
            "made_again": dict(self._again),
            "errors": self._errors,
            "workers": self._workers,
            "left_workers": self.left_workers,
            "second_attempts": self.second_attempts,
            "gaps": self.gaps,
        }
