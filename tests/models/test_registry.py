"""Architectures by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from engine.models.registry import architectures, build, check_config, takes_days
from engine.values.errors import InputError

SIZES = {"n_dates": 2, "n_bands": 3, "n_classes": 5}
CONFIGS = dict.fromkeys(architectures(), SIZES) | {
    "presto": {**SIZES, "bands": ("blue", "green", "red"), "head": "linear"},
    "unet_resnet": {**SIZES, "width": 8, "stem": 8},
    "unet_seasons": {**SIZES, "width": 8, "stem": 8},
}


# smp is an optional extra: tests/models/test_smp.py
@pytest.mark.parametrize("name", sorted(set(architectures()) - {"smp"}))
def test_every_architecture_builds_and_answers_with_one_logit_per_class(name: str) -> None:
    net = build(name, CONFIGS[name]).eval()
    days = (torch.tensor([1.0, 32.0]),) if takes_days(name) else ()
    found = net(torch.zeros(1, 2, 3, 32, 64), torch.ones(1, 2, 32, 64), *days)
    assert found.shape == (1, 5, 32, 64)


@pytest.mark.parametrize("name", architectures())
def test_every_configuration_survives_json(name: str) -> None:
    config = check_config(name, CONFIGS[name])
    assert check_config(name, json.loads(config.model_dump_json())) == config


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(InputError, match="unet"):
        build("resnet", {})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"n_dates": 1, "n_bands": 2}, "n_classes"),
        ({"n_dates": 0, "n_bands": 2, "n_classes": 2}, "n_dates"),
        ({"n_dates": 1, "n_bands": 2, "n_classes": 2, "wings": 2}, "wings"),
        ({"n_dates": 1, "n_bands": 2, "n_classes": 2, "norm": "layer"}, "norm"),
    ],
)
def test_a_wrong_field_is_named(config: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        check_config("unet", config)


def test_checking_a_configuration_loads_no_torch() -> None:
    code = (
        "import sys; from engine.models.registry import check_config; "
        "check_config('unet', dict(n_dates=1, n_bands=1, n_classes=2)); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
