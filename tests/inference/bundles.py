"""Small bundles for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.inference.bundle import Bundle, BundleFields, save_bundle
from engine.models.normalise import Standard
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec

FIELDS = BundleFields(
    name="test model",
    spec=CubeSpec(bands=("blue", "green", "nir"), period="1MS", season="03-01/04-30"),
    n_dates=2,
    classes=ClassScheme.from_names(["wheat", "grass land", "water", "forest"]),
    lattice=Lattice(32, 8),
    normalisation=Standard(mean=(700.0, 900.0, 2500.0), std=(300.0, 350.0, 900.0)),
    temperature=1.25,
    description="Weights drawn at random.",
    licence="Apache-2.0",
    training={"split": {"train": 3, "val": 1}, "scores": {"accuracy": 0.5}},
)


def network(**config: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    sizes = {"n_dates": 2, "n_bands": 3, "n_classes": 4, "width": 8, "stem": 8, "depth": 3, **config}
    net = build("unet", sizes)
    for part in net.modules():  # statistics as after training, so that nothing is constant
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.3, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.1, 0.6)
            torch.nn.init.uniform_(part.bias, 0.0, 0.5)
    return net.eval()


def random_bundle(folder: Path, net: torch.nn.Module | None = None, **changes: Any) -> Bundle:
    return save_bundle(folder, net or network(), "unet", replace(FIELDS, **changes))
