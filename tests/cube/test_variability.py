"""Deviations against scipy's distances, and what each of them is blind to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from engine.cube.geomedian import geometric_median
from engine.cube.variability import variability
from engine.values.errors import InputError


def _random(seed: int, dates: int, bands: int = 4, shape: tuple[int, int] = (3, 5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 12_000, (dates, bands, *shape)).astype(np.uint16)
    values[rng.random(values.shape) < 0.08] = 0
    return values


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([np.uint16, np.float32]))
def test_deviations_are_medians_of_scipys_distances(seed: int, dates: int, dtype: type) -> None:
    values = _random(seed, dates)
    middle = np.random.default_rng(seed).integers(1, 12_000, values.shape[1:]).astype(dtype)
    found = variability(values, middle)
    for y, x in np.ndindex(values.shape[2:]):
        clear = values[:, :, y, x][(values[:, :, y, x] > 0).all(axis=1)].astype(float)
        if not len(clear):
            assert np.isnan(found[:, y, x]).all()
            continue
        centre = middle[None, :, y, x].astype(float)
        metrics = ("euclidean", "cosine", "braycurtis")
        expected = [np.median(cdist(clear, centre, metric)) for metric in metrics]
        expected[0] /= 10_000
        np.testing.assert_allclose(found[:, y, x], expected, rtol=1e-5, atol=1e-7)


def test_three_observations_by_hand() -> None:
    """Distances 0, 5 and 13 (x 100): their median is 5, 0.05 in reflectance."""
    values = np.array([[1000, 2000], [1300, 2400], [1500, 3200]], np.uint16)[:, :, None, None]
    edev, sdev, bcdev = variability(values, np.array([1000, 2000], np.uint16)[:, None, None]).ravel()
    assert edev == pytest.approx(0.05)
    assert bcdev == pytest.approx(700 / 6700)
    cosine = (1000 * 1500 + 2000 * 3200) / np.hypot(1000, 2000) / np.hypot(1500, 3200)
    other = (1000 * 1300 + 2000 * 2400) / np.hypot(1000, 2000) / np.hypot(1300, 2400)
    assert sdev == pytest.approx(np.median([0, 1 - cosine, 1 - other]), rel=1e-4)


def test_sdev_is_blind_to_brightness_and_edev_is_not() -> None:
    """Shade and sunlight scale a spectrum: the cosine distance stays, the other two grow."""
    spectrum = np.array([400, 600, 500, 3000])
    shaded = np.array([spectrum * k for k in (1, 2, 3, 4, 5)], np.uint16)[:, :, None, None]
    median = geometric_median(shaded)[0]
    edev, sdev, bcdev = variability(shaded, median).ravel()
    assert sdev < 1e-9
    assert edev > 0.3
    assert bcdev == pytest.approx(1 / 5, abs=1e-3)  # distances 1/2, 1/5, 0, 1/7, 1/4 of the third


def test_the_same_observation_again_and_again_does_not_vary() -> None:
    same = np.full((6, 3, 2, 2), 1234, np.uint16)
    np.testing.assert_allclose(variability(same, geometric_median(same)[0]), 0, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_order_empty_dates_threads_and_cuts_change_nothing(seed: int, dates: int) -> None:
    values = _random(seed, dates, shape=(4, 70))
    middle = np.random.default_rng(seed).integers(1, 12_000, values.shape[1:]).astype(np.uint16)
    whole = variability(values, middle)
    order = np.random.default_rng(seed).permutation(dates)
    padded = np.insert(values[order], dates // 2, 0, axis=0)
    np.testing.assert_array_equal(variability(padded, middle, threads=2), whole)
    part = variability(values[:, :, 1:3, 5:67], middle[:, 1:3, 5:67])
    np.testing.assert_array_equal(part, whole[:, 1:3, 5:67])


def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match="differ"):
        variability(np.ones((2, 3, 4, 4), np.uint16), np.ones((2, 4, 4), np.uint16))
    assert np.isnan(variability(np.ones((0, 3, 4, 4), np.uint16), np.ones((3, 4, 4), np.uint16))).all()
