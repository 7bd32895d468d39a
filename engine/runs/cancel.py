"""Ask a run to drain from another terminal or machine, through an object in its folder.

``lease/cancel-000003`` speaks to the holder of epoch 3 alone, so it never stops the next run.
"""

from __future__ import annotations

from engine.store.objects import Folder
from engine.values.errors import RetryableError


def ask_cancel(run_dir: str, epoch: int) -> None:
    """Ask the run that holds an epoch to finish what is in flight and to begin nothing more."""
    Folder(run_dir).create(_name(epoch), b"")


def cancel_asked(run_dir: str, epoch: int) -> bool:
    """Tell whether the holder of an epoch was asked to stop; an unreachable folder asks nothing."""
    try:
        return Folder(run_dir).read(_name(epoch)) is not None
    except (OSError, RetryableError):
        return False


def _name(epoch: int) -> str:
    return f"lease/cancel-{epoch:06d}"
