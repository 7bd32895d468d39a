from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from engine.runs.meter import PeakMemory

MB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the peak back")
def test_the_peak_is_the_tiles_own() -> None:
    with PeakMemory() as before:
        pass
    with PeakMemory() as large:
        np.ones(200 * MB, np.uint8).sum()
    with PeakMemory() as small:
        np.ones(10 * MB, np.uint8).sum()
    assert 190 * MB < large.bytes - before.bytes < 260 * MB
    assert small.bytes < large.bytes - 100 * MB


def test_a_tile_beside_another_does_not_hide_its_peak() -> None:
    inside, leave = threading.Event(), threading.Event()
    outer = PeakMemory()

    def work() -> None:
        with outer:
            np.ones(200 * MB, np.uint8).sum()
            inside.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    with PeakMemory() as inner:
        pass
    leave.set()
    thread.join()
    assert outer.bytes >= 200 * MB
    assert inner.bytes >= 200 * MB, "tiles of one process share its peak"
