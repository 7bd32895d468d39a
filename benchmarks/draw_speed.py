"""Drawing points from a whole tile: one look at each pixel, against counting the classes alone, and against a sort.

    python benchmarks/draw_speed.py MASK.tif [points]

The mask is read once; times are those of the draw. Peak memory is of what each way allocates (tracemalloc).
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import rasterio

from engine.assessment.draw import Drawing
from engine.values.grid import Box


def draw(labels: np.ndarray, classes: list[int], n: int) -> None:
    box = Box(0, 0, *labels.shape)
    drawing = Drawing({c: i for i, c in enumerate(classes)}, [n] * len(classes), seed=1)
    for part in box.blocks(512):
        drawing.offer(labels[part.slices_in(box)], part)
    assert len(drawing.points()) == sum(min(n, int(v)) for v in drawing.pixels)


def count(labels: np.ndarray, classes: list[int], n: int) -> None:
    box = Box(0, 0, *labels.shape)
    total = np.zeros(256, np.int64)
    for part in box.blocks(512):
        total += np.bincount(labels[part.slices_in(box)].ravel(), minlength=256)


def by_index(labels: np.ndarray, classes: list[int], n: int) -> None:
    rng = np.random.default_rng(1)
    flat = labels.ravel()
    for c in classes:
        where = np.flatnonzero(flat == c)
        rng.choice(where, min(n, len(where)), replace=False)


def measured(way: Callable[..., None], *given: object) -> tuple[float, float]:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        way(*given)
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    way(*given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), peak / 2**20


def main() -> None:
    with rasterio.open(sys.argv[1]) as source:
        labels = source.read(1).astype(np.uint8)
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    classes = [int(v) for v in np.unique(labels) if v]
    draw(labels[:64, :64].copy(), [1], 1)  # compiled
    floor, _ = measured(count, labels, classes, n)
    print(f"{labels.shape} pixels, {len(classes)} classes, {n} points in each; counting alone {floor:.2f} s")
    for name, way in (("drawing in blocks of 512", draw), ("all indices of each class in memory", by_index)):
        took, peak = measured(way, labels, classes, n)
        print(f"{name}: {took:.2f} s = {took / floor:.2f} times counting, {peak:.1f} MiB")


if __name__ == "__main__":
    main()
