"""Backscatter composites against plain numpy, and why they are made in linear power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma

from engine.cube.sentinel1 import composite_backscatter
from engine.values.errors import InputError
from engine.values.recipe import Sentinel1

SPECS = [Sentinel1(reducer=r, combine=c) for r in ("mean", "median") for c in ("mean", "most")]


def _by_hand(power: np.ndarray, orbits: np.ndarray, spec: Sentinel1) -> tuple[np.ndarray, np.ndarray]:
    """One pixel after the other, in plain numpy."""
    _, n_bands, height, width = power.shape
    db, count = np.full((n_bands, height, width), np.nan, np.float32), np.zeros((height, width), np.uint8)
    reduce = {"mean": np.mean, "median": np.median}[spec.reducer]
    for y, x in np.ndindex(height, width):
        series = power[:, :, y, x].astype(np.float64)
        good = (np.isfinite(series) & (series > 0)).all(axis=1)
        count[y, x] = min(int(good.sum()), 255)
        if not good.any():
            continue
        found = {o: series[good & (orbits == o)] for o in sorted(set(orbits[good].tolist()))}
        if spec.combine == "most":
            best = max(found, key=lambda o: (len(found[o]), -o))
            found = {best: found[best]}
        mean = np.mean([reduce(v, axis=0) for v in found.values()], axis=0)
        db[:, y, x] = 10 * np.log10(mean)
    return db, count


def _speckled(seed: int, dates: int, bands: int, shape: tuple[int, int] = (4, 5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    power = rng.gamma(4.4, 0.05 / 4.4, (dates, bands, *shape)).astype(np.float32)
    broken = rng.random(power.shape)
    power[broken < 0.10] = np.nan
    power[(broken > 0.10) & (broken < 0.13)] = 0
    power[(broken > 0.13) & (broken < 0.16)] *= -1
    power[(broken > 0.16) & (broken < 0.17)] = np.inf
    return power


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 2), st.sampled_from(SPECS), st.data())
def test_it_equals_plain_numpy(
    seed: int, dates: int, bands: int, spec: Sentinel1, data: st.DataObject
) -> None:
    power = _speckled(seed, dates, bands)
    orbits = np.array(data.draw(st.lists(st.sampled_from([7, 15, 66, 175]), min_size=dates, max_size=dates)))
    db, count = composite_backscatter(power, orbits, spec)
    expected, expected_count = _by_hand(power, orbits, spec)
    np.testing.assert_allclose(db, expected, rtol=3e-7, atol=1e-6)
    np.testing.assert_array_equal(count, expected_count)
    assert db.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(db).all(axis=0), count == 0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.reducer}-{s.combine}")
def test_any_cut_and_any_order_of_orbits_gives_the_same_bits(spec: Sentinel1) -> None:
    power, orbits = _speckled(3, 11, 2, (40, 37)), np.array([15, 66, 15, 139, 66, 15, 139, 139, 15, 66, 66])
    whole, count = composite_backscatter(power, orbits, spec)
    for rows, cols in [((0, 7, 40), (0, 37)), ((0, 13, 14, 40), (0, 1, 20, 37))]:
        for y0, y1 in itertools.pairwise(rows):
            for x0, x1 in itertools.pairwise(cols):
                part, part_count = composite_backscatter(power[..., y0:y1, x0:x1], orbits, spec)
                np.testing.assert_array_equal(part, whole[:, y0:y1, x0:x1])
                np.testing.assert_array_equal(part_count, count[y0:y1, x0:x1])
    by_orbit = np.argsort(orbits, kind="stable")
    np.testing.assert_array_equal(composite_backscatter(power[by_orbit], orbits[by_orbit], spec)[0], whole)


def test_more_passes_of_a_brighter_orbit_do_not_brighten_the_composite() -> None:
    quiet, bright = 0.05, 0.05 * 10 ** (0.8 / 10)
    for n_bright in (1, 5):
        power = np.array([quiet, *[bright] * n_bright], np.float32).reshape(-1, 1, 1, 1)
        db, _ = composite_backscatter(power, [15, *[66] * n_bright], Sentinel1())
        assert db.item() == pytest.approx(10 * np.log10((quiet + bright) / 2), abs=1e-5)


def test_the_orbit_most_observed_is_chosen_per_pixel_and_equals_go_to_the_lowest_number() -> None:
    power = np.array([[1, 1], [2, np.nan], [4, 4], [8, 8]], np.float32).reshape(4, 1, 1, 2)
    db, count = composite_backscatter(power, [66, 66, 15, 15], Sentinel1(combine="most"))
    assert 10 ** (db / 10) == pytest.approx(np.array([[[6.0, 6.0]]]))
    assert count.tolist() == [[4, 3]]
    db, _ = composite_backscatter(power, [15, 15, 66, 66], Sentinel1(combine="most"))
    assert 10 ** (db / 10) == pytest.approx(np.array([[[1.5, 6.0]]]))


def test_a_mean_of_power_is_unbiased_where_a_mean_of_decibels_is_not() -> None:
    looks, truth = 4.4, 0.07
    power = np.random.default_rng(5).gamma(looks, truth / looks, (400, 1, 60, 60)).astype(np.float32)
    db, _ = composite_backscatter(power, np.full(400, 15), Sentinel1())
    truth_db = 10 * np.log10(truth)
    assert 10 * np.log10(np.mean(10 ** (db.astype(float) / 10))) == pytest.approx(truth_db, abs=0.01)
    of_decibels = np.mean(10 * np.log10(power.astype(float)))
    expected = -10 / np.log(10) * (np.log(looks) - digamma(looks))
    assert of_decibels - truth_db == pytest.approx(expected, abs=0.01)
    assert expected < -0.5


def test_nothing_gives_no_data_and_many_passes_count_to_255() -> None:
    none, count = composite_backscatter(np.zeros((0, 2, 3, 4), np.float32), [], Sentinel1())
    assert none.shape == (2, 3, 4)
    assert np.isnan(none).all()
    assert not count.any()
    many = composite_backscatter(np.ones((300, 1, 1, 1), np.float32), np.zeros(300, int), Sentinel1())
    assert (many[0].item(), many[1].item()) == (0.0, 255)


def test_a_pass_without_an_orbit_is_refused() -> None:
    with pytest.raises(InputError, match="each pass needs its orbit"):
        composite_backscatter(np.ones((3, 1, 1, 1), np.float32), [15, 66], Sentinel1())
