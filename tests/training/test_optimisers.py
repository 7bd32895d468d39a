"""Rates over a training, and one step of an optimiser by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from training.optimisers import AnyOptimiser, AnySchedule, make_optimiser, make_schedule


def _optimiser(
    kind: dict[str, Any] | None = None, peaks: tuple[float, ...] = (0.4,)
) -> torch.optim.Optimizer:
    options = TypeAdapter[Any](AnyOptimiser).validate_python(kind or {"kind": "adamw"})
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": peak} for peak in peaks]
    return make_optimiser(options, groups, 0.1, 0.01)


def _rates(kind: dict[str, Any], steps: int, better: list[bool] | None = None, every: int = 2) -> np.ndarray:
    """Return the rate of each step; a check follows each second one."""
    optimiser = _optimiser()
    schedule = make_schedule(TypeAdapter[Any](AnySchedule).validate_python(kind), optimiser, steps)
    found, told = [], iter(better or [True] * steps)
    for step in range(1, steps + 1):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.stepped()
        if step % every == 0:
            schedule.checked(next(told))
    return np.array(found)


def test_one_cycle_peaks_after_its_warm_up_and_ends_near_nothing() -> None:
    rates = _rates({"kind": "one_cycle", "warm_up": 0.3}, 100)
    assert rates.argmax() == 29
    assert rates.max() == pytest.approx(0.4)
    assert rates[0] == pytest.approx(0.4 / 25)
    assert rates[-1] < 1e-4
    assert (np.diff(rates[:30]) > 0).all()
    assert (np.diff(rates[29:]) < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_one_cycle_of_few_steps_is_one(steps: int) -> None:
    assert (_rates({"kind": "one_cycle"}, steps) > 0).all()


def test_cosine_follows_its_formula() -> None:
    rates = _rates({"kind": "cosine", "warm_up": 0.2, "final": 0.1}, 50)
    np.testing.assert_allclose(rates[:10], 0.4 * np.arange(1, 11) / 10)
    along = np.linspace(0, 1, 40)
    np.testing.assert_allclose(rates[10:], 0.4 * (0.1 + 0.9 * (1 + np.cos(np.pi * along)) / 2))


def test_plateau_falls_after_its_patience_and_begins_to_count_again() -> None:
    better = [True, False, False, False, False, True, False, False, True]
    rates = _rates({"kind": "plateau", "factor": 0.5, "patience": 1}, 18, better)
    expected = [1] * 6 + [0.5] * 4 + [0.25] * 6 + [0.125] * 2
    np.testing.assert_allclose(rates / 0.4, expected)


def test_constant_is_constant_after_its_warm_up() -> None:
    np.testing.assert_allclose(_rates({"kind": "constant"}, 5), 0.4)
    np.testing.assert_allclose(
        _rates({"kind": "constant", "warm_up": 0.5}, 8)[:5] / 0.4, [0.25, 0.5, 0.75, 1, 1]
    )


@pytest.mark.parametrize("kind", ["one_cycle", "cosine", "plateau", "constant"])
def test_each_group_has_its_own_peak(kind: str) -> None:
    optimiser = _optimiser(peaks=(1e-5, 1e-4))
    schedule = make_schedule(TypeAdapter[Any](AnySchedule).validate_python({"kind": kind}), optimiser, 20)
    for _ in range(20):
        body, head = (group["lr"] for group in optimiser.param_groups)
        assert head == pytest.approx(10 * body)
        optimiser.step()
        schedule.stepped()


def test_optimisers_are_those_that_are_named() -> None:
    sgd = _optimiser({"kind": "sgd", "momentum": 0.0})
    parameter = sgd.param_groups[0]["params"][0]
    parameter.grad = torch.tensor([1.0, -2.0])
    sgd.step()
    torch.testing.assert_close(parameter.detach(), 1 - 0.4 * (torch.tensor([1.0, -2.0]) + 0.01))
    assert not sgd.param_groups[0]["nesterov"]
    assert _optimiser({"kind": "sgd"}).param_groups[0]["nesterov"]
    adamw = _optimiser({"kind": "adamw", "betas": [0.8, 0.99]})
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.99)
    assert adamw.param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(
    "wrong", [{"kind": "adam"}, {"kind": "sgd", "momentum": 1.5}, {"kind": "sgd", "betas": [0, 0]}]
)
def test_what_is_no_optimiser_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Any](AnyOptimiser).validate_python(wrong)
