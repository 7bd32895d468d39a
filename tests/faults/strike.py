"""The named points of a tile's way to its record, and how to strike when a process passes one.

::

    compute ─► before-write ─► staged ─► half-published ─► after-write ─► after-read-back
                                                               ─► before-record ─► inside-record ─► after-record
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from engine.runs import tile as tile_module
from engine.store import regions
from engine.store.ledger import Ledger

# Where each point lies: the function that passes it, and whether it has done its work by then.
_PLACES: dict[str, tuple[Any, str, bool]] = {
    "before-write": (tile_module, "write_region", False),
    "staged": (regions, "_publish", False),
    "half-published": (regions, "_publish", True),  # one variable is in place, the other is not
    "after-write": (tile_module, "write_region", True),
    "after-read-back": (tile_module, "read_back", True),
    "before-record": (Ledger, "commit", False),
    "inside-record": (os, "link", False),
    "after-record": (Ledger, "commit", True),
}
POINTS = tuple(_PLACES)


def arm(point: str, blow: Callable[[], None]) -> None:
    """Call `blow` once, when this process passes a point the next time."""
    owner, name, afterwards = _PLACES[point]
    plain = getattr(owner, name)

    def passing(*args: Any, **kwargs: Any) -> Any:
        patched.stop()
        if not afterwards:
            blow()
        result = plain(*args, **kwargs)
        if afterwards:
            blow()
        return result

    patched = patch.object(owner, name, passing)
    patched.start()


def die() -> None:
    """End this process as the kernel would: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
