"""How often the seam statistic cries over a map without seams, and how small a seam it finds.

    python benchmarks/seam_power.py [--maps 240] [--planted 10]

Random landscapes of four kinds, 768 x 1024 px, at random places of the grid, with labels and confidence; tiles
of 256 px, windows of 128 with an overlap of 48. False alarms are counted over maps without seams, among them
maps of windows that disagree by offsets (sigma 0.05) and are blended. Then seams of several sizes are
planted; sizes are offsets of a value whose classes are 0.2 wide, or pixels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from engine.inference.seams import SeamReport, SeamSums
from engine.values.grid import Box
from engine.values.lattice import Lattice

SHAPE = (768, 1024)
LATTICE, TILE_PX = Lattice(128, 48), 256
Field = NDArray[np.float64]


def parcels(rng: np.random.Generator, sites: int = 900) -> Field:
    """Fields as cells around random points, each with a level of its own, texture on top."""
    points = rng.uniform((0, 0), SHAPE, (sites, 2))
    _, cell = cKDTree(points).query(np.stack(np.indices(SHAPE), -1).reshape(-1, 2))
    return textured(rng.random(sites)[cell].reshape(SHAPE), rng)


def hills(rng: np.random.Generator) -> Field:
    """A smooth random surface over several scales."""
    parts = [gaussian_filter(rng.normal(size=SHAPE), s) * s for s in (3, 9, 27, 81)]
    total = np.sum(parts, axis=0)
    return (total - total.min()) / np.ptp(total)


def square_fields(rng: np.random.Generator) -> Field:
    """Rectangular fields whose edges run along rows and columns."""
    ys = np.sort(rng.choice(np.arange(1, SHAPE[0]), 24, replace=False))
    level = np.empty(SHAPE)
    for y0, y1 in zip([0, *ys], [*ys, SHAPE[0]], strict=True):
        xs = np.sort(rng.choice(np.arange(1, SHAPE[1]), 30, replace=False))
        level[y0:y1] = np.repeat(rng.random(31), np.diff([0, *xs, SHAPE[1]]))
    return textured(level, rng)


def strips(rng: np.random.Generator) -> Field:
    """Long narrow fields, a few degrees off the rows."""
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.02)
    y, x = np.indices(SHAPE)
    number = np.floor((y * np.cos(angle) + x * np.sin(angle)) / rng.uniform(8, 40)).astype(int)
    level = rng.random(np.ptp(number) + 1)[number - number.min()]
    return textured(level, rng)


def textured(level: Field, rng: np.random.Generator) -> Field:
    return level + gaussian_filter(rng.normal(size=SHAPE), 1.0) * 0.1


def classified(values: Field) -> dict[str, NDArray[np.uint8]]:
    """Labels by thresholds, and confidence by the distance to the nearest one."""
    thresholds = np.array([0.2, 0.4, 0.6, 0.8])
    distance = np.abs(values[..., None] - thresholds).min(-1)
    confidence = np.clip(125 + distance * 1250, 0, 250).astype(np.uint8)
    label = (np.digitize(values, thresholds) + 1).astype(np.uint8)
    return {"label": label, "confidence": confidence}


KINDS: dict[str, Callable[[np.random.Generator], Field]] = {
    "parcels": parcels,
    "hills": hills,
    "square fields": square_fields,
    "strips": strips,
}


def report_of(values: Field, origin: tuple[int, int] = (0, 0)) -> SeamReport:
    box = Box(*origin, origin[0] + values.shape[0], origin[1] + values.shape[1])
    sums = SeamSums(box, TILE_PX)
    sums.add(box, classified(values))
    return sums.report(LATTICE)


def blended_offsets(rng: np.random.Generator, spread: float) -> Field:
    """What windows that disagree add to a map when they are blended."""
    box = Box(0, 0, *SHAPE)
    outer = LATTICE.pad(box)
    total = np.zeros(outer.shape_yx)
    for y in LATTICE.touching(0, box.y1):
        for x in LATTICE.touching(0, box.x1):
            at = y * LATTICE.stride_px, x * LATTICE.stride_px
            window = Box(*at, at[0] + LATTICE.window_px, at[1] + LATTICE.window_px)
            total[window.slices_in(outer)] += LATTICE.weights() * rng.normal(0, spread)
    return total[box.slices_in(outer)] / LATTICE.weight_sums(box)


def tiles_of(shape: tuple[int, int], step: int, first: int, levels: Field) -> Field:
    rows, cols = ((np.arange(n) - first) // step + 1 for n in shape)
    return levels[np.ix_(rows, cols)]


def per_tile(values: Field, rng: np.random.Generator, size: float) -> Field:
    return values + tiles_of(SHAPE, TILE_PX, 0, rng.normal(0, size, (20, 20)))


def unblended(values: Field, rng: np.random.Generator, size: float) -> Field:
    return values + tiles_of(SHAPE, LATTICE.stride_px, 0, rng.normal(0, size, (20, 20)))


def one_tile(values: Field, rng: np.random.Generator, size: float) -> Field:
    made = values.copy()
    y, x = _some_tile(rng)
    made[y : y + TILE_PX, x : x + TILE_PX] += size
    return made


def one_shifted(values: Field, rng: np.random.Generator, size: float) -> Field:
    made, n = values.copy(), int(size)
    y, x = _some_tile(rng)
    made[y : y + TILE_PX, x : x + TILE_PX] = np.roll(values, (n, n), (0, 1))[y : y + TILE_PX, x : x + TILE_PX]
    return made


def all_shifted(values: Field, rng: np.random.Generator, size: float) -> Field:
    n, (rows, cols) = int(size), np.indices(SHAPE)
    odd = (rows // TILE_PX + cols // TILE_PX) % 2 * n
    return values[np.clip(rows - odd, 0, None), np.clip(cols - odd, 0, None)]


def one_line(values: Field, rng: np.random.Generator, size: float) -> Field:
    made = values.copy()
    made[:, 2 * TILE_PX :] += size
    return made


def _some_tile(rng: np.random.Generator) -> tuple[int, int]:
    row, col = (int(rng.integers(0, n // TILE_PX)) for n in SHAPE)
    return TILE_PX * row, TILE_PX * col


SEAMS: dict[str, tuple[Callable[[Field, np.random.Generator, float], Field], tuple[float, ...]]] = {
    "each tile offset at random, sigma": (per_tile, (0.005, 0.01, 0.02, 0.04)),
    "windows not blended, sigma": (unblended, (0.005, 0.01, 0.02, 0.04)),
    "one tile of another model, offset": (one_tile, (0.01, 0.02, 0.04, 0.08)),
    "offset at one tile line": (one_line, (0.01, 0.02, 0.04, 0.08)),
    "one tile shifted, px": (one_shifted, (1, 2, 4)),
    "every other tile shifted, px": (all_shifted, (1, 2)),
}


def quiet(maps: int) -> Iterator[tuple[str, SeamReport]]:
    """Yield maps without seams: landscapes anywhere on the grid, and with blended windows that disagree."""
    for seed in range(maps):
        rng = np.random.default_rng(seed)
        kind = list(KINDS)[seed % len(KINDS)]
        values = KINDS[kind](rng)
        at = rng.integers(0, 4096, 2)
        yield kind, report_of(values, (int(at[0]), int(at[1])))
        yield f"{kind}, windows blended", report_of(values + blended_offsets(rng, 0.05))


def count_alarms(maps: int) -> None:
    """Print how many of the maps without seams are said to have one."""
    alarms: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    for kind, report in quiet(maps):
        seen[kind] += 1
        alarms[kind, "family"] += any(f.seam for f in report.families)
        alarms[kind, "place"] += bool(report.suspects)
        if report.seam:
            print("alarm", kind, report.told(), flush=True)
    print(f"{'false alarms':34}{'maps':>6}{'family':>8}{'place':>8}")
    for kind, n in seen.items():
        print(f"{kind:34}{n:6}{alarms[kind, 'family']:8}{alarms[kind, 'place']:8}")


def count_found(planted: int) -> None:
    """Print the share of planted seams that are found, by size and landscape."""
    print(f"\n{'found, share of maps':36}{'size':>7}" + "".join(f"{k:>15}" for k in KINDS))
    for name, (plant, sizes) in SEAMS.items():
        for size in sizes:
            row = []
            for make in KINDS.values():
                rngs = [np.random.default_rng(10_000 + seed) for seed in range(planted)]
                row.append(np.mean([report_of(plant(make(rng), rng, size)).seam for rng in rngs]))
            print(f"{name:36}{size:7g}" + "".join(f"{share:15.2f}" for share in row), flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", type=int, default=240, help="landscapes without seams")
    parser.add_argument("--planted", type=int, default=10, help="maps of each kind for each seam")
    options = parser.parse_args()
    if options.maps:
        count_alarms(options.maps)
    if options.planted:
        count_found(options.planted)


if __name__ == "__main__":
    main()
