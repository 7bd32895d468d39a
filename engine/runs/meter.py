"""How much memory a tile took: the highest resident memory of its process while it ran."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

_active = 0  # tiles that are being measured: the peak belongs to the process, not to one of them
_guard = threading.Lock()


class PeakMemory:
    """Measure the process's peak resident memory between entering and leaving.

    Linux keeps the exact peak (VmHWM) and lets a process set it back (proc_pid_clear_refs(5), value 5).
    Where that cannot be done the peak of the whole life of the process is given: never too low. Tiles
    that share a process share its peak.

    Attributes:
        bytes: The peak, 0 before the end.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        global _active
        with _guard:
            if _active == 0:  # another tile's peak must not be lost
                _reset()
            _active += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        with _guard:
            _active -= 1
        self.bytes = peak_bytes()


def peak_bytes() -> int:
    """Return the highest resident memory since the last reset, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak of the process's life is given
