"""What the plan is told of the networks' memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.models.registry import check_config
from pipelines.plan_area import finest_channels
from tests.inference.bundles import random_bundle
from tests.models.spacetime.test_export import CASES, _bundle

SIZES = {"n_bands": 3, "n_classes": 4}


def _channels(name: str, n_dates: int, **fields: Any) -> int:
    found = check_config(name, {**SIZES, **fields}).channels_at_once(n_dates)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["utae", "convlstm", "convgru", "convstar"])
def test_networks_that_hold_all_dates_take_memory_by_the_date(name: str) -> None:
    assert _channels(name, 40) == pytest.approx(4 * _channels(name, 10), rel=0.02)
    assert _channels(name, 10, width=32) == pytest.approx(2 * _channels(name, 10, width=16), rel=0.02)


@pytest.mark.parametrize("name", ["cnn3d", "cnn3d2d", "unet3d"])
def test_networks_on_a_calendar_take_memory_by_the_step(name: str) -> None:
    once, twice = (_channels(name, 6, steps=steps) for steps in (24, 48))
    assert twice - once == pytest.approx(_channels(name, 6, steps=72) - twice, abs=1)
    assert twice > 1.5 * once
    assert _channels(name, 12) < 2 * _channels(name, 6)


def test_the_plan_asks_the_network(tmp_path: Path) -> None:
    bundle = _bundle("utae", CASES["utae"], tmp_path / "utae")
    assert finest_channels(bundle, 30) == _channels("utae", 30, **CASES["utae"])
    assert finest_channels(random_bundle(tmp_path / "unet"), 30) == 8  # its width
