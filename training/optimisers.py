"""Optimisers and schedules as a YAML names them, and what they become for one network.

Rates rise to their peak in the warm-up, a share of all steps, and then::

    one_cycle   fall along half a cosine to nearly nothing; the momentum does the opposite
    cosine      fall along half a cosine to a share of the peak
    plateau     fall by a factor whenever checks find no improvement
    constant    stay
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field

_Share = Annotated[float, Field(ge=0, lt=1)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdamW(_Options):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Attributes:
        betas: Memory of the mean and of the square of the gradient. ``one_cycle`` moves the first one.
    """

    kind: Literal["adamw"] = "adamw"
    betas: tuple[_Share, _Share] = (0.9, 0.999)


class Sgd(_Options):
    """Stochastic gradient descent.

    Attributes:
        momentum: 0 for none. ``one_cycle`` moves it.
        nesterov: Look ahead along the momentum.
    """

    kind: Literal["sgd"]
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True


AnyOptimiser = Annotated[AdamW | Sgd, Field(discriminator="kind")]


class OneCycle(_Options):
    """Up to the peak and down to nearly nothing, stepped per batch (Smith 2018, arXiv:1803.09820).

    Attributes:
        warm_up: Share of the steps on the way up.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    warm_up: float = Field(default=0.25, gt=0, lt=1)


class Cosine(_Options):
    """Down along half a cosine, stepped per batch (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts).

    Attributes:
        warm_up: Share of the steps on the way up.
        final: Last rate as a share of the peak.
    """

    kind: Literal["cosine"]
    warm_up: _Share = 0.05
    final: float = Field(default=0.0, ge=0, le=1)


class Plateau(_Options):
    """Down by a factor whenever the validation part got no better for some checks.

    Attributes:
        warm_up: Share of the steps on the way up.
        factor: By which the rate is multiplied.
        patience: Checks without improvement that are borne.
    """

    kind: Literal["plateau"]
    warm_up: _Share = 0.0
    factor: float = Field(default=0.3, gt=0, lt=1)
    patience: int = Field(default=2, ge=0)


class Constant(_Options):
    """The peak throughout.

    Attributes:
        warm_up: Share of the steps on the way up.
    """

    kind: Literal["constant"]
    warm_up: _Share = 0.0


AnySchedule = Annotated[OneCycle | Cosine | Plateau | Constant, Field(discriminator="kind")]


def make_optimiser(
    options: AnyOptimiser, groups: Iterable[dict[str, Any]], rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimiser.

    Args:
        options: Its kind.
        groups: Groups of parameters as torch takes them; a group's own ``lr`` is its peak.
        rate: Peak of groups without one.
        weight_decay: Of groups without one.
    """
    if isinstance(options, Sgd):
        momentum, nesterov = options.momentum, options.nesterov and options.momentum > 0
        return torch.optim.SGD(
            groups, lr=rate, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov
        )
    return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay, betas=options.betas)


class Schedule(Protocol):
    """Sets the rates of an optimiser's groups."""

    def stepped(self) -> None:
        """Hear that a step was made."""
        ...

    def checked(self, better: bool) -> None:
        """Hear that the validation part was scored, and whether it was better than ever."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another one stood."""
        ...


def make_schedule(options: AnySchedule, optimiser: torch.optim.Optimizer, steps: int) -> Schedule:
    """Make a schedule whose peak is the optimiser's rate, group by group.

    Args:
        options: Its kind.
        optimiser: Fresh.
        steps: In all.
    """
    if isinstance(options, OneCycle):
        return _Cycle.over(optimiser, steps, options.warm_up)
    warm = round(options.warm_up * steps)
    if isinstance(options, Cosine):
        return _Factors(optimiser, lambda step: _cosine(step, warm, steps, options.final))
    schedule = _Factors(optimiser, lambda step: _rise(step, warm))
    if isinstance(options, Plateau):
        schedule.factor, schedule.patience = options.factor, options.patience
    return schedule


def _rise(step: int, warm: int) -> float:
    """Return the share of the peak for a step, the first being 0.

    >>> [_rise(step, 4) for step in (0, 3, 4)]
    [0.25, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, warm))


def _cosine(step: int, warm: int, steps: int, final: float) -> float:
    """As `_rise`, and down along half a cosine from the end of the warm-up to the last step.

    >>> [round(_cosine(step, 0, 5, 0.1), 3) for step in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warm:
        return _rise(step, warm)
    done = (step - warm) / max(1, steps - 1 - warm)
    return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2


@dataclass
class _Cycle:
    """torch's one-cycle, which may not be stepped once more than it is long."""

    torch_schedule: torch.optim.lr_scheduler.OneCycleLR
    left: int

    @classmethod
    def over(cls, optimiser: torch.optim.Optimizer, steps: int, warm_up: float) -> _Cycle:
        peaks = [group["lr"] for group in optimiser.param_groups]
        total = max(2, steps)
        # torch divides by the steps on the way up less one
        warm_up = warm_up if warm_up * total > 1 else 1.5 / total
        moving = all(g.get("momentum", 1) > 0 for g in optimiser.param_groups)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=peaks, total_steps=total, pct_start=warm_up, cycle_momentum=moving
        )
        return cls(cycle, total - 1)

    def stepped(self) -> None:
        if self.left:
            self.left -= 1
            self.torch_schedule.step()

    def checked(self, better: bool) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left, "torch": self.torch_schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.left = int(state["left"])
        self.torch_schedule.load_state_dict(state["torch"])


@dataclass
class _Factors:
    """A share of each group's peak by the number of the step, times what the checks have left of it."""

    optimiser: torch.optim.Optimizer
    share: Callable[[int], float]
    factor: float = 1.0
    patience: int = 0
    peaks: list[float] = field(default_factory=list)
    left: float = 1.0
    stale: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self._set()

    def stepped(self) -> None:
        self.step += 1
        self._set()

    def checked(self, better: bool) -> None:
        self.stale = 0 if better else self.stale + 1
        if self.stale > self.patience:
            self.left, self.stale = self.left * self.factor, 0
            self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "left": self.left, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.left, self.stale = int(state["step"]), float(state["left"]), int(state["stale"])
        self._set()

    def _set(self) -> None:
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.share(self.step) * self.left
