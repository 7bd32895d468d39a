"""Counts, rates and the time left, from events and a clock that the test moves."""

from __future__ import annotations

import heapq
import json
import math
import random
import sys
from collections import deque

import pytest

from engine.runs.events import RunEvent
from engine.runs.progress import SLOWEST, Progress, StageFacts
from engine.values.grid import TileKey
from tests.runs.records import Clock, done, record, submitted, trouble


def tile(n: int) -> TileKey:
    return TileKey(n // 100, n % 100)


def test_counts_rates_and_workers() -> None:
    clock = Clock()
    progress = Progress(StageFacts("map", 10, 2.5, 3 << 30, 4 << 30), clock)
    progress.take(RunEvent("reused", "map", tile(9), 1, 10, record(tile(9))))
    for n in range(4):
        progress.take(submitted(tile(n)))
        clock.now += 10
        progress.take(done(tile(n), 10.0 + n, worker=f"tcp://{'ab'[n % 2]}:1", attempt=1 + (n == 3)))
    progress.take(submitted(tile(4)))
    progress.take(trouble("error", tile(4), "throttled", error="RetryableError", worker="tcp://a:1"))
    progress.take(submitted(tile(4)))
    clock.now += 5
    told = progress.figures()
    assert told["counts"] == {
        "total": 10, "done": 4, "reused": 1, "failed": 0, "quarantined": 0, "running": 1, "left": 5,
    }  # fmt: skip
    assert told["rate"]["tiles_h_mean"] == pytest.approx(4 * 3600 / 45)
    assert told["rate"]["km2_h_mean"] == pytest.approx(2.5 * 4 * 3600 / 45)
    assert told["running"] == [{"tile": "r0_c4", "seconds": 5.0}]
    assert [s["tile"] for s in told["slowest"]] == ["r0_c3", "r0_c2", "r0_c1", "r0_c0"]
    assert told["workers"]["tcp://a:1"] == {"tiles": 2, "seconds": 22.0, "peak_bytes": 1 << 30, "errors": 1}
    assert told["errors"]["RetryableError"]["count"] == 1
    assert told["errors"]["RetryableError"]["example"]["message"] == "throttled"
    assert told["second_attempts"] == 1
    assert told["memory"] == {"most_bytes": 1 << 30, "projected_bytes": 3 << 30, "limit_bytes": 4 << 30}
    low, high = told["time_left_s"]
    assert low < 5 * 11.0 < high
    json.dumps(told)


def test_what_failed_was_quarantined_or_lost_its_worker() -> None:
    progress = Progress(StageFacts("map", 3), Clock())
    for n, kind in enumerate(("failed", "quarantined")):
        progress.take(submitted(tile(n), 3))
        progress.take(trouble("worker-died", tile(n), "worker w was lost", 3, worker="w"))
        progress.take(trouble(kind, tile(n), "killed 3 workers", 3))
    progress.take(RunEvent("draining", "", None, 0, 0))
    told = progress.figures()
    assert (told["counts"]["failed"], told["counts"]["quarantined"], told["counts"]["left"]) == (1, 1, 1)
    assert {kind: e["count"] for kind, e in told["errors"].items()} == {"worker died": 2, "quarantined": 1}
    assert (told["gaps"], progress.draining, told["counts"]["total"]) == (2, True, 3)


def test_the_rate_now_follows_what_happens_now() -> None:
    clock = Clock()
    progress = Progress(StageFacts("map", 5000), clock)
    for n in range(1000):
        progress.take(submitted(tile(n), 5000))
        clock.now += 1.0 if n < 500 else 4.0
        progress.take(done(tile(n), 1.0, 5000))
    now, mean = progress.rates()
    assert now == pytest.approx(900, rel=0.02)
    assert mean == pytest.approx(1440, rel=0.02)
    clock.now += 550  # nothing comes back any more
    assert progress.rates()[0] < 150


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize(("spread", "likeness"), [(0.2, 0.0), (0.6, 0.0), (0.4, 0.9)])
def test_the_time_left_is_inside_its_interval(lanes: int, spread: float, likeness: float) -> None:
    """Simulated runs: times of tiles that vary, also alike among neighbours; asked at 20, 50 and 80%."""
    told = [answer for seed in range(60) for answer in simulate(100, lanes, seed, spread, likeness)]
    held = sum(low <= truth <= high for low, high, truth in told) / len(told)
    width = sorted((high - low) / truth for low, high, truth in told)[len(told) // 2]
    assert held >= (0.6 if likeness else 0.85)
    assert width < 1.2


def simulate(
    total: int, lanes: int, seed: int, spread: float, likeness: float
) -> list[tuple[float, float, float]]:
    rng, clock, value = random.Random(seed), Clock(), 0.0
    times = []
    for _ in range(total):
        value = likeness * value + math.sqrt(1 - likeness**2) * rng.gauss(0, 1)
        times.append(10 * math.exp(spread * value))
    progress, waiting, running = Progress(StageFacts("map", total), clock), deque(range(total)), []
    asked = []
    while waiting or running:
        while waiting and len(running) < lanes:
            n = waiting.popleft()
            progress.take(submitted(tile(n), total))
            heapq.heappush(running, (clock.now + times[n], n))
        clock.now, n = heapq.heappop(running)
        progress.take(done(tile(n), times[n], total))
        if total - progress.left in (total // 5, total // 2, total * 4 // 5):
            asked.append((clock.now, progress.time_left_s()))
    return [(left[0], left[1], clock.now - at) for at, left in asked if left]


def test_no_time_is_told_before_there_is_something_to_judge_by() -> None:
    progress = Progress(StageFacts("map", 10), Clock())
    assert progress.time_left_s() is None
    progress.take(submitted(tile(0)))
    progress.take(done(tile(0)))
    assert progress.time_left_s() is None
    assert Progress(StageFacts("map", 0), Clock()).time_left_s() == (0.0, 0.0)


def test_memory_does_not_grow_with_tiles_workers_or_kinds_of_errors() -> None:
    clock = Clock()
    progress = Progress(StageFacts("map", 10**6), clock)

    def feed(first: int, end: int) -> int:
        for n in range(first, end):
            progress.take(submitted(tile(n), 10**6))
            clock.now += 0.01
            progress.take(trouble("error", tile(n), error=f"Error{n}", worker=f"w{n}", total=10**6))
            progress.take(RunEvent("changed", "map", tile(n), 0, 10**6, message=f"reason {n}"))
            progress.take(done(tile(n), n % 17, 10**6, worker=f"w{n}"))
        return len(json.dumps(progress.figures()))

    small, large = feed(0, 2000), feed(2000, 20_000)
    assert large < small * 1.1
    assert len(progress.figures()["slowest"]) == SLOWEST
    assert sys.getsizeof(progress._recent) < 10_000
    assert progress.figures()["counts"]["done"] == 20_000
