"""The compiled loops against plain numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.inference.lane import Lane
from engine.inference.loops import add_weighted, put_pixels, softmax, take_pixels
from engine.models.normalise import LogSigmoid, Standard, prepare
from tests.inference.bundles import FIELDS, random_bundle

MEANS = ((700.0, 900.0, 2500.0), (300.0, 350.0, 900.0))
LOGS = LogSigmoid(centre=(3.0, 3.5, 3.2), scale=(0.7, 0.9, 0.8))


@pytest.mark.parametrize("normalisation", [Standard(mean=MEANS[0], std=MEANS[1]), LOGS])
def test_the_map_normalises_as_the_training_does(
    tmp_path_factory: pytest.TempPathFactory, normalisation: Standard | LogSigmoid
) -> None:
    lane = Lane(random_bundle(tmp_path_factory.mktemp("b"), normalisation=normalisation))
    rng = np.random.default_rng(0)
    x_BTCHW = rng.integers(0, 65536, (2, 2, 3, 32, 32)).astype(np.uint16)
    x_BTCHW[rng.random(x_BTCHW.shape) < 0.01] = 0
    x_BTCHW[:, :, :, 5] = np.maximum(x_BTCHW[:, :, :, 5], 1)  # a row without a hole
    values, valid = lane.prepared(x_BTCHW)
    expected, expected_valid = prepare(torch.tensor(x_BTCHW), normalisation)
    np.testing.assert_array_equal(valid.numpy(), expected_valid.numpy())
    assert 0 < valid.mean() < 1
    if isinstance(normalisation, Standard):
        np.testing.assert_array_equal(values.numpy(), expected.numpy())
    else:  # a library's logarithm may differ in the last bit between whole and partial vectors
        np.testing.assert_allclose(values.numpy(), expected.numpy(), rtol=1e-6)
    assert values.shape == (2, 2, 3, 32, 32)
    assert values.flatten(1, 2).is_contiguous(memory_format=torch.channels_last)
    assert FIELDS.normalisation is not normalisation


@pytest.mark.parametrize("shape", [(7, 33, 4), (1, 4096, 3), (5, 1, 2)])
@pytest.mark.parametrize("planar", [True, False])
def test_softmax_in_fixed_point_is_within_half_a_step(shape: tuple[int, int, int], planar: bool) -> None:
    scores_HWK = (np.random.default_rng(1).normal(size=shape) * 20).astype(np.float32)
    if planar:
        scores_HWK = np.moveaxis(np.moveaxis(scores_HWK, 2, 0).copy(), 0, 2)
    out_KHW = np.empty((shape[2], *shape[:2]), np.int32)
    assert softmax(scores_HWK, np.float32(1.7), out_KHW)
    exact = scores_HWK.astype(np.float64) / 1.7
    exact = np.exp(exact - exact.max(axis=2, keepdims=True))
    expected = 65535 * np.moveaxis(exact / exact.sum(axis=2, keepdims=True), 2, 0)
    np.testing.assert_allclose(out_KHW, expected, atol=0.55)
    assert out_KHW.min() >= 0
    assert out_KHW.max() <= 65535


def test_softmax_of_a_pixel_depends_on_nothing_beside_it() -> None:
    rng = np.random.default_rng(2)
    scores_HWK = rng.normal(size=(9, 71, 5)).astype(np.float32) * 4
    whole, turned = np.empty((5, 9, 71), np.int32), np.empty((5, 1, 9 * 71), np.int32)
    order = rng.permutation(9 * 71)
    softmax(scores_HWK, np.float32(1.0), whole)
    softmax(np.ascontiguousarray(scores_HWK.reshape(1, -1, 5)[:, order]), np.float32(1.0), turned)
    np.testing.assert_array_equal(whole.reshape(5, -1)[:, order], turned[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_softmax_tells_of_a_score_that_is_not_finite(bad: float) -> None:
    scores_HWK = np.zeros((3, 20, 4), np.float32)
    scores_HWK[2, 19, 1] = bad
    assert not softmax(scores_HWK, np.float32(1.0), np.empty((4, 3, 20), np.int32))


@pytest.mark.parametrize("at", [(0, 0), (-3, 2), (6, -4), (9, 9), (-20, 0)])
def test_windows_are_added_where_they_lie_inside(at: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    p_KHW = rng.integers(0, 65536, (2, 8, 8)).astype(np.int32)
    weights = rng.integers(1, 256, (8, 8)).astype(np.int32)
    sums = rng.integers(0, 1000, (3, 12, 11)).astype(np.int32)
    wide = np.pad(sums.astype(np.int64), ((0, 0), (30, 30), (30, 30)))
    wide[:2, 30 + at[0] : 38 + at[0], 30 + at[1] : 38 + at[1]] += p_KHW * weights
    add_weighted(sums, p_KHW, weights, *at)
    np.testing.assert_array_equal(sums, wide[:, 30:42, 30:41])


def test_pixels_come_back_to_where_they_were_taken() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 9000, (2, 3, 13, 17)).astype(np.uint16)
    ys, xs = np.nonzero(rng.random((13, 17)) < 0.3)
    rows_TCN = np.zeros((2, 3, 100), np.uint16)
    take_pixels(values, ys, xs, rows_TCN)
    np.testing.assert_array_equal(rows_TCN[..., : len(ys)], values[..., ys, xs])
    assert not rows_TCN[..., len(ys) :].any()
    sums = np.zeros((5, 13, 17), np.int32)
    put_pixels(sums, ys, xs, rows_TCN[0].astype(np.int32), np.int32(7))
    expected = np.zeros((5, 13, 17), np.int32)
    expected[:3, ys, xs] = 7 * values[0][:, ys, xs].astype(np.int32)
    np.testing.assert_array_equal(sums, expected)
