from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.products.reducers import mean_blocks, mean_levels, mode_blocks, mode_levels, nearest_blocks
from engine.values.errors import InputError


def _blocks(values: np.ndarray, factor: int, fill: int) -> np.ndarray:
    """Cut into (rows, cols, factor * factor), the edges filled up."""
    rows, cols = (-(-n // factor) for n in values.shape)
    padded = np.full((rows * factor, cols * factor), fill, np.int64)
    padded[: values.shape[0], : values.shape[1]] = values
    cut = padded.reshape(rows, factor, cols, factor).swapaxes(1, 2)
    return cut.reshape(rows, cols, factor * factor)


def mode_oracle(label: np.ndarray, factor: int) -> np.ndarray:
    """Majority by counting one class at a time over the whole array."""
    blocks = _blocks(label, factor, 0)
    values = [v for v in np.unique(label) if v] or [1]
    counts = np.stack([(blocks == value).sum(-1) for value in values])
    best = np.asarray(values)[counts.argmax(0)]  # argmax takes the first: the lowest value
    return np.where(counts.max(0) > 0, best, 0).astype(np.uint8)


def mean_oracle(values: np.ndarray, factor: int, no_data: int | None) -> np.ndarray:
    outside = -(2**33)
    blocks = _blocks(values, factor, outside)
    kept = (blocks != outside) if no_data is None else (blocks != outside) & (blocks != no_data)
    mean = np.where(kept, blocks, 0).sum(-1) / np.maximum(kept.sum(-1), 1)
    return np.where(kept.any(-1), np.floor(mean + 0.5), no_data or 0).astype(values.dtype)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
levels = st.sampled_from([(2,), (4,), (2, 4, 8), (2, 8, 32), (16,), (2, 4, 8, 16, 32, 64)])
labels = arrays(np.uint8, shapes, elements=st.sampled_from([0, 0, 1, 2, 3, 17, 255]))


@settings(max_examples=60, deadline=None)
@given(label=labels, factor=st.sampled_from([1, 2, 3, 4, 8]))
def test_mode_is_the_majority_of_valid_pixels(label: np.ndarray, factor: int) -> None:
    np.testing.assert_array_equal(mode_blocks(label, factor), mode_oracle(label, factor))


@settings(max_examples=60, deadline=None)
@given(label=labels, factors=levels)
def test_all_modes_of_one_pass_are_those_of_each_block(label: np.ndarray, factors: tuple[int, ...]) -> None:
    found = mode_levels(label, factors)
    assert len(found) == len(factors)
    for factor, level in zip(factors, found, strict=True):
        np.testing.assert_array_equal(level, mode_oracle(label, factor))


@pytest.mark.parametrize("n_classes", [2, 5, 255])
def test_modes_of_large_squares_with_fields_and_noise(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    label = np.kron(rng.integers(0, n_classes + 1, (20, 26)), np.ones((11, 9))).astype(np.uint8)
    noisy = rng.random(label.shape) < 0.2
    label[noisy] = rng.integers(0, n_classes + 1, int(noisy.sum()))
    factors = (2, 4, 8, 16, 32, 64, 128)
    for factor, level in zip(factors, mode_levels(label, factors), strict=True):
        np.testing.assert_array_equal(level, mode_oracle(label, factor))


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, 3, 249, 250, 255])),
    factor=st.sampled_from([1, 2, 3, 4, 8]),
    no_data=st.sampled_from([None, 0, 255]),
)
def test_mean_rounds_half_up_over_valid_pixels(values: np.ndarray, factor: int, no_data: int | None) -> None:
    np.testing.assert_array_equal(mean_blocks(values, factor, no_data), mean_oracle(values, factor, no_data))


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.int16, shapes, elements=st.sampled_from([-32768, -32767, -3, -2, 0, 1, 250, 32767])),
    factors=levels,
    no_data=st.sampled_from([None, 0, -32768]),
)
def test_all_means_of_one_pass_are_those_of_each_block(
    values: np.ndarray, factors: tuple[int, ...], no_data: int | None
) -> None:
    for factor, level in zip(factors, mean_levels(values, factors, no_data), strict=True):
        assert level.dtype == np.int16
        np.testing.assert_array_equal(level, mean_oracle(values, factor, no_data))


def test_the_mode_of_modes_is_another_map() -> None:
    # Class 1 wins three of four quarters by 3 to 1 but class 2 holds 4 + 3 = 7 of 16 against 9: take a
    # block where it matters, so that an overview built from the level above would fail here.
    label = np.array([[1, 1, 1, 1], [3, 2, 3, 2], [1, 1, 2, 2], [2, 2, 2, 2]], np.uint8)
    assert mode_blocks(label, 4)[0, 0] == 2
    assert mode_levels(label, (4,))[0][0, 0] == 2
    assert mode_blocks(mode_blocks(label, 2), 2)[0, 0] == 1


def test_nearest_takes_the_middle_as_gdal_does() -> None:
    label = np.random.default_rng(1).integers(0, 9, (64, 96)).astype(np.uint8)
    for factor in (2, 4, 8):
        np.testing.assert_array_equal(
            nearest_blocks(label, factor), label[factor // 2 :: factor, factor // 2 :: factor]
        )
    assert nearest_blocks(label[:5, :5], 4).shape == (2, 2)


def test_factors_that_are_no_powers_of_two_are_refused() -> None:
    with pytest.raises(InputError, match="positive"):
        mode_blocks(np.zeros((2, 2), np.uint8), 0)
    with pytest.raises(InputError, match="powers of two"):
        mode_levels(np.zeros((2, 2), np.uint8), (2, 3))
    with pytest.raises(InputError, match="powers of two"):
        mean_levels(np.zeros((2, 2), np.uint8), (1 << 16,), None)
    assert mode_levels(np.zeros((2, 2), np.uint8), ()) == []
