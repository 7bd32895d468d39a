"""The networks as graphs for other tools, and in half precision: the answers of the plain ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.inference.bundle import Bundle, save_bundle
from engine.inference.export import export_bundle
from engine.inference.lane import Lane
from engine.values.lattice import PROBABILITY_ONE, Lattice
from tests.inference.bundles import FIELDS
from tests.models.conformance import Case

DAYS = (120, 30, 250)  # in no order
CASES = {
    "utae": {"width": 4, "width_max": 4, "model": 8, "heads": 2, "depth": 1},
    "convlstm": {"width": 4, "bidirectional": True},
    "convgru": {"width": 4},
    "convstar": {"width": 4, "layers": 2},
    "cnn3d": {"width": 4, "steps": 4},
    "cnn3d2d": {"width": 4, "steps": 4},
    "unet3d": {"width": 4, "steps": 4, "depth": 1},
}


def _bundle(name: str, config: dict[str, Any], folder: Path) -> Bundle:
    network = Case(name, {"n_dates": len(DAYS), **config}).network()
    return save_bundle(folder, network, name, replace(FIELDS, n_dates=len(DAYS), lattice=Lattice(8, 2)))


def _windows() -> np.ndarray[Any, np.dtype[np.uint16]]:
    windows = np.random.default_rng(0).integers(1, 4000, (3, len(DAYS), 3, 8, 8)).astype(np.uint16)
    windows[0, 1] = 0
    windows[1, :, :, :3] = 0
    return windows


@pytest.mark.parametrize("name", CASES)
def test_as_onnx_it_answers_as_before_whatever_the_batch(name: str, tmp_path: Path) -> None:
    bundle = _bundle(name, CASES[name], tmp_path / "plain")
    exported = export_bundle(bundle, tmp_path / "onnx", "onnx", DAYS)
    assert isinstance(exported, Bundle)
    expected = Lane(bundle, days=DAYS).run(_windows())
    for batch in (1, 3):
        found = Lane(exported, batch=batch).run(_windows())
        assert np.abs(found - expected).max() <= 2  # of 65535


@pytest.mark.parametrize("name", CASES)
def test_it_runs_in_half_precision(name: str, tmp_path: Path) -> None:
    bundle = _bundle(name, CASES[name], tmp_path)
    exact, half = (
        Lane(replace(bundle, precision=precision), days=DAYS).run(_windows())
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, half)
    assert np.abs(exact - half).max() < 0.02 * PROBABILITY_ONE
