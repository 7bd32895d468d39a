"""Tests that need an NVIDIA GPU: left out where there is none, and that is said at the end; ``-m gpu`` runs them."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.memory import gpus

_left_out = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Tell what the mark means."""
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU; left out, and told at the end, without one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here; somebody who asks for it by its mark gets the error instead."""
    need = [item for item in items if item.get_closest_marker("gpu")]
    if not need or "gpu" in config.option.markexpr.split() or gpus():
        return
    config.stash[_left_out] = [item.nodeid for item in need]
    config.hook.pytest_deselected(items=need)
    items[:] = [item for item in items if item not in need]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was not run."""
    if left_out := config.stash.get(_left_out, []):
        terminalreporter.write_sep("=", "NOT RUN: no NVIDIA GPU here", yellow=True)
        for name in left_out:
            terminalreporter.write_line(f"not run: {name}")
    elif getattr(config.option, "numprocesses", None) and not gpus():  # its workers left them out
        terminalreporter.write_sep("=", "NOT RUN: tests marked gpu, no NVIDIA GPU here", yellow=True)
