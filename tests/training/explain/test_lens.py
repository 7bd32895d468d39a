"""What is explained is what the map would say; what cannot be explained is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.inference.lane import Lane
from engine.values.calibration import VectorScale
from engine.values.errors import InputError
from engine.values.head import MultiLabel
from engine.values.lattice import PROBABILITY_ONE
from tests.inference.bundles import random_bundle
from training.batch import Batch
from training.explain.examples import Examples
from training.explain.lens import Answers, Lens


def test_answers_are_those_of_the_map_calibration_included(tmp_path: Path) -> None:
    vector = VectorScale(scale=(1.5, 0.7, 1.0, 1.2), shift=(0.3, 0.0, -0.4, 0.1))
    bundle = random_bundle(tmp_path / "b", temperature=1.7, vector=vector)
    rng = np.random.default_rng(0)
    x = rng.integers(1, 5000, (3, 2, 3, 32, 32)).astype(np.uint16)
    x[1, 0, :, :9] = 0
    target = rng.integers(0, 4, (3, 32, 32)).astype(np.uint8)
    batch = Batch(
        x=torch.from_numpy(x),
        dates=torch.tensor([[74, 105]] * 3, dtype=torch.int16),
        present=torch.ones(3, 2, dtype=torch.bool),
        target=torch.from_numpy(target),
        weight=torch.ones(3, 32, 32),
        place=torch.zeros(3, 2, dtype=torch.int64),
    )
    found = Lens.of(bundle).answers(Examples(batch, target[:, 0, 0].astype(np.int64)))
    lane = Lane(bundle).run(x).transpose(0, 2, 3, 1).reshape(-1, 4) / PROBABILITY_ONE
    np.testing.assert_allclose(found.probability, lane, atol=1e-3)
    np.testing.assert_array_equal(found.truth, target.ravel())


def test_graphs_and_other_heads_are_refused(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "b")
    with pytest.raises(InputError, match=r"networks of the registry.*model\.onnx"):
        Lens.of(replace(bundle, architecture=None, config=None, kind="onnx"))
    with pytest.raises(InputError, match="one class a pixel"):
        Lens.of(replace(bundle, head=MultiLabel()))


def test_the_probability_of_the_true_class_is_told_for_each_class() -> None:
    share = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0]], np.float32)
    found = Answers(np.array([0, 0, 1]), share)
    np.testing.assert_allclose(found.own, [0.7, 0.8, np.nan], rtol=1e-6)
    assert found.scores.accuracy == 1.0
