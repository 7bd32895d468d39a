"""Pixel-wise networks: a pixel's answer depends on nothing but the pixel, however the area is cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import torch

from engine.inference.blend import ROWS, Frame
from engine.inference.bundle import Bundle, save_bundle
from engine.inference.decide import Layers
from engine.inference.lane import Lane, lane_for
from engine.inference.predict import predict_array
from engine.models.registry import build
from engine.values.grid import Box
from engine.values.lattice import Lattice
from tests.inference.bundles import FIELDS
from tests.inference.fakes import random_cube

SIZES: dict[str, dict[str, Any]] = {
    "atlstm": {"width": 20},
    "cnn1d": {"width": 24, "depth": 2},
    "gru": {"width": 20, "layers": 2},
    "lstm": {"width": 20},
    "ltae": {"width": 32, "heads": 4},
    "mlp": {"n_dates": 2, "width": 40, "depth": 3},
    "tempcnn": {"width": 24, "depth": 2, "kernel": 3},
    "transformer": {"width": 16, "hidden": 24},
}
DAYS = (74, 105)


@pytest.fixture(scope="module", params=sorted(SIZES))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(5)
    network = build(request.param, {"n_bands": 3, "n_classes": 4, **SIZES[request.param]}).eval()
    fields = replace(FIELDS, lattice=Lattice(1, 0), n_dates=network.config.n_dates)
    return save_bundle(tmp_path_factory.mktemp("pixel"), network, request.param, fields)


def test_no_order_of_the_rows_moves_a_bit(bundle: Bundle) -> None:
    lane, rng = Lane(bundle, days=DAYS), np.random.default_rng(0)
    x_BTCHW = rng.integers(0, 6000, (1, 2, 3, ROWS, 1)).astype(np.uint16)
    straight = lane.run(x_BTCHW)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(ROWS)
        np.testing.assert_array_equal(lane.run(x_BTCHW[:, :, :, order]), straight[:, :, order])
    few = np.zeros_like(x_BTCHW)  # nor what fills the row up
    few[:, :, :, :100] = x_BTCHW[:, :, :, 2000:2100]
    np.testing.assert_array_equal(lane.run(few)[:, :, :100], straight[:, :, 2000:2100])
    assert len(np.unique(straight.argmax(axis=1))) > 1


def test_any_chunking_gives_the_same_map_and_only_asked_pixels_are_evaluated(bundle: Bundle) -> None:
    box = Box(-40, 31, 80, 171)
    values, rng = random_cube(3, box), np.random.default_rng(1)
    frame = Frame(box, Box(-38, 33, 79, 170), bundle.lattice, wanted=rng.random((117, 137)) < 0.6)
    layers = Layers(bundle.head, bundle.classes.values, ("probability",))
    maps = []
    for chunks in ((120, 140), (50, 47), (7, 140)):
        lazy = predict_array(
            da.from_array(values, chunks=(1, 3, *chunks)), frame, partial(lane_for, bundle, days=DAYS), layers
        )
        with dask.config.set(scheduler="threads", num_workers=2):
            maps.append(lazy.compute())
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    valid = values.all(axis=1).any(axis=0)[frame.core.slices_in(box)]
    assert frame.wanted is not None
    np.testing.assert_array_equal(maps[0][0] != 0, valid & frame.wanted)
    before = lane_for(bundle, days=DAYS).evaluations
    predict_array(
        da.from_array(values, chunks=-1), frame, partial(lane_for, bundle, days=DAYS), layers
    ).compute()
    assert lane_for(bundle, days=DAYS).evaluations - before == -(-int((valid & frame.wanted).sum()) // ROWS)


def test_every_pixel_has_the_networks_own_answer(bundle: Bundle, tmp_path: Path) -> None:
    box = Box(0, 0, 60, 70)
    values = random_cube(4, box)
    layers = Layers(bundle.head, bundle.classes.values)
    found = predict_array(
        da.from_array(values, chunks=-1),
        Frame(box, box, bundle.lattice),
        partial(lane_for, bundle, days=DAYS),
        layers,
    ).compute()
    lane = lane_for(bundle, days=DAYS)
    with torch.no_grad():
        logits = lane.network(*lane.prepared(values[None]))[0] / bundle.temperature
    valid = values.all(axis=1).any(axis=0)
    top = torch.softmax(logits.double(), dim=0).max(dim=0)
    clear = (torch.sort(logits, dim=0).values.diff(dim=0)[-1] > 1e-4).numpy() & valid
    np.testing.assert_array_equal(found[0][clear], top.indices.numpy()[clear] + 1)
    np.testing.assert_allclose(found[1][valid], 250 * top.values.numpy()[valid], atol=0.51)
