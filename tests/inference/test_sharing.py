"""Threads share calls: each once, never more at a time than there were callers, nobody idle at the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.inference.sharing import Crew


class Meter:
    """Counts calls, the most at one time, and the threads."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.calls: Counter[tuple[str, int]] = Counter()
        self.threads: set[int] = set()

    def __call__(self, who: str, number: int, pause_s: float = 0.002) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.calls[who, number] += 1
            self.threads.add(threading.get_ident())
        time.sleep(pause_s)
        with self.lock:
            self.now -= 1


def test_one_caller_alone_does_all_itself() -> None:
    crew, meter = Crew(), Meter()
    crew.share(0, lambda n: meter("none", n))
    crew.share(7, lambda n: meter("alone", n))
    assert meter.calls == Counter({("alone", n): 1 for n in range(7)})
    assert meter.threads == {threading.get_ident()}


@pytest.mark.parametrize("callers", [2, 5])
def test_each_call_is_made_once_and_never_more_at_a_time_than_callers(callers: int) -> None:
    crew, meter = Crew(), Meter()
    sizes = {f"caller {n}": 5 + 11 * n for n in range(callers)}
    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(crew.share, k, lambda n, w=who: meter(w, n)) for who, k in sizes.items()]:
            done.result(30)
    assert meter.calls == Counter({(who, n): 1 for who, k in sizes.items() for n in range(k)})
    assert meter.most <= callers


def test_a_helper_takes_the_place_of_a_caller_that_is_through() -> None:
    """The long caller holds its own first call until somebody else has made all others."""
    crew, done, others = Crew(), threading.Event(), []
    begun = threading.Event()

    def long(number: int) -> None:
        if number == 0:
            begun.set()
            assert done.wait(20)
            return
        others.append((number, threading.get_ident()))
        if len(others) == 9:
            done.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(crew.share, 10, long)
        assert begun.wait(20)
        pool.submit(crew.share, 1, lambda n: None).result(20)
        first.result(20)
    assert sorted(n for n, _ in others) == list(range(1, 10))


def test_an_error_reaches_the_caller_whose_call_it_was_and_nobody_else() -> None:
    crew, meter = Crew(), Meter()

    def fails(number: int) -> None:
        meter("bad", number)
        if number == 3:
            raise KeyError("three")

    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(crew.share, 40, lambda n: meter("good", n))
        bad = pool.submit(crew.share, 4000, fails)
        with pytest.raises(KeyError, match="three"):
            bad.result(20)
        good.result(20)
    assert sum(n for (who, _), n in meter.calls.items() if who == "good") == 40
    assert sum(n for (who, _), n in meter.calls.items() if who == "bad") < 10
    crew.share(2, lambda n: meter("after", n))
    assert meter.calls["after", 1] == 1
