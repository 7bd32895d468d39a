from __future__ import annotations

import mmap
import sys
import threading

import numpy as np
import pytest

from engine.runs.meter import PeakMemory

MB = 1 << 20


def _use(size: int) -> None:
    """Take fresh pages from the system and give them back: the allocator may keep what it was given before."""
    pages = mmap.mmap(-1, size)
    for _ in range(size // MB):
        pages.write(bytes(MB))
    pages.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the peak back")
def test_the_peak_is_the_tiles_own() -> None:
    with PeakMemory() as before:
        pass
    with PeakMemory() as large:
        _use(200 * MB)
    with PeakMemory() as small:
        _use(10 * MB)
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
