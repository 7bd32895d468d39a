"""The queue before a device: full batches from many callers, halved when its memory is full."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.inference.batching import Batches
from engine.inference.lane import Lane
from engine.values.errors import BudgetError
from tests.inference.bundles import random_bundle


class FullError(Exception):
    """The device's memory is full."""


class Device:
    """Answers each window with its own first value; holds `room` windows; counts batches and places."""

    def __init__(self, room: int = 99) -> None:
        self.room, self.sizes, self.places = room, [], []  # type: ignore[var-annotated]
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, place: int, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        assert self.gate.wait(20)
        self.places.append(place)
        if len(x_BTCHW) > self.room:
            raise FullError(f"{len(x_BTCHW)} windows")
        self.sizes.append(len(x_BTCHW))
        return x_BTCHW[:, 0, :1].astype(np.int32) * 2


def _windows(*numbers: int) -> NDArray[np.uint16]:
    return np.array(numbers, np.uint16)[:, None, None, None, None] * np.ones((1, 1, 1, 2, 2), np.uint16)


def _answers(found: list[NDArray[np.int32]]) -> list[int]:
    return [int(p_KHW[0, 0, 0]) for p_KHW in found]


def test_windows_of_several_callers_fill_one_batch() -> None:
    device = Device()
    batches = Batches(device, size=4, places=1)
    device.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batches.run, _windows(1))
        while batches._free:  # the first batch is under way with one window; the others gather behind it
            threading.Event().wait(0.001)
        others = [pool.submit(batches.run, _windows(n, n + 1)) for n in (10, 20, 30)]
        while len(batches._queue) < 6:
            threading.Event().wait(0.001)
        device.gate.set()
        assert _answers(first.result(20)) == [2]
        assert [_answers(o.result(20)) for o in others] == [[20, 22], [40, 42], [60, 62]]
    assert device.sizes == [1, 4, 2]


def test_a_full_device_halves_the_batch_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    device = Device(room=2)
    batches = Batches(device, size=8, places=2, full=FullError)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda n: batches.run(_windows(*range(n, n + 20))), [1, 101, 201]))
    assert [_answers(p) for p in parts] == [[2 * k for k in range(n, n + 20)] for n in (1, 101, 201)]
    assert batches.size == 2
    assert max(device.sizes) == 2
    assert sum(device.sizes) == 60
    assert set(device.places) <= {0, 1}
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == len(set(said)) == 2
    assert "8 windows" in said[0]


def test_a_device_too_small_for_one_window_is_a_budget_error() -> None:
    with pytest.raises(BudgetError, match="one window does not fit"):
        Batches(Device(room=0), size=4, places=1, full=FullError).run(_windows(1, 2, 3))


def test_without_leave_to_halve_the_error_comes_through_and_the_queue_goes_on() -> None:
    device = Device(room=1)
    batches = Batches(device, size=2, places=1)
    with pytest.raises(FullError):
        batches.run(_windows(1, 2, 3))
    assert not batches._queue
    assert _answers(batches.run(_windows(5))) == [10]


def test_a_lane_of_batch_4_shared_by_threads_gives_each_its_own_windows(tmp_path: Path) -> None:
    """Slots and neighbours move no bit, so what others ask at the same time does not either."""
    bundle = random_bundle(tmp_path / "b")
    lane = Lane(bundle, batch=4)
    rng = np.random.default_rng(0)
    asked = [rng.integers(1, 6000, (n, 2, 3, 32, 32)).astype(np.uint16) for n in (1, 2, 3, 5, 1, 2, 7)]
    alone = [lane.run(x) for x in asked]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(lane.run, asked))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    assert lane.evaluations == 2 * sum(len(x) for x in asked)


def test_a_lane_that_may_halve_goes_on_with_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Lane(random_bundle(tmp_path / "b"), batch=4)
    x_BTCHW = np.random.default_rng(1).integers(1, 6000, (6, 2, 3, 32, 32)).astype(np.uint16)
    network = lane.network

    def small(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("injected")
        return network(x, valid)

    monkeypatch.setattr(lane, "network", small)
    with pytest.raises(torch.OutOfMemoryError):  # a CPU's batch is part of its bits
        lane.run(x_BTCHW)
    monkeypatch.setattr(lane, "_batches", Batches(lane._filled, 4, 1, torch.OutOfMemoryError))
    np.testing.assert_array_equal(lane.run(x_BTCHW), Lane(lane.bundle).run(x_BTCHW))
    assert lane.batch == 1
