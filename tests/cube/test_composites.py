"""Each reducer against plain numpy and scipy, and the properties that make it what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from engine.cube.composites import Evidence, composite
from engine.values.errors import InputError
from engine.values.recipe import BestPixel

SEEDS = st.integers(0, 2**32 - 1)
DATES = st.integers(1, 12)
NAMES = ["median", "mean", "first", "p0", "p10", "p97", "p100", "medoid", "geomedian", "max_ndvi", "best"]


def _random(
    seed: int, dates: int, bands: int = 3, shape: tuple[int, int] = (3, 5), top: int = 65536
) -> np.ndarray:
    """Random values; some dates of a pixel lack one band, some all."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, top, (dates, bands, *shape)).astype(np.uint16)
    values[rng.random(values.shape) < 0.08] = 0
    return values * (rng.random((dates, 1, *shape)) > 0.2)


def _evidence(values: np.ndarray, seed: int = 0) -> Evidence:
    n_dates, n_bands, height, width = values.shape
    distance = np.random.default_rng(seed).integers(0, 101, (n_dates, height, width)).astype(np.uint16)
    days = tuple(float(5 * i - 2 * n_dates) for i in range(n_dates))
    return Evidence(red=0, nir=min(1, n_bands - 1), days=days, cloud_distance_px=distance)


def _reduce(values: np.ndarray, name: str, evidence: Evidence | None = None, threads: int = 1) -> np.ndarray:
    reducer = BestPixel() if name == "best" else name
    return composite(values, reducer, evidence or _evidence(values), threads=threads)[0]


def _by_pixel(
    values: np.ndarray, reduce: Callable[[np.ndarray, np.ndarray, tuple[int, int]], list[int]]
) -> np.ndarray:
    """Apply ``reduce(clear (time, band), their dates, (y, x))`` to each pixel, in the plainest way."""
    out = np.zeros(values.shape[1:], np.uint16)
    for y, x in np.ndindex(values.shape[2:]):
        dates = np.flatnonzero((values[:, :, y, x] > 0).all(axis=1))
        if len(dates):
            out[:, y, x] = reduce(values[dates, :, y, x].astype(np.int64), dates, (y, x))
    return out


def _percentile(ordered: list[int], percent: int) -> int:
    """Linear interpolation, in fractions, halves up."""
    h = Fraction(percent * (len(ordered) - 1), 100)
    low, high = ordered[floor(h)], ordered[min(floor(h) + 1, len(ordered) - 1)]
    return floor(low + (h - floor(h)) * (high - low) + Fraction(1, 2))


@given(SEEDS, DATES, st.integers(0, 100))
def test_percentiles_are_exact_and_those_of_numpy(seed: int, dates: int, percent: int) -> None:
    values = _random(seed, dates)
    found = _reduce(values, f"p{percent}")

    def exact(clear: np.ndarray, *_: object) -> list[int]:
        return [_percentile(sorted(map(int, band)), percent) for band in clear.T]

    def by_numpy(clear: np.ndarray, *_: object) -> list[int]:
        return list(np.floor(np.percentile(clear, percent, axis=0) + 0.5))

    np.testing.assert_array_equal(found, _by_pixel(values, exact))
    # numpy's own interpolation is in floats: it may miss an exact half by a hair
    assert np.abs(found.astype(int) - _by_pixel(values, by_numpy)).max() <= 1
    if percent in (0, 50, 100):
        np.testing.assert_array_equal(found, _by_pixel(values, by_numpy))


@pytest.mark.parametrize("dates", [1, 2, 5, 36, 37, 64, 90, 150])
def test_medians_of_many_dates_equal_nanmedian(dates: int) -> None:
    values = _random(dates, dates, 2, (7, 300))
    clear = np.where((values > 0).all(axis=1, keepdims=True), values, np.nan)
    expected = np.floor(np.nanmedian(np.where(np.isnan(clear).all(axis=0), 0, clear), axis=0) + 0.5)
    np.testing.assert_array_equal(_reduce(values, "median"), expected)
    np.testing.assert_array_equal(_reduce(values, "median"), _reduce(values, "p50"))


@given(SEEDS, DATES)
def test_mean_equals_numpy_rounded_half_up(seed: int, dates: int) -> None:
    values = _random(seed, dates)
    by_numpy = _by_pixel(values, lambda clear, *_: list((2 * clear.sum(0) + len(clear)) // (2 * len(clear))))
    np.testing.assert_array_equal(_reduce(values, "mean"), by_numpy)


@given(SEEDS, DATES, st.sampled_from([4, 3000, 65536]))
def test_medoid_is_the_observation_nearest_to_all_others(seed: int, dates: int, top: int) -> None:
    values = _random(seed, dates, top=top)

    def nearest(clear: np.ndarray, *_: object) -> list[int]:
        sums = np.floor(cdist(clear, clear) * 65536).sum(axis=1)  # cut to 2**-16, as documented
        assert cdist(clear, clear).sum(axis=1)[sums.argmin()] <= cdist(clear, clear).sum(axis=1).min() + 1e-3
        return list(clear[sums.argmin()])

    np.testing.assert_array_equal(_reduce(values, "medoid"), _by_pixel(values, nearest))


@given(SEEDS, DATES, st.sampled_from([3, 50, 65536]))
def test_max_ndvi_is_the_earliest_of_the_greenest_dates(seed: int, dates: int, top: int) -> None:
    values = _random(seed, dates, top=top)

    def greenest(clear: np.ndarray, *_: object) -> list[int]:
        ndvi = [Fraction(int(n - r), int(n + r)) for r, n in clear[:, :2]]
        return list(clear[ndvi.index(max(ndvi))])

    np.testing.assert_array_equal(_reduce(values, "max_ndvi"), _by_pixel(values, greenest))


@given(SEEDS, DATES, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([10.0, 20.0]))
def test_best_pixel_has_the_highest_score(seed: int, dates: int, weight: float, resolution_m: float) -> None:
    values = _random(seed, dates)
    best = BestPixel(cloud_weight=weight, cloud_distance_m=700, date_sigma_days=8)
    evidence = replace(_evidence(values, seed), resolution_m=resolution_m)
    days, cap = np.array(evidence.days), 700 / resolution_m

    def highest(clear: np.ndarray, dates: np.ndarray, yx: tuple[int, int]) -> list[int]:
        assert evidence.cloud_distance_px is not None
        away = np.minimum(evidence.cloud_distance_px[dates, yx[0], yx[1]], cap) / cap
        score = weight / (1 + np.exp(-10 * (away - 0.5))) + (1 - weight) * np.exp(
            -0.5 * (days[dates] / 8) ** 2
        )
        return list(clear[np.flatnonzero(score >= score.max() - 2e-8)[0]])

    np.testing.assert_array_equal(composite(values, best, evidence)[0], _by_pixel(values, highest))


def test_first_takes_the_earliest_clear_date() -> None:
    values = _random(3, 9)
    np.testing.assert_array_equal(
        _reduce(values, "first"), _by_pixel(values, lambda clear, *_: list(clear[0]))
    )


@given(SEEDS, DATES, st.sampled_from(["median", "mean", "p0", "p30", "p100"]))
def test_the_order_of_dates_does_not_matter(seed: int, dates: int, name: str) -> None:
    values = _random(seed, dates)
    order = np.random.default_rng(seed).permutation(dates)
    np.testing.assert_array_equal(_reduce(values[order], name), _reduce(values, name))


@given(SEEDS, DATES)
def test_the_order_of_dates_moves_a_medoid_only_among_ties(seed: int, dates: int) -> None:
    values = _random(seed, dates)
    order = np.random.default_rng(seed).permutation(dates)
    found, moved = _reduce(values, "medoid"), _reduce(values[order], "medoid")
    for y, x in zip(*np.nonzero((found != moved).any(axis=0)), strict=True):
        clear = values[:, :, y, x][(values[:, :, y, x] > 0).all(axis=1)].astype(float)
        sums = [cdist(clear, [a[:, y, x]]).sum() for a in (found, moved)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(seed=SEEDS, dates=DATES, place=st.integers(0, 12))
def test_a_date_without_data_changes_nothing(name: str, seed: int, dates: int, place: int) -> None:
    values = _random(seed, dates)
    evidence = _evidence(values, seed)
    at = min(place, dates)
    days = (*evidence.days[:at], 0.0, *evidence.days[at:])
    assert evidence.cloud_distance_px is not None
    wider = replace(
        evidence, days=days, cloud_distance_px=np.insert(evidence.cloud_distance_px, at, 9, axis=0)
    )
    padded = np.insert(values, at, 0, axis=0)
    np.testing.assert_array_equal(_reduce(padded, name, wider), _reduce(values, name, evidence))


@given(SEEDS, DATES)
def test_percentiles_never_cross(seed: int, dates: int) -> None:
    values = _random(seed, dates)
    steps = np.stack([_reduce(values, f"p{p}") for p in (0, 5, 25, 50, 75, 95, 100)]).astype(int)
    assert (np.diff(steps, axis=0) >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_neither_threads_nor_cuts_nor_strides_change_a_bit(name: str) -> None:
    values = _random(1, 7, 3, (11, 530), top=9000)
    evidence = _evidence(values)
    whole = _reduce(values, name, evidence)
    np.testing.assert_array_equal(_reduce(values, name, evidence, threads=3), whole)
    turned = np.ascontiguousarray(values.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(_reduce(turned, name, evidence), whole)
    assert evidence.cloud_distance_px is not None
    for y, x in (
        (slice(2, 9), slice(0, 129)),
        (slice(5, 6), slice(77, 530)),
        (slice(0, 11), slice(255, 258)),
    ):
        part = replace(evidence, cloud_distance_px=evidence.cloud_distance_px[:, y, x])
        np.testing.assert_array_equal(_reduce(values[:, :, y, x], name, part), whole[:, y, x])


@pytest.mark.parametrize("name", NAMES)
def test_extremes_fit(name: str) -> None:
    full = np.full((4, 2, 1, 1), 65535, np.uint16)
    assert _reduce(full, name).ravel().tolist() == [65535, 65535]
    apart = np.array([[1, 65535], [65535, 1]], np.uint16).reshape(2, 2, 1, 1)
    assert _reduce(np.concatenate([apart, apart]), name).min() >= 1
    assert not _reduce(np.zeros((3, 2, 2, 2), np.uint16), name).any()
    assert not _reduce(np.zeros((0, 2, 2, 2), np.uint16), name).any()


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_of_dates_with_all_bands_and_stop_at_255(name: str) -> None:
    values = _random(5, 6)
    reducer = BestPixel() if name == "best" else name
    expected = (values > 0).all(axis=1).sum(axis=0)
    np.testing.assert_array_equal(composite(values, reducer, _evidence(values))[1], expected)
    many = np.ones((300, 1, 1, 1), np.uint16)
    assert composite(many, reducer, replace(_evidence(many), nir=0))[1].item() == 255


def test_what_is_missing_is_named() -> None:
    values = _random(0, 3)
    with pytest.raises(InputError, match=r"cube\.bands.*add both bands"):
        composite(values, "max_ndvi", Evidence(red=1))
    with pytest.raises(InputError, match="distance from clouds"):
        composite(values, BestPixel(), Evidence(days=(0.0, 1.0, 2.0)))
    with pytest.raises(InputError, match="distance from clouds"):
        composite(values, BestPixel(cloud_weight=0), Evidence(days=(0.0, 1.0)))
    with pytest.raises(InputError, match="unknown reducer"):
        composite(values, "p101")
    with pytest.raises(InputError, match="too many dates"):
        composite(np.zeros((65_537, 1, 1, 1), np.uint16), "mean")
