"""Draws against a sort of all pixels by numbers that plain Python makes, for any cut of the map."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.stats import chisquare

from engine.assessment.designs import allocate
from engine.assessment.draw import (
    Clusters,
    Drawing,
    Points,
    count_clusters,
    draw_in_clusters,
    draw_stratified,
    keys,
)
from engine.values.errors import InputError
from engine.values.grid import Box

BOX = Box(-37, 1000, 63, 1130)
SHAPE = BOX.shape_yx
M64 = (1 << 64) - 1


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def number(seed: int, row: int, column: int) -> int:
    golden = 0x9E3779B97F4A7C15
    of_row = mixed(mixed((seed + golden) & M64) ^ (row & M64))
    return mixed(((of_row + column) & M64) * golden & M64)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).choice(4, SHAPE, p=[0.2, 0.5, 0.29, 0.01]).astype(np.uint8)


def by_sorting(labels: np.ndarray, label: int, n: int, seed: int) -> list[tuple[int, int]]:
    places = [(int(y) + BOX.y0, int(x) + BOX.x0) for y, x in np.argwhere(labels == label)]
    return sorted(places, key=lambda p: (number(seed, *p), p))[:n]


def in_blocks(labels: np.ndarray, size: int, order: int = 0) -> list[tuple[Box, np.ndarray]]:
    blocks = [(b, labels[b.slices_in(BOX)]) for b in BOX.blocks(size)]
    random.Random(order).shuffle(blocks)
    return blocks


def placed(points: Points) -> list[tuple[int, int, int]]:
    return list(zip(points.stratum.tolist(), points.row.tolist(), points.column.tolist(), strict=True))


@pytest.mark.parametrize("size", [7, 16, 31, 64, 100, 1000])
def test_points_are_those_of_the_smallest_numbers_for_any_blocks(labels: np.ndarray, size: int) -> None:
    drawing = Drawing({1: 0, 2: 1, 3: 2}, [40, 25, 200], seed=11)
    for box, part in in_blocks(labels, size, size):
        drawing.offer(part, box)
    points = drawing.points()
    wanted = [(h, *p) for h, n in enumerate([40, 25, 200]) for p in by_sorting(labels, h + 1, n, 11)]
    assert placed(points) == wanted
    assert drawing.pixels.tolist() == [(labels == v).sum() for v in (1, 2, 3)]
    assert (points.mapped == points.stratum + 1).all()
    assert points.key.tolist() == [number(11, y, x) for _, y, x in wanted]


TILE = Box(-5000, 3000, 5980, 13980)


@pytest.fixture(scope="module")
def tile(real_data: Path) -> tuple[np.ndarray, dict[int, list[tuple[int, int]]]]:
    """Return a whole tile of classes, and the 500 pixels of each with the smallest numbers, by sorting strips."""
    with rasterio.open(real_data / "full_tile" / "cloudmask_T19GBQ_20170725.tif") as source:
        mask = source.read(1) + np.uint8(1)
    best: dict[int, list[tuple[int, int, int]]] = {int(v): [] for v in np.unique(mask)}
    for top in range(0, len(mask), 500):
        strip = mask[top : top + 500]
        rows, columns = (v.ravel() for v in np.indices(strip.shape))
        numbers = keys(4, rows + top + TILE.y0, columns + TILE.x0)
        for value, found in best.items():
            inside = np.flatnonzero(strip.ravel() == value)
            at = inside[np.argpartition(numbers[inside], 499)[:500]] if len(inside) > 500 else inside
            found += zip(numbers[at].tolist(), (rows[at] + top).tolist(), columns[at].tolist(), strict=True)
    return mask, {v: [(y + TILE.y0, x + TILE.x0) for _, y, x in sorted(f)[:500]] for v, f in best.items()}


@pytest.mark.long
@pytest.mark.parametrize("size", [256, 500, 512, 1000, 2048, 10980])
def test_a_whole_tile_gives_the_same_points_for_any_blocks(
    tile: tuple[np.ndarray, dict[int, list[tuple[int, int]]]], size: int
) -> None:
    mask, wanted = tile
    drawing = Drawing({v: i for i, v in enumerate(wanted)}, [500] * len(wanted), seed=4)
    for box in TILE.blocks(size):
        drawing.offer(mask[box.slices_in(TILE)], box)
    points = drawing.points()
    for h, (value, places) in enumerate(wanted.items()):
        assert [(y, x) for stratum, y, x in placed(points) if stratum == h] == places
        assert drawing.pixels[h] == np.count_nonzero(mask == value)


def test_a_larger_sample_holds_the_smaller(labels: np.ndarray) -> None:
    def drawn(n: int) -> Points:
        def share_out(pixels: list[int]) -> list[int]:
            return allocate(pixels, n, "rare", rare_points=10)

        pixels, points = draw_stratified(in_blocks(labels, 50), {1: 0, 2: 1, 3: 2}, n, share_out, seed=5)
        assert pixels == [(labels == v).sum() for v in (1, 2, 3)]
        return points

    small, large = drawn(100), drawn(200)
    assert len(small) == 100
    assert set(placed(small)) < set(placed(large))
    assert placed(large.first(np.bincount(small.stratum))) == placed(small)
    with_other_seed = Drawing({1: 0}, [50], seed=6)
    with_other_seed.offer(labels, BOX)
    assert not set(placed(with_other_seed.points())) & set(placed(small))  # 50 of 6,500: no chance seen


def test_drawings_of_parts_join_to_the_whole(labels: np.ndarray) -> None:
    whole, parts = (Drawing({1: 0, 3: 1}, [30, 90], seed=2) for _ in range(2))
    whole.offer(labels, BOX)
    for box, part in in_blocks(labels, 40):
        one = Drawing({1: 0, 3: 1}, [30, 90], seed=2)
        one.offer(part, box)
        parts.join(one)
    assert placed(parts.points()) == placed(whole.points())
    assert parts.pixels.tolist() == whole.pixels.tolist()
    fuller = Drawing({1: 0, 3: 1}, [30, 90], seed=2)
    half = Box(BOX.y0, BOX.x0, 0, BOX.x1)
    rest = Box(0, BOX.x0, BOX.y1, BOX.x1)
    one = Drawing({1: 0, 3: 1}, [30, 90], seed=2)
    one.offer(labels[half.slices_in(BOX)], half)
    fuller.join(one)
    fuller.offer(labels[rest.slices_in(BOX)], rest)  # what was joined goes on as a heap
    assert placed(fuller.points()) == placed(whole.points())


def test_each_pixel_has_the_same_chance() -> None:
    """Of neighbours, rows and columns none is favoured: over many seeds each pixel is drawn equally often."""
    labels = np.ones((6, 6), np.uint8)
    drawn = np.zeros((6, 6), int)
    for seed in range(3000):
        drawing = Drawing({1: 0}, [6], seed=seed)
        drawing.offer(labels, Box(-3, -3, 3, 3))
        p = drawing.points()
        drawn[p.row + 3, p.column + 3] += 1
    assert drawn.sum() == 18_000
    # without replacement the counts vary by 5/6 of what the test takes for chance: it is on the safe side
    assert chisquare(drawn.ravel()).pvalue > 1e-4
    assert chisquare(drawn.sum(axis=0)).pvalue > 1e-4
    assert chisquare(drawn.sum(axis=1)).pvalue > 1e-4


def test_numbers_are_evenly_spread() -> None:
    rows, columns = np.indices((200, 200)).reshape(2, -1)
    shares = keys(3, rows - 100, columns) / 2.0**64
    assert chisquare(np.histogram(shares, 50, (0, 1))[0]).pvalue > 1e-4
    assert abs(np.corrcoef(shares[:-1], shares[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(shares[:-200], shares[200:])[0, 1]) < 0.02


@pytest.mark.parametrize("size", [9, 10, 25, 33, 64, 1000])
def test_clusters_do_not_depend_on_blocks(labels: np.ndarray, size: int) -> None:
    found = count_clusters(in_blocks(labels, size, size), 10, classes=(1, 3))
    wanted = {}
    for y, x in np.argwhere((labels == 1) | (labels == 3)):
        place = ((int(y) + BOX.y0) // 10, (int(x) + BOX.x0) // 10)
        wanted[place] = wanted.get(place, 0) + 1
    assert list(zip(found.row.tolist(), found.column.tolist(), strict=True)) == sorted(wanted)
    assert found.pixels.tolist() == [wanted[p] for p in sorted(wanted)]


def test_points_in_clusters(labels: np.ndarray) -> None:
    def read(box: Box) -> np.ndarray:
        window = np.zeros(box.shape_yx, np.uint8)
        inside = box & BOX
        window[inside.slices_in(box)] = labels[inside.slices_in(BOX)]
        return window

    clusters = count_clusters(in_blocks(labels, 64), 20)
    points = draw_in_clusters(read, clusters, 12, 7, seed=9)
    assert len(np.unique(points.cluster)) == 12
    size = dict(zip(clusters_names(clusters), clusters.pixels.tolist(), strict=True))
    for name in np.unique(points.cluster):
        here = points.cluster == name
        row, column = (int(v) for v in name[1:].split("_c"))
        inside = [
            (y, x) for y in range(row * 20, row * 20 + 20) for x in range(column * 20, column * 20 + 20)
        ]
        held = [
            p
            for p in inside
            if BOX.holds(Box(*p, p[0] + 1, p[1] + 1)) and labels[p[0] - BOX.y0, p[1] - BOX.x0]
        ]
        wanted = sorted(held, key=lambda p: number(9, *p))[:7]
        assert list(zip(points.row[here].tolist(), points.column[here].tolist(), strict=True)) == wanted
        assert set(points.cluster_pixels[here]) == {len(held)} == {size[name]}
    larger = draw_in_clusters(read, clusters, 20, 9, seed=9)
    assert set(placed(points)) < set(placed(larger))
    everything = draw_in_clusters(read, clusters, 10**6, 10**6, seed=9)
    assert len(everything) == (labels > 0).sum()


def clusters_names(clusters: Clusters) -> list[str]:
    return [f"r{r}_c{c}" for r, c in zip(clusters.row, clusters.column, strict=True)]


def test_errors(labels: np.ndarray) -> None:
    with pytest.raises(InputError, match="no data cannot be drawn"):
        Drawing({0: 0}, [1], seed=1)
    with pytest.raises(InputError, match="fewer than no points"):
        Drawing({1: 0}, [-1], seed=1)
    with pytest.raises(InputError, match="do not fill their box"):
        Drawing({1: 0}, [1], seed=1).offer(labels, Box(0, 0, 1, 1))
    with pytest.raises(InputError, match="at least one pixel"):
        count_clusters([], 0)
    with pytest.raises(InputError, match="no cluster to draw from"):
        draw_in_clusters(lambda box: labels, count_clusters([], 5), 3, 3, seed=1)
