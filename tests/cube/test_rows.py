"""Sorting networks sort, as far as their percentile asks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cube.rows import by_rows, sort_columns, sorting_network


@pytest.mark.parametrize("n", range(1, 13))
def test_every_sequence_of_zeros_and_ones_is_sorted(n: int) -> None:
    """A network that sorts all of those sorts everything (Knuth, TAOCP 3, 5.3.4, theorem Z)."""
    columns = np.array(list(itertools.product([0, 1], repeat=n)), np.uint16).T.copy()
    flat = columns.ravel().copy()
    sort_columns(flat, sorting_network(n, 0), columns.shape[1], columns.shape[1])
    np.testing.assert_array_equal(flat.reshape(columns.shape), np.sort(columns, axis=0))


@given(st.integers(1, 90), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_the_ranks_that_a_percentile_needs_are_in_place(n: int, percent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.integers(1, 100, (n, 20)).astype(np.float64) * (rng.random((n, 20)) > 0.4)
    flat = columns.ravel().copy()
    sort_columns(flat, sorting_network(n, percent), 20, 20)
    found, expected = flat.reshape(n, 20), np.sort(columns, axis=0)
    for x in range(20):
        clear = np.count_nonzero(columns[:, x])
        if clear:
            lower = n - clear + percent * (clear - 1) // 100
            ranks = [lower, min(lower + 1, n - 1)]
            np.testing.assert_array_equal(found[ranks, x], expected[ranks, x])


def test_a_median_needs_fewer_comparators_than_a_sort() -> None:
    assert len(sorting_network(36, 50)) < len(sorting_network(36, 0))


@pytest.mark.parametrize(("height", "threads"), [(1, 4), (7, 2), (100, 3), (0, 2)])
def test_threads_share_the_rows_without_a_gap(height: int, threads: int) -> None:
    seen: list[int] = []
    by_rows(lambda y0, y1: seen.extend(range(y0, y1)), height, threads)
    assert sorted(seen) == list(range(height))
