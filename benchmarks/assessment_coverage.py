"""Do 95% intervals hold the truth in 93% to 97% of all samples? For each design, over thousands of draws.

A map of 400 x 400 pixels with patches, errors along their edges and a rare class is known in full; samples are drawn
from it as a user draws them (`engine.assessment.draw`, seeds 0, 1, 2, ...) and assessed. For each design and figure:
the share of draws whose interval holds the figure of the whole map.

    python benchmarks/assessment_coverage.py [draws] [word in the design's name]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from engine.assessment.bootstrap import resampled
from engine.assessment.designs import allocate
from engine.assessment.domains import by_region
from engine.assessment.draw import Drawing, Points, count_clusters, draw_in_clusters
from engine.assessment.poststrata import poststratified
from engine.assessment.stratified import Accuracy, accuracy
from engine.assessment.types import Estimate, Sample, Stratum
from engine.values.grid import Box

SIDE, K, PER_PIXEL_HA = 400, 4, 0.01
BOX = Box(0, 0, SIDE, SIDE)
FIGURES = ("users", "producers", "f1", "iou", "area_shares")


@dataclass(frozen=True)
class World:
    truth: np.ndarray
    mapped: np.ndarray

    @property
    def pixels(self) -> list[int]:
        return [int((self.mapped == k).sum()) for k in range(1, K + 1)]


def world(seed: int = 5) -> World:
    """Classes of 4%, 14%, 32% and 50% of the area; errors where the field is near a threshold."""
    rng = np.random.default_rng(seed)

    def field(scale: float) -> np.ndarray:
        made = gaussian_filter(rng.standard_normal((SIDE, SIDE)), scale, mode="wrap")
        return made / made.std()

    height = field(5)
    steps = np.quantile(height, [0.04, 0.18, 0.5])
    seen = height + 0.2 * field(2) + 0.2 * rng.standard_normal((SIDE, SIDE))
    return World(
        (np.digitize(height, steps) + 1).astype(np.uint8), (np.digitize(seen, steps) + 1).astype(np.uint8)
    )


def figures(truth: np.ndarray, mapped: np.ndarray) -> dict[tuple[str, int], float]:
    joint = np.zeros((K, K))
    np.add.at(joint, (mapped.ravel() - 1, truth.ravel() - 1), 1 / truth.size)
    hit, rows, columns = np.diag(joint), joint.sum(axis=1), joint.sum(axis=0)
    told = {
        "users": hit / rows,
        "producers": hit / columns,
        "f1": 2 * hit / (rows + columns),
        "iou": hit / (rows + columns - hit),
        "area_shares": columns,
    }
    return {(n, k + 1): float(told[n][k]) for n in told for k in range(K)} | {
        ("overall", 0): float(hit.sum())
    }


def estimates(found: Accuracy) -> dict[tuple[str, int], Estimate]:
    return {(n, k): getattr(found, n)[k] for n in FIGURES for k in range(1, K + 1)} | {
        ("overall", 0): found.overall
    }


class Designs:
    """Each method draws with a seed and assesses: from a name of a part of the map to its figures."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.all = [Stratum("all", SIDE * SIDE, SIDE * SIDE * PER_PIXEL_HA)]
        self.by_class = [Stratum(str(k), n, n * PER_PIXEL_HA, mapped=k) for k, n in enumerate(w.pixels, 1)]
        self.zones = (np.indices((SIDE, SIDE))[0] // (SIDE // 4)).clip(0, 2).astype(np.uint8) + 1
        self.clusters = count_clusters([(BOX, w.mapped)], 10)

    def _sample(self, strata: list[Stratum], p: Points, **more: object) -> Sample:
        at = (p.row, p.column)
        return Sample.of(strata, p.stratum, self.w.mapped[at], self.w.truth[at], **more)

    def _drawn(self, labels: np.ndarray, strata: dict[int, int], n: list[int], seed: int) -> Points:
        drawing = Drawing(strata, n, seed=seed)
        drawing.offer(labels, BOX)
        return drawing.points()

    def simple(self, seed: int) -> Sample:
        return self._sample(
            self.all, self._drawn(self.w.mapped, dict.fromkeys(range(1, K + 1), 0), [800], seed)
        )

    def by_map(self, seed: int, n: list[int]) -> Sample:
        return self._sample(
            self.by_class, self._drawn(self.w.mapped, {k: k - 1 for k in range(1, K + 1)}, n, seed)
        )

    def by_zone(self, seed: int) -> Sample:
        sizes = [int((self.zones == z).sum()) for z in (1, 2, 3)]
        strata = [Stratum(f"zone {z}", n, n * PER_PIXEL_HA) for z, n in enumerate(sizes, 1)]
        return self._sample(strata, self._drawn(self.zones, {1: 0, 2: 1, 3: 2}, [200, 350, 350], seed))

    def in_clusters(self, seed: int, n: int, each: int) -> Sample:
        strata = [replace(self.all[0], clusters=len(self.clusters))]
        w = self.w.mapped
        p = draw_in_clusters(lambda b: w[b.y0 : b.y1, b.x0 : b.x1], self.clusters, n, each, seed=seed)
        return self._sample(strata, p, cluster=p.cluster, cluster_pixels=p.cluster_pixels)

    def in_region(self, seed: int) -> Accuracy:
        p = self._drawn(self.w.mapped, {k: k - 1 for k in range(1, K + 1)}, [300] * K, seed)
        region = np.where(p.row < SIDE // 2, "north", "south")
        return by_region(self._sample(self.by_class, p, region=region), range(1, K + 1))["north"]


def assessed(sample: Sample) -> dict[tuple[str, int], Estimate]:
    return estimates(accuracy(sample, range(1, K + 1)))


def all_designs(w: World) -> dict[str, tuple[Callable[[int], dict[tuple[str, int], Estimate]], World]]:
    d = Designs(w)
    totals = {k: (n, n * PER_PIXEL_HA) for k, n in enumerate(w.pixels, 1)}
    rare = allocate(w.pixels, 800, "rare", rare_points=150)
    top = World(w.truth[: SIDE // 2], w.mapped[: SIDE // 2])
    return {
        "simple, 800": (lambda s: assessed(d.simple(s)), w),
        "simple, 800, post-stratified": (lambda s: assessed(poststratified(d.simple(s), totals)), w),
        f"by map class, {rare}": (lambda s: assessed(d.by_map(s, rare)), w),
        "by map class, 200 each": (lambda s: assessed(d.by_map(s, [200] * K)), w),
        "by 3 zones, 200 350 350": (lambda s: assessed(d.by_zone(s)), w),
        "a region of 300 each": (lambda s: estimates(d.in_region(s)), top),
        "200 clusters x 6": (lambda s: assessed(d.in_clusters(s, 200, 6)), w),
        "200 clusters x 6, bootstrap": (
            lambda s: estimates(resampled(d.in_clusters(s, 200, 6), replicates=400, seed=s)),  # type: ignore[arg-type]
            w,
        ),
        "scarce: by map class, 40 each": (lambda s: assessed(d.by_map(s, [40] * K)), w),
        "scarce: 50 clusters x 6": (lambda s: assessed(d.in_clusters(s, 50, 6)), w),
    }


def coverage(
    make: Callable[[int], dict[tuple[str, int], Estimate]], w: World, draws: int
) -> dict[tuple[str, int], float]:
    truth = figures(w.truth, w.mapped)
    hits, told = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for seed in range(draws):
        for key, estimate in make(seed).items():
            if estimate.low is not None and estimate.high is not None:
                told[key] += 1
                hits[key] += estimate.low <= truth[key] <= estimate.high
    return {key: hits[key] / told[key] for key in truth if told[key]}


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    w = world()
    print("truth:", {f"{n} {k}": round(v, 3) for (n, k), v in figures(w.truth, w.mapped).items()})
    for name, (make, part) in all_designs(w).items():
        if wanted not in name:
            continue
        start = time.perf_counter()
        found = coverage(make, part, draws)
        shares = list(found.values())
        outside = {f"{n} {k}": round(v, 3) for (n, k), v in found.items() if not 0.93 <= v <= 0.97}
        took = f"{len(found)} figures, {draws} draws, {time.perf_counter() - start:.0f} s"
        print(
            f"{name}: {min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}; {took}", flush=True
        )
        print(f"    outside 0.93 to 0.97: {outside or 'none'}", flush=True)


if __name__ == "__main__":
    main()
