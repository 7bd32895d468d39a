"""Which parts of a network learn how fast, and from when on: what a training asks beside its optimiser.

`training.loop.fit` takes one: it makes the optimiser's parameter groups from `groups`, lets its schedule scale each
group's own peak rate, and calls `hold` before each step, after ``module.train()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch


class Rates(Protocol):
    """Parameter groups and their times."""

    def groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        """Return all parameters in groups, each with its peak learning rate: ``{"params": [...], "lr": 1e-4}``."""
        ...

    def hold(self, module: torch.nn.Module, step: int, steps: int) -> None:
        """Freeze what does not learn yet in step `step` of 1..`steps`; the module is in training mode."""
        ...

    def summary(self) -> Mapping[str, Any]:
        """Return what the bundle keeps of it."""
        ...
