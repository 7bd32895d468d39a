"""Estimates of a run's time: synthetic tiles with a known truth, and what must hold for any."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runs.estimate import (
    LEVEL,
    Interval,
    Load,
    TileSize,
    WayCost,
    Workers,
    choose_way,
    fit,
    propose_size,
    run_seconds,
    spread,
)
from engine.values.errors import InputError

loads = st.lists(st.builds(Load, st.floats(1e5, 1e10), st.floats(1, 400).map(round)), min_size=1, max_size=30)


def area(seed: int, tiles: int) -> tuple[list[Load], np.ndarray, np.random.Generator]:
    """Tiles of an area, some cut by the outline, and their true mean seconds."""
    rng = np.random.default_rng(seed)
    part = np.clip(rng.beta(3, 1, tiles), 0.05, 1)
    scenes = rng.integers(10, 60, tiles)
    made = [Load(3e6 * p * s, round(196 * p)) for p, s in zip(part, scenes, strict=True)]
    fixed, per_byte, per_window = rng.uniform(0, 5), rng.uniform(2e-8, 4e-7), rng.uniform(0.01, 0.5)
    return made, np.array([fixed + per_byte * x.read_bytes + per_window * x.windows for x in made]), rng


def makespan(seconds: np.ndarray, slots: int) -> float:
    """How long slots take that each fetch the next tile when free."""
    free = [0.0] * slots
    for s in seconds:
        heapq.heappush(free, heapq.heappop(free) + float(s))
    return max(free)


def trial(seed: int, tiles: int, probe: int, slots: int) -> tuple[bool, float]:
    """Probe a synthetic run, make it, and tell whether it took as long as was said, and the error."""
    made, mean, rng = area(seed, tiles)
    noise = rng.lognormal(0, rng.uniform(0.05, 0.3), tiles)
    speed = rng.lognormal(0, 0.08)  # the run is not the probe
    picked = spread([x.read_bytes for x in made], probe)
    said = run_seconds(fit([made[i] for i in picked], (mean * noise)[picked]), made, Workers(slots))
    truth = makespan(mean * noise * speed, slots)
    return truth in said, abs(said.middle / truth - 1)


@pytest.mark.parametrize(("tiles", "probe", "slots"), [(40, 6, 2), (400, 6, 4), (3000, 12, 16), (20, 4, 2)])
def test_the_interval_holds_the_truth_at_least_as_often_as_it_says(
    tiles: int, probe: int, slots: int
) -> None:
    held, errors = zip(*(trial(seed, tiles, probe, slots) for seed in range(100)), strict=True)
    assert LEVEL <= np.mean(held) < 1.0  # always would be as wrong as seldom: an interval without end
    assert np.median(errors) < 0.15


def test_more_tiles_narrow_the_interval() -> None:
    def width(probe: int) -> float:
        widths = []
        for seed in range(30):
            made, mean, rng = area(seed, 500)
            picked = spread([x.read_bytes for x in made], probe)
            seconds = (mean * rng.lognormal(0, 0.2, 500))[picked]
            said = run_seconds(fit([made[i] for i in picked], seconds), made, Workers(4))
            widths.append(said.high / said.low)
        return float(np.median(widths))

    assert width(60) < width(12) < width(3)


def test_without_noise_the_coefficients_are_found() -> None:
    made, _, _ = area(3, 50)
    truth = np.array([2.0, 1e-7, 0.05])
    seconds = [truth[0] + truth[1] * x.read_bytes + truth[2] * x.windows for x in made]
    found = fit(made, seconds)
    np.testing.assert_allclose(found.coefficients, truth, rtol=1e-6)
    np.testing.assert_allclose(found.seconds(made), seconds, rtol=1e-9)


def test_the_sum_is_met_without_bias_where_noise_is_wild() -> None:
    ratios = []
    for seed in range(200):
        made, mean, rng = area(seed, 12)
        noise = rng.gamma(4, 0.25, 12)  # mean 1, half of it scatter
        ratios.append(fit(made, mean * noise).seconds(made).sum() / mean.sum())
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)


@given(loads, st.integers(1, 64))
def test_an_interval_is_in_order_and_scales(made: list[Load], slots: int) -> None:
    times = fit(made[:6], [1.0 + x.read_bytes * 1e-8 + x.windows * 0.01 for x in made[:6]])
    said = run_seconds(times, made, Workers(slots))
    assert 0 < said.low < said.middle < said.high
    longest = float(times.seconds(made).max())
    assert said.middle <= run_seconds(times, made, Workers(1)).middle + longest
    assert said.times(3.0).middle == pytest.approx(3 * said.middle)
    late = run_seconds(times, made, Workers(slots, startup_s=100.0))
    assert late.middle == pytest.approx(said.middle + 100.0)


@given(st.integers(1, 200), st.integers(500, 5000))
def test_many_equal_tiles_take_time_in_inverse_proportion_to_workers(slots: int, tiles: int) -> None:
    one = [Load(1e8, 100)]
    times = fit(one * 6, [10.0] * 6)
    alone = run_seconds(times, one, Workers(1), tiles=tiles).middle
    assert alone == pytest.approx(10.0 * tiles, rel=1e-6)
    together = run_seconds(times, one, Workers(slots), tiles=tiles).middle
    assert alone / slots <= together + 1e-6 <= alone / slots + 10.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 20))
def test_a_probe_is_spread_over_the_costs(costs: list[float], count: int) -> None:
    picked = spread(costs, count)
    assert len(picked) == len(set(picked)) == min(count, len(costs))
    assert picked == sorted(picked)
    if len(costs) >= 4 * count > 4:
        ordered = sorted(costs)
        found = sorted(costs[i] for i in picked)
        assert found[0] <= ordered[len(costs) // 2] <= found[-1]


def test_no_tiles_take_no_time_and_no_probe_is_refused() -> None:
    times = fit([Load(1, 1)], [1.0])
    assert run_seconds(times, [], Workers(2)) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="seconds"):
        fit([], [])
    with pytest.raises(InputError, match="seconds"):
        fit([Load(1, 1)], [0.0])


def test_staging_must_be_worth_a_store() -> None:
    assert choose_way(WayCost(100, 0, 50.0), WayCost(60, 10, 49.0)) == "fused"
    assert choose_way(WayCost(100, 0, 50.0), WayCost(60, 900, 30.0)) == "staged"
    assert choose_way(WayCost(100, 0), WayCost(60, 10)) == "staged"
    assert choose_way(WayCost(100, 0, 50.0), WayCost(60, 35)) == "fused"


def test_the_tile_size_fits_the_worker_and_keeps_slots_busy() -> None:
    sizes = [
        TileSize(1024, 400, 1.5e9, 1 << 30, 130.0),
        TileSize(2048, 100, 1.05e9, 2 << 30, 100.0),
        TileSize(4096, 25, 1e9, 5 << 30, 95.0),
        TileSize(8192, 6, 0.98e9, 18 << 30, 200.0),
    ]
    assert propose_size(sizes, None, 2)[0].tile_px == 2048
    assert propose_size(sizes, 1 << 30, 2)[0].tile_px == 1024
    chosen, why = propose_size(sizes, 1 << 20, 2)
    assert (chosen.tile_px, "none fits" in why) == (1024, True)
    assert propose_size(sizes, None, 40)[0].tile_px == 2048  # 4096 leaves slots idle
    with pytest.raises(InputError, match="no tile sizes"):
        propose_size([], None, 1)
