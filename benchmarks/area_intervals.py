"""How often the intervals of a unit's areas hold the truth: a made-up country, mapped with errors, sampled many times.

Run it with: python -m benchmarks.area_intervals [--draws 2000]

A country of 12 units and 5 classes (one rare) is mapped with errors; stratified samples of 600 points are drawn, and
each unit is estimated by its own points too (assisted) and as if the map erred there as everywhere (synthetic). Once
the map errs alike in all units, once three times as often in every third one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.assessment.types import Sample, Stratum
from engine.assessment.unit_areas import UnitEstimator

CLASSES = (1, 2, 3, 4, 5)
UNITS, PIXELS = 12, 240_000


@dataclass(frozen=True)
class Country:
    """Pixels of a country: (N,) mapped class, true class, unit."""

    mapped: NDArray[np.int64]
    truth: NDArray[np.int64]
    unit: NDArray[np.int64]


def country(seed: int, *, alike: bool) -> Country:
    """Make a country; each unit has other shares of classes, and is wrong alike or not."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(UNITS), PIXELS // UNITS)
    shares = rng.dirichlet(np.array([6.0, 5.0, 3.0, 2.0, 0.5]) * 3, UNITS)
    truth = np.concatenate([rng.choice(CLASSES, PIXELS // UNITS, p=p) for p in shares])
    wrong = np.where((unit % 3 == 0) & (not alike), 0.24, 0.08 if not alike else 0.12)
    mapped = np.where(rng.random(PIXELS) < wrong, rng.choice(CLASSES, PIXELS), truth)
    return Country(mapped, truth, unit)


def main() -> None:
    """Print how often intervals hold, and how far estimates lie off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    print(
        f"{'errors':<10} {'method':<10} {'holds %':>8} {'classes':>16} {'units':>16} {'off ha':>8} {'mapped off':>10}"
    )
    for alike in (True, False):
        for method, fewest in (("assisted", 2), ("synthetic", 10**6)):
            held, off, plain = simulate(country(5, alike=alike), fewest, args.draws)
            by_class, by_unit = 100 * held.mean(axis=0), 100 * held.mean(axis=1)
            print(
                f"{'alike' if alike else 'different':<10} {method:<10} {100 * held.mean():8.1f} "
                f"{by_class.min():7.1f}..{by_class.max():5.1f} {by_unit.min():9.1f}..{by_unit.max():5.1f} "
                f"{off:8.2f} {plain:10.2f}"
            )


def simulate(made: Country, fewest: int, draws: int) -> tuple[NDArray[np.float64], float, float]:
    """Return how often intervals hold, (unit, class), and how far estimates and counted pixels are off, rms in ha."""
    strata = tuple(
        Stratum(str(c), int((made.mapped == c).sum()), (made.mapped == c).sum() / 100, mapped=c)
        for c in CLASSES
    )
    where = [np.flatnonzero(made.mapped == c) for c in CLASSES]
    counts = {k: _counts(made, k) for k in ("mapped", "truth")}
    held, square = np.zeros((UNITS, len(CLASSES))), 0.0
    rng = np.random.default_rng(11)
    for _ in range(draws):
        chosen = np.concatenate([rng.choice(w, 120, replace=False) for w in where])
        sample = Sample.of(strata, np.repeat(np.arange(5), 120), made.mapped[chosen], made.truth[chosen])
        estimator = UnitEstimator(sample, CLASSES, fewest=fewest)
        for u in range(UNITS):
            areas = dict(zip(CLASSES, counts["mapped"][u].tolist(), strict=True))
            for k, row in enumerate(estimator.estimate(areas, made.unit[chosen] == u)):
                told, wanted = row.adjusted, counts["truth"][u, k]
                assert told is not None
                assert told.value is not None
                square += (told.value - wanted) ** 2
                held[u, k] += (
                    told.low is not None and told.high is not None and told.low <= wanted <= told.high
                )
    off = float(np.sqrt(square / draws / held.size))
    return held / draws, off, float(np.sqrt(((counts["mapped"] - counts["truth"]) ** 2).mean()))


def _counts(made: Country, name: str) -> NDArray[np.float64]:
    """Return hectares, (unit, class)."""
    pairs = made.unit * 6 + getattr(made, name)
    return np.bincount(pairs, minlength=UNITS * 6).reshape(UNITS, 6)[:, 1:] / 100.0


if __name__ == "__main__":
    main()
